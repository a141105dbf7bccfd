"""podium-mini's own parts: base evidence, gate and wish. MODEL.md is the written definition.

    score = base(query, document) + gate(instruction) * wish(instruction, query, document)

Texts are encoded apart by the frozen encoder. Shapes: `states` are [tokens, 2 * HIDDEN], the states
after layers 3 and 6 side by side, [CLS] and [SEP] included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder import HIDDEN

WINDOW, STRIDE, LAST_START = 64, 32, 16
DIGEST, WIDTH, INNER = 4 * HIDDEN, 192, 256
TOKEN_INNER = 64
WISH_SCALE = 5.0
EVIDENCE_WEIGHTS = np.array([16.0, 20.0, 8.0], np.float32)
FEEDBACK_WEIGHT, FEEDBACK_TEMPERATURE = 16.0, 1.0
BASE_SCALE, BASE_BIAS = 0.22, -7.0
SCALARS = 8
"""Numbers beside the vectors that the wish's last layers see; `wish_scalars` lists them."""
GATE_WIDTH = 64
GATE_CLOSED, GATE_OPEN = 0.5, 0.8
PREFERENCE_GATE = 0.05
"""Shares up to which the gate is exactly 0, and from which on it is 1."""


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Reading:
    """What the evidences need of one encoded text (last layer): the mean of all states, the means of
    its windows, the states of its content tokens; all of length 1. `weights` of the content tokens sum to 1."""

    mean: np.ndarray
    windows: np.ndarray
    content: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(states: np.ndarray, weights: np.ndarray | None = None) -> Reading:
        """Of states with [CLS] and [SEP], and the weights of the tokens between (a document needs none)."""
        last = states[:, -HIDDEN:].astype(np.float32)
        sums = np.concatenate([np.zeros((1, HIDDEN), np.float32), last.cumsum(0)])
        starts = [s for s in range(0, len(last), STRIDE) if s == 0 or s < len(last) - LAST_START]
        windows = np.stack([sums[min(s + WINDOW, len(last))] - sums[s] for s in starts])
        weights = np.zeros(0, np.float32) if weights is None else weights / max(weights.sum(), 1e-9)
        return Reading(unit(last.mean(0)), unit(windows), unit(last[1:-1]), weights)


def window_similarity(query: Reading, document: Reading) -> float:
    """The best cosine of a window of the document with the query's mean."""
    return float((document.windows @ query.mean).max())


def max_similarity(query: Reading, document: Reading) -> float:
    """MaxSim: each query token's best cosine with a document token, as a weighted mean; 0 where either has no tokens."""
    if not len(query.content) or not len(document.content):
        return 0.0
    return float((query.content @ document.content.T).max(1) @ query.weights)


def evidence(query: Reading, document: Reading, lexical: float) -> list[float]:
    """The three evidences: best window, MaxSim, lexical share."""
    return [window_similarity(query, document), max_similarity(query, document), lexical]


def feedback(first: np.ndarray, means: np.ndarray) -> np.ndarray:
    """How much each document resembles those that `first` ranks highest: the product of its mean's and
    their softmax-weighted mean's differences from the slate's mean. 0 for a slate of one."""
    share = np.exp((first - first.max()) / FEEDBACK_TEMPERATURE)
    centred = means - means.mean(0)
    return centred @ ((share / share.sum()) @ centred)


