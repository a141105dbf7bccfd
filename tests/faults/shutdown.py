"""SIGTERM under load: every accepted request gets its response."""

import collections
import http.client
import json
import signal
import threading
import time

from server import BODY, Server

CLIENTS = 24


class Client(threading.Thread):
    """Sends requests until the server no longer listens, and counts what became of each."""

    def __init__(self, address, body, keep, pause, counts):
        super().__init__(daemon=True)
        self.address, self.keep, self.pause, self.counts = address, keep, pause, counts
        self.body = json.dumps(body)
        self.over = False

    def run(self):
        connection = None
        while not self.over:
            if connection is None:
                connection = http.client.HTTPConnection(*self.address, timeout=60)
                try:
                    connection.connect()
                except ConnectionError:
                    self.counts["connection refused"] += 1
                    return
            try:
                connection.request("POST", "/v1/rerank", self.body, {"content-type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                json.loads(text)
                self.counts[response.status] += 1
                stays = self.keep and not response.will_close
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.counts[f"LOST ({type(error).__name__})"] += 1
                stays = False
            if not stays:
                connection.close()
                connection = None
            if self.pause:
                time.sleep(self.pause)


def under_load(keep, pause, settings=()):
    def case(podium, folder):
        environment = {f"PODIUM__{name}": value for name, value in settings}
        with Server(podium, folder, environment=environment).wait_until_listening() as server:
            assert server.send(BODY)[0] == 200
            tallies = [collections.Counter() for _ in range(CLIENTS)]
            clients = [Client(server.address, BODY, keep, pause, tally) for tally in tallies]
            for client in clients:
                client.start()
            time.sleep(3)
            server.signal(signal.SIGTERM)
            began = time.monotonic()
            unready_after = None
            while server.process.poll() is None:
                try:
                    status, _ = server.send(path="/ready", timeout=5)
                    if status != 200 and unready_after is None:
                        unready_after = time.monotonic() - began
                except OSError:
                    pass  # the listener is closed
                time.sleep(0.01)
            code, took = server.wait_for_exit(), time.monotonic() - began
            for client in clients:
                client.join(timeout=60)
            counts = sum(tallies, collections.Counter())
        lost = sum(count for outcome, count in counts.items() if str(outcome).startswith("LOST"))
        table = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(counts.items(), key=str))
        assert code == 0, f"the process ended with {code}: {server.log}"
        assert lost == 0, table
        assert set(counts) <= {200, 429, 503, "connection refused"} and counts[200] > 0, table
        ready = "not seen to fail" if unready_after is None else f"failed after {unready_after:.2f} s"
        return f"{CLIENTS} clients; {table}; 0 lost; /ready {ready}; exit 0 after {took:.1f} s"

    return case


CASES = [
    ("shutdown: a connection for each request", under_load(keep=False, pause=0)),
    ("shutdown: kept connections", under_load(keep=True, pause=0)),
    ("shutdown: kept connections with pauses", under_load(keep=True, pause=0.2)),
    ("shutdown: with drain_delay_seconds", under_load(True, 0, [("SERVER__DRAIN_DELAY_SECONDS", "2")])),
]
