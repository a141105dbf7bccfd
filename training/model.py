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
WIDTH, HEADS, INNER = 192, 4, 384
CROSS_LAYERS = 2
EVIDENCE_WEIGHTS = np.array([16.0, 20.0, 8.0], np.float32)
FEEDBACK_WEIGHT, FEEDBACK_TEMPERATURE = 16.0, 1.0
BASE_SCALE, BASE_BIAS = 0.22, -7.0
SCALARS = 8
"""Numbers beside the vectors that the wish's last layers see; `wish_scalars` lists them."""
GATE_WIDTH = 64
GATE_THRESHOLD = 0.5


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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention over heads, by plain products: on a CPU its backward pass is faster than the fused one's."""
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = weights.masked_fill(~mask[:, None, None], -1e4).softmax(-1, dtype=torch.float32).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def spread(packed: Tensor, real: Tensor) -> Tensor:
    """Packed rows [total, width] on a padded grid [rows, longest, width]."""
    grid = packed.new_zeros(*real.shape, packed.shape[-1])
    grid[real] = packed
    return grid


class CrossLayer(nn.Module):
    """A pre-norm transformer layer: prefix tokens see the prefix, document tokens the prefix and their document."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_output = nn.Linear(WIDTH, WIDTH)
        self.feed_forward_norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention_output(attended)
        return x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))

    def forward(self, prefix: Tensor, documents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        prefix_grid = spread(self.query_key_value(self.attention_norm(prefix)), batch.prefix_real)
        document_grid = spread(self.query_key_value(self.attention_norm(documents)), batch.document_real)
        q, k, v = prefix_grid.chunk(3, -1)
        dq, dk, dv = document_grid.chunk(3, -1)
        seen = attend(q, k, v, batch.prefix_real)[batch.prefix_real]
        keys, values = torch.cat([k[batch.owner], dk], 1), torch.cat([v[batch.owner], dv], 1)
        mask = torch.cat([batch.prefix_real[batch.owner], batch.document_real], 1)
        document_seen = attend(dq, keys, values, mask)[batch.document_real]
        return self.finish(prefix, seen), self.finish(documents, document_seen)


@dataclass
class Batch:
    """Slates for the wish. `prefix` is packed [tokens, 2 * HIDDEN]: of each slate the query, then the
    instruction; `kinds` is 0 for query and 1 for instruction tokens; `owner` names each document's slate."""

    prefix: Tensor
    kinds: Tensor
    prefix_real: Tensor
    documents: Tensor
    document_real: Tensor
    owner: Tensor
    scalars: Tensor

    @staticmethod
    def of(
        queries: Sequence[np.ndarray],
        instructions: Sequence[np.ndarray],
        documents: Sequence[Sequence[np.ndarray]],
        scalars: np.ndarray,
        device: str = "cpu",
    ) -> Batch:
        parts = [states for pair in zip(queries, instructions, strict=True) for states in pair]
        kinds = np.concatenate([np.full(len(states), i % 2) for i, states in enumerate(parts)])
        flat = [states for slate in documents for states in slate]
        owner = np.concatenate([np.full(len(slate), i) for i, slate in enumerate(documents)])

        def real(lengths: list[int]) -> Tensor:
            return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).to(device)

        return Batch(
            torch.from_numpy(np.concatenate(parts)).to(device),
            torch.from_numpy(kinds).to(device),
            real([len(q) + len(i) for q, i in zip(queries, instructions, strict=True)]),
            torch.from_numpy(np.concatenate(flat)).to(device),
            real([len(states) for states in flat]),
            torch.from_numpy(owner).to(device),
            torch.from_numpy(scalars).float().to(device),
        )


class Wish(nn.Module):
    """What the instruction asks of a document, in units of the score."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(2 * HIDDEN, WIDTH)
        self.project_norm = nn.LayerNorm(WIDTH)
        self.kind = nn.Embedding(3, WIDTH)
        self.layers = nn.ModuleList(CrossLayer() for _ in range(CROSS_LAYERS))
        self.final_norm = nn.LayerNorm(WIDTH)
        self.read_query = nn.Linear(WIDTH, WIDTH)
        self.read_key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.first = nn.Linear(3 * WIDTH + SCALARS, WIDTH)
        self.last = nn.Linear(WIDTH, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.kind.weight, std=0.3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def enter(self, states: Tensor, kinds: Tensor) -> Tensor:
        x = self.project_norm(self.project(states.to(self.project.weight.dtype)))
        return self.dropout(x + self.kind(kinds))

    def forward(self, batch: Batch) -> Tensor:
        """The wish for each document of the batch."""
        prefix = self.enter(batch.prefix, batch.kinds)
        documents = self.enter(batch.documents, torch.full((len(batch.documents),), 2, device=batch.documents.device))
        for layer in self.layers:
            prefix, documents = layer(prefix, documents, batch)
        prefix, documents = self.final_norm(prefix), self.final_norm(documents)
        asked = spread(prefix * batch.kinds[:, None], batch.prefix_real).sum(1)
        asked = asked / spread(batch.kinds[:, None].to(asked.dtype), batch.prefix_real).sum(1)
        key, value = spread(self.read_key_value(documents), batch.document_real).chunk(2, -1)
        question = self.read_query(asked)[batch.owner]
        read = attend(question[:, None], key, value, batch.document_real)[:, 0]
        asked = asked[batch.owner]
        x = torch.cat([asked, read, asked * read, batch.scalars.to(read.dtype)], -1)
        return self.last(self.dropout(F.gelu(self.first(x))))[:, 0].float()


class Gate(nn.Module):
    """How much an instruction asks for: 0 to 1, exactly 0 up to the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.importance = nn.Linear(2 * HIDDEN, 1)
        self.first = nn.Linear(4 * HIDDEN, GATE_WIDTH)
        self.last = nn.Linear(GATE_WIDTH, 1)

    def logits(self, instructions: Tensor, real: Tensor) -> Tensor:
        """Of padded instructions [rows, tokens, 2 * HIDDEN]."""
        weights = self.importance(instructions)[..., 0].masked_fill(~real, -1e4).softmax(-1)
        focus = (weights[..., None] * instructions).sum(1)
        mean = (instructions * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return self.last(F.gelu(self.first(torch.cat([mean, focus], -1))))[:, 0]

    def forward(self, instructions: Tensor, real: Tensor) -> Tensor:
        share = torch.sigmoid(self.logits(instructions, real))
        return ((share - GATE_THRESHOLD) / (1 - GATE_THRESHOLD)).clamp(min=0)


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
