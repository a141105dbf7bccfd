"""Clients that arrive at once and retry after `Retry-After`: how many retries are admitted?"""

import asyncio
import random
import time
from collections import Counter

from http_client import Connection
from report import print_table, quantile, read_metrics
from generate import rerank_request

# A client that was rejected this often gives up: the server never admits it.
MAX_TRIES = 200


async def run(options) -> int:
    random_, statuses, tries, waits, times = random.Random(options.seed), Counter(), Counter(), [], []
    # By the number of the try: requests sent, and requests admitted.
    sent, admitted = Counter(), Counter()
    before, started = await read_metrics(options.address), time.monotonic()

    async def request_until_admitted(connection: Connection) -> None:
        body, began = rerank_request(random_, options.documents, options.words), time.monotonic()
        for number in range(1, MAX_TRIES + 1):
            response = await connection.send(body)
            status = response.status if response else "no response"
            statuses[status] += 1
            sent[number] += 1
            if status == 429:
                wait = int(response.headers["retry-after"])
                waits.append(wait)
                await asyncio.sleep(wait)
                continue
            admitted[number] += status == 200
            break
        tries[number] += 1
        times.append(time.monotonic() - began)

    async def client() -> None:
        connection = Connection(options.address)
        await request_until_admitted(connection)
        while time.monotonic() - started < options.again:
            await request_until_admitted(connection)
        connection.close()

    await asyncio.gather(*(client() for _ in range(options.clients)))
    elapsed = time.monotonic() - started
    after = await read_metrics(options.address)
    busy = after.total("podium_batch_duration_seconds_sum") - before.total("podium_batch_duration_seconds_sum")
    retries = sum(count for number, count in sent.items() if number > 1)
    admitted_retries = sum(count for number, count in admitted.items() if number > 1)
    print_table(
        [
            ("responses", statuses[200]),
            ("rejections", statuses[429]),
            ("retries", retries),
            ("retries admitted", admitted_retries),
            ("share of retries admitted", admitted_retries / max(1, retries)),
            ("share of first retries admitted", admitted[2] / max(1, sent[2])),
            ("tries of one client, max", max(tries)),
            ("retry-after s, min", min(waits, default=0)),
            ("retry-after s, mean", sum(waits) / max(1, len(waits))),
            ("retry-after s, max", max(waits, default=0)),
            ("time to response s, p50", quantile(times, 0.5)),
            ("time to response s, p99", quantile(times, 0.99)),
            ("time to the last response, s", elapsed),
            ("device busy, s", busy),
        ],
        ("", "value"),
    )
    wrong = {status: count for status, count in statuses.items() if status not in (200, 429)}
    given_up = tries[MAX_TRIES]
    if wrong or given_up:
        print("WRONG:", wrong, "given up:", given_up)
    return 1 if wrong or given_up else 0
