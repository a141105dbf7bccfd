"""The reranker: a Qwen3 decoder over a slate whose documents do not see each other.

A slate is a small tree of token rows (`rows_of`): the trunk (query and instruction), one
branch per document, and a closing branch with the query. Lower layers: every branch sees
the trunk and itself, causally; positions continue from the trunk. In the last layer the
marks (last token of each branch) also see the embed marks of all documents, and only the
marks are computed. Parameter names are those of a Hugging Face Qwen3Model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, named as in a Qwen3 config."""

    vocab_size: int = 32_000
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 64
    intermediate_size: int = 640
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e12

    def config(self) -> dict:
        """The matching Hugging Face configuration."""
        return {
            "architectures": ["Qwen3Model"],
            "model_type": "qwen3",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        }


@dataclass
class Slate:
    """One query and its documents, as token ids without control tokens."""

    query: list[int]
    documents: list[list[int]]
    buckets: list[int]
    instruction: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Controls:
    """Ids of the control tokens."""

    start: int
    end: int
    rerank: int
    instruct: int
    embed: int
    """Id of the mark of bucket 0; the others follow."""


def rows_of(slate: Slate, controls: Controls) -> tuple[list[int], list[list[int]]]:
    """Token ids of the trunk and of the branches, the closing branch last."""
    trunk = [controls.start, *slate.query]
    if slate.instruction:
        trunk += [controls.instruct, *slate.instruction]
    trunk.append(controls.end)
    branches = [[*d, controls.embed + b] for d, b in zip(slate.documents, slate.buckets, strict=True)]
    return trunk, [*branches, [controls.start, *slate.query, controls.rerank]]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Projections of one attention layer; who sees what is the caller's business."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, heads, groups, size = (
            shape.hidden_size,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.q_proj = nn.Linear(width, heads * size, bias=False)
        self.k_proj = nn.Linear(width, groups * size, bias=False)
        self.v_proj = nn.Linear(width, groups * size, bias=False)
        self.o_proj = nn.Linear(heads * size, width, bias=False)
        self.q_norm = RMSNorm(size, shape.rms_norm_eps)
        self.k_norm = RMSNorm(size, shape.rms_norm_eps)

    def queries(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """[tokens, hidden] -> [tokens, heads, head_dim], rotated."""
        return rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.shape.head_dim))), rope)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[tokens, hidden] -> two of [tokens, groups, head_dim], the keys rotated."""
        keys = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.shape.head_dim)))
        return rotate(keys, rope), self.v_proj(x).unflatten(-1, (-1, self.shape.head_dim))


class Mlp(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Mlp(shape)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual, output projection and feed-forward of `attended` [tokens, heads * head_dim]."""
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding in the rotate-half form; x [tokens, heads, d], rope [tokens, d] each."""
    cos, sin = (t[:, None, : x.shape[-1] // 2].to(x.dtype) for t in rope)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [rows, tokens, heads, d], k and v [rows, keys, groups, d], mask [rows, tokens, keys]
    (true: seen) -> [rows, tokens, heads * d]."""
    rows, tokens, heads, size = q.shape
    groups = k.shape[2]
    # The heads of a group as one tall matrix: [rows, groups, heads per group * tokens, d].
    q = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3).to(v.dtype)
    k, v = k.permute(0, 2, 3, 1).to(v.dtype), v.transpose(1, 2)
    logits = (q @ k).unflatten(2, (-1, tokens)) * size**-0.5
    share = logits.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1, dtype=torch.float32).to(v.dtype)
    out = (share.flatten(2, 3) @ v).unflatten(2, (-1, tokens))
    return out.permute(0, 3, 1, 2, 4).flatten(2)


