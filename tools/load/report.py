"""The server's metrics, and tables of results."""

import re

from http_client import Connection, request_bytes

LINE = re.compile(r"^(\w+)(\{.*\})? (\S+)$")


class Metrics(dict):
    """Values by series, in the Prometheus text format."""

    def total(self, name: str, label: str = "") -> float:
        """The sum over a metric's series whose labels contain `label`."""
        return sum(value for series, value in self.items() if series.split("{")[0] == name and label in series)


async def read_metrics(address: str) -> Metrics:
    connection = Connection(address)
    response = await connection.send(request_bytes("GET", "/metrics"))
    connection.close()
    if response is None or response.status != 200:
        raise SystemExit(f"{address}/metrics: {response.status if response else 'no response'}")
    found = Metrics()
    for line in response.body.decode().splitlines():
        if match := LINE.match(line):
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def print_table(rows: list[tuple], header: tuple) -> None:
    """Prints a table; the columns after the first are aligned to the right."""
    texts = [[f"{cell:,.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    for row in texts:
        cells = (cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths)))
        print("  ".join(cells).rstrip())


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def resident_mib(metrics: Metrics) -> float:
    return metrics.total("process_resident_memory_bytes") / 2**20
