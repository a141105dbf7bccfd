"""Base scores and wish scalars of every training slate whose documents are encoded, computed once.

    python features.py --data DATA --weights MINILM --work WORK --lexical LEXICAL.safetensors

Writes WORK/features.npz: `rows` (numbers of the rows in the file's English order), `ends` (documents
so far), `base` [documents] and `scalars` [documents, 8]. Rows that it has are not computed again.
WORK/digests.f16 has what the wish reads of each document in digests.json, WORK/similarities.npz the
cosines of the instructions' tokens with the documents'.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from encoder import read_tokenizer, tokenize
from instructed import DECIDING, PREFERENCE, Row, is_used, read_rows
from lexical import Bag, LexicalTable
from model import DIGEST, SCALARS, Reading, base_scores, digest_states, evidence, token_similarities, unit_content, wish_scalars
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
        self.content = lru_cache(256)(lambda text: unit_content(self.documents[text]))

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

    def digest(self, text: str) -> np.ndarray:
        """What the wish reads of a query or an instruction."""
        return digest_states(self.prefix_states(text))

    def similarities(self, instruction: str, documents: Sequence[str]) -> np.ndarray:
        """[documents, content tokens of the instruction, 2]."""
        content = unit_content(self.prefix_states(instruction))
        return np.stack([token_similarities(content, self.content(text)) for text in documents])

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


def write_similarities(features: Features, rows: list[Row], numbers: Iterable[int], work: Path) -> None:
    """WORK/similarities.npz: `rows`, `ends` (numbers so far) and `values`, flat."""
    path = work / "similarities.npz"
    kept = read_similarities(path)
    for number in numbers:
        row = rows[number]
        if number not in kept and row.family in (DECIDING, PREFERENCE):
            kept[number] = features.similarities(row.instruction, row.documents).astype(np.float16).ravel()
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, rows=list(kept), ends=np.cumsum([len(v) for v in kept.values()]), values=np.concatenate(list(kept.values())))
    os.replace(temporary, path)


def read_similarities(path: Path) -> dict[int, np.ndarray]:
    """Flat similarities by row number; nothing if there is no file."""
    if not path.exists():
        return {}
    kept = np.load(path)
    return dict(zip(map(int, kept["rows"]), np.split(kept["values"], kept["ends"][:-1]), strict=True))


def write_digests(work: Path) -> None:
    """WORK/digests.f16 and digests.json: what the wish reads of the encoded training documents."""
    encoded = Encoded(work, "train-documents")
    listed, path = work / "digests.json", work / "digests.f16"
    known = json.loads(listed.read_text()) if listed.exists() else []
    kept = np.fromfile(path, np.float16).reshape(-1, DIGEST)[: len(known)] if known else np.zeros((0, DIGEST), np.float16)
    have = set(known)
    new = [text for text in encoded.texts if encoded.has(text) and text not in have]
    if new:
        added = np.stack([digest_states(encoded[text]) for text in new]).astype(np.float16)
        np.concatenate([kept, added]).tofile(path)
        listed.write_text(json.dumps(known + new))


def read_features(path: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Base scores and scalars by row number; nothing if there is no file."""
    if not path.exists():
        return {}
    kept = np.load(path)
    ends, bases, scalars = kept["ends"], kept["base"], kept["scalars"]
    starts = np.concatenate([[0], ends[:-1]])
    return {int(n): (bases[a:b], scalars[a:b]) for n, a, b in zip(kept["rows"], starts, ends, strict=True)}


def write_features(path: Path, found: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """What `read_features` reads."""
    temporary = path.with_suffix(".tmp.npz")
    bases, scalars = zip(*found.values(), strict=True)
    np.savez(
        temporary,
        rows=list(found),
        ends=np.cumsum([len(base) for base in bases]),
        base=np.concatenate(bases),
        scalars=np.concatenate(scalars),
    )
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    options = parser.parse_args()
    features = Features(options.work, options.weights, options.lexical, "train-documents", ["train-prefixes"])
    path = options.work / "features.npz"
    found = read_features(path)
    rows = read_rows(options.data)
    for number, row in enumerate(rows):
        if number not in found and is_used(row) and all(map(features.documents.has, row.documents)):
            found[number] = row_features(features, row)
            if len(found) % 2000 == 0:
                print(f"{len(found)} rows", flush=True)
                write_features(path, found)
    write_features(path, found)
    write_digests(options.work)
    write_similarities(features, rows, found, options.work)
    print(f"{len(found)} rows, {sum(len(base) for base, _ in found.values())} documents")


if __name__ == "__main__":
    main()
