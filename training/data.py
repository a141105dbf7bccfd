"""Training data: passages with the questions they answer, split by article.

`--data` names a folder with `train-passages.jsonl[.gz]` (pid, src, lang, group, title, text)
and `train-pairs.jsonl[.gz]` (src, q, pid), and, for the evaluation, `eval/<set>/` in the BEIR
layout with `bm25.trec`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_CHARACTERS = 3000
VALIDATION_SHARE = 0.05
TLDR_PASSAGES = 12_000
TLDR_QUERY_WORDS = 4
EVAL_SETS = ("noveleval", "cranfield", "npl", "feedbackqa-cdc", "qed-dev")


@dataclass(frozen=True)
class Passage:
    """A passage; `group` is the article it comes from, `held_out` whether that article is."""

    source: str
    language: str
    group: str
    title: str
    text: str
    held_out: bool

    @property
    def titled(self) -> str:
        """Title and text, as a search index would hold them."""
        return f"{self.title} {self.text}".strip()

    @property
    def indexed(self) -> str:
        """What training takes as the document: with its title for half of the articles
        (and for FeedbackQA, where the titles are the headings of one page)."""
        odd = hashlib.sha256(self.group.encode()).digest()[2] % 2
        return self.titled if odd or self.source == "feedbackqa" else self.text


@dataclass(frozen=True)
class Pair:
    """A question and the index of a passage that answers it."""

    query: str
    passage: int


@dataclass
class Corpus:
    """Passages and pairs, with the look-ups that sampling needs."""

    passages: list[Passage]
    pairs: list[Pair]
    by_group: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    by_source: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    positives: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for i, passage in enumerate(self.passages):
            self.by_group[passage.source, passage.group].append(i)
            self.by_source[passage.source].append(i)
        for pair in self.pairs:
            self.positives[pair.query].add(pair.passage)


def read_lines(path: Path) -> Iterator[dict]:
    """Objects of a JSONL file, plain or gzipped."""
    packed = path.with_name(path.name + ".gz")
    opened = open(path, encoding="utf-8") if path.exists() else gzip.open(packed, "rt", encoding="utf-8")
    with opened as lines:
        for line in lines:
            yield json.loads(line)


def untokenise(text: str) -> str:
    """Undo the spaces that a treebank tokeniser puts around punctuation."""
    text = re.sub(r" ([.,;:!?%)\]])", r"\1", text.replace("`` ", '"').replace(" ''", '"'))
    return re.sub(r"([(\[]) ", r"\1", text).replace(" 's", "'s").replace(" n't", "n't").replace("( ", "(")


def is_held_out(source: str, group: str) -> bool:
    """Whether an article belongs to the validation part: by its name, so it never moves."""
    digest = hashlib.sha256(f"{source}/{group}".encode()).digest()
    return digest[0] + 256 * digest[1] < VALIDATION_SHARE * 65536


def read_corpus(folder: Path, seed: int = 0) -> Corpus:
    """Read and clean the training data; keep `TLDR_PASSAGES` of the command pages."""
    index: dict[str, int] = {}
    passages: list[Passage] = []
    rows = list(read_lines(folder / "train-passages.jsonl"))
    random.Random(seed).shuffle(rows)
    commands = 0
    for row in rows:
        source = row["src"]
        commands += source == "tldr"
        if source == "tldr" and commands > TLDR_PASSAGES:
            continue
        title = (row.get("title") or "").replace("_", " ")
        text = " ".join(row["text"].split())[:MAX_CHARACTERS]
        # All of FeedbackQA's pages fall in five groups (regions); its articles are the titles.
        group = title if source == "feedbackqa" else row["group"]
        text = untokenise(text) if source == "qed-nq" else text
        index[row["pid"]] = len(passages)
        passages.append(Passage(source, row["lang"], group, title, text, is_held_out(source, group)))
    pairs = []
    for row in read_lines(folder / "train-pairs.jsonl"):
        query = " ".join(row["q"].replace("[", "").replace("]", "").split()) if row["src"] == "tldr" else row["q"]
        short = row["src"] == "tldr" and len(query.split()) < TLDR_QUERY_WORDS
        if row["pid"] in index and not short:
            pairs.append(Pair(" ".join(query.split()), index[row["pid"]]))
    return Corpus(passages, pairs)


def background_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(language, title and text) of every passage, for the background table."""
    for row in read_lines(folder / "train-passages.jsonl"):
        yield row["lang"], f"{row.get('title') or ''} {row['text']}"[:MAX_CHARACTERS]


@dataclass(frozen=True)
class RankingTask:
    """One query of an evaluation set: BM25's ranking (ids) and the graded judgements."""

    id: str
    query: str
    run: list[str]
    relevance: dict[str, float]


def read_eval(folder: Path, name: str) -> tuple[dict[str, str], list[RankingTask]]:
    """Corpus texts by id, and the queries that have a relevant document."""
    root = folder / "eval" / name
    texts = {r["_id"]: f"{r.get('title') or ''} {r['text']}".strip() for r in read_lines(root / "corpus.jsonl")}
    runs: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for line in (root / "bm25.trec").read_text(encoding="utf-8").splitlines():
        query_id, _, document, rank, *_ = line.split()
        runs[query_id].append((int(rank), document))
    judged: dict[str, dict[str, float]] = defaultdict(dict)
    for line in (root / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, document, grade = line.split("\t")
        judged[query_id][document] = max(0.0, float(grade))
    tasks = [
        RankingTask(r["_id"], r["text"], [d for _, d in sorted(runs[r["_id"]])], judged[r["_id"]])
        for r in read_lines(root / "queries.jsonl")
        if any(judged[r["_id"]].values())
    ]
    return texts, tasks


def ndcg(ranking: list[str], relevance: dict[str, float], k: int = 10) -> float:
    """nDCG@k with linear gains, against the ideal ranking of all judged documents."""
    gain = sum(relevance.get(d, 0.0) / math.log2(i + 2) for i, d in enumerate(ranking[:k]))
    ideal = sorted(relevance.values(), reverse=True)[:k]
    return gain / sum(g / math.log2(i + 2) for i, g in enumerate(ideal))
