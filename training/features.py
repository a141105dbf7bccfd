"""Base scores and wish scalars of every training slate, computed once from the stored states.

    python features.py --data DATA --weights MINILM --work WORK --lexical LEXICAL.safetensors

Writes WORK/features.npz: `rows` (numbers of the rows in the file's English order), `ends` (documents
so far), `base` [documents] and `scalars` [documents, 8].
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from encoder import read_tokenizer, tokenize
from instructed import Row, is_used, read_rows
from lexical import Bag, LexicalTable
from model import SCALARS, Reading, base_scores, evidence, wish_scalars
from states import Encoded


class Features:
    """Readings of encoded texts, and what follows from them."""

    def __init__(self, work: Path, weights: Path, lexical: Path, documents: str, prefixes: list[str]) -> None:
        self.table = LexicalTable.load(lexical)
        self.tokenizer = read_tokenizer(weights)
        self.token_weights = np.load(work / "token-weights.npy").astype(np.float32)
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
        states = self.prefix_states(text)
        ids = tokenize(self.tokenizer, [text], len(states) - 2)[0]
        return Reading.of(states, self.token_weights[ids]), self.table.weights(text)

    def evidence(self, query: str, document: str) -> list[float]:
        """The three evidences of a pair."""
        (reading, weights), (read, bag, _) = self.prefix(query), self.document(document)
        return evidence(reading, read, self.table.score(weights, bag))

    def scalars(self, instruction: str, document: str, evidences: list[float]) -> list[float]:
        """The wish's scalars of a document with these evidences, under an instruction."""
        (asked, weights), (read, bag, tokens) = self.prefix(instruction), self.document(document)
        return wish_scalars(asked, read, evidences, self.table.score(weights, bag), tokens)

    def base(self, evidences: Sequence[list[float]], documents: Sequence[str]) -> np.ndarray:
        """Base scores of a slate."""
        means = np.stack([self.document(text)[0].mean for text in documents])
        return base_scores(np.array(evidences, np.float32), means)


def row_features(features: Features, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Base scores and scalars of a slate's documents; scalars are 0 without an instruction."""
    evidences = [features.evidence(row.query, document) for document in row.documents]
    scalars = np.zeros((len(evidences), SCALARS), np.float32)
    if row.instruction:
        scalars[:] = [features.scalars(row.instruction, d, e) for d, e in zip(row.documents, evidences, strict=True)]
    return features.base(evidences, row.documents), scalars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    options = parser.parse_args()
    features = Features(options.work, options.weights, options.lexical, "train-documents", ["train-prefixes"])
    numbers, counts, bases, scalars = [], [], [], []
    for number, row in enumerate(read_rows(options.data)):
        if is_used(row) and all(map(features.documents.has, row.documents)):
            base, scalar = row_features(features, row)
            numbers.append(number)
            counts.append(len(base))
            bases.append(base)
            scalars.append(scalar)
            if len(numbers) % 4000 == 0:
                print(f"{len(numbers)} rows", flush=True)
    temporary = options.work / "features.tmp.npz"
    np.savez(temporary, rows=numbers, ends=np.cumsum(counts), base=np.concatenate(bases), scalars=np.concatenate(scalars))
    os.replace(temporary, options.work / "features.npz")
    print(f"{len(numbers)} rows, {sum(counts)} documents")


if __name__ == "__main__":
    main()
