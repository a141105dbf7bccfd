"""Stage 2: write the static model into the reranker's weights.

The hidden state has CONTENT dimensions for token vectors, a few named ones (`Slot`), and a
SKETCH. Written by hand, everything else near zero:
- embedding: token vector, constant, importance; the marks carry their kind and evidence;
- layer 0, head 0: every token after the trunk's end mark gets the `IN_BRANCH` flag;
- the layer before the last lower one, head 0: each embed mark pools the trunk's content,
  projected to SKETCH dimensions: it knows roughly what is asked;
- the last lower layer, the first head of each group: the marks pool the content of their
  own branch by importance, and the embed marks favour tokens that resemble their sketch.
  The closing mark pools the trunk too, and with it the instruction;
- projector: the identity on content, and on the evidence.
So the untrained reranker scores like the static model with query-focused pooling plus the
lexical evidence, while the layers before the pooling are free to learn to read.

Content is compared in key dimensions that the rotary embedding barely turns: with the base
of `Shape.rope_theta` those from pair 8 on.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from lexical import BUCKETS
from model import Controls, Reranker, Shape
from static import CONTENT
from tokenizer import SPECIAL

STILL = [*range(8, 28), *range(40, 64)]
"""Head dimensions for content; 28 to 31 carry end mark, flag, constant, importance."""
AT_END, AT_FLAG, AT_CONSTANT, AT_IMPORTANCE = 28, 29, 30, 31
SKETCH = len(STILL)


class Slot(IntEnum):
    """Dimensions of the hidden state with a meaning of their own."""

    CONSTANT = CONTENT
    IMPORTANCE = CONTENT + 1
    IS_EMBED = CONTENT + 2
    IS_RERANK = CONTENT + 3
    EVIDENCE = CONTENT + 4
    IS_END = CONTENT + 5
    IN_BRANCH = CONTENT + 6
    SKETCH = CONTENT + 7


CONSTANT, FLAG, MARK = 6.0, 6.0, 14.0
SHARPNESS = 2.0
FLAG_WEIGHT, FOCUS_WEIGHT = 3.0, 1.3
KEY_CONSTANT, KEY_CONTENT = 0.5, 0.4
SKETCH_GAIN = 1.0
SKETCH_NORM = 5.0
IMPORTANCE_SPAN = 2.5
POOL_GAIN = 2.0
NEUTRAL_BUCKET = 12
EVIDENCE_DOCUMENT, EVIDENCE_QUERY = 8.0, 8.0
NOISE = 0.003


def importance_values(importance: Tensor, content_part: Tensor) -> Tensor:
    """Embedding values whose attention logits at the pooling layer equal the centred
    importances, cut to +-IMPORTANCE_SPAN: inverts the key norm, where the other parts of a
    key are the constant, the flag and the projected content (lengths `content_part`)."""
    wanted = (importance - importance.median()).clamp(-IMPORTANCE_SPAN, IMPORTANCE_SPAN)
    logit = 8 * SHARPNESS / math.sqrt(1 + FLAG_WEIGHT**2 + FOCUS_WEIGHT**2)
    sine = wanted / logit
    rest = (FLAG**2 + (KEY_CONSTANT * CONSTANT) ** 2 + content_part**2).sqrt()
    return rest * sine / (1 - sine**2).sqrt()


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
    # Principal directions of the token vectors, the strongest first: [CONTENT, SKETCH].
    basis = torch.linalg.eigh(vectors[256:].T @ vectors[256:])[1].flip(1)[:, :SKETCH]

    table = model.embed_tokens.weight
    table.normal_(0, 0.02)
    length = math.sqrt(width - CONSTANT**2 - 4)
    value = importance_values(importance, (vectors @ basis).norm(dim=1) * length * KEY_CONTENT)
    table[:, Slot.CONSTANT] = CONSTANT
    table[:, Slot.IMPORTANCE] = value
    table[:, :CONTENT] = vectors * length
    controls_from = controls.embed + BUCKETS - len(SPECIAL)
    table[controls_from:] = torch.randn(len(SPECIAL), width) * 0.02
    table[controls_from:, Slot.CONSTANT] = CONSTANT
    table[controls_from:, Slot.IMPORTANCE] = -12.0
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
    flag.q_proj.weight[AT_END, Slot.CONSTANT] = 1
    flag.k_proj.weight[AT_END, Slot.IS_END] = 1
    flag.k_proj.weight[AT_CONSTANT, Slot.CONSTANT] = 0.3
    flag.v_proj.weight[0, Slot.IS_END] = 1
    flag.q_norm.weight[AT_END] = SHARPNESS
    flag.o_proj.weight[:, :size] = 0
    flag.o_proj.weight[Slot.IN_BRANCH, 0] = FLAG / MARK

    ask = model.layers[-3].self_attn
    key, query = ask.k_proj.weight[:size], ask.q_proj.weight[:size]
    key.zero_()
    query.zero_()
    key[AT_IMPORTANCE, Slot.IMPORTANCE] = 1
    key[AT_FLAG, Slot.IN_BRANCH] = 1
    key[AT_CONSTANT, Slot.CONSTANT] = 1
    key[AT_END, Slot.IS_END] = 1
    query[AT_IMPORTANCE, Slot.IS_EMBED] = 1
    query[AT_FLAG, Slot.IS_EMBED] = -1
    # Tokens that are not embed marks look at the end mark, which has no content.
    query[AT_END, Slot.CONSTANT] = MARK / CONSTANT
    query[AT_END, Slot.IS_EMBED] = -1
    ask.q_norm.weight[[AT_IMPORTANCE, AT_FLAG, AT_END]] = SHARPNESS
    ask.v_proj.weight[:SKETCH] = 0
    ask.v_proj.weight[:SKETCH, :CONTENT] = basis.T
    ask.o_proj.weight[:, :size] = 0
    for i in range(SKETCH):
        ask.o_proj.weight[Slot.SKETCH + i, i] = SKETCH_GAIN

    pool = model.layers[-2].self_attn
    part = CONTENT // shape.num_key_value_heads
    for g in range(shape.num_key_value_heads):
        key = pool.k_proj.weight[g * size : (g + 1) * size]
        key.zero_()
        key[AT_IMPORTANCE, Slot.IMPORTANCE] = 1
        key[AT_CONSTANT, Slot.CONSTANT] = KEY_CONSTANT
        key[AT_FLAG, Slot.IN_BRANCH] = 1
        key[STILL, :CONTENT] = basis.T * KEY_CONTENT
        head = g * group
        query = pool.q_proj.weight[head * size : (head + 1) * size]
        query.zero_()
        query[AT_IMPORTANCE, [Slot.IS_EMBED, Slot.IS_RERANK]] = 1
        query[AT_FLAG, Slot.IS_EMBED] = FLAG_WEIGHT
        query[AT_END, Slot.IS_RERANK] = math.hypot(FLAG_WEIGHT, FOCUS_WEIGHT)
        for i, at in enumerate(STILL):
            query[at, Slot.SKETCH + i] = FOCUS_WEIGHT * MARK / SKETCH_NORM
        start = g * part
        pool.v_proj.weight[g * size : g * size + part] = 0
        pool.v_proj.weight[g * size : g * size + part, start : start + part] = torch.eye(part)
        pool.o_proj.weight[:, head * size : (head + 1) * size] = 0
        pool.o_proj.weight[start : start + part, head * size : head * size + part] = torch.eye(part) * POOL_GAIN
    pool.q_norm.weight.fill_(SHARPNESS)

    up, down = model.projector[0].weight, model.projector[2].weight
    up.normal_(0, NOISE)
    down.normal_(0, NOISE)
    for i in (*range(CONTENT), Slot.EVIDENCE):
        up[i, i], up[width + i, i] = 1, -1
        down[i, i], down[i, width + i] = 1, -1
    return model
