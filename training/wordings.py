"""Instructions that ask for nothing in particular, beyond those of the training rows.

They describe the task or the collection, or cannot be understood. The gate has to be 0 for them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SUBJECTS = (
    "web search", "scientific", "medical", "legal", "financial", "biomedical", "consumer health", "technical", "programming",
    "customer support", "e-commerce", "product", "travel", "cooking", "news", "history", "geography", "sports", "music", "physics",
    "chemistry", "biology", "mathematics", "engineering", "aerodynamics", "climate", "COVID-19", "insurance", "tax", "banking",
    "employment", "education", "entertainment", "automotive", "real estate", "privacy", "cybersecurity", "Linux", "database",
    "open-domain", "trivia", "multi-hop", "factoid", "academic", "patent", "public health", "nutrition", "argument", "philosophy",
)  # fmt: skip
QUERIES = (
    "query", "question", "search query", "user query", "request", "title", "keyword query", "topic", "statement", "claim", "headline",
    "problem description", "information need", "user question",
)  # fmt: skip
TEXTS = (
    "passages", "documents", "texts", "paragraphs", "abstracts", "articles", "web pages", "answers", "posts", "snippets", "sections",
    "papers", "reports", "entries", "records", "sentences", "chunks", "candidates", "results", "manual pages",
)  # fmt: skip
RELATIONS = (
    "answer the {q}", "are relevant to the {q}", "match the {q}", "best answer the {q}", "are about the {q}", "address the {q}",
    "help to answer the {q}", "contain the answer", "respond to the {q}", "satisfy the {q}", "resolve the {q}",
    "are related to the {q}", "support or refute the {q}", "discuss the {q}", "contain the information that is asked for",
    "provide evidence on the {q}", "cover the topic of the {q}", "are useful for the {q}",
)  # fmt: skip
FRAMES = (
    "Given a {s} {q}, retrieve relevant {t} that {r}.", "Given a {s} {q}, retrieve {t} that {r}.", "Given a {q}, retrieve {t} that {r}.",
    "Given a {s} {q}, find {t} that {r}", "Retrieve {t} that {r}.", "Find {t} that {r}.", "Rank the {t} by how well they {r}.",
    "Rank {s} {t} by relevance to the {q}.", "Represent the {s} {q} for retrieving {t}.", "Judge whether the {t} {r}.",
    "Sort the {t} so that those that {r} come first.", "You are a search engine for {s} {t}. Return those that {r}.",
    "The {t} come from a {s} collection. Find those that {r}.", "This is a {s} search. {T} that {r} are relevant.",
    "I have a {s} {q}. Which {t} {r}?", "Please order these {t} by relevance.", "Which of the {t} {r}?",
    "Your task is {s} retrieval: {t} that {r} should be ranked above {t} that do not.", "{s} search", "{s} question answering",
    "Search relevant {t} for the {q}.", "Relevant: {t} that {r}. Not relevant: all others.",
    "You will see a {s} {q} and several {t}. Put the {t} that {r} at the top, and unrelated ones at the bottom.",
    "{T} are considered relevant when they {r}, even if they use other words than the {q}.", "Instruct: retrieve {t} that {r}",
    "Score each of the {t} from 0 to 10 for how well it fits the {q}.", "Help me find {s} {t} that {r}.",
    "Use the {q} to find {t}. The most relevant {t} are to be ranked first and the least relevant last.",
    "The user asks a {s} {q}. The {t} were found by keyword search. Rerank them: first those that {r}.",
)  # fmt: skip
SHORT = (
    "Rank by relevance.", "Relevance", "Be helpful.", "Think step by step.", "Best first.", "Most relevant first", "n/a", "none", "None.",
    "-", ".", "...", "?", "default", "no instruction", "No preference.", "Anything goes.", "test", "hello", "Hi there!", "Thank you!", "ok",
    "Do a good job.", "Please be careful.", "Take your time.", "Rerank", "rerank the documents", "search", "Do what you do best.",
    "You are a helpful assistant.", "You are an expert in information retrieval.", "It does not matter how long the texts are.",
    "All kinds of sources are welcome.", "I don't care about dates.", "Every side of the matter counts.", "Any language will do.",
    "Old and new texts are equally welcome.", "Answer the question.", "Find the answer.", "What is relevant?", "TODO",
    "Ignore formatting.", "The documents are in no particular order.", "Some documents may be irrelevant.", "quality results only",
    "Use your judgement.", "Only relevance counts.", "Nothing special.", "Standard ranking please", "As usual.", "see above",
)  # fmt: skip
SYLLABLES = "ba be bi co da du el fa gi ho ja ka lo mu na ni or pa qui ra su ta ul vo wex yr zan".split()


def described(rng: random.Random) -> str:
    """A description of an ordinary search task."""
    q, t = rng.choice(QUERIES), rng.choice(TEXTS)
    relation = rng.choice(RELATIONS).format(q=q)
    frame = rng.choice(FRAMES)
    text = frame.format(s=rng.choice(SUBJECTS), q=q, t=t, T=t.capitalize(), r=relation)
    return text[0].upper() + text[1:] if rng.random() < 0.8 else text.lower()


def nonsense(rng: random.Random, words: Sequence[str]) -> str:
    """Invented words, letters, digits, or ordinary words (`words`) in no order."""
    kind = rng.randrange(4)
    if kind == 0:
        return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 14)))
    if kind == 1:
        return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789#%$", k=rng.randint(1, 9))) for _ in range(rng.randint(1, 8)))
    if kind == 2:
        return " ".join(rng.choices(words, k=rng.randint(2, 14)))
    return "".join(rng.choices("?!.-_/ \\*&%$#", k=rng.randint(1, 12)))


def neutral_wordings(seed: int, count: int, words: Sequence[str]) -> list[str]:
    """Distinct wordings: all short ones, then descriptions and nonsense, 5 to 1."""
    rng = random.Random(seed)
    found = dict.fromkeys(SHORT)
    while len(found) < count:
        found[described(rng) if rng.random() < 5 / 6 else nonsense(rng, words)] = None
    return list(found)
