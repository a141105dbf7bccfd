"""Clients that send a little and then a little more: they are dropped in time, and others are served meanwhile."""

import asyncio
import json
import random
import time
from collections import Counter

from http1 import Connection
from server import mebibytes, metrics, quantile, table
from work import good_body, good_request

# Seconds between two pieces of a slow client.
PACE = 1.0


async def drip(address: str, first: bytes, pieces, until: float) -> tuple[str, float]:
    """Sends `first` and then a piece every moment, until an answer or the end of the connection."""
    connection = Connection(address)
    await connection.open()
    started = time.monotonic()
    if pieces is None:
        return await never_read(connection, first, until)
    connection.writer.write(first)
    reading = asyncio.create_task(connection._read(head_only=False))
    while time.monotonic() - started < until and not reading.done():
        await asyncio.sleep(PACE)
        try:
            if piece := next(pieces, b""):
                connection.writer.write(piece)
                await connection.writer.drain()
        except ConnectionError:
            break
    done, _ = await asyncio.wait([reading], timeout=1)
    lasted = time.monotonic() - started
    response = reading.result() if done else None
    reading.cancel()
    connection.close()
    return ("still open" if not done else str(response.status) if response else "closed"), lasted


async def never_read(connection: Connection, asked: bytes, until: float) -> tuple[str, float]:
    """Asks for much and reads nothing: the server's end closes, or it does not."""
    started = time.monotonic()
    connection.writer.transport.pause_reading()
    connection.writer.write(asked)
    outcome = "still open"
    while outcome == "still open" and time.monotonic() - started < until:
        await asyncio.sleep(PACE)
        # What cannot be sent any more tells of a connection that is closed; a newline before a request is allowed.
        connection.writer.write(b"\r\n")
        if connection.writer.transport.is_closing():
            outcome = "closed"
    lasted = time.monotonic() - started
    connection.writer.transport.abort()
    return outcome, lasted


def slow_head():
    yield from (b"x-%d: y\r\n" % number for number in range(10**6))


def slow_body(body: bytes):
    yield from (body[place : place + 1] for place in range(len(body)))


async def run(options) -> int:
    random_, served, stop = random.Random(options.seed), [], asyncio.Event()
    failures = Counter()
    body = json.dumps(good_body(random_, 64, 200)).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nhost: podium\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    kinds = {
        "slow head": (b"POST /v1/rerank HTTP/1.1\r\n", slow_head),
        "slow body": (head.encode(), lambda: slow_body(body)),
        "body that stops": (head.encode() + body[:100], lambda: iter(())),
        "silent": (b"", lambda: iter(())),
        "never reads": (b"GET /openapi.json HTTP/1.1\r\nhost: podium\r\n\r\n" * 300, None),
    }
    before = await metrics(options.address)

    async def good():
        connection = Connection(options.address)
        while not stop.is_set():
            started = time.monotonic()
            response = await connection.ask(good_request(random_, 4, 40))
            if response is not None and response.status == 200:
                served.append(time.monotonic() - started)
            else:
                failures[response.status if response else "closed"] += 1
            await asyncio.sleep(0.2)
        connection.close()

    async def watch(most: list[float]):
        while not stop.is_set():
            found = await metrics(options.address)
            most[0] = max(most[0], found.total("process_open_fds"))
            most[1] = max(most[1], mebibytes(found))
            await asyncio.sleep(1)

    most = [0.0, 0.0]
    others = [asyncio.create_task(good()), asyncio.create_task(watch(most))]
    ends: dict[str, list] = {}
    tasks = {
        kind: [asyncio.create_task(drip(options.address, first, pieces and pieces(), options.seconds)) for _ in range(options.clients)]
        for kind, (first, pieces) in kinds.items()
    }
    for kind, running in tasks.items():
        ends[kind] = await asyncio.gather(*running)
    stop.set()
    await asyncio.gather(*others)
    after = await metrics(options.address)
    rows = []
    for kind, results in ends.items():
        outcomes = Counter(outcome for outcome, _ in results)
        lasted = [seconds for _, seconds in results]
        rows.append((kind, ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.items()), min(lasted), max(lasted)))
    table(rows, (f"{options.clients} clients each", "ended as", "after s, least", "most"))
    print(f"meanwhile others: {len(served)} answers, p50 {quantile(served, 0.5):.3f} s, p99 {quantile(served, 0.99):.3f} s,"
          f" failures {dict(failures)}")  # fmt: skip
    print(f"open files: {before.total('process_open_fds'):.0f} before, {most[0]:.0f} at most, {after.total('process_open_fds'):.0f} after;"
          f" resident MiB: {mebibytes(before):.1f}, {most[1]:.1f}, {mebibytes(after):.1f}")  # fmt: skip
    left = sum(outcome == "still open" for results in ends.values() for outcome, _ in results)
    if left:
        print(f"WRONG: {left} connections are still open after {options.seconds} s")
    return 1 if left or failures or not served else 0
