"""More requests than the server can answer, at a fixed rate that does not wait for it."""

import asyncio
import random
import time
from collections import Counter

from http1 import Connection
from server import mebibytes, metrics, quantile, table
from work import good_request

# Of so many refused clients, one waits as long as it was told and asks again.
RETRY_ONE_IN = 10


class Flood:
    """What happened to the requests of one run."""

    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.free: list[Connection] = []
        self.statuses, self.retried, self.waits = Counter(), Counter(), Counter()
        self.accepted: list[float] = []
        self.problems = Counter()

    async def one(self, retry: bool = True) -> int:
        connection = self.free.pop() if self.free else Connection(self.options.address)
        body = good_request(self.random, self.options.documents, self.options.words)
        started = time.monotonic()
        response = await connection.ask(body)
        elapsed = time.monotonic() - started
        self.free.append(connection)
        if response is None:
            self.statuses["no answer"] += 1
            return 0
        self.statuses[response.status] += 1
        if response.status == 200:
            self.accepted.append(elapsed)
        elif response.status == 429:
            wait = response.headers.get("retry-after", "")
            if not wait.isdigit() or int(wait) < 1:
                self.problems[f"429 with retry-after {wait!r}"] += 1
                return 429
            self.waits[int(wait)] += 1
            if retry and self.random.randrange(RETRY_ONE_IN) == 0:
                await asyncio.sleep(int(wait))
                self.retried[await self.one(retry=False)] += 1
        return response.status


async def sustainable(options) -> float:
    """The most answers a second that some clients get who wait for theirs."""
    best = 0.0
    for clients in (1, 2, 4, 8):
        flood, end = Flood(options), time.monotonic() + options.search_seconds

        async def client(flood=flood, end=end):
            while time.monotonic() < end:
                await flood.one(retry=False)

        started = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        rate = flood.statuses[200] / (time.monotonic() - started)
        print(f"  {clients} clients: {rate:.2f} answers/s, p50 {quantile(flood.accepted, 0.5):.3f} s")
        best = max(best, rate)
    return best


async def run(options) -> int:
    rate = options.rate
    if not rate:
        print(f"search for the sustainable rate, {options.documents} documents of {options.words} words:")
        rate = await sustainable(options)
    flood, offered = Flood(options), rate * options.times
    print(f"sustainable: {rate:.2f} requests/s; offered: {offered:.2f} for {options.seconds} s")
    before, started = await metrics(options.address), time.monotonic()
    memory, scrapes, tasks = [mebibytes(before)], [], set()

    async def watch():
        while True:
            await asyncio.sleep(5)
            asked = time.monotonic()
            memory.append(mebibytes(await metrics(options.address)))
            scrapes.append(time.monotonic() - asked)

    watching, sent = asyncio.create_task(watch()), 0
    while (now := time.monotonic() - started) < options.seconds:
        while sent < now * offered:
            task = asyncio.create_task(flood.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.005)
    watching.cancel()
    last_wait = max(flood.waits, default=1)
    await asyncio.gather(*tasks)
    drained = time.monotonic() - started - options.seconds

    # Whoever was refused last and waited as told finds room, now that the others have stopped.
    after_flood = Counter()
    await asyncio.sleep(max(0.0, last_wait - drained))
    for _ in range(5):
        after_flood[await flood.one(retry=False)] += 1
    for connection in flood.free:
        connection.close()
    await asyncio.sleep(1)
    after = await metrics(options.address)

    table([(status, count) for status, count in sorted(flood.statuses.items(), key=str)], ("status", "requests"))
    print()
    spent = after.total("podium_batch_duration_seconds_sum") - before.total("podium_batch_duration_seconds_sum")
    table(
        [
            ("sent, retries aside", sent),
            ("accepted, p50 s", quantile(flood.accepted, 0.5)),
            ("accepted, p99 s", quantile(flood.accepted, 0.99)),
            ("accepted a second", flood.statuses[200] / (options.seconds + drained)),
            ("retry-after, s: least", min(flood.waits, default=0)),
            ("retry-after, s: most", last_wait),
            ("retried as told", sum(flood.retried.values())),
            ("retried as told and accepted", flood.retried[200]),
            ("asked after the flood and accepted, of 5", after_flood[200]),
            ("the last answer after the flood, s", drained),
            ("metrics, slowest scrape s", max(scrapes, default=0.0)),
            ("device busy, s", spent),
            ("resident MiB at the start", memory[0]),
            ("resident MiB, most", max(memory)),
            ("resident MiB at the end", mebibytes(after)),
        ],
        ("", "value"),
    )
    wrong = [status for status in flood.statuses if status not in (200, 429)]
    for problem in [f"{flood.statuses[status]} x {status}" for status in wrong] + list(flood.problems):
        print("WRONG:", problem)
    if after_flood[200] < 5:
        print("WRONG: refused after the flood:", dict(after_flood))
    return 1 if wrong or flood.problems or after_flood[200] < 5 else 0
