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
from explicit import FACTS

WINDOW, STRIDE, LAST_START = 64, 32, 16
LATER_WINDOW_MARGIN, LATER_TOKEN_MARGIN = 0.08, 0.05
"""What is taken from the cosines of passages after the first: more text has more chances to resemble a query."""
DIGEST, WIDTH, INNER = 4 * HIDDEN, 128, 192
TOKEN_INNER, TOKEN_EVIDENCES = 64, 4
DROPOUT, TOKEN_DROPOUT = 0.25, 0.1
TOKEN_CENTER = np.array([0.5, 0.5, 0.0, 0.0], np.float32)
WISH_SCALE, WISH_SHRINK = 5.0, 0.92
"""The shrink, chosen on validation slates, is applied after training, which leaves the wish too sure of itself."""
EVIDENCE_WEIGHTS = np.array([16.0, 20.0, 8.0], np.float32)
FEEDBACK_WEIGHT, FEEDBACK_TEMPERATURE = 16.0, 1.0
BASE_SCALE, BASE_BIAS = 0.22, -7.0
SCALARS = 8
"""Numbers beside the vectors that the wish's last layers see; `wish_scalars` lists them."""
GATE_WIDTH = 64
GATE_CLOSED, GATE_OPEN = 0.6, 0.65
PREFERENCE_GATE = 0.02
"""Shares up to which the gate is exactly 0, and from which on it is 1."""


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Reading:
    """What the evidences need of one encoded text (last layer): the mean of all states, the means of
    its windows, the states of its content tokens; all of length 1. `weights` of the content tokens sum to 1.
    `later_*` are 1 for windows and content tokens of passages after the first, else 0."""

    mean: np.ndarray
    windows: np.ndarray
    content: np.ndarray
    weights: np.ndarray
    later_windows: np.ndarray
    later_content: np.ndarray

    @staticmethod
    def of(states: np.ndarray, weights: np.ndarray | None = None) -> Reading:
        """Of states with [CLS] and [SEP], and the weights of the tokens between (a document needs none)."""
        last = states[:, -HIDDEN:].astype(np.float32)
        sums = np.concatenate([np.zeros((1, HIDDEN), np.float32), last.cumsum(0)])
        starts = [s for s in range(0, len(last), STRIDE) if s == 0 or s < len(last) - LAST_START]
        windows = np.stack([sums[min(s + WINDOW, len(last))] - sums[s] for s in starts])
        weights = np.zeros(0, np.float32) if weights is None else weights / max(weights.sum(), 1e-9)
        first = np.zeros(len(windows), np.float32), np.zeros(max(len(last) - 2, 0), np.float32)
        return Reading(unit(last.mean(0)), unit(windows), unit(last[1:-1]), weights, *first)


def window_similarity(query: Reading, document: Reading) -> float:
    """The best cosine of a window of the document with the query's mean, less a margin in later passages."""
    return float((document.windows @ query.mean - LATER_WINDOW_MARGIN * document.later_windows).max())


def max_similarity(query: Reading, document: Reading) -> float:
    """MaxSim: each query token's best cosine with a document token, less a margin in later passages,
    as a weighted mean; 0 where either has no tokens."""
    if not len(query.content) or not len(document.content):
        return 0.0
    cosines = query.content @ document.content.T - LATER_TOKEN_MARGIN * document.later_content
    return float(cosines.max(1) @ query.weights)


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


def token_matches(instruction: Sequence[int], weights: np.ndarray, document: Sequence[int]) -> np.ndarray:
    """[content tokens of the instruction, 2], of ids: half of the token's weight if the document has the token,
    and again if the document has it next to the token before or after it in the instruction."""
    ids, pairs = set(document), set(zip(document, document[1:], strict=False))
    single = np.array([token in ids for token in instruction], np.float32)
    follows = np.array([pair in pairs for pair in zip(instruction, instruction[1:], strict=False)], np.float32)
    double = np.zeros(len(instruction), np.float32)
    double[:-1] = follows
    double[1:] = np.maximum(double[1:], follows)
    return np.stack([single, double], 1) * weights[: len(instruction), None] / 2


