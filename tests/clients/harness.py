"""Registers cases and runs them: `python harness.py MODULE` runs the cases of one module.

It runs in the environment that has the module's packages. A module in `cases/` registers functions with
`@case`, and the errors of a client with `error_cases`. Each case prints one JSON line on standard output.
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
    """By status, the reason why Voyage's older SDKs cannot show an error that precedes the body.

    The path decides the format of such an error, and shared paths have the format that most clients read.
    """
    is_old = version("voyageai").startswith("0.3.")
    return dict.fromkeys((401, 429), "it fails on an `error` that is an object") if is_old else {}


def case(client, call, package=None):
    """Registers a case named `client` and `call`. The table shows the version of `package`."""

    def register(function):
        CASES.append((client, version(package) if package else "", call, function))
        return function

    return register


def error_cases(client, name, package, call, kinds=(404, 422, 401, 429), raises=None, loses=None):
    """Registers a case for each kind of error. `call(url, key, model, query)` sends a request.

    It must not retry. `raises` and `loses` may differ by status: then they are dictionaries.
    """

    def by_status(value, status):
        return value.get(status) if isinstance(value, dict) else value

    def register(status, description, send):
        def function(servers):
            ensure(status not in (401, 429) or servers.keyed_tap, "there is no server with keys")
            if status == 429:
                servers.exhaust()
            return check_error(
                servers, lambda: send(servers), status, by_status(raises, status) or Exception, by_status(loses, status)
            )

        CASES.append((client, version(package) if package else "", f"{name}: {description}", function))

    model = "podium-mini"
    sends = {
        404: ("unknown model", lambda s: call(s.url, GOOD_KEY, UNKNOWN_MODEL, QUERY)),
        422: ("empty query", lambda s: call(s.url, GOOD_KEY, model, "")),
        401: ("wrong key", lambda s: call(s.keyed_tap.url, WRONG_KEY, model, QUERY)),
        429: ("rate limit", lambda s: call(s.keyed_tap.url, SLOW_KEY, model, QUERY)),
    }
    for status in kinds:
        register(status, *sends[status])


def case_line(error):
    """The file and line of the case that an error comes from."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if os.sep + "cases" + os.sep in frame.filename
    ]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def run_case(servers, client, installed, call, function):
    """Runs one case. Returns its row of the table."""
    servers.forget()
    started = time.monotonic()
    row = {"client": client, "version": installed, "call": call, "result": "ok", "note": ""}
    try:
        row["note"] = function(servers) or ""
    except Exception as error:  # noqa: BLE001 every failure becomes a row
        row["result"] = "FAILED"
        row["note"] = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}{case_line(error)}"
        row["exchanges"] = [str(each) for each in servers.exchanges()[-3:]]
    row["path"] = ", ".join(dict.fromkeys(f"{e.path.split('?')[0]}" for e in servers.exchanges()))
    row["seconds"] = round(time.monotonic() - started, 2)
    return row


def main(module):
    # Standard output is only for the rows, so prints of clients go to standard error.
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
