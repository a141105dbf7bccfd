"""Base scores and wish scalars of every training slate whose documents are encoded, computed once.

    python features.py --data DATA --weights MINILM --work WORK --lexical LEXICAL.safetensors

Writes WORK/features.npz: `rows` (numbers of the rows in the file's English order), `ends` (documents
so far), `base` [documents], `scalars` [documents, 8] and `facts` [documents, FACTS]. Rows that it has are not
computed again. WORK/digests.f16 has what the wish reads of each document in digests.json, WORK/matches.npz how the
instructions' tokens fit the documents'.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from encoder import read_tokenizer, tokenize
from explicit import FACTS, Asked, Counted, facts
from instructed import DECIDING, PREFERENCE, Row, is_used, read_rows
from lexical import Bag, LexicalTable
from model import DIGEST, SCALARS, TOKEN_EVIDENCES, Reading, base_scores, digest_states, evidence, token_matches, token_similarities, unit_content, wish_scalars
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
        self.content = lru_cache(256)(lambda text: (unit_content(self.documents[text]), self.ids(text, self.documents[text])))
        self.counted = lru_cache(4096)(Counted.of)

    def _document(self, text: str) -> tuple[Reading, Bag, int]:
        states = self.documents[text]
        return Reading.of(states), Bag.of(text), len(states)

    def ids(self, text: str, states: np.ndarray) -> list[int]:
        """Ids of the content tokens of a text with these states."""
        return tokenize(self.tokenizer, [text], len(states) - 2)[0]

    def prefix_states(self, text: str) -> np.ndarray:
        """States of a query or instruction."""
        return next(encoded[text] for encoded in self.prefixes if text in encoded.index)

    def _prefix(self, text: str) -> tuple[Reading, dict[str, float]]:
        states = self.prefix_states(text)
        return Reading.of(states, self.token_weights[self.ids(text, states)]), self.table.weights(text)

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

    def matches(self, instruction: str, documents: Sequence[str]) -> np.ndarray:
        """[documents, content tokens of the instruction, TOKEN_EVIDENCES]."""
        states = self.prefix_states(instruction)
        ids, content = self.ids(instruction, states), unit_content(states)
        found = []
        for text in documents:
            read, read_ids = self.content(text)
            found.append(np.concatenate([token_similarities(content, read), token_matches(ids, self.token_weights[ids], read_ids)], 1))
        return np.stack(found)

    def base(self, evidences: Sequence[list[float]], documents: Sequence[str]) -> np.ndarray:
        """Base scores of a slate."""
        means = np.stack([self.document(text)[0].mean for text in documents])
        return base_scores(np.array(evidences, np.float32), means)


@dataclass(frozen=True)
class RowFeatures:
    """What training reads of a slate's documents; `scalars` and `facts` are 0 without an instruction."""

    base: np.ndarray
    scalars: np.ndarray
    facts: np.ndarray


def row_features(features: Features, row: Row) -> RowFeatures:
    """Base scores, scalars and facts of a slate's documents."""
    evidences = [features.evidence(row.query, document) for document in row.documents]
    scalars, counted = np.zeros((len(evidences), SCALARS), np.float32), np.zeros((len(evidences), FACTS), np.float32)
    if row.instruction:
        scalars[:] = [features.scalars(row.instruction, d, e) for d, e in zip(row.documents, evidences, strict=True)]
        named = Asked.of(row.instruction)
        counted[:] = [facts(named, features.counted(d)) for d in row.documents]
    return RowFeatures(features.base(evidences, row.documents), scalars, counted)


def write_matches(features: Features, rows: list[Row], numbers: Iterable[int], work: Path) -> None:
    """WORK/matches.npz: `rows`, `ends` (numbers so far) and `values`, flat."""
    path = work / "matches.npz"
    kept = read_matches(path)
    for number in numbers:
        row = rows[number]
        if number not in kept and row.family in (DECIDING, PREFERENCE):
            kept[number] = features.matches(row.instruction, row.documents).astype(np.float16)
    temporary = path.with_suffix(".tmp.npz")
    ends, counts = np.cumsum([v.size for v in kept.values()]), [len(v) for v in kept.values()]
    np.savez(temporary, rows=list(kept), ends=ends, counts=counts, values=np.concatenate([v.ravel() for v in kept.values()]))
    os.replace(temporary, path)


def read_matches(path: Path) -> dict[int, np.ndarray]:
    """[documents, content tokens, TOKEN_EVIDENCES] by row number; nothing if there is no file."""
    if not path.exists():
        return {}
    kept = np.load(path)
    parts = zip(kept["counts"], np.split(kept["values"], kept["ends"][:-1]), strict=True)
    return {int(n): part.reshape(count, part.size // (count * TOKEN_EVIDENCES), TOKEN_EVIDENCES) for n, (count, part) in zip(kept["rows"], parts, strict=True)}


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


def read_features(path: Path) -> dict[int, RowFeatures]:
    """Features by row number; nothing if there is no file."""
    if not path.exists():
        return {}
    kept = np.load(path)
    ends, parts = kept["ends"], [kept[name] for name in ("base", "scalars", "facts")]
    starts = np.concatenate([[0], ends[:-1]])
    return {int(n): RowFeatures(*(part[a:b] for part in parts)) for n, a, b in zip(kept["rows"], starts, ends, strict=True)}


def write_features(path: Path, found: dict[int, RowFeatures]) -> None:
    """What `read_features` reads."""
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        rows=list(found),
        ends=np.cumsum([len(row.base) for row in found.values()]),
        base=np.concatenate([row.base for row in found.values()]),
        scalars=np.concatenate([row.scalars for row in found.values()]),
        facts=np.concatenate([row.facts for row in found.values()]),
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
    write_matches(features, rows, found, options.work)
    (options.work / "features.complete").touch()
    print(f"{len(found)} rows, {sum(len(row.base) for row in found.values())} documents")


if __name__ == "__main__":
    main()
