"""podium-mini as a whole: texts in, scores out. The definition that MODEL.md writes down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from encoder import CLS, HIDDEN, SEP, Encoder, pad, read_tokenizer, tokenize
from explicit import Asked, Counted, facts
from gate import read_gate
from lexical import Bag, LexicalTable
from model import (
    EVIDENCE_WEIGHTS,
    LATER_WINDOW_MARGIN,
    WIDTH,
    Gate,
    Pairs,
    Reading,
    Wish,
    base_scores,
    digest_states,
    evidence,
    feedback,
    token_matches,
    token_similarities,
    unit,
    unit_content,
    wish_scalars,
)
from states import LAYERS
from train import read_wish

count = lru_cache(4096)(Counted.of)
StatesOf = Callable[[str, int], list[np.ndarray]]
PREFIX_TOKENS, PASSAGE_TOKENS = 126, 254
"""Tokens of a query or an instruction, and of each passage of a document, without [CLS] and [SEP]."""


@dataclass
class Scored:
    """Scores of a slate, and what they are made of."""

    evidences: np.ndarray
    feedback: np.ndarray
    base: np.ndarray
    gate: float
    wish: np.ndarray
    scores: np.ndarray
    scalars: np.ndarray = field(default_factory=lambda: np.zeros(0))
    facts: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class Document:
    """An encoded document: its reading over all passages, each passage's states and ids, and its words."""

    reading: Reading
    passages: list[np.ndarray]
    ids: list[list[int]]
    bag: Bag
    text: str

    @staticmethod
    def of(passages: list[np.ndarray], ids: list[int], text: str) -> Document:
        """`ids` are those of the content tokens of all passages. Means are over all states, windows stay inside passages, content is that of all passages."""
        parts = [Reading.of(states) for states in passages]
        last = np.concatenate([states[:, -HIDDEN:].astype(np.float32) for states in passages])
        windows = np.concatenate([part.windows for part in parts])
        content = np.concatenate([part.content for part in parts])
        later = [np.repeat(np.arange(len(parts)) > 0, list(map(len, rows))) for rows in ([p.windows for p in parts], [p.content for p in parts])]
        reading = Reading(unit(last.mean(0)), windows, content, parts[0].weights, *later)
        ends = np.cumsum([len(states) - 2 for states in passages])
        split = [ids[end - len(states) + 2 : end] for states, end in zip(passages, ends, strict=True)]
        return Document(reading, passages, split, Bag.of(text), text)

    def best_passage(self, query: Reading) -> tuple[np.ndarray, list[int]]:
        """States and ids of the passage with the best window, less the margin of later passages."""
        found = [float((Reading.of(states).windows @ query.mean).max()) for states in self.passages]
        best = int(np.argmax([f - LATER_WINDOW_MARGIN * (i > 0) for i, f in enumerate(found)]))
        return self.passages[best], self.ids[best]


