"""Stage 2: write the static model into the reranker's weights.

The hidden state has CONTENT dimensions for token vectors and a few named ones (`Slot`); the
rest start empty. Written by hand, everything else near zero:
- embedding: token vector, constant, importance; the marks carry their kind and evidence;
- layer 0, head 0: every token after the trunk's end mark gets the `IN_BRANCH` flag;
- layer 2 (the last lower layer), heads 0, 2, 4, 6: the marks pool the content of their own
  branch by importance; the closing mark pools the trunk too, and with it the instruction;
- projector: the identity on content, and on the evidence.
So the untrained reranker scores like the static model plus the lexical evidence, while the
layers before the pooling are free to learn to read.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from lexical import BUCKETS
from model import Controls, Reranker, Shape
from static import CONTENT


class Slot(IntEnum):
    """Dimensions of the hidden state with a meaning of their own."""

    CONSTANT = CONTENT
    IMPORTANCE = CONTENT + 1
    IS_EMBED = CONTENT + 2
    IS_RERANK = CONTENT + 3
    EVIDENCE = CONTENT + 4
    IS_END = CONTENT + 5
    IN_BRANCH = CONTENT + 6


CONSTANT, FLAG, MARK = 6.0, 6.0, 14.0
POOL_SHARPNESS = 3.0
FLAG_SHARPNESS = 2.0
IMPORTANCE_SPAN = 3.5
POOL_GAIN = 2.0
NEUTRAL_BUCKET = 12
EVIDENCE_DOCUMENT, EVIDENCE_QUERY = 6.0, 6.0
NOISE = 0.003


def importance_values(importance: Tensor) -> Tensor:
    """Embedding values whose attention logits at the pooling layer equal the centred
    importances, cut to +-IMPORTANCE_SPAN (inverts the key norm: keys are a direction in the
    plane of importance and constant)."""
    wanted = (importance - importance.median()).clamp(-IMPORTANCE_SPAN, IMPORTANCE_SPAN)
    sine = wanted / (8 * POOL_SHARPNESS * math.sqrt(0.5))
    return math.hypot(CONSTANT, FLAG) * sine / (1 - sine**2).sqrt()


@torch.no_grad()
def warm_start(shape: Shape, controls: Controls, vectors: Tensor, importance: Tensor, seed: int = 0) -> Reranker:
    """A reranker that starts as the static model: `vectors` [vocabulary, CONTENT] of length
    one, `importance` [vocabulary]."""
    torch.manual_seed(seed)
    model = Reranker(shape, controls)
    width, size = shape.hidden_size, shape.head_dim
    group = shape.num_attention_heads // shape.num_key_value_heads
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            quiet = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(0, NOISE if quiet else width**-0.5)

    table = model.embed_tokens.weight
    table.normal_(0, 0.02)
    value = importance_values(importance)
    table[:, Slot.CONSTANT] = CONSTANT
    table[:, Slot.IMPORTANCE] = value
    table[:, :CONTENT] = vectors * (width - CONSTANT**2 - value**2).sqrt()[:, None]
    first_control = controls.embed + BUCKETS - 38
    table[first_control:] = torch.randn(38, width) * 0.02
    table[first_control:, Slot.CONSTANT] = CONSTANT
    table[first_control:, Slot.IMPORTANCE] = importance_values(torch.tensor([-99.0, 0.0, 99.0]))[0]
    table[controls.end, Slot.IS_END] = MARK
    for b in range(BUCKETS):
        table[controls.embed + b, Slot.IS_EMBED] = MARK
        step = max(-1.0, min(1.5, (b - NEUTRAL_BUCKET) / NEUTRAL_BUCKET))
        table[controls.embed + b, Slot.EVIDENCE] = EVIDENCE_DOCUMENT * step
    table[controls.rerank, Slot.IS_RERANK] = MARK
    table[controls.rerank, Slot.EVIDENCE] = EVIDENCE_QUERY

    flag = model.layers[0].self_attn
    for weight in (flag.q_proj.weight[:size], flag.k_proj.weight[:size], flag.v_proj.weight[:1]):
        weight.zero_()
    flag.q_proj.weight[31, Slot.CONSTANT] = 1
    flag.k_proj.weight[31, Slot.IS_END] = 1
    flag.k_proj.weight[30, Slot.CONSTANT] = 0.3
    flag.v_proj.weight[0, Slot.IS_END] = 1
    flag.q_norm.weight[31] = FLAG_SHARPNESS
    flag.o_proj.weight[:, :size] = 0
    flag.o_proj.weight[Slot.IN_BRANCH, 0] = FLAG / MARK

    pool = model.layers[-2].self_attn
    part = CONTENT // shape.num_key_value_heads
    for g in range(shape.num_key_value_heads):
        key = pool.k_proj.weight[g * size : (g + 1) * size]
        key.zero_()
        key[31, Slot.IMPORTANCE] = 1
        key[30, Slot.CONSTANT] = 1
        key[29, Slot.IN_BRANCH] = 1
        head = g * group
        query = pool.q_proj.weight[head * size : (head + 1) * size]
        query.normal_(0, 0.002)
        query[31, [Slot.IS_EMBED, Slot.IS_RERANK]] = 1
        query[29, Slot.IS_EMBED] = 1
        query[28, Slot.IS_RERANK] = 1
        start = g * part
        pool.v_proj.weight[g * size : g * size + part] = 0
        pool.v_proj.weight[g * size : g * size + part, start : start + part] = torch.eye(part)
        pool.o_proj.weight[:, head * size : (head + 1) * size] = 0
        pool.o_proj.weight[start : start + part, head * size : head * size + part] = torch.eye(part) * POOL_GAIN
    pool.q_norm.weight[[28, 29, 31]] = POOL_SHARPNESS

    keep = [*range(CONTENT), Slot.EVIDENCE]
    up, down = model.projector[0].weight, model.projector[2].weight
    up.normal_(0, NOISE)
    down.normal_(0, NOISE)
    for i in keep:
        up[i, i], up[width + i, i] = 1, -1
        down[i, i], down[i, width + i] = 1, -1
    return model
