"""Load tests for a running Podium. README.md says what each run must show."""

import argparse
import asyncio
import sys

import crowd
import disconnect
import malformed
import overload
import share
import slow


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:8080", help="host:port of the server [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the generated requests [%(default)s]")
    runs = parser.add_subparsers(dest="run", required=True)

    run = runs.add_parser("overload", help="a multiple of the sustainable rate, open loop")
    run.add_argument("--seconds", type=float, default=600)
    run.add_argument("--times", type=float, default=10, help="multiple of the sustainable rate [%(default)s]")
    run.add_argument("--rate", type=float, default=0, help="sustainable rate, if known; 0 measures it [%(default)s]")
    run.add_argument("--search-seconds", type=float, default=15, help="per number of clients [%(default)s]")
    run.set_defaults(main=overload.run)

    run = runs.add_parser("malformed", help="malformed requests")
    run.add_argument("--requests", type=int, default=100_000)
    run.add_argument("--clients", type=int, default=16)
    run.set_defaults(main=malformed.run)

    run = runs.add_parser("disconnect", help="clients that leave before their response")
    run.add_argument("--requests", type=int, default=50)
    run.set_defaults(main=disconnect.run)

    run = runs.add_parser("crowd", help="clients that arrive at once and retry as told")
    run.add_argument("--clients", type=int, default=600)
    run.add_argument("--again", type=float, default=0, help="seconds of further requests; 0 for one request each")
    run.set_defaults(main=crowd.run)

    run = runs.add_parser("slow", help="clients that send a byte now and then")
    run.add_argument("--seconds", type=float, default=90, help="longer than the server's timeouts [%(default)s]")
    run.add_argument("--clients", type=int, default=50, help="of each kind [%(default)s]")
    run.set_defaults(main=slow.run)

    run = runs.add_parser("share", help="huge bodies of one API key beside short ones of another")
    run.add_argument("--keys", nargs=2, required=True, metavar="KEY", help="the key of the huge bodies, and another")
    run.add_argument("--seconds", type=float, default=25)
    run.add_argument("--clients", type=int, default=12, help="that send huge bodies [%(default)s]")
    run.add_argument("--bytes", type=int, default=14_900_000, help="of a huge text [%(default)s]")
    run.set_defaults(main=share.run)

    for name in ("overload", "disconnect", "crowd"):
        run = runs.choices[name]
        run.add_argument("--documents", type=int, default=20)
        run.add_argument("--words", type=int, default=80, help="per document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_arguments()
    sys.exit(asyncio.run(options.main(options)))
