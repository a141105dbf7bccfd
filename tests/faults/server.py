"""A podium process, and one request to it."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import time

# How long a process may take to listen or to end. Machines are busy.
PATIENCE = 120
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
BUILT_IN = REPOSITORY / "models" / "podium-nano"
FIXTURES = REPOSITORY / "tests" / "parity" / "fixtures"
BODY = {"query": "how do I undo a commit?", "documents": ["git reset --soft HEAD~1", "cats sleep a lot"]}


class Skipped(Exception):
    """What this machine does not allow."""


class Server:
    """`podium serve` on a free port, its log in a file of `folder`."""

    def __init__(self, podium, folder, *arguments, environment=None, before=None):
        self.log_path = pathlib.Path(folder) / f"log-{time.monotonic_ns()}"
        # Nothing of this environment may change what the server is.
        clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})}
        command = [str(podium), "serve", "--listen", "127.0.0.1:0", "--device", "cpu", *map(str, arguments)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, env=clean, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before
            )
        self.address = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def listening(self):
        """Waits until it listens; whoever ends before that fails the case."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = re.search(r"listening on http://([0-9.]+):(\d+)", self.log)
            if found:
                self.address = (found[1], int(found[2]))
                return self
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log}"
            time.sleep(0.05)
        raise AssertionError(f"it does not listen: {self.log}")

    def says(self, words):
        """Waits until the log holds these words."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.log:
            assert time.monotonic() < deadline, f"the log never said {words!r}: {self.log}"
            time.sleep(0.02)

    def ends(self):
        """Waits for the end: the exit code (that of a signal is negative)."""
        return self.process.wait(timeout=PATIENCE)

    def signal(self, number):
        self.process.send_signal(number)

    def ask(self, body=None, timeout=60, path="/v1/rerank", headers=None):
        """One request on a connection of its own: the status, and the body as JSON."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            if body is None:
                connection.request("GET", path, headers=headers or {})
            else:
                given = {"content-type": "application/json", **(headers or {})}
                connection.request("POST", path, json.dumps(body), given)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text.startswith(b"{") else text
        finally:
            connection.close()


def refused(podium, folder, *arguments, words, environment=None):
    """Starts a server that must not start: it ends with 1 and one clear error, without a panic. Returns the error."""
    with Server(podium, folder, *arguments, environment=environment) as server:
        code, log = server.ends(), server.log
    assert code == 1, f"it ended with {code}: {log}"
    assert "panic" not in log, log
    error = log.strip().splitlines()[-1]
    assert error.startswith("error: "), log
    for word in words:
        assert word in error, f"{word!r} is not in {error!r}"
    return f"exit 1; {error}"