class Reranker(nn.Module):
    """Slates -> unit vectors of the documents and of the queries."""

    def __init__(self, shape: Shape, controls: Controls) -> None:
        super().__init__()
        self.shape, self.controls = shape, controls
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        width = shape.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(width, 2 * width, bias=False), nn.ReLU(), nn.Linear(2 * width, width, bias=False)
        )

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [tokens] -> two of [tokens, head_dim]."""
        half = self.shape.head_dim // 2
        exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / half
        angles = positions[:, None].float() * self.shape.rope_theta**-exponent
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def forward(self, slates: list[Slate]) -> tuple[Tensor, Tensor, Tensor]:
        """-> document vectors [slates, most documents, hidden], query vectors [slates, hidden],
        and which documents are real [slates, most documents]. Rows stand end to end for the
        linear layers and are padded for attention only."""
        device = self.embed_tokens.weight.device
        trees = [rows_of(s, self.controls) for s in slates]
        trunks = [t for t, _ in trees]
        branches = [b for _, bs in trees for b in bs]
        owner = torch.tensor([i for i, (_, bs) in enumerate(trees) for _ in bs], device=device)
        trunk_length = torch.tensor([len(t) for t in trunks], device=device)
        branch_length = torch.tensor([len(b) for b in branches], device=device)
        trunk_at, trunk_real = padding(trunk_length, 0)
        branch_at, branch_real = padding(branch_length, int(trunk_length.sum()))
        ids = torch.tensor([i for row in (*trunks, *branches) for i in row], device=device)
        positions = torch.zeros_like(ids)
        positions[trunk_at[trunk_real]] = offsets(trunk_at)[trunk_real]
        positions[branch_at[branch_real]] = (offsets(branch_at) + trunk_length[owner][:, None])[branch_real]
        rope = self.rope(positions)

        width = trunk_at.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        trunk_mask = causal[None].expand(len(trunks), -1, -1)
        width = branch_at.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        sees_trunk = trunk_real[owner][:, None].expand(-1, width, -1)
        branch_mask = torch.cat([sees_trunk, causal[None].expand(len(branches), -1, -1)], 2)

        x = self.embed_tokens(ids)
        for layer in self.layers[:-1]:
            normed = layer.input_layernorm(x)
            q = layer.self_attn.queries(normed, rope)
            k, v = layer.self_attn.keys_values(normed, rope)
            on_trunk = attend(q[trunk_at], k[trunk_at], v[trunk_at], trunk_mask)
            keys = torch.cat([k[trunk_at][owner], k[branch_at]], 1)
            values = torch.cat([v[trunk_at][owner], v[branch_at]], 1)
            on_branch = attend(q[branch_at], keys, values, branch_mask)
            x = layer.finish(x, torch.cat([on_trunk[trunk_real], on_branch[branch_real]]))
        vectors = self.projector(self.norm(self.join(x, rope, trunk_at, branch_at, trunk_real, branch_real, owner)))
        vectors = F.normalize(vectors.float(), dim=-1)

        most = max(len(s.documents) for s in slates)
        rows = torch.arange(len(branches), device=device)
        first = torch.cumsum(torch.bincount(owner), 0)
        closing = first - 1
        document_at = (first - torch.bincount(owner))[:, None] + torch.arange(most, device=device)
        real = document_at < closing[:, None]
        return vectors[rows[document_at.clamp(max=len(branches) - 1)]], vectors[closing], real

    def join(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        trunk_at: Tensor,
        branch_at: Tensor,
        trunk_real: Tensor,
        branch_real: Tensor,
        owner: Tensor,
    ) -> Tensor:
        """The last layer, for the marks only: x [tokens, hidden] -> [branches, hidden]."""
        layer = self.layers[-1]
        normed = layer.input_layernorm(x)
        k, v = layer.self_attn.keys_values(normed, rope)
        mark = branch_at.gather(1, branch_real.sum(1, keepdim=True) - 1)[:, 0]
        q = layer.self_attn.queries(normed[mark], (rope[0][mark], rope[1][mark]))
        count = torch.bincount(owner)
        first = torch.cumsum(count, 0) - count
        most = int(count.max()) - 1
        slot = torch.arange(most, device=x.device)
        mates = (first[:, None] + slot).clamp(max=len(mark) - 1)[owner]
        row = torch.arange(len(mark), device=x.device)
        # A mark's own key is already in its branch.
        sees_mates = (slot[None] < (count[owner] - 1)[:, None]) & (mates != row[:, None])
        keys = torch.cat([k[trunk_at][owner], k[branch_at], k[mark][mates]], 1)
        values = torch.cat([v[trunk_at][owner], v[branch_at], v[mark][mates]], 1)
        mask = torch.cat([trunk_real[owner], branch_real, sees_mates], 1)[:, None]
        return layer.finish(x[mark], attend(q[:, None], keys, values, mask)[:, 0])

    def scores(self, slates: list[Slate]) -> Tensor:
        """Cosines [slates, most documents]; -inf where a slate has fewer."""
        documents, queries, real = self(slates)
        return torch.einsum("skd,sd->sk", documents, queries).masked_fill(~real, float("-inf"))

    def flat_scores(self, slate: Slate) -> Tensor:
        """The same scores, [documents], from one flat sequence under a plain mask: the definition
        that `forward` is checked against."""
        trunk, branches = rows_of(slate, self.controls)
        ids, tree, positions, marks = list(trunk), [-1] * len(trunk), list(range(len(trunk))), []
        for i, branch in enumerate(branches):
            ids += branch
            tree += [i] * len(branch)
            positions += range(len(trunk), len(trunk) + len(branch))
            marks.append(len(ids) - 1)
        node = torch.tensor(tree)
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        mask &= (node[:, None] == node[None]) | (node[None] == -1)
        joint = mask.clone()
        joint[torch.tensor(marks)[:, None], torch.tensor(marks[:-1])[None]] = True
        rope = self.rope(torch.tensor(positions))
        x = self.embed_tokens(torch.tensor(ids))
        for layer in self.layers:
            normed = layer.input_layernorm(x)
            q = layer.self_attn.queries(normed, rope)
            k, v = layer.self_attn.keys_values(normed, rope)
            seen = joint if layer is self.layers[-1] else mask
            x = layer.finish(x, attend(q[None], k[None], v[None], seen[None])[0])
        vectors = F.normalize(self.projector(self.norm(x[marks])), dim=-1)
        return vectors[:-1] @ vectors[-1]


def padding(lengths: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Rows of these lengths stand end to end from `start`: where each padded slot reads from
    [rows, longest] (padding reads its row's first token), and which slots are real."""
    slots = torch.arange(int(lengths.max()), device=lengths.device)[None]
    first = torch.cumsum(lengths, 0) - lengths + start
    real = slots < lengths[:, None]
    return first[:, None] + slots * real, real


def offsets(at: Tensor) -> Tensor:
    """Place of each padded slot within its row: [rows, longest]."""
    return torch.arange(at.shape[1], device=at.device)[None].expand_as(at)
