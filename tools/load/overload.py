"""A multiple of the sustainable rate, in an open loop: requests do not wait for responses."""

import asyncio
import random
import time
from collections import Counter

from http_client import Connection
from report import print_table, quantile, read_metrics, resident_mib
from generate import rerank_request

# One in this many rejected requests is sent again after Retry-After.
RETRY_ONE_IN = 10


class Load:
    """Sends requests and counts what became of them."""

    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.idle: list[Connection] = []
        self.statuses, self.retried, self.waits = Counter(), Counter(), Counter()
        self.admitted_seconds: list[float] = []
        self.problems = Counter()

    async def send_one(self, retry: bool = True) -> int:
        connection = self.idle.pop() if self.idle else Connection(self.options.address)
        body = rerank_request(self.random, self.options.documents, self.options.words)
        started = time.monotonic()
        response = await connection.send(body)
        elapsed = time.monotonic() - started
        self.idle.append(connection)
        if response is None:
            self.statuses["no response"] += 1
            return 0
        self.statuses[response.status] += 1
        if response.status == 200:
            self.admitted_seconds.append(elapsed)
        elif response.status == 429:
            wait = response.headers.get("retry-after", "")
            if not wait.isdigit() or int(wait) < 1:
                self.problems[f"429 with retry-after {wait!r}"] += 1
                return 429
            self.waits[int(wait)] += 1
            if retry and self.random.randrange(RETRY_ONE_IN) == 0:
                await asyncio.sleep(int(wait))
                self.retried[await self.send_one(retry=False)] += 1
        return response.status


async def measure_sustainable_rate(options) -> float:
    """The most responses a second that clients get which wait for each response."""
    best = 0.0
    for clients in (1, 2, 4, 8):
        load, end = Load(options), time.monotonic() + options.search_seconds

        async def client(load=load, end=end):
            while time.monotonic() < end:
                await load.send_one(retry=False)

        started = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        rate = load.statuses[200] / (time.monotonic() - started)
        print(f"  {clients} clients: {rate:.2f} responses/s, p50 {quantile(load.admitted_seconds, 0.5):.3f} s")
        best = max(best, rate)
    return best


async def run(options) -> int:
    rate = options.rate
    if not rate:
        print(f"sustainable rate, {options.documents} documents of {options.words} words:")
        rate = await measure_sustainable_rate(options)
    load, offered = Load(options), rate * options.times
    print(f"sustainable: {rate:.2f} requests/s; offered: {offered:.2f} for {options.seconds} s")
    before, started = await read_metrics(options.address), time.monotonic()
    memory, scrapes, tasks = [resident_mib(before)], [], set()

    async def watch():
        while True:
            await asyncio.sleep(5)
            asked = time.monotonic()
            memory.append(resident_mib(await read_metrics(options.address)))
            scrapes.append(time.monotonic() - asked)

    watching, sent = asyncio.create_task(watch()), 0
    while (now := time.monotonic() - started) < options.seconds:
        while sent < now * offered:
            task = asyncio.create_task(load.send_one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.005)
    watching.cancel()
    last_wait = max(load.waits, default=1)
    await asyncio.gather(*tasks)
    drained = time.monotonic() - started - options.seconds

    # After the overload and the longest Retry-After, requests are admitted again.
    after_overload = Counter()
    await asyncio.sleep(max(0.0, last_wait - drained))
    for _ in range(5):
        after_overload[await load.send_one(retry=False)] += 1
    for connection in load.idle:
        connection.close()
    await asyncio.sleep(1)
    after = await read_metrics(options.address)

    print_table([(status, count) for status, count in sorted(load.statuses.items(), key=str)], ("status", "requests"))
    print()
    spent = after.total("podium_batch_duration_seconds_sum") - before.total("podium_batch_duration_seconds_sum")
    print_table(
        [
            ("requests sent, without retries", sent),
            ("admitted: time to response s, p50", quantile(load.admitted_seconds, 0.5)),
            ("admitted: time to response s, p99", quantile(load.admitted_seconds, 0.99)),
            ("admitted a second", load.statuses[200] / (options.seconds + drained)),
            ("retry-after s, min", min(load.waits, default=0)),
            ("retry-after s, max", last_wait),
            ("retries", sum(load.retried.values())),
            ("retries admitted", load.retried[200]),
            ("admitted after the overload, of 5", after_overload[200]),
            ("last response after the overload, s", drained),
            ("slowest read of /metrics, s", max(scrapes, default=0.0)),
            ("device busy, s", spent),
            ("resident MiB at the start", memory[0]),
            ("resident MiB, max", max(memory)),
            ("resident MiB at the end", resident_mib(after)),
        ],
        ("", "value"),
    )
    wrong = [status for status in load.statuses if status not in (200, 429)]
    for problem in [f"{load.statuses[status]} x {status}" for status in wrong] + list(load.problems):
        print("WRONG:", problem)
    if after_overload[200] < 5:
        print("WRONG: rejected after the overload:", dict(after_overload))
    return 1 if wrong or load.problems or after_overload[200] < 5 else 0
