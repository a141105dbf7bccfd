"""Clients that send a request and are gone before its answer: what do they cost the device?"""

import asyncio
import random
import time

from http1 import Connection
from server import metrics, quantile, table
from work import good_request

COSTS = {
    "device s": "podium_batch_duration_seconds_sum",
    "tokens on the device": "podium_batch_tokens_sum",
    "passes on the device": "podium_batch_passes_sum",
    "process CPU s": "process_cpu_seconds_total",
}


async def settled(address: str) -> None:
    """Waits until nobody's work is left."""
    while True:
        now = await metrics(address)
        if now.total("podium_queue_requests") == 0 and now.total("podium_queue_passes") == 0:
            return
        await asyncio.sleep(0.2)


async def run(options) -> int:
    random_, times = random.Random(options.seed), []

    async def stay():
        connection, started = Connection(options.address), time.monotonic()
        response = await connection.ask(good_request(random_, options.documents, options.words))
        connection.close()
        if response is not None and response.status == 200:
            times.append(time.monotonic() - started)

    async def leave(after: float):
        connection = Connection(options.address)
        await connection.open()
        connection.writer.write(good_request(random_, options.documents, options.words))
        await connection.writer.drain()
        await asyncio.sleep(after)
        connection.close()

    async def cost(work) -> dict[str, float]:
        before = await metrics(options.address)
        await asyncio.gather(*work)
        await asyncio.sleep(1)
        await settled(options.address)
        # A batch that runs is finished, and then counted.
        await asyncio.sleep(2)
        after = await metrics(options.address)
        found = {name: after.total(metric) - before.total(metric) for name, metric in COSTS.items()}
        found["left (499)"] = after.total("podium_requests_total", '"499"') - before.total("podium_requests_total", '"499"')
        return found

    stayed = await cost([stay() for _ in range(options.requests)])
    usual = quantile(times, 0.5)
    print(f"{options.requests} requests at once that stay: {len(times)} answered, p50 {usual:.3f} s")
    at_once = await cost([leave(0.0) for _ in range(options.requests)])
    soon = await cost([leave(random_.random() * usual) for _ in range(options.requests)])
    rows = [(name, stayed[name], at_once[name], soon[name]) for name in stayed]
    table(rows, ("", "all stay", "leave at once", "leave before the usual answer"))
    # By tokens: seconds also tell how busy the machine was.
    share = at_once["tokens on the device"] / max(stayed["tokens on the device"], 1)
    print(f"leaving at once costs {share:.1%} of the device's work for staying")
    if at_once["left (499)"] == 0:
        print("WRONG: nobody was seen to leave")
    return 0 if at_once["left (499)"] > 0 and share < 0.5 else 1