@dataclass
class Pairs:
    """Inputs of the wish: instructions with their padded content tokens, and documents under them.

    `owner` names each document's request. Requests have `query` and `instruction` (digests), `tokens`
    [requests, longest, numbers a token] and `real` [requests, longest]; documents have `document` (digest),
    `scalars`, `facts` and `matches` [documents, longest, TOKEN_EVIDENCES]."""

    query: Tensor
    instruction: Tensor
    tokens: Tensor
    real: Tensor
    owner: Tensor
    document: Tensor
    scalars: Tensor
    facts: Tensor
    matches: Tensor

    @staticmethod
    def of(
        queries: Sequence[np.ndarray],
        instructions: Sequence[np.ndarray],
        contents: Sequence[np.ndarray],
        documents: Sequence[np.ndarray],
        scalars: Sequence[np.ndarray],
        facts: Sequence[np.ndarray],
        matches: Sequence[np.ndarray],
        device: str = "cpu",
    ) -> Pairs:
        """One entry a request: digests of query and instruction, the instruction's content tokens; the digests,
        scalars, facts and [documents, content tokens, TOKEN_EVIDENCES] of its documents."""
        longest = max(1, *map(len, contents))
        tokens = np.zeros((len(contents), longest, contents[0].shape[1]), np.float32)
        padded = np.zeros((sum(map(len, documents)), longest, TOKEN_EVIDENCES), np.float32)
        at = 0
        for number, own in enumerate(contents):
            tokens[number, : len(own)] = own
            padded[at : at + len(documents[number]), : len(own)] = matches[number] - TOKEN_CENTER
            at += len(documents[number])
        parts = (
            np.stack(queries).astype(np.float32),
            np.stack(instructions).astype(np.float32),
            tokens,
            np.arange(longest)[None] < np.array(list(map(len, contents)))[:, None],
            np.repeat(np.arange(len(documents)), [len(d) for d in documents]),
            np.concatenate(documents).astype(np.float32),
            np.concatenate(scalars).astype(np.float32),
            np.concatenate(facts).astype(np.float32),
            padded,
        )
        return Pairs(*(torch.from_numpy(part).to(device) for part in parts))


@dataclass(frozen=True)
class Reduction:
    """A linear map to few, uncorrelated numbers: ((x - center) / spread) @ matrix."""

    center: np.ndarray
    spread: np.ndarray
    matrix: np.ndarray

    @staticmethod
    def fit(sample: np.ndarray, blocks: Sequence[tuple[int, int]]) -> Reduction:
        """Principal components of a sample, each with variance 1; a block is so many columns and components."""
        sample = sample.astype(np.float32)
        center, spread = sample.mean(0), sample.std(0) + 1e-3
        standard = (sample - center) / spread
        matrix = np.zeros((sample.shape[1], sum(width for _, width in blocks)), np.float32)
        row = column = 0
        for size, width in blocks:
            part = standard[:, row : row + size]
            values, vectors = np.linalg.eigh(part.T @ part / len(part))
            kept = np.argsort(-values)[:width]
            matrix[row : row + size, column : column + width] = vectors[:, kept] / np.sqrt(values[kept])
            row, column = row + size, column + width
        return Reduction(center, spread, matrix)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ((x.astype(np.float32) - self.center) / self.spread) @ self.matrix


