"""What a case is: a function that `@case` registers. `python harness.py MODULE` runs those of one module.

It runs in the environment that has the module's packages. A module in `cases/` registers its functions with `@case`,
and the errors of a client with `error_cases`. Each becomes one JSON line on standard output.
"""

import importlib
import json
import logging
import os
import sys
import time
import traceback
import warnings
from importlib import metadata

from checks import GOOD_KEY, QUERY, SLOW_KEY, UNKNOWN_MODEL, WRONG_KEY, Failed, Servers, check_error, ensure

CASES = []


def version(package):
    """The installed version of a package."""
    return metadata.version(package)


def voyage_losses():
    """For each status, why Voyage's older SDKs cannot show an error that precedes the reading of a body.

    The path decides the form of such an error, and the shared paths have the form that most clients read.
    """
    is_old = version("voyageai").startswith("0.3.")
    return dict.fromkeys((401, 429), "it fails on an `error` that is an object") if is_old else {}


def case(client, call, package=None):
    """Registers a case: `client` and `call` name it, `package` is asked for its version."""

    def register(function):
        CASES.append((client, version(package) if package else "", call, function))
        return function

    return register


def error_cases(client, name, package, call, kinds=(404, 422, 401, 429), raises=None, loses=None):
    """One case for each kind of error. `call(url, key, model, query)` sends one request, without retries.

    `raises` and `loses` may differ by status: then they are dictionaries.
    """

    def by_status(value, status):
        return value.get(status) if isinstance(value, dict) else value

    def one(status, told, send):
        def function(servers):
            ensure(status not in (401, 429) or servers.keyed_tap, "there is no server with keys")
            if status == 429:
                servers.exhaust()
            return check_error(
                servers, lambda: send(servers), status, by_status(raises, status) or Exception, by_status(loses, status)
            )

        CASES.append((client, version(package) if package else "", f"{name}: {told}", function))

    model = "podium-nano"
    sends = {
        404: ("unknown model", lambda s: call(s.url, GOOD_KEY, UNKNOWN_MODEL, QUERY)),
        422: ("empty query", lambda s: call(s.url, GOOD_KEY, model, "")),
        401: ("wrong key", lambda s: call(s.keyed_tap.url, WRONG_KEY, model, QUERY)),
        429: ("rate limit", lambda s: call(s.keyed_tap.url, SLOW_KEY, model, QUERY)),
    }
    for status in kinds:
        one(status, *sends[status])


def where(error):
    """The line of the case that it came from."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if os.sep + "cases" + os.sep in frame.filename
    ]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def run_case(servers, client, installed, call, function):
    """Runs one case and gives its row."""
    servers.forget()
    started = time.monotonic()
    row = {"client": client, "version": installed, "call": call, "result": "ok", "note": ""}
    try:
        row["note"] = function(servers) or ""
    except Exception as error:  # noqa: BLE001 every failure becomes a row
        row["result"] = "FAILED"
        row["note"] = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}{where(error)}"
        row["exchanges"] = [str(each) for each in servers.exchanges()[-3:]]
    row["path"] = ", ".join(dict.fromkeys(f"{e.path.split('?')[0]}" for e in servers.exchanges()))
    row["seconds"] = round(time.monotonic() - started, 2)
    return row


def main(module):
    # What clients print goes to standard error; standard output is for the rows.
    out, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    servers = Servers(os.environ["PODIUM_URL"], os.environ.get("PODIUM_KEYED_URL"))
    importlib.import_module(f"cases.{module}")
    for each in CASES:
        print(json.dumps(run_case(servers, *each)), file=out, flush=True)


if __name__ == "__main__":
    import harness

    harness.main(sys.argv[1])
