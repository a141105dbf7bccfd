"""What the server says of itself: its metrics, as numbers."""

import re

from http1 import Connection, request_bytes

LINE = re.compile(r"^(\w+)(\{.*\})? (\S+)$")


class Metrics(dict):
    """Values by series, as Prometheus would read them."""

    def total(self, name: str, having: str = "") -> float:
        """The sum over a metric's series that have this in their labels."""
        return sum(value for series, value in self.items() if series.split("{")[0] == name and having in series)


async def metrics(address: str) -> Metrics:
    connection = Connection(address)
    response = await connection.ask(request_bytes("GET", "/metrics"))
    connection.close()
    if response is None or response.status != 200:
        raise SystemExit(f"{address}/metrics: {response.status if response else 'no answer'}")
    found = Metrics()
    for line in response.body.decode().splitlines():
        if match := LINE.match(line):
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def table(rows: list[tuple], heads: tuple) -> None:
    """Prints rows under their heads, numbers to the right."""
    texts = [[f"{cell:,.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    for row in texts:
        cells = (cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths)))
        print("  ".join(cells).rstrip())


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def mebibytes(found: Metrics) -> float:
    return found.total("process_resident_memory_bytes") / 2**20
