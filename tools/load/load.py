"""Load for a Podium that runs: too much, broken, gone and slow. README.md says what each run should show."""

import argparse
import asyncio
import sys

import bad
import crowd
import leave
import overload
import slow


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:8080", help="host:port of the server [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same requests [%(default)s]")
    runs = parser.add_subparsers(dest="run", required=True)

    one = runs.add_parser("overload", help="a multiple of the sustainable rate, open loop")
    one.add_argument("--seconds", type=float, default=600)
    one.add_argument("--times", type=float, default=10, help="offered rate, as a multiple of the sustainable one [%(default)s]")
    one.add_argument("--rate", type=float, default=0, help="the sustainable rate, if it is known; 0 searches [%(default)s]")
    one.add_argument("--search-seconds", type=float, default=15, help="for each number of clients [%(default)s]")
    one.set_defaults(main=overload.run)

    one = runs.add_parser("bad", help="requests that no good client sends")
    one.add_argument("--requests", type=int, default=100_000)
    one.add_argument("--clients", type=int, default=16)
    one.set_defaults(main=bad.run)

    one = runs.add_parser("leave", help="clients that are gone before their answer")
    one.add_argument("--requests", type=int, default=50)
    one.set_defaults(main=leave.run)

    one = runs.add_parser("crowd", help="clients that come all at once and then as they are told")
    one.add_argument("--clients", type=int, default=600)
    one.add_argument("--again", type=float, default=0, help="seconds of asking anew after each answer; 0 asks once")
    one.set_defaults(main=crowd.run)

    one = runs.add_parser("slow", help="clients that send a byte now and then")
    one.add_argument("--seconds", type=float, default=90, help="more than the server's time-outs [%(default)s]")
    one.add_argument("--clients", type=int, default=50, help="of each kind [%(default)s]")
    one.set_defaults(main=slow.run)

    for name in ("overload", "leave", "crowd"):
        one = runs.choices[name]
        one.add_argument("--documents", type=int, default=20)
        one.add_argument("--words", type=int, default=80, help="in a document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    sys.exit(asyncio.run(options.main(options)))