def base_scores(evidences: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Base scores of a slate from its evidences [documents, 3] and means [documents, HIDDEN]: log odds of relevance."""
    first = evidences @ EVIDENCE_WEIGHTS
    return BASE_SCALE * (first + FEEDBACK_WEIGHT * feedback(first, means)) + BASE_BIAS


def digest_states(states: np.ndarray) -> np.ndarray:
    """What the wish reads of a row: mean, maximum and minimum over the tokens after layer 3, mean after layer 6."""
    states = states.astype(np.float32)
    early = states[:, :HIDDEN]
    return np.concatenate([early.mean(0), early.max(0), early.min(0), states[:, HIDDEN:].mean(0)])


def unit_content(states: np.ndarray) -> np.ndarray:
    """[2, content tokens, HIDDEN]: states after layer 3 and after layer 6, of length 1."""
    content = states[1:-1].astype(np.float32)
    return unit(np.stack([content[:, :HIDDEN], content[:, HIDDEN:]]))


def token_similarities(instruction: np.ndarray, document: np.ndarray) -> np.ndarray:
    """[content tokens of the instruction, 2], of `unit_content`: the best cosine with a content token of the
    document, after layer 3 and after layer 6; 0 where the document has none."""
    if not document.shape[1] or not instruction.shape[1]:
        return np.zeros((instruction.shape[1], 2), np.float32)
    return (instruction @ document.transpose(0, 2, 1)).max(2).T


@dataclass
class Pairs:
    """Inputs of the wish: instructions with their padded content tokens, and documents under them.

    `owner` names each document's request; `tokens` [requests, longest, 2 * HIDDEN], `real` [requests,
    longest], `similarities` [documents, longest, 2]; `query`, `instruction` [requests, DIGEST]."""

    query: Tensor
    instruction: Tensor
    tokens: Tensor
    real: Tensor
    owner: Tensor
    document: Tensor
    scalars: Tensor
    similarities: Tensor

    @staticmethod
    def of(
        queries: Sequence[np.ndarray],
        instructions: Sequence[np.ndarray],
        states: Sequence[np.ndarray],
        documents: Sequence[np.ndarray],
        scalars: Sequence[np.ndarray],
        similarities: Sequence[np.ndarray],
        device: str = "cpu",
    ) -> Pairs:
        """One entry a request: digests of query and instruction, the instruction's states; [documents, DIGEST],
        [documents, SCALARS] and [documents, content tokens, 2] of its documents."""
        lengths = [len(s) - 2 for s in states]
        longest = max(1, *lengths)
        tokens = np.zeros((len(states), longest, 2 * HIDDEN), np.float32)
        padded = np.zeros((sum(map(len, documents)), longest, 2), np.float32)
        at = 0
        for number, (own, length) in enumerate(zip(states, lengths, strict=True)):
            tokens[number, :length] = own[1:-1]
            padded[at : at + len(documents[number]), :length] = similarities[number]
            at += len(documents[number])
        parts = (
            np.stack(queries).astype(np.float32),
            np.stack(instructions).astype(np.float32),
            tokens,
            np.arange(longest)[None] < np.array(lengths)[:, None],
            np.repeat(np.arange(len(documents)), [len(d) for d in documents]),
            np.concatenate(documents).astype(np.float32),
            np.concatenate(scalars).astype(np.float32),
            padded,
        )
        return Pairs(*(torch.from_numpy(part).to(device) for part in parts))


class Wish(nn.Module):
    """What the instruction asks of a document, in units of the score."""

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        for name, width in (("document", DIGEST), ("prefix", DIGEST), ("token", 2 * HIDDEN)):
            self.register_buffer(f"{name}_center", torch.zeros(width))
            self.register_buffer(f"{name}_spread", torch.ones(width))
        self.document = nn.Linear(DIGEST, WIDTH)
        self.instruction = nn.Linear(DIGEST, WIDTH)
        self.query = nn.Linear(DIGEST, WIDTH)
        self.first = nn.Linear(6 * WIDTH + SCALARS, INNER)
        self.second = nn.Linear(INNER, INNER // 2)
        self.last = nn.Linear(INNER // 2, 1)
        self.token_first = nn.Linear(2 * HIDDEN, TOKEN_INNER)
        self.token_last = nn.Linear(TOKEN_INNER, 2)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.last, self.token_last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def standardise(self, documents: np.ndarray, prefixes: np.ndarray, tokens: np.ndarray) -> None:
        """Take means and standard deviations of the inputs from samples."""
        for name, sample in (("document", documents), ("prefix", prefixes), ("token", tokens)):
            sample = sample.astype(np.float32)
            getattr(self, f"{name}_center").copy_(torch.from_numpy(sample.mean(0)))
            getattr(self, f"{name}_spread").copy_(torch.from_numpy(sample.std(0) + 1e-3))

    def standard(self, name: str, x: Tensor) -> Tensor:
        return (x - getattr(self, f"{name}_center")) / getattr(self, f"{name}_spread")

    def forward(self, pairs: Pairs) -> Tensor:
        """The wish for each document."""
        q = self.query(self.dropout(self.standard("prefix", pairs.query)))[pairs.owner]
        i = self.instruction(self.dropout(self.standard("prefix", pairs.instruction)))[pairs.owner]
        d = self.document(self.dropout(self.standard("document", pairs.document)))
        x = torch.cat([d, i, q, d * i, d * q, i * q, pairs.scalars], -1)
        x = self.dropout(F.gelu(self.first(self.dropout(x))))
        whole = self.last(self.dropout(F.gelu(self.second(x))))[:, 0]
        weights = self.token_last(F.gelu(self.token_first(self.dropout(self.standard("token", pairs.tokens)))))
        weights = weights * pairs.real[..., None]
        words = (weights[pairs.owner] * (pairs.similarities - 0.5)).sum((1, 2))
        return WISH_SCALE * (whole + words)


class Gate(nn.Module):
    """How much an instruction asks for: exactly 0 for nothing, little for a preference, 1 for a demand."""

    def __init__(self) -> None:
        super().__init__()
        self.importance = nn.Linear(2 * HIDDEN, 1)
        self.first = nn.Linear(4 * HIDDEN, GATE_WIDTH)
        self.last = nn.Linear(GATE_WIDTH, 3)

    def logits(self, instructions: Tensor, real: Tensor) -> Tensor:
        """Of padded instructions [rows, tokens, 2 * HIDDEN]: neutral, preference, demand."""
        weights = self.importance(instructions)[..., 0].masked_fill(~real, -1e4).softmax(-1)
        focus = (weights[..., None] * instructions).sum(1)
        mean = (instructions * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return self.last(F.gelu(self.first(torch.cat([mean, focus], -1))))

    def forward(self, instructions: Tensor, real: Tensor) -> Tensor:
        neutral, preference, demand = self.logits(instructions, real).softmax(-1).unbind(-1)
        opened = ((1 - neutral - GATE_CLOSED) / (GATE_OPEN - GATE_CLOSED)).clamp(0, 1)
        return opened * (PREFERENCE_GATE * preference + demand) / (preference + demand).clamp(min=1e-9)


def wish_scalars(asked: Reading, document: Reading, evidences: list[float], lexical: float, tokens: int) -> list[float]:
    """The three evidences for the query; cosine of means, best window, MaxSim and lexical share of the
    instruction (`asked`, `lexical`) against the document; log of the document's tokens."""
    return [
        *evidences,
        float(document.mean @ asked.mean),
        window_similarity(asked, document),
        max_similarity(asked, document),
        lexical,
        float(np.log(tokens)) / 5,
    ]
