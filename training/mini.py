"""podium-mini as a whole: texts in, scores out. The definition that MODEL.md writes down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from encoder import CLS, HIDDEN, SEP, Encoder, pad, read_tokenizer, tokenize
from gate import read_gate
from lexical import Bag, LexicalTable
from model import (
    EVIDENCE_WEIGHTS,
    Gate,
    Pairs,
    Reading,
    Wish,
    base_scores,
    digest_states,
    evidence,
    feedback,
    token_similarities,
    unit,
    unit_content,
    wish_scalars,
)
from states import LAYERS

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


@dataclass
class Document:
    """An encoded document: its reading over all passages, each passage's states, and its words."""

    reading: Reading
    passages: list[np.ndarray]
    bag: Bag

    @staticmethod
    def of(passages: list[np.ndarray], text: str) -> Document:
        """Means are over all states, windows stay inside passages, content is that of all passages."""
        parts = [Reading.of(states) for states in passages]
        last = np.concatenate([states[:, -HIDDEN:].astype(np.float32) for states in passages])
        windows = np.concatenate([part.windows for part in parts])
        content = np.concatenate([part.content for part in parts])
        return Document(Reading(unit(last.mean(0)), windows, content, parts[0].weights), passages, Bag.of(text))

    def best_passage(self, query: Reading) -> np.ndarray:
        """The states of the passage with the best window."""
        found = [float((Reading.of(states).windows @ query.mean).max()) for states in self.passages]
        return self.passages[int(np.argmax(found))]


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

    def prefix(self, text: str) -> tuple[np.ndarray, Reading]:
        """States and reading of a query or an instruction."""
        states = self.states_of(text, PREFIX_TOKENS)[0]
        ids = tokenize(self.tokenizer, [text], len(states) - 2)[0]
        return states, Reading.of(states, self.token_weights[ids])

    def document(self, text: str, limit: int = PASSAGE_TOKENS) -> Document:
        """An encoded document."""
        return Document.of(self.states_of(text, limit), text)

    @torch.no_grad()
    def gate_of(self, instruction: np.ndarray) -> float:
        """The gate of an instruction's states."""
        states = torch.from_numpy(instruction.astype(np.float32))[None]
        return float(self.gate(states, torch.ones(states.shape[:2], dtype=torch.bool))[0])

    def evidences(self, query: str, documents: Sequence[Document]) -> np.ndarray:
        """[documents, 3]."""
        _, asked = self.prefix(query)
        weights = self.table.weights(query)
        return np.array([evidence(asked, d.reading, self.table.score(weights, d.bag)) for d in documents], np.float32)

    @torch.no_grad()
    def wishes(self, query: str, instruction: str, documents: Sequence[Document], evidences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The wish and its scalars for each document."""
        query_states, query_reading = self.prefix(query)
        states, asked = self.prefix(instruction)
        weights = self.table.weights(instruction)
        scalars = [
            wish_scalars(asked, d.reading, list(e), self.table.score(weights, d.bag), sum(map(len, d.passages)))
            for d, e in zip(documents, evidences, strict=True)
        ]
        best = [d.passages[0] if len(d.passages) == 1 else d.best_passage(query_reading) for d in documents]
        pairs = Pairs.of(
            [digest_states(query_states)],
            [digest_states(states)],
            [states],
            [np.stack([digest_states(s) for s in best])],
            [np.array(scalars)],
            [np.stack([token_similarities(unit_content(states), unit_content(s)) for s in best])],
        )
        return self.wish(pairs).numpy(), np.array(scalars, np.float32)

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
                found.wish, found.scalars = self.wishes(query, instruction, documents, evidences)
                found.scores = base + found.gate * found.wish
        return found


def read_trained(weights: Path, work: Path, lexical: Path, seed: int, states_of: StatesOf | None = None) -> Mini:
    """The model of a training run, not yet rounded to 8 bits."""
    wish = Wish()
    wish.load_state_dict(torch.load(work / f"wish-{seed}.pt", weights_only=False)["average"])
    token_weights = np.load(work / "token-weights.npy")
    table = LexicalTable.load(lexical)
    return Mini(Encoder.read(weights), read_tokenizer(weights), table, token_weights, read_gate(work), wish, states_of)


def read_exported(folder: Path, states_of: StatesOf | None = None) -> Mini:
    """An exported model, its weights back in f32."""
    packed = load_file(str(folder / "model.safetensors")) | load_file(str(folder / "instructions.safetensors"))
    tensors = {}
    for name, array in packed.items():
        if not name.endswith(".scale"):
            value = array.astype(np.float32)
            tensors[name] = torch.from_numpy(value * packed[f"{name}.scale"][:, None] if array.dtype == np.int8 else value)
    encoder, gate, wish = Encoder.of(tensors), Gate(), Wish()
    for module, prefix in ((gate, "gate."), (wish, "wish.")):
        module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    table = LexicalTable.load(folder / "lexical.safetensors")
    return Mini(encoder, read_tokenizer(folder), table, tensors["token_weight"].numpy(), gate, wish, states_of)
