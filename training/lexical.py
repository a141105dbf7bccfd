"""Lexical evidence: BM25 of a document, as a share of the most the query could get.

The share picks which of the 32 embed marks closes a document, so the model reads the
evidence as a token. Idf values come from a fixed background table, never from the slate:
a document's mark does not depend on its company.

The runtime holds the same rules; `tests/fixtures/lexical.json` ties the two together.

Terms of a text:
1. lowercase the text;
2. a run of CJK characters (`is_cjk`) gives its overlapping pairs, or the one character
   if the run is one long;
3. any other maximal run of characters that are Alphabetic or of category N gives one term,
   stemmed (`stem`) if all its characters are ASCII.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
from safetensors import safe_open
from safetensors.numpy import save_file

K1 = 0.9
B = 0.4
BUCKETS = 32
BUCKET_SCALE = 42
SUFFIXES = ("ing", "ed", "es", "s")
CJK_RANGES = (
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana phonetic extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7AF),  # Hangul syllables
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # Katakana, half width
    (0x20000, 0x323AF),  # Han, extensions B to H
)
_CJK = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in CJK_RANGES)
_TERM = regex.compile(rf"(?V1)[{_CJK}]+|[[\p{{Alphabetic}}\p{{N}}]--[{_CJK}]]+")


def is_cjk(character: str) -> bool:
    """Whether a character is written without spaces between words."""
    return any(low <= ord(character) <= high for low, high in CJK_RANGES)


@lru_cache(maxsize=1 << 18)
def stem(word: str) -> str:
    """Cut one common English suffix, then a final e, from a word of five letters or more."""
    if len(word) <= 4 or word[0].isdigit():
        return word
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def terms(text: str) -> list[str]:
    """The terms of a text, in order, with repeats."""
    found: list[str] = []
    for run in _TERM.findall(text.lower()):
        if is_cjk(run[0]):
            found.extend([run] if len(run) == 1 else [run[i : i + 2] for i in range(len(run) - 1)])
        else:
            found.append(stem(run) if run.isascii() else run)
    return found


@lru_cache(maxsize=1 << 18)
def term_hash(term: str) -> int:
    """32-bit FNV-1a of the UTF-8 bytes."""
    value = 0x811C9DC5
    for byte in term.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


@dataclass(frozen=True)
class Bag:
    """A document's term counts and its length in terms."""

    counts: Counter[str]
    length: int

    @staticmethod
    def of(text: str) -> Bag:
        found = terms(text)
        return Bag(Counter(found), len(found))


@dataclass
class LexicalTable:
    """Background idf by term hash, with the constants of the score."""

    idf: dict[int, float]
    unknown_idf: float
    average_length: float
    document_count: int

    @staticmethod
    def build(texts: Iterable[tuple[str, str]], keep: int = 3, keep_cjk: int = 12) -> LexicalTable:
        """From (language, text) pairs. Words count among the texts in alphabetic scripts,
        CJK pairs among the others; terms in fewer than `keep` texts are left unknown."""
        frequency: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        count = {False: 0, True: 0}
        length = 0
        for language, text in texts:
            found = terms(text)
            cjk = language in ("ja", "zh", "ko")
            count[cjk] += 1
            frequency[cjk].update(set(found))
            length += 0 if cjk else len(found)
        idf: dict[int, float] = {}
        for cjk, counter in frequency.items():
            for term, n in counter.items():
                if is_cjk(term[0]) == cjk and n >= (keep_cjk if cjk else keep):
                    value = math.log(1 + (count[cjk] - n + 0.5) / (n + 0.5))
                    key = term_hash(term)
                    idf[key] = min(value, idf.get(key, value))
        n = count[False]
        unknown = math.log(1 + (n - 0.5) / 1.5)
        table = LexicalTable(idf, unknown, round(length / n, 3), n)
        table.idf = {k: float(np.float16(v)) for k, v in idf.items()}
        table.unknown_idf = float(np.float16(unknown))
        return table

    def weights(self, query: str) -> dict[str, float]:
        """Idf of each distinct term of the query, in order of first use."""
        return {t: self.idf.get(term_hash(t), self.unknown_idf) for t in dict.fromkeys(terms(query))}

    def score(self, weights: dict[str, float], bag: Bag) -> float:
        """BM25 over its maximum for the query, in [0, 1); 0 for a query without terms."""
        most = sum(weights.values()) * (K1 + 1)
        if most == 0:
            return 0.0
        norm = K1 * (1 - B + B * bag.length / self.average_length)
        total = 0.0
        for term, idf in weights.items():
            n = bag.counts.get(term, 0)
            if n:
                total += idf * (K1 + 1) * n / (n + norm)
        return total / most

    def save(self, path: Path) -> None:
        """Write `lexical.safetensors`: term_hash (U32, ascending), idf (F16), constants as metadata."""
        keys = np.array(sorted(self.idf), dtype=np.uint32)
        values = np.array([self.idf[int(k)] for k in keys], dtype=np.float16)
        metadata = {
            "k1": str(K1),
            "b": str(B),
            "average_length": str(self.average_length),
            "unknown_idf": str(self.unknown_idf),
            "bucket_scale": str(BUCKET_SCALE),
            "document_count": str(self.document_count),
        }
        save_file({"term_hash": keys, "idf": values}, str(path), metadata)

    @staticmethod
    def load(path: Path) -> LexicalTable:
        with safe_open(str(path), "numpy") as file:
            keys, values, facts = file.get_tensor("term_hash"), file.get_tensor("idf"), file.metadata()
        idf = {int(k): float(v) for k, v in zip(keys, values, strict=True)}
        return LexicalTable(
            idf, float(facts["unknown_idf"]), float(facts["average_length"]), int(facts["document_count"])
        )


