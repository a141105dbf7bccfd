"""Slates with instructions (`train-instructed.jsonl.gz`): reading, the validation split, twins.

One row is a query, an instruction (or none) and graded documents: 3 fits the query and the
instruction, 2 is second choice, 1 fits the query only, 0 is irrelevant or excluded.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data import read_lines

DECIDING, NEUTRAL, PREFERENCE, PLAIN = 1, 2, 3, 4
OTHER_LANGUAGES = ("jaquad", "cmrc2018")
THINNED = {"squad1.1-dev", "sgd", "tldr", "tosdr", "valueeval", "pubmedqa", "xquad"}
DECIDING_SHARE, PREFERENCE_SHARE = 2, 4
"""One in this many training groups is used: of the deciding rows of the larger sources, and of all preferences."""


@dataclass(frozen=True)
class Row:
    """One slate."""

    family: int
    kind: str
    instruction: str
    query: str
    documents: tuple[str, ...]
    grades: tuple[int, ...]
    group: str
    valid: bool


def digest(text: str) -> int:
    """A number that a text always has."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def read_rows(folder: Path) -> list[Row]:
    """All rows in English, in the order of the file."""
    rows = []
    for line in read_lines(folder / "train-instructed.jsonl"):
        if line["src"] in OTHER_LANGUAGES:
            continue
        texts, grades = zip(*((d["text"], d["grade"]) for d in line["documents"]), strict=True)
        group = f"{line['src']}/{line['group']}"
        rows.append(
            Row(line["family"], line["kind"], line["instruction"] or "", line["query"], texts, grades, group, "split" in line)
        )
    return rows


def is_used(row: Row) -> bool:
    """Whether the documents of a row are encoded: those of all validation rows, and of some training rows
    whose instruction asks for something."""
    if row.valid:
        return True
    if row.family == DECIDING:
        return row.group.split("/")[0] not in THINNED or digest(row.group) % DECIDING_SHARE == 0
    return row.family == PREFERENCE and digest(row.group) % PREFERENCE_SHARE == 0


def twins(rows: Iterable[Row]) -> list[list[Row]]:
    """Deciding rows with the same query and documents and other right answers."""
    together = defaultdict(list)
    for row in rows:
        if row.family == DECIDING:
            together[row.query, frozenset(row.documents)].append(row)
    return [group for group in together.values() if len(group) > 1]
