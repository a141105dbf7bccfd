"""Base evidence and wish scalars of every training slate, computed once from the stored states.

    python features.py --data DATA --work WORK --lexical LEXICAL.safetensors

Writes WORK/features.npz: `rows` (numbers of the rows in the file's English order), `ends` (documents
so far), `evidence` [documents, 4] and `scalars` [documents, 8].
"""

from __future__ import annotations

import argparse
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from instructed import Row, is_used, read_rows
from lexical import Bag, LexicalTable
from model import Reading, evidence, wish_scalars
from states import Encoded


class Features:
    """Readings of encoded texts, and what follows from them."""

    def __init__(self, work: Path, table: LexicalTable, documents: str, prefixes: list[str]) -> None:
        self.table = table
        self.documents = Encoded(work, documents)
        self.prefixes = [Encoded(work, name) for name in prefixes]
        self.document = lru_cache(4096)(self._document)
        self.prefix = lru_cache(4096)(self._prefix)

    def _document(self, text: str) -> tuple[Reading, Bag, int]:
        states = self.documents[text]
        return Reading.of(states), Bag.of(text), len(states)

    def prefix_states(self, text: str) -> np.ndarray:
        """States of a query or instruction."""
        return next(encoded[text] for encoded in self.prefixes if text in encoded.index)

    def _prefix(self, text: str) -> tuple[Reading, dict[str, float]]:
        return Reading.of(self.prefix_states(text)), self.table.weights(text)

    def evidence(self, query: str, document: str) -> list[float]:
        """The four evidences of a pair."""
        (reading, weights), (read, bag, _) = self.prefix(query), self.document(document)
        return evidence(reading, read, self.table.score(weights, bag))

    def scalars(self, query: str, instruction: str, document: str, base: list[float]) -> list[float]:
        """The wish's scalars of a pair under an instruction."""
        (asked, weights), (read, bag, tokens) = self.prefix(instruction), self.document(document)
        return wish_scalars(self.prefix(query)[0], asked, read, base, self.table.score(weights, bag), tokens)


def row_features(features: Features, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Evidence and scalars of a slate's documents; scalars are 0 without an instruction."""
    base = [features.evidence(row.query, document) for document in row.documents]
    if row.instruction:
        scalars = [features.scalars(row.query, row.instruction, d, b) for d, b in zip(row.documents, base, strict=True)]
    else:
        scalars = np.zeros((len(base), 8))
    return np.array(base, np.float32), np.array(scalars, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    options = parser.parse_args()
    features = Features(options.work, LexicalTable.load(options.lexical), "train-documents", ["train-prefixes"])
    ready = set(features.documents.texts[: len(features.documents.store)])
    numbers, counts, bases, scalars = [], [], [], []
    for number, row in enumerate(read_rows(options.data)):
        if is_used(row) and all(document in ready for document in row.documents):
            base, scalar = row_features(features, row)
            numbers.append(number)
            counts.append(len(base))
            bases.append(base)
            scalars.append(scalar)
            if len(numbers) % 4000 == 0:
                print(f"{len(numbers)} rows", flush=True)
    temporary = options.work / "features.tmp.npz"
    np.savez(temporary, rows=numbers, ends=np.cumsum(counts), evidence=np.concatenate(bases), scalars=np.concatenate(scalars))
    os.replace(temporary, options.work / "features.npz")
    print(f"{len(numbers)} rows, {sum(counts)} documents")


if __name__ == "__main__":
    main()