class Wish(nn.Module):
    """What the instruction asks of a document, in units of the score.

    Training reads reduced inputs, so that a step costs little; `expand` gives the same function of the full ones.
    `stack` joins wishes that were trained apart into one of `members` times their width: their mean."""

    def __init__(self, document: int = DIGEST, prefix: int = DIGEST, token: int = 2 * HIDDEN, members: int = 1) -> None:
        super().__init__()
        width, inner, token_inner = members * WIDTH, members * INNER, members * TOKEN_INNER
        for name, size in (("document", document), ("prefix", prefix), ("token", token), ("facts", FACTS)):
            self.register_buffer(f"{name}_center", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        self.document = nn.Linear(document, width)
        self.instruction = nn.Linear(prefix, width)
        self.query = nn.Linear(prefix, width)
        self.first = nn.Linear(6 * width + SCALARS + FACTS, inner)
        self.second = nn.Linear(inner, inner // 2)
        self.last = nn.Linear(inner // 2, 1)
        self.facts = nn.Linear(width, FACTS)
        self.token_first = nn.Linear(token, token_inner)
        self.token_context = nn.Linear(width, token_inner)
        self.token_last = nn.Linear(token_inner, TOKEN_EVIDENCES)
        self.dropout, self.token_dropout = nn.Dropout(DROPOUT), nn.Dropout(TOKEN_DROPOUT)
        for layer in (self.last, self.facts, self.token_last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def expand(self, reductions: dict[str, Reduction]) -> Wish:
        """The wish of full inputs, from one trained on inputs reduced by `document`, `prefix` and `token`."""
        full = Wish()
        state = self.state_dict()
        for layer, name in (("document", "document"), ("instruction", "prefix"), ("query", "prefix"), ("token_first", "token")):
            state[f"{layer}.weight"] = state[f"{layer}.weight"].cpu() @ torch.from_numpy(reductions[name].matrix).T
        for name, reduction in reductions.items():
            state[f"{name}_center"], state[f"{name}_spread"] = map(torch.from_numpy, (reduction.center, reduction.spread))
        full.load_state_dict(state)
        return full.eval()

    @staticmethod
    def stack(wishes: Sequence[Wish]) -> Wish:
        """One wish whose value is `WISH_SHRINK` of the mean of those of `wishes`, which standardise alike."""
        states, count = [wish.state_dict() for wish in wishes], len(wishes)
        state = {name: value for name, value in states[0].items() if name.endswith(("_center", "_spread"))}
        for layer in ("document", "instruction", "query", "token_first"):
            for kind in ("weight", "bias"):
                state[f"{layer}.{kind}"] = torch.cat([s[f"{layer}.{kind}"] for s in states])
        for layer in ("second", "token_context", "first"):
            state[f"{layer}.bias"] = torch.cat([s[f"{layer}.bias"] for s in states])
        for layer in ("second", "token_context"):
            state[f"{layer}.weight"] = torch.block_diag(*(s[f"{layer}.weight"] for s in states))
        parts = [s["first.weight"].split([WIDTH] * 6 + [SCALARS + FACTS], 1) for s in states]
        vectors = [torch.block_diag(*(p[place] for p in parts)) for place in range(6)]
        state["first.weight"] = torch.cat([*vectors, torch.cat([p[6] for p in parts])], 1)
        for layer in ("last", "facts", "token_last"):
            state[f"{layer}.weight"] = torch.cat([s[f"{layer}.weight"] for s in states], 1) * (WISH_SHRINK / count)
            state[f"{layer}.bias"] = sum(s[f"{layer}.bias"] for s in states) * (WISH_SHRINK / count)
        joined = Wish(members=count)
        joined.load_state_dict(state)
        return joined.eval()

    def standard(self, name: str, x: Tensor) -> Tensor:
        return (x - getattr(self, f"{name}_center")) / getattr(self, f"{name}_spread")

    def forward(self, pairs: Pairs) -> Tensor:
        """The wish for each document."""
        q = self.query(self.dropout(self.standard("prefix", pairs.query)))[pairs.owner]
        asked = self.instruction(self.dropout(self.standard("prefix", pairs.instruction)))
        i = asked[pairs.owner]
        d = self.document(self.dropout(self.standard("document", pairs.document)))
        f = self.standard("facts", pairs.facts)
        x = torch.cat([d, i, q, d * i, d * q, i * q, pairs.scalars, f], -1)
        x = self.dropout(F.gelu(self.first(self.dropout(x))))
        whole = self.last(self.dropout(F.gelu(self.second(x))))[:, 0]
        meaning = self.dropout(F.gelu(asked))
        counted = (self.facts(meaning)[pairs.owner] * f).sum(-1)
        tokens = self.token_first(self.token_dropout(self.standard("token", pairs.tokens)))
        weights = self.token_last(F.gelu(tokens + self.token_context(meaning)[:, None])) * pairs.real[..., None]
        words = (weights[pairs.owner] * pairs.matches).sum((1, 2))
        return WISH_SCALE * (whole + counted + words)


class Gate(nn.Module):
    """How much an instruction asks for: exactly 0 for nothing, little for a preference, 1 for a demand."""

    def __init__(self, token: int = 2 * HIDDEN) -> None:
        super().__init__()
        self.importance = nn.Linear(token, 1)
        self.first = nn.Linear(2 * token, GATE_WIDTH)
        self.last = nn.Linear(GATE_WIDTH, 3)

    def logits(self, instructions: Tensor, real: Tensor, dropout: float = 0.0) -> Tensor:
        """Of padded instructions [rows, tokens, numbers a token]: neutral, preference, demand."""
        weights = self.importance(instructions)[..., 0].masked_fill(~real, -1e4).softmax(-1)
        focus = (weights[..., None] * instructions).sum(1)
        mean = (instructions * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        inner = F.gelu(self.first(F.dropout(torch.cat([mean, focus], -1), dropout)))
        return self.last(F.dropout(inner, dropout))

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