class Mini:
    """The model. `states_of` gives a text's states by passage; by default it runs the encoder."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        table: LexicalTable,
        token_weights: np.ndarray,
        gate: Gate,
        wish: Wish,
        states_of: StatesOf | None = None,
    ) -> None:
        self.encoder, self.tokenizer, self.table = encoder.eval(), tokenizer, table
        self.token_weights = token_weights.astype(np.float32)
        self.gate, self.wish = gate.eval(), wish.eval()
        self.states_of = states_of or self.encode

    @torch.no_grad()
    def encode(self, text: str, limit: int) -> list[np.ndarray]:
        """Token states after layers 3 and 6, of passages of `PASSAGE_TOKENS` each."""
        ids = tokenize(self.tokenizer, [text], limit)[0]
        passages = [ids[i : i + PASSAGE_TOKENS] for i in range(0, len(ids), PASSAGE_TOKENS)] or [[]]
        found = []
        for passage in passages:
            states = self.encoder(*pad([[CLS, *passage, SEP]]), LAYERS)
            found.append(torch.cat(states, -1)[0].numpy())
        return found

    def prefix(self, text: str) -> tuple[np.ndarray, Reading, list[int]]:
        """States, reading and ids of a query or an instruction."""
        states = self.states_of(text, PREFIX_TOKENS)[0]
        ids = tokenize(self.tokenizer, [text], len(states) - 2)[0]
        return states, Reading.of(states, self.token_weights[ids]), ids

    def document(self, text: str, limit: int = PASSAGE_TOKENS) -> Document:
        """An encoded document."""
        passages = self.states_of(text, limit)
        ids = tokenize(self.tokenizer, [text], sum(len(states) - 2 for states in passages))[0]
        return Document.of(passages, ids, text)

    @torch.no_grad()
    def gate_of(self, instruction: np.ndarray) -> float:
        """The gate of an instruction's states."""
        states = torch.from_numpy(instruction.astype(np.float32))[None]
        return float(self.gate(states, torch.ones(states.shape[:2], dtype=torch.bool))[0])

    def evidences(self, query: str, documents: Sequence[Document]) -> np.ndarray:
        """[documents, 3]."""
        _, asked, _ = self.prefix(query)
        weights = self.table.weights(query)
        return np.array([evidence(asked, d.reading, self.table.score(weights, d.bag)) for d in documents], np.float32)

    @torch.no_grad()
    def wishes(
        self, query: str, instruction: str, documents: Sequence[Document], evidences: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The wish, its scalars and its facts for each document."""
        query_states, query_reading, _ = self.prefix(query)
        states, reading, ids = self.prefix(instruction)
        weights, named, content = self.table.weights(instruction), Asked.of(instruction), unit_content(states)
        scalars = [
            wish_scalars(reading, d.reading, list(e), self.table.score(weights, d.bag), sum(map(len, d.passages)))
            for d, e in zip(documents, evidences, strict=True)
        ]
        counted = np.stack([facts(named, count(d.text)) for d in documents])
        best = [(d.passages[0], d.ids[0]) if len(d.passages) == 1 else d.best_passage(query_reading) for d in documents]
        matches = [
            np.concatenate(
                [token_similarities(content, unit_content(s)), token_matches(ids, self.token_weights[ids], found)], 1
            )
            for s, found in best
        ]
        pairs = Pairs.of(
            [digest_states(query_states)],
            [digest_states(states)],
            [states[1:-1]],
            [np.stack([digest_states(s) for s, _ in best])],
            [np.array(scalars)],
            [counted],
            [np.stack(matches)],
        )
        return self.wish(pairs).numpy(), np.array(scalars, np.float32), counted

    def score(
        self, query: str, documents: Sequence[Document], instruction: str = "", evidences: np.ndarray | None = None
    ) -> Scored:
        """Scores of a slate, in log odds of relevance before calibration; `evidences` if they are known."""
        evidences = self.evidences(query, documents) if evidences is None else evidences
        means = np.stack([d.reading.mean for d in documents])
        base = base_scores(evidences, means)
        first = evidences @ EVIDENCE_WEIGHTS
        found = Scored(evidences, feedback(first, means), base, 0.0, np.zeros_like(base), base)
        if instruction:
            found.gate = self.gate_of(self.states_of(instruction, PREFIX_TOKENS)[0])
            if found.gate > 0:
                found.wish, found.scalars, found.facts = self.wishes(query, instruction, documents, evidences)
                found.scores = base + found.gate * found.wish
        return found


def read_trained(weights: Path, work: Path, lexical: Path, seed: int, members: int, states_of: StatesOf | None = None) -> Mini:
    """The model of a training run, not yet rounded to 8 bits."""
    token_weights = np.load(work / "token-weights.npy")
    table = LexicalTable.load(lexical)
    return Mini(Encoder.read(weights), read_tokenizer(weights), table, token_weights, read_gate(work), read_wish(work, seed, members), states_of)


def read_exported(folder: Path, states_of: StatesOf | None = None) -> Mini:
    """An exported model, its weights back in f32."""
    packed = load_file(str(folder / "model.safetensors")) | load_file(str(folder / "instructions.safetensors"))
    tensors = {}
    for name, array in packed.items():
        if not name.endswith(".scale"):
            value = array.astype(np.float32)
            tensors[name] = torch.from_numpy(value * packed[f"{name}.scale"][:, None] if array.dtype == np.int8 else value)
    encoder, gate, wish = Encoder.of(tensors), Gate(), Wish(members=len(tensors["wish.query.bias"]) // WIDTH)
    for module, prefix in ((gate, "gate."), (wish, "wish.")):
        module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    table = LexicalTable.load(folder / "lexical.safetensors")
    return Mini(encoder, read_tokenizer(folder), table, tensors["token_weight"].numpy(), gate, wish, states_of)
