"""Stage 1: static token vectors and importances, a bag-of-tokens model of relevance.

Cheap to train (no attention), so it sees every pair several times. Its vectors become the
embedding table of the reranker and its pooling becomes one attention layer (`warm_start.py`).

Start: each token's text under two public static views, WordLlama's 256-dimensional table
(MIT) and the teacher's vector of the bare token, joined and rotated to `STATIC_WIDTH` principal
directions. Then: question -> passage with in-batch negatives, and agreement with the
teacher's vectors and similarities. The result is cut to its `CONTENT` principal directions.
"""

from __future__ import annotations

import importlib.util
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

STATIC_WIDTH = 224
CONTENT = 200
BATCH = 384
WORDLLAMA_WEIGHT = 1.0
TEACHER_WEIGHT = 1.0


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """What each token stands for; empty for control tokens and parts of characters."""
    texts = [tokenizer.decode([i]).strip() for i in range(tokenizer.get_vocab_size())]
    return ["" if "\ufffd" in t else t for t in texts]


def wordllama_vectors(texts: list[str]) -> np.ndarray:
    """Mean WordLlama vector of each text: [texts, 256] float32, rows of length one or zero."""
    found = importlib.util.find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("static vectors missing: pip install --no-deps wordllama")
    root = Path(found.submodule_search_locations[0])
    table = next(iter(load_file(root / "weights" / "l2_supercat_256.safetensors").values())).astype(np.float32)
    tokenizer = Tokenizer.from_file(str(root / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = table - table.mean(0)
    out = np.zeros((len(texts), table.shape[1]), np.float32)
    for i, encoded in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
        if encoded.ids:
            out[i] = table[encoded.ids].sum(0)
    return unit(out)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length one; zero rows stay zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def initial_vectors(tokenizer: Tokenizer, token_teacher: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The joined and rotated start: [vocabulary, STATIC_WIDTH], rows of length one (or random)."""
    texts = token_texts(tokenizer)
    known = np.array([bool(t) for t in texts])
    teacher = token_teacher.astype(np.float32)
    teacher[known] -= teacher[known].mean(0)
    joined = np.concatenate(
        [WORDLLAMA_WEIGHT * wordllama_vectors(texts), TEACHER_WEIGHT * unit(teacher)], axis=1
    )
    weight = np.where(known, np.sqrt(counts + 10), 0)[:, None]
    _, vectors = np.linalg.eigh((joined * weight).T @ (joined * weight))
    out = joined @ vectors[:, ::-1][:, :STATIC_WIDTH]
    rng = np.random.default_rng(0)
    out[~known] = rng.normal(size=(int((~known).sum()), STATIC_WIDTH))
    return unit(out)


@dataclass
class Bags:
    """Token ids of many texts, ready for weighted pooling."""

    ids: list[np.ndarray]

    def batch(self, rows: list[int], limit: int) -> tuple[Tensor, Tensor]:
        """(ids, row of each id), cut to `limit` tokens a text."""
        cut = [self.ids[r][:limit] if len(self.ids[r]) else np.zeros(1, np.int64) for r in rows]
        owner = np.repeat(np.arange(len(rows)), [len(c) for c in cut])
        return torch.from_numpy(np.concatenate(cut)), torch.from_numpy(owner)


class Static(nn.Module):
    """text -> unit vector: importance-weighted mean of token vectors, times one matrix."""

    def __init__(self, vectors: np.ndarray, counts: np.ndarray) -> None:
        super().__init__()
        share = counts / counts.sum()
        self.vectors = nn.Parameter(torch.tensor(vectors, dtype=torch.float32))
        self.importance = nn.Parameter(torch.tensor(np.log(1e-3 / (1e-3 + share)), dtype=torch.float32))
        self.teacher_map = nn.Linear(vectors.shape[1], 384, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def pool(self, ids: Tensor, owner: Tensor, rows: int) -> Tensor:
        """[rows, STATIC_WIDTH] unit vectors; weights are a softmax of importance within the text."""
        weight = self.importance[ids].exp()
        vectors = F.normalize(F.embedding(ids, self.vectors), dim=-1) * weight[:, None]
        out = torch.zeros(rows, vectors.shape[1]).index_add_(0, owner, vectors)
        return F.normalize(out, dim=-1)

    @torch.no_grad()
    def encode(self, bags: Bags, limit: int = 512) -> Tensor:
        """All texts: [texts, STATIC_WIDTH]."""
        chunks = [list(range(i, min(i + 512, len(bags.ids)))) for i in range(0, len(bags.ids), 512)]
        return torch.cat([self.pool(*bags.batch(c, limit), len(c)) for c in chunks])


    def cut(self, counts: np.ndarray) -> dict[str, Tensor]:
        """The trained table in its CONTENT principal directions (tokens weighted by the root of
        their count), rows of length one, and the importances."""
        table = F.normalize(self.vectors.data, dim=-1)
        weighted = table * torch.tensor(np.sqrt(counts), dtype=torch.float32)[:, None]
        turn = torch.linalg.eigh(weighted.T @ weighted)[1].flip(1)[:, :CONTENT]
        return {"vectors": F.normalize(table @ turn, dim=-1), "importance": self.importance.data}


def train_static(
    model: Static,
    documents: Bags,
    queries: Bags,
    pairs: list[tuple[int, int]],
    document_teacher: Tensor,
    query_teacher: Tensor,
    epochs: int,
    seed: int = 0,
    report=print,
) -> None:
    """Train in place. `pairs` are (query, document) indices; a teacher row of zeros means none."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    steps = epochs * (len(pairs) // BATCH)
    optimiser = torch.optim.Adam(
        [
            {"params": [model.vectors], "peak": 1.5e-3},
            {"params": [model.importance], "peak": 8e-3},
            {"params": [model.teacher_map.weight, model.log_scale], "peak": 2e-3},
        ],
        betas=(0.9, 0.99),
    )
    step = 0
    for epoch in range(epochs):
        rng.shuffle(pairs)
        running = np.zeros(4)
        for start in range(0, len(pairs) - BATCH + 1, BATCH):
            rows = pairs[start : start + BATCH]
            q_rows, d_rows = [q for q, _ in rows], [d for _, d in rows]
            limit = rng.choice((32, 64, 96, 160))
            q = model.pool(*queries.batch(q_rows, 64), BATCH)
            d = model.pool(*documents.batch(d_rows, limit), BATCH)
            tq, td = query_teacher[q_rows], document_teacher[d_rows]
            taught_q, taught_d = tq.abs().sum(1) > 0, td.abs().sum(1) > 0
            same = torch.tensor(d_rows)[:, None] == torch.tensor(d_rows)[None]
            # Another passage that the teacher likes as well as the labelled one is no negative.
            teacher = tq @ td.T
            alike = (teacher > teacher.diagonal()[:, None] - 0.01) & taught_q[:, None]
            bad = (same | alike) & ~torch.eye(BATCH, dtype=torch.bool)
            logits = (q @ d.T) * model.log_scale.exp()
            target = torch.arange(BATCH)
            contrast = F.cross_entropy(logits.masked_fill(bad, -1e4), target)
            contrast = contrast + F.cross_entropy(logits.T.masked_fill(bad.T, -1e4), target)
            both = torch.cat([q[taught_q], d[taught_d]])
            taught = torch.cat([tq[taught_q], td[taught_d]])
            cosine = 1 - F.cosine_similarity(model.teacher_map(both), taught).mean()
            similar = F.kl_div(
                F.log_softmax(logits[taught_q][:, taught_d], -1),
                F.softmax(teacher[taught_q][:, taught_d] * 20, -1),
                reduction="batchmean",
            )
            loss = 0.5 * contrast + 2 * cosine + similar
            factor = min(1.0, step / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            running += [contrast.item(), cosine.item(), similar.item(), 1]
        report(f"static epoch {epoch}: " + " ".join(f"{v:.3f}" for v in running[:3] / running[3]))
