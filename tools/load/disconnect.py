"""Clients that disconnect before their response: how much device time do they cost?"""

import asyncio
import random
import time

from http_client import Connection
from report import print_table, quantile, read_metrics
from generate import rerank_request

COSTS = {
    "device s": "podium_batch_duration_seconds_sum",
    "tokens on the device": "podium_batch_tokens_sum",
    "passes on the device": "podium_batch_passes_sum",
    "process CPU s": "process_cpu_seconds_total",
}


async def wait_until_idle(address: str) -> None:
    """Waits until no request is in flight."""
    while True:
        now = await read_metrics(address)
        if now.total("podium_queue_requests") == 0 and now.total("podium_queue_passes") == 0:
            return
        await asyncio.sleep(0.2)


async def run(options) -> int:
    random_, times = random.Random(options.seed), []

    async def stay():
        connection, started = Connection(options.address), time.monotonic()
        response = await connection.send(rerank_request(random_, options.documents, options.words))
        connection.close()
        if response is not None and response.status == 200:
            times.append(time.monotonic() - started)

    async def disconnect(after: float):
        connection = Connection(options.address)
        await connection.open()
        connection.writer.write(rerank_request(random_, options.documents, options.words))
        await connection.writer.drain()
        await asyncio.sleep(after)
        connection.close()

    async def measure_cost(work) -> dict[str, float]:
        before = await read_metrics(options.address)
        await asyncio.gather(*work)
        await asyncio.sleep(1)
        await wait_until_idle(options.address)
        # A running batch is finished before it is counted.
        await asyncio.sleep(2)
        after = await read_metrics(options.address)
        found = {name: after.total(metric) - before.total(metric) for name, metric in COSTS.items()}
        found["disconnects (499)"] = after.total("podium_requests_total", '"499"') - before.total("podium_requests_total", '"499"')
        return found

    stayed = await measure_cost([stay() for _ in range(options.requests)])
    median = quantile(times, 0.5)
    print(f"{options.requests} requests at once without a disconnect: {len(times)} x 200, p50 {median:.3f} s")
    at_once = await measure_cost([disconnect(0.0) for _ in range(options.requests)])
    soon = await measure_cost([disconnect(random_.random() * median) for _ in range(options.requests)])
    rows = [(name, stayed[name], at_once[name], soon[name]) for name in stayed]
    print_table(rows, ("", "no disconnect", "disconnect at once", "within the median time"))
    # In tokens: seconds also depend on other work on the machine.
    share = at_once["tokens on the device"] / max(stayed["tokens on the device"], 1)
    print(f"a disconnect at once costs {share:.1%} of the device's work for a response")
    if at_once["disconnects (499)"] == 0:
        print("WRONG: the server noticed no disconnect")
    return 0 if at_once["disconnects (499)"] > 0 and share < 0.5 else 1
