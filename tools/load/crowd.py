"""A crowd that comes in one moment and does as it is told: what `Retry-After` is worth to those who obey it."""

import asyncio
import random
import time
from collections import Counter

from http1 import Connection
from server import metrics, quantile, table
from work import good_request

# Asking so often in vain is a server that never lets one in.
MOST_TRIES = 200


async def run(options) -> int:
    random_, statuses, tries, told, took = random.Random(options.seed), Counter(), Counter(), [], []
    # Of those who asked for the first, second, ... time: how many there were, and how many were let in.
    asked, let_in = Counter(), Counter()
    before, started = await metrics(options.address), time.monotonic()

    async def answered(connection: Connection) -> None:
        body, began = good_request(random_, options.documents, options.words), time.monotonic()
        for number in range(1, MOST_TRIES + 1):
            response = await connection.ask(body)
            status = response.status if response else "no answer"
            statuses[status] += 1
            asked[number] += 1
            if status == 429:
                wait = int(response.headers["retry-after"])
                told.append(wait)
                await asyncio.sleep(wait)
                continue
            let_in[number] += status == 200
            break
        tries[number] += 1
        took.append(time.monotonic() - began)

    async def client() -> None:
        connection = Connection(options.address)
        await answered(connection)
        while time.monotonic() - started < options.again:
            await answered(connection)
        connection.close()

    await asyncio.gather(*(client() for _ in range(options.clients)))
    elapsed = time.monotonic() - started
    after = await metrics(options.address)
    busy = after.total("podium_batch_duration_seconds_sum") - before.total("podium_batch_duration_seconds_sum")
    returned = sum(count for number, count in asked.items() if number > 1)
    accepted = sum(count for number, count in let_in.items() if number > 1)
    table(
        [
            ("answers", statuses[200]),
            ("refusals", statuses[429]),
            ("came back as told", returned),
            ("came back as told and let in", accepted),
            ("share of those let in", accepted / max(1, returned)),
            ("share of the first to come back", let_in[2] / max(1, asked[2])),
            ("tries for an answer, most", max(tries)),
            ("retry-after, s: least", min(told, default=0)),
            ("retry-after, s: mean", sum(told) / max(1, len(told))),
            ("retry-after, s: most", max(told, default=0)),
            ("until answered, p50 s", quantile(took, 0.5)),
            ("until answered, p99 s", quantile(took, 0.99)),
            ("until the last was answered, s", elapsed),
            ("device busy, s", busy),
        ],
        ("", "value"),
    )
    wrong = {status: count for status, count in statuses.items() if status not in (200, 429)}
    given_up = tries[MOST_TRIES]
    if wrong or given_up:
        print("WRONG:", wrong, "given up:", given_up)
    return 1 if wrong or given_up else 0
