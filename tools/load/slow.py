"""Clients that send slowly or never read: the server closes them, and serves others meanwhile."""

import asyncio
import json
import random
import time
from collections import Counter

from http_client import Connection
from report import print_table, quantile, read_metrics, resident_mib
from generate import rerank_body, rerank_request

# Seconds between two pieces that a slow client sends.
SEND_INTERVAL = 1.0


async def send_slowly(address: str, first: bytes, pieces, until: float) -> tuple[str, float]:
    """Sends `first` and then piece by piece, until a response or the end of the connection."""
    connection = Connection(address)
    await connection.open()
    started = time.monotonic()
    if pieces is None:
        return await never_read(connection, first, until)
    connection.writer.write(first)
    reading = asyncio.create_task(connection.read_response(head_only=False))
    while time.monotonic() - started < until and not reading.done():
        await asyncio.sleep(SEND_INTERVAL)
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


async def never_read(connection: Connection, request: bytes, until: float) -> tuple[str, float]:
    """Requests a large response and reads nothing, until the server closes the connection."""
    started = time.monotonic()
    connection.writer.transport.pause_reading()
    connection.writer.write(request)
    outcome = "still open"
    while outcome == "still open" and time.monotonic() - started < until:
        await asyncio.sleep(SEND_INTERVAL)
        # Sending fails once the connection is closed; a newline before a request is allowed.
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
    random_, response_times, stop = random.Random(options.seed), [], asyncio.Event()
    failures = Counter()
    body = json.dumps(rerank_body(random_, 64, 200)).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nhost: podium\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    kinds = {
        "slow head": (b"POST /v1/rerank HTTP/1.1\r\n", slow_head),
        "slow body": (head.encode(), lambda: slow_body(body)),
        "body that stops": (head.encode() + body[:100], lambda: iter(())),
        "silent": (b"", lambda: iter(())),
        "never reads": (b"GET /openapi.json HTTP/1.1\r\nhost: podium\r\n\r\n" * 300, None),
    }
    before = await read_metrics(options.address)

    async def send_normal_requests():
        connection = Connection(options.address)
        while not stop.is_set():
            started = time.monotonic()
            response = await connection.send(rerank_request(random_, 4, 40))
            if response is not None and response.status == 200:
                response_times.append(time.monotonic() - started)
            else:
                failures[response.status if response else "closed"] += 1
            await asyncio.sleep(0.2)
        connection.close()

    async def watch_process(maximum: list[float]):
        while not stop.is_set():
            found = await read_metrics(options.address)
            maximum[0] = max(maximum[0], found.total("process_open_fds"))
            maximum[1] = max(maximum[1], resident_mib(found))
            await asyncio.sleep(1)

    maximum = [0.0, 0.0]
    others = [asyncio.create_task(send_normal_requests()), asyncio.create_task(watch_process(maximum))]
    ends: dict[str, list] = {}
    tasks = {
        kind: [asyncio.create_task(send_slowly(options.address, first, pieces and pieces(), options.seconds)) for _ in range(options.clients)]
        for kind, (first, pieces) in kinds.items()
    }
    for kind, running in tasks.items():
        ends[kind] = await asyncio.gather(*running)
    stop.set()
    await asyncio.gather(*others)
    after = await read_metrics(options.address)
    rows = []
    for kind, results in ends.items():
        outcomes = Counter(outcome for outcome, _ in results)
        lasted = [seconds for _, seconds in results]
        rows.append((kind, ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.items()), min(lasted), max(lasted)))
    print_table(rows, (f"{options.clients} clients each", "ended as", "after s, min", "max"))
    print(f"normal requests meanwhile: {len(response_times)} x 200, p50 {quantile(response_times, 0.5):.3f} s, p99 {quantile(response_times, 0.99):.3f} s,"
          f" failures {dict(failures)}")  # fmt: skip
    print(f"open files: {before.total('process_open_fds'):.0f} before, {maximum[0]:.0f} maximum, {after.total('process_open_fds'):.0f} after;"
          f" resident MiB: {resident_mib(before):.1f}, {maximum[1]:.1f}, {resident_mib(after):.1f}")  # fmt: skip
    left = sum(outcome == "still open" for results in ends.values() for outcome, _ in results)
    if left:
        print(f"WRONG: {left} connections are still open after {options.seconds} s")
    return 1 if left or failures or not response_times else 0
