"""Stage 2: write the static model into the reranker's weights.

The hidden state has CONTENT dimensions for token vectors, a few named ones (`Slot`), and a
SKETCH. Written by hand, everything else near zero:
- embedding: token vector, constant, importance; the marks carry their kind and evidence;
- layer 0: every token after the trunk's end mark gets the `IN_BRANCH` flag (head 0), every
  token after the instruct mark `IN_INSTRUCT` (head 2);
- the layer before the last lower one: each embed mark pools the trunk's content, projected
  to SKETCH dimensions: it knows roughly what is asked (head 0); a token that resembles a
  word of the instruction is `MATCHED` (head 2; others look at the end mark);
- the last lower layer, the first head of each group: the marks pool the content of their
  own branch by importance, and the embed marks favour tokens that resemble their sketch.
  The closing mark pools the trunk too, and with it the instruction. Second heads: whether a
  token of the branch is matched (`MENTION`), and how short the branch is (`BREVITY`);
- the closing mark also looks for a word of negation in the instruction (`NEGATED`);
- projector: the identity on content, evidence, mention and brevity. The closing mark asks for
  a mention where there is an instruction, and against one where that instruction is negated.
So the untrained reranker scores like the static model with query-focused pooling plus the
lexical evidence and a liking for documents that hold the instruction's words, while the
layers before the pooling are free to learn to read and what an instruction means.

Content is compared in key dimensions that the rotary embedding barely turns: with the base
of `Shape.rope_theta` those from pair 8 on.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from lexical import BUCKETS
from model import Attention, Controls, Reranker, Shape
from static import CONTENT
from tokenizer import SPECIAL

STILL = [*range(8, 27), *range(40, 64)]
"""Head dimensions for content; 27 to 31 carry match (or negation), end mark, flag, constant, importance."""
AT_MATCH, AT_END, AT_FLAG, AT_CONSTANT, AT_IMPORTANCE = 27, 28, 29, 30, 31
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
    IN_INSTRUCT = CONTENT + 7
    MATCHED = CONTENT + 8
    MENTION = CONTENT + 9
    BREVITY = CONTENT + 10
    NEGATED = CONTENT + 11
    SKETCH = CONTENT + 12


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
CONTROL_IMPORTANCE = -12.0
MATCH_SHARPNESS = 4.0
MATCH_CONTENT, MATCH_FLAG, MATCH_END = 0.66, 0.45, 0.6
"""Shares of a matching head's query: with them a token of the instruction wins over the end
mark from a cosine of about .83 on, and tokens outside the instruction never do."""
CONTENT_LENGTH = 10.0
MENTION_GAIN, ASKED_GAIN, TRUNK_PENALTY = 2.0, 2.0, 2.2
BREVITY_GAIN, BREVITY_CENTRE = 3.0, 0.19
NEGATION = 8.0
NEGATION_KEY, NEGATION_THRESHOLD = 4.0, 0.7
NEGATED_GAIN = 3.4
"""Above ASKED_GAIN, so that a negated instruction asks against a mention."""
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


def parts(attention: Attention, head: int, size: int, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of one head's rows of the query, key and value projections (the latter two shared
    by its group) and of its columns of the output projection."""
    own, shared = slice(head * size, (head + 1) * size), slice(head // group * size, (head // group + 1) * size)
    q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
    return q[own], k[shared], v[shared], o[:, own]


@torch.no_grad()
def warm_start(
    shape: Shape, controls: Controls, vectors: Tensor, importance: Tensor, negations: list[int], seed: int = 0
) -> Reranker:
    """A reranker that starts as the static model: `vectors` [vocabulary, CONTENT] of length
    one, `importance` [vocabulary]; `negations` are the ids of words that negate."""
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
    table[negations, Slot.NEGATED] = NEGATION
    controls_from = controls.embed + BUCKETS - len(SPECIAL)
    table[controls_from:] = torch.randn(len(SPECIAL), width) * 0.02
    table[controls_from:, Slot.CONSTANT] = CONSTANT
    table[controls_from:, Slot.IMPORTANCE] = CONTROL_IMPORTANCE
    table[controls.end, Slot.IS_END] = MARK
    table[controls.instruct, Slot.IN_INSTRUCT] = MARK
    for b in range(BUCKETS):
        table[controls.embed + b, Slot.IS_EMBED] = MARK
        step = max(-1.0, min(1.5, (b - NEUTRAL_BUCKET) / NEUTRAL_BUCKET))
        table[controls.embed + b, Slot.EVIDENCE] = EVIDENCE_DOCUMENT * step
    table[controls.rerank, Slot.IS_RERANK] = MARK
    table[controls.rerank, Slot.EVIDENCE] = EVIDENCE_QUERY

    flag = model.layers[0].self_attn
    flag.q_norm.weight[AT_END] = SHARPNESS
    for head, mark, flagged in ((0, Slot.IS_END, Slot.IN_BRANCH), (group, Slot.IN_INSTRUCT, Slot.IN_INSTRUCT)):
        query, key, value, out = parts(flag, head, size, group)
        for weight in (query, key, value[:1], out):
            weight.zero_()
        query[AT_END, Slot.CONSTANT] = 1
        key[AT_END, mark] = 1
        key[AT_CONSTANT, Slot.CONSTANT] = 0.3
        value[0, mark] = 1
        out[flagged, 0] = FLAG / MARK

    ask = model.layers[-3].self_attn
    query, key, value, out = parts(ask, 0, size, group)
    for weight in (query, key, out):
        weight.zero_()
    key[AT_IMPORTANCE, Slot.IMPORTANCE] = 1
    key[AT_FLAG, Slot.IN_BRANCH] = 1
    key[AT_CONSTANT, Slot.CONSTANT] = 1
    key[AT_END, Slot.IS_END] = 1
    query[AT_IMPORTANCE, Slot.IS_EMBED] = 1
    query[AT_FLAG, Slot.IS_EMBED] = -1
    # Tokens that are not embed marks look at the end mark, which has no content.
    query[AT_END, Slot.CONSTANT] = MARK / CONSTANT
    query[AT_END, Slot.IS_EMBED] = -1
    ask.q_norm.weight[[AT_IMPORTANCE, AT_FLAG]] = SHARPNESS
    ask.q_norm.weight[[AT_END, *STILL]] = MATCH_SHARPNESS
    value[:SKETCH] = 0
    value[:SKETCH, :CONTENT] = basis.T
    for i in range(SKETCH):
        out[Slot.SKETCH + i, i] = SKETCH_GAIN

    query, key, value, out = parts(ask, group, size, group)
    for weight in (query, key, value[:1], out):
        weight.zero_()
    key[STILL, :CONTENT] = basis.T
    # Positive within the instruction, negative in the query and in the branches.
    key[AT_FLAG, [Slot.IN_INSTRUCT, Slot.IN_BRANCH, Slot.CONSTANT]] = torch.tensor([3.0, -3.0, -1.5])
    key[AT_IMPORTANCE, Slot.IMPORTANCE] = 2
    key[AT_END, Slot.IS_END] = 4
    query[STILL, :CONTENT] = basis.T
    query[AT_FLAG, Slot.CONSTANT] = CONTENT_LENGTH * MATCH_FLAG / MATCH_CONTENT / CONSTANT
    query[AT_END, Slot.CONSTANT] = CONTENT_LENGTH * MATCH_END / MATCH_CONTENT / CONSTANT
    # The importance of what was matched, from 1 for content words down; 0 for the end mark.
    value[0, Slot.IMPORTANCE] = CONSTANT
    value[0, Slot.CONSTANT] = 1
    value[0, Slot.IS_END] = -(CONTROL_IMPORTANCE + 1) * CONSTANT / MARK
    out[Slot.MATCHED, 0] = 1

    # The closing mark looks at words of negation in the instruction, else at the end mark; so
    # does every other token.
    key[AT_MATCH, Slot.NEGATED] = NEGATION_KEY
    value[1] = 0
    value[1, Slot.CONSTANT], value[1, Slot.IS_END] = 1, -CONSTANT / MARK
    query, _, _, out = parts(ask, group + 1, size, group)
    query.zero_()
    out.zero_()
    query[AT_MATCH, Slot.IS_RERANK] = 1
    query[AT_FLAG, Slot.IS_RERANK] = 0.5
    query[AT_END, [Slot.CONSTANT, Slot.IS_RERANK]] = torch.tensor([MARK / CONSTANT, NEGATION_THRESHOLD - 1])
    ask.q_norm.weight[AT_MATCH] = MATCH_SHARPNESS
    out[Slot.NEGATED, 1] = 1

    pool = model.layers[-2].self_attn
    share = CONTENT // shape.num_key_value_heads
    for g in range(shape.num_key_value_heads):
        query, key, value, out = parts(pool, g * group, size, group)
        for weight in (query, key, out):
            weight.zero_()
        key[AT_IMPORTANCE, Slot.IMPORTANCE] = 1
        key[AT_CONSTANT, Slot.CONSTANT] = KEY_CONSTANT
        key[AT_FLAG, Slot.IN_BRANCH] = 1
        key[STILL, :CONTENT] = basis.T * KEY_CONTENT
        query[AT_IMPORTANCE, [Slot.IS_EMBED, Slot.IS_RERANK]] = 1
        query[AT_FLAG, Slot.IS_EMBED] = FLAG_WEIGHT
        # No key has this dimension: it takes the length that the embed marks' queries have more.
        query[AT_END, Slot.IS_RERANK] = math.hypot(FLAG_WEIGHT, FOCUS_WEIGHT)
        for i, at in enumerate(STILL):
            query[at, Slot.SKETCH + i] = FOCUS_WEIGHT * MARK / SKETCH_NORM
        value[:share] = 0
        value[:share, g * share : (g + 1) * share] = torch.eye(share)
        out[g * share : (g + 1) * share, :share] = torch.eye(share) * POOL_GAIN
    pool.q_norm.weight.fill_(SHARPNESS)

    query, _, value, out = parts(pool, 1, size, group)
    for weight in (query, value[share : share + 1], out):
        weight.zero_()
    # The end mark against the branch's tokens: its share falls with their number.
    query[AT_IMPORTANCE, Slot.IS_EMBED] = -0.25
    query[AT_END, Slot.IS_EMBED] = 1
    query[AT_IMPORTANCE, Slot.IS_RERANK] = 1
    value[share, Slot.IS_END] = 1
    out[Slot.BREVITY, share] = BREVITY_GAIN

    join = model.layers[-1].self_attn
    query, key, value, out = parts(join, 0, size, group)
    for weight in (query, key, value[:1], out):
        weight.zero_()
    # Positive for a matched token of a branch, below zero in the trunk.
    in_trunk = torch.tensor([1, -TRUNK_PENALTY, 1.2 * TRUNK_PENALTY])
    key[AT_MATCH, [Slot.MATCHED, Slot.CONSTANT, Slot.IN_BRANCH]] = in_trunk
    key[AT_CONSTANT, Slot.CONSTANT] = KEY_CONSTANT
    query[AT_MATCH, [Slot.IS_EMBED, Slot.IS_RERANK]] = 1
    value[0, Slot.MATCHED] = 1
    out[Slot.MENTION, 0] = MENTION_GAIN
    join.q_norm.weight.fill_(SHARPNESS)

    up, down = model.projector[0].weight, model.projector[2].weight
    up.normal_(0, NOISE)
    down.normal_(0, NOISE)
    for i in (*range(CONTENT), Slot.EVIDENCE, Slot.MENTION, Slot.BREVITY):
        up[i, i], up[width + i, i] = 1, -1
        down[i, i], down[i, width + i] = 1, -1
    # The closing mark asks for a mention where there is an instruction (both, hence the bias).
    asked = up[Slot.CONSTANT]
    asked[[Slot.IN_INSTRUCT, Slot.IS_RERANK, Slot.CONSTANT]] = torch.tensor([1, 1, -MARK / CONSTANT])
    down[Slot.MENTION, Slot.CONSTANT] = ASKED_GAIN
    up[Slot.NEGATED].zero_()
    up[Slot.NEGATED, [Slot.NEGATED, Slot.IS_RERANK, Slot.CONSTANT]] = torch.tensor([1, 1, -MARK / CONSTANT])
    down[Slot.MENTION, Slot.NEGATED] = -NEGATED_GAIN
    up[Slot.BREVITY, Slot.IS_EMBED], up[width + Slot.BREVITY, Slot.IS_EMBED] = -BREVITY_CENTRE, BREVITY_CENTRE
    return model
