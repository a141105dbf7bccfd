"""A podium process, and requests to it."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import time

# Seconds within which a process must listen or end, on a busy machine.
TIMEOUT = 120
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
BUILT_IN = REPOSITORY / "models" / "podium-nano"
FIXTURES = REPOSITORY / "tests" / "parity" / "fixtures"
BODY = {"query": "how do I undo a commit?", "documents": ["git reset --soft HEAD~1", "cats sleep a lot"]}


class Skipped(Exception):
    """The machine cannot run this case."""


class Server:
    """`podium serve` on a free port, with its log in a file in `folder`."""

    def __init__(self, podium, folder, *arguments, environment=None, before=None):
        self.log_path = pathlib.Path(folder) / f"log-{time.monotonic_ns()}"
        # A clean environment: no variable of this one may change the server's settings.
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

    def wait_until_listening(self):
        """Waits until the server listens. A process that ends before that fails the case."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            found = re.search(r"listening on http://([0-9.]+):(\d+)", self.log)
            if found:
                self.address = (found[1], int(found[2]))
                return self
            assert self.process.poll() is None, f"the process ended with {self.process.returncode}: {self.log}"
            time.sleep(0.05)
        raise AssertionError(f"the process does not listen: {self.log}")

    def wait_for_exit(self):
        """Waits for the end and returns the exit code (negative for a signal)."""
        return self.process.wait(timeout=TIMEOUT)

    def signal(self, number):
        self.process.send_signal(number)

    def send(self, body=None, timeout=60, path="/v1/rerank", headers=None):
        """Sends one request on a new connection; returns the status and the body, parsed if it is JSON."""
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


def assert_does_not_start(podium, folder, *arguments, words, environment=None):
    """Asserts that the server ends with 1 and one error that contains `words`, without a panic."""
    with Server(podium, folder, *arguments, environment=environment) as server:
        code, log = server.wait_for_exit(), server.log
    assert code == 1, f"the process ended with {code}: {log}"
    assert "panic" not in log, log
    error = log.strip().splitlines()[-1]
    assert error.startswith("error: "), log
    for word in words:
        assert word in error, f"{word!r} is not in {error!r}"
    return f"exit 1; {error}"
