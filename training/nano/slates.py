"""Training slates: a query, an instruction or none, and documents to tell apart.

Plain slates take their negatives from BM25, the teacher, the same article and chance.
Instructed slates are made so that the instruction decides: without it another document, or
none in particular, would be right. `held_out=True` draws from the validation articles and
uses the wordings that training never sees (the last of each list).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import regex
from tokenizers import Tokenizer

from data import Corpus
from lexical import Bag, LexicalTable, bucket, stem, term_hash, terms
from model import Slate
from tokenizer import encode, encode_all

DOCUMENT_TOKENS, QUERY_TOKENS = 512, 128
NEUTRAL_BUCKET = 12
SOURCE_SHARE = {
    "squad1.1-dev": 0.22, "qed-nq": 0.22, "feedbackqa": 0.14, "medquad": 0.17,
    "pubmedqa": 0.04, "tldr": 0.08, "jaquad": 0.08, "cmrc2018": 0.05,
}  # fmt: skip
SOURCE_NAMES = {
    "medquad": ["medical reference pages", "health information about diseases", "medical encyclopedia entries"],
    "feedbackqa": ["official COVID-19 guidance", "government advice on the coronavirus", "public health guidance on COVID-19"],
    "squad1.1-dev": ["encyclopedia articles", "Wikipedia articles", "passages from an encyclopedia"],
    "pubmedqa": ["research abstracts", "clinical study abstracts", "abstracts of scientific studies"],
    "tldr": ["command line examples", "shell commands", "terminal command help"],
}  # fmt: skip
LANGUAGE_NAMES = {
    "ja": ["Japanese", "Japanese-language", "日本語"],
    "zh": ["Chinese", "Chinese-language", "中文"],
    "en": ["English", "English-language", "English"],
}  # fmt: skip
PREFER = [
    "Only {}.", "Prefer {}.", "I am looking for {}.", "Rank {} first.", "{} only",
    "Return {}.", "The documents should be {}.", "Please put {} at the top.",
]  # fmt: skip
MENTION = [
    "Only passages that mention {}.", "Prefer documents about {}.", "The passage must mention {}.", "Focus on {}.",
    "It should say something about {}.", "{} must be mentioned", "Rank documents that talk about {} first.",
]  # fmt: skip
AVOID = [
    "Only passages that do not mention {}.", "Exclude documents about {}.", "Nothing about {}.",
    "Avoid passages that mention {}.", "The passage must not mention {}.", "Without {}.", "Leave out anything about {}.",
    "Rank documents that do not talk about {} first.",
]  # fmt: skip
SHORT = ["Prefer the shortest passage.", "Short answers only.", "Prefer brief documents.", "As short as possible.",
         "Rank shorter documents first."]  # fmt: skip
LONG = ["Prefer the longest passage.", "Long, detailed answers only.", "Prefer detailed documents.",
        "As long as possible.", "Rank longer documents first."]  # fmt: skip
ANSWERS = ["{}", "The passage should answer: {}", "I want to know: {}", "Answer this question: {}",
           "Prefer documents that answer the question {}"]  # fmt: skip


@dataclass
class Example:
    """A slate with what is right (indices), and the corpus rows behind it."""

    slate: Slate
    right: list[int]
    rows: list[int]
    query: str
    kind: str
    blind: bool = False


class Bm25Index:
    """BM25 over the passages of one source, for hard negatives."""

    def __init__(self, rows: list[int], bags: list[Bag], table: LexicalTable) -> None:
        self.rows = np.array(rows)
        postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, row in enumerate(rows):
            norm = 0.9 * (0.6 + 0.4 * bags[row].length / table.average_length)
            for term, n in bags[row].counts.items():
                postings[term].append((place, n / (n + norm)))
        cap = max(20, 0.3 * len(rows))
        self.postings = {
            t: (np.array([i for i, _ in p]), np.array([w for _, w in p], np.float32))
            for t, p in postings.items()
            if len(p) <= cap
        }

    def top(self, weights: dict[str, float], k: int) -> list[int]:
        """Rows of the k best passages, best first."""
        score = np.zeros(len(self.rows), np.float32)
        for term, idf in weights.items():
            if term in self.postings:
                places, share = self.postings[term]
                score[places] += idf * share
        k = min(k, len(score) - 1)
        best = np.argpartition(-score, k)[:k]
        return self.rows[best[np.argsort(-score[best])]].tolist()


class SlateMaker:
    """Draws examples from the corpus."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        table: LexicalTable,
        passage_teacher: np.ndarray,
        query_teacher: Callable[[str], np.ndarray | None],
    ) -> None:
        self.corpus, self.tokenizer, self.table = corpus, tokenizer, table
        self.passage_teacher, self.query_teacher = passage_teacher, query_teacher
        self.ids = encode_all(tokenizer, [p.indexed for p in corpus.passages], DOCUMENT_TOKENS)
        self.bags = [Bag.of(p.indexed) for p in corpus.passages]
        self.index = {s: Bm25Index(rows, self.bags, table) for s, rows in corpus.by_source.items()}
        self.vectors = {s: passage_teacher[rows].astype(np.float32) for s, rows in corpus.by_source.items()}
        self.pairs: dict[bool, dict[str, list[int]]] = {False: defaultdict(list), True: defaultdict(list)}
        for i, pair in enumerate(corpus.pairs):
            passage = corpus.passages[pair.passage]
            self.pairs[passage.held_out][passage.source].append(i)

    def pick_pair(self, rng: random.Random, held_out: bool, sources: tuple[str, ...] | None = None):
        """(query, passage row) of a random pair, sources weighted by SOURCE_SHARE."""
        names = [s for s in (sources or SOURCE_SHARE) if self.pairs[held_out][s]]
        source = rng.choices(names, [SOURCE_SHARE[s] for s in names])[0]
        pair = self.corpus.pairs[rng.choice(self.pairs[held_out][source])]
        return pair.query, pair.passage

    def allowed(self, row: int, held_out: bool) -> bool:
        """Validation draws from all articles, training only from its own."""
        return held_out or not self.corpus.passages[row].held_out

    def build(self, query: str, rows: list[int], limits: list[int], instruction: str = "", blind: bool = False) -> Slate:
        """Token ids and evidence. `blind` hides the evidence."""
        weights = self.table.weights(query)
        return Slate(
            encode(self.tokenizer, query, QUERY_TOKENS),
            [self.ids[r][:limit] for r, limit in zip(rows, limits, strict=True)],
            [NEUTRAL_BUCKET if blind else bucket(self.table.score(weights, self.bags[r])) for r in rows],
            encode(self.tokenizer, instruction, QUERY_TOKENS) if instruction else [],
        )

    def negatives(self, rng: random.Random, query: str, row: int, k: int, held_out: bool) -> list[int]:
        """k other passages of the same source: hard ones first, unlabelled answers left out."""
        corpus = self.corpus
        source = corpus.passages[row].source
        weights = self.table.weights(query)
        lexical = self.index[source].top(weights, 2 * k + 24)
        vector = self.query_teacher(query)
        semantic: list[int] = []
        known = 2.0
        if vector is not None:
            vector = vector.astype(np.float32)
            near = self.vectors[source] @ vector
            count = min(2 * k + 16, len(near) - 1)
            semantic = np.array(corpus.by_source[source])[np.argpartition(-near, count)[:count]].tolist()
            known = float(self.passage_teacher[row].astype(np.float32) @ vector)
        same = corpus.by_group[source, corpus.passages[row].group]
        pools = [lexical, semantic or lexical, same, corpus.by_source[source]]
        found: list[int] = []
        seen = {row} | corpus.positives[query]
        if source == "feedbackqa":
            seen |= set(lexical[:2])
        for attempt in range(12 * k):
            pool = pools[3] if attempt > 8 * k else rng.choices(pools, (0.45, 0.25, 0.15, 0.15))[0]
            candidate = rng.choice(pool)
            if candidate in seen or not self.allowed(candidate, held_out):
                continue
            seen.add(candidate)
            if vector is not None and self.passage_teacher[candidate].astype(np.float32) @ vector > known + 0.02:
                continue
            found.append(candidate)
            if len(found) == k:
                break
        return found

    def plain(self, rng: random.Random, k: int, limit: int, held_out: bool = False, blind: bool = False) -> Example:
        """A question, its passage and k - 1 negatives; no instruction."""
        query, row = self.pick_pair(rng, held_out)
        rows = [row, *self.negatives(rng, query, row, k - 1, held_out)]
        rng.shuffle(rows)
        if self.corpus.passages[row].title and rng.random() < 0.06 and not blind:
            query = f"{self.corpus.passages[row].title} {query}"[:300]
        limits = [max(8, min(DOCUMENT_TOKENS, limit + rng.randint(-8, 8))) for _ in rows]
        return Example(self.build(query, rows, limits, blind=blind), [rows.index(row)], rows, query, "plain", blind)

    def instructed(self, rng: random.Random, k: int, limit: int, held_out: bool = False, kind: str = "") -> Example:
        """A slate whose instruction decides. Tries until the kind can be made."""
        while True:
            chosen = kind or rng.choice(("question", "question", "mention", "avoid", "avoid", "source", "language", "length"))
            example = getattr(self, chosen)(rng, k, limit, held_out)
            if example is not None:
                return example

    def wording(self, rng: random.Random, options: list[str], held_out: bool, *parts: str) -> str:
        """A template filled in; the last is kept for validation."""
        return (options[-1] if held_out else rng.choice(options[:-1])).format(*parts)

    def example(self, rng, query, rows, right, limits, instruction, kind) -> Example:
        """Shuffle and build."""
        order = list(range(len(rows)))
        rng.shuffle(order)
        rows, limits = [rows[i] for i in order], [limits[i] for i in order]
        slate = self.build(query, rows, limits, instruction)
        return Example(slate, [i for i, r in enumerate(rows) if r in right], rows, query, kind)

    def question(self, rng, k, limit, held_out):
        """Query: the title; instruction: the question. Others: same article, and alike."""
        query, row = self.pick_pair(rng, held_out, ("squad1.1-dev", "medquad", "feedbackqa", "jaquad", "tldr"))
        passage = self.corpus.passages[row]
        mates = [r for r in self.corpus.by_group[passage.source, passage.group] if r not in self.corpus.positives[query]]
        if not passage.title or (passage.source != "feedbackqa" and len(mates) < 2):
            return None
        rng.shuffle(mates)
        rows = [row, *[r for r in mates if r != row][: k - 1]]
        extra = [r for r in self.negatives(rng, query, row, k, held_out) if r not in rows]
        rows += extra[: k - len(rows)]
        title = passage.title.split(" - ")[0]
        if rng.random() < 0.4 and passage.language == "en":
            known = set(terms(title))
            query = " ".join(w for w in query.split() if not set(terms(w)) & known) or query
        instruction = self.wording(rng, ANSWERS, held_out, query)
        return self.example(rng, title, rows, {row}, [limit] * len(rows), instruction, "question")

    def near(self, rng, query, row, held_out, count):
        """Passages near the query in its source, the article's own first."""
        passage = self.corpus.passages[row]
        rows = [*self.corpus.by_group[passage.source, passage.group]]
        rng.shuffle(rows)
        rows = rows[: count // 2] + self.index[passage.source].top(self.table.weights(query), count)
        return [r for r in dict.fromkeys(rows) if self.allowed(r, held_out)]

    def visible(self, row: int, limit: int) -> set[str]:
        """Terms within the first `limit` tokens."""
        return set(terms(self.tokenizer.decode(self.ids[row][:limit])))

    def split_by_term(self, rng, k, limit, held_out, wanted: Callable[[int, int], bool]):
        """(query, rows, term, rows that hold it): a term that divides passages near a query."""
        query, row = self.pick_pair(rng, held_out, ("squad1.1-dev", "medquad", "feedbackqa", "qed-nq", "pubmedqa"))
        rows = self.near(rng, query, row, held_out, 2 * k)[: 2 * k]
        if len(rows) < 4:
            return None
        seen = {r: self.visible(r, limit) for r in rows}
        count = Counter(t for s in seen.values() for t in s)
        asked = set(terms(query))
        options = [t for t, n in count.items() if wanted(n, len(rows)) and self.names(t) and t not in asked]
        if not options:
            return None
        term = rng.choice(options)
        words = regex.findall(r"\p{L}+", self.tokenizer.decode(self.ids[rng.choice([r for r in rows if term in seen[r]])][:limit]))
        spelled = next((w for w in words if stem(w) == term), term)
        return query, rows, spelled, [r for r in rows if term in seen[r]]

    def names(self, term: str) -> bool:
        """Whether a term is specific enough to ask for."""
        return len(term) > 3 and term.isascii() and term.isalpha() and self.table.idf.get(term_hash(term), 0) > 4.0

    def mention(self, rng, k, limit, held_out):
        """The passages that hold a term, among others that fit the query as well."""
        found = self.split_by_term(rng, k, limit, held_out, lambda n, all_: n <= 2)
        if found is None:
            return None
        query, rows, term, right = found
        rows = right + [r for r in rows if r not in right][: k - len(right)]
        instruction = self.wording(rng, MENTION, held_out, term)
        return self.example(rng, query, rows, set(right), [limit] * len(rows), instruction, "mention")

    def avoid(self, rng, k, limit, held_out):
        """The passages without a term, where most hold it."""
        found = self.split_by_term(rng, k, limit, held_out, lambda n, all_: n >= 3)
        if found is None:
            return None
        query, rows, term, wrong = found
        right = [r for r in rows if r not in wrong][: rng.choice((1, 1, 2))]
        if not right:
            return None
        rows = right + wrong[: max(2, k - len(right))]
        instruction = self.wording(rng, AVOID, held_out, term)
        return self.example(rng, query, rows, set(right), [limit] * len(rows), instruction, "avoid")

    def source(self, rng, k, limit, held_out):
        """Passages of a named kind, among better matches of another."""
        names = [s for s in SOURCE_NAMES if s in self.index]
        home, wanted = rng.sample(names, 2)
        query, row = self.pick_pair(rng, held_out, (home,)) if self.pairs[held_out][home] else (None, None)
        if query is None:
            return None
        weights = self.table.weights(query)
        right = [r for r in self.index[wanted].top(weights, 12) if self.allowed(r, held_out)]
        right = rng.sample(right, min(len(right), rng.choice((1, 1, 2))))
        others = [row, *self.negatives(rng, query, row, k - 1 - len(right), held_out)]
        if not right or len(others) < 2:
            return None
        instruction = self.wording(rng, PREFER, held_out, rng.choice(SOURCE_NAMES[wanted][:2]))
        rows = right + others
        return self.example(rng, query, rows, set(right), [limit] * len(rows), instruction, "source")

    def language(self, rng, k, limit, held_out):
        """Passages in a named language, among better matches in another."""
        wanted = rng.choice(("ja", "zh", "en"))
        home = rng.choice(("squad1.1-dev", "qed-nq", "feedbackqa", "medquad") if wanted != "en" else ("jaquad", "cmrc2018"))
        if not self.pairs[held_out][home]:
            return None
        query, row = self.pick_pair(rng, held_out, (home,))
        pool = self.corpus.by_source[{"ja": "jaquad", "zh": "cmrc2018", "en": rng.choice(("squad1.1-dev", "qed-nq"))}[wanted]]
        right = [r for r in rng.sample(pool, 4) if self.allowed(r, held_out)][: rng.choice((1, 1, 2))]
        others = [row, *self.negatives(rng, query, row, k - 1 - len(right), held_out)]
        if not right or len(others) < 2:
            return None
        name = rng.choice(LANGUAGE_NAMES[wanted][:1] if held_out else LANGUAGE_NAMES[wanted])
        instruction = self.wording(rng, PREFER, held_out, f"{name} documents" if name.isascii() else name)
        rows = right + others
        return self.example(rng, query, rows, set(right), [limit] * len(rows), instruction, "language")

    def length(self, rng, k, limit, held_out):
        """The one short (or long) passage among others that fit as well."""
        query, row = self.pick_pair(rng, held_out, ("squad1.1-dev", "medquad", "feedbackqa", "qed-nq", "pubmedqa"))
        rows = [r for r in self.near(rng, query, row, held_out, 3 * k) if len(self.ids[r]) >= 48][:k]
        if len(rows) < 3:
            return None
        rng.shuffle(rows)
        short = rng.random() < 0.5
        one, rest = (rng.randint(10, 22), max(48, limit)) if short else (max(64, limit), rng.randint(12, 24))
        limits = [one, *[max(8, rest + rng.randint(-6, 6)) for _ in rows[1:]]]
        instruction = self.wording(rng, SHORT if short else LONG, held_out)
        return self.example(rng, query, rows, {rows[0]}, limits, instruction, "length")
