"""Huge bodies of one API key: does another key get its responses meanwhile?"""

import asyncio
import json
import time
from collections import Counter

from http_client import Connection, request_bytes
from report import print_table, quantile

HUGE_TEXT = "reset the password now. "
# The model reads two words of it; the memory of the rest is counted.
SHORT_BODY = {"query": "password", "documents": [{"text": "reset it", "page": "x" * 100_000}]}
# The slowest response of the other key, in seconds: a body waits up to two seconds for memory.
MAX_SECONDS = 2.0


async def run(options) -> int:
    huge_text = HUGE_TEXT * (options.bytes // len(HUGE_TEXT))
    huge = {"query": "password", "documents": [huge_text], "long_documents": "chunk", "max_total_tokens": 2000}
    statuses, times = {"huge": Counter(), "short": Counter()}, []
    until = time.monotonic() + options.seconds

    async def client(name: str, key: str, fields: dict, pause: float) -> None:
        body = request_bytes("POST", "/v1/rerank", json.dumps(fields).encode(), {"authorization": f"Bearer {key}"})
        connection = Connection(options.address)
        while time.monotonic() < until:
            started = time.monotonic()
            response = await connection.send(body)
            statuses[name][response.status if response else "no response"] += 1
            if name == "short":
                times.append(time.monotonic() - started)
            await asyncio.sleep(pause)
        connection.close()

    greedy = [asyncio.create_task(client("huge", options.keys[0], huge, 0.0)) for _ in range(options.clients)]
    await client("short", options.keys[1], SHORT_BODY, 0.1)
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)

    print_table([(name, str(dict(counts))) for name, counts in statuses.items()], ("bodies", "responses by status"))
    slowest = max(times, default=float("inf"))
    rows = [("p50", quantile(times, 0.5)), ("p95", quantile(times, 0.95)), ("max", slowest)]
    print_table(rows, ("short bodies", "seconds"))
    return int(set(statuses["short"]) != {200} or slowest >= MAX_SECONDS)