def bucket(score: float) -> int:
    """Which embed mark stands for a score."""
    return min(BUCKETS - 1, int(BUCKET_SCALE * score))


FIXTURES: list[tuple[str, str]] = [
    ("capital of france", "Paris is the capital of France."),
    ("capital of france", "Berlin is the capital of Germany."),
    ("capital of france", "Bananas are yellow."),
    ("capital of france", ""),
    ("", "Paris is the capital of France."),
    ("?!", "Paris is the capital of France."),
    ("france france france", "France, France and again France."),
    ("France", "france"),
    ("paris", "paris paris paris paris paris paris paris paris paris paris"),
    ("running shoes", "A shoe for runs"),
    ("the houses were raised", "raise a house"),
    ("gases", "gas"),
    ("does a glass break", "glasses broke"),
    ("policies on boxes", "policy box boxed boxing"),
    ("1990s music", "music of the 1990s"),
    ("3d printing 2024", "In 2024, 3D-printing grew."),
    ("covid-19 vaccine", "COVID 19 vaccines; covid19 vaccination"),
    ("what's the weather?", "Whats the weather what s"),
    ("don't stop", "do not stop, don't"),
    ("snake_case name", "snake_case snake case name"),
    ("naïve café", "A naïve person sat in the café."),
    ("naïve café", "A naive person sat in the cafe."),
    ("ÅNGSTRÖM unit", "one ångström is a unit of length"),
    ("straße", "STRASSE straße"),
    ("ΟΔΟΣ Σοφίας", "οδος σοφίας"),
    ("İstanbul", "i̇stanbul istanbul"),
    ("погода в Москве", "Погода в Москве сегодня хорошая."),
    ("مدينة القاهرة", "القاهرة مدينة كبيرة"),
    ("हिन्दी भाषा", "हिन्दी एक भाषा है"),
    ("東京の首都", "日本の首都は東京です。"),
    ("東京タワー", "東京タワーの高さは333メートル"),
    ("猫", "猫が好き"),
    ("北京的人口", "北京市的常住人口超过两千万"),
    ("서울 날씨", "오늘 서울의 날씨는 맑음"),
    ("GPU メモリ 80GB", "GPUのメモリは80GBです"),
    ("ﾊﾛｰ world", "ﾊﾛｰ, world"),
    ("x² + ½", "x² ½ Ⅷ ①"),
    ("emoji 😀 test", "😀 test emoji"),
    ("how do I reset my password", "To reset your password, open Settings, choose Account and press Reset password. " * 6),
    ("side effects of ibuprofen", "Ibuprofen can cause stomach pain. Side effects include nausea, dizziness and headache. Ask a doctor."),
    ("zyxwvut qponmlk", "the unknown word zyxwvut is here"),
    ("a b c d e f g h", "h g f e d c b a " * 20),
    ("tar extract archive", "Extract a gzipped archive: tar xzf path/to/file.tar.gz"),
]


def write_fixture(table: LexicalTable, path: Path) -> None:
    """Write the cases that tie the runtime's port to this file."""
    cases = []
    for query, document in FIXTURES:
        score = table.score(table.weights(query), Bag.of(document))
        cases.append({"query": query, "document": document, "score": round(score, 9), "bucket": bucket(score)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
