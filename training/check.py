"""Self-check with random weights, without data: what the definition promises holds.

    python check.py
"""

from __future__ import annotations

import random

import numpy as np
import torch

from encoder import HIDDEN, Encoder, pad
from gate import padded
from instructed import Row, twins
from model import SCALARS, Batch, Gate, Reading, Wish, base_scores, evidence, feedback
from wordings import neutral_wordings


def states(rng: np.random.Generator, tokens: int) -> np.ndarray:
    """Random states of a row."""
    return rng.normal(size=(tokens, 2 * HIDDEN)).astype(np.float16)


def check_encoder() -> None:
    """Padding changes nothing."""
    encoder = Encoder(vocabulary=200).eval()
    rows = [[1, 5, 9, 2], [1, 7, 2]]
    with torch.no_grad():
        together = encoder(*pad(rows), (3, 6))
        for i, row in enumerate(rows):
            for both, own in zip(together, encoder(*pad([row]), (3, 6)), strict=True):
                assert torch.allclose(both[i, : len(row)], own[0], atol=1e-5)


def check_wish(rng: np.random.Generator) -> None:
    """A document's wish does not depend on the others, nor on their order."""
    wish = Wish().eval()
    torch.nn.init.normal_(wish.last.weight)
    query, instruction = states(rng, 5), states(rng, 9)
    documents = [states(rng, n) for n in (3, 40, 17)]
    scalars = rng.normal(size=(3, SCALARS)).astype(np.float32)
    with torch.no_grad():
        together = wish(Batch.of([query], [instruction], [documents], scalars))
        for i, document in enumerate(documents):
            alone = wish(Batch.of([query], [instruction], [[document]], scalars[i : i + 1]))
            assert torch.allclose(together[i], alone[0], atol=1e-4)


def check_gate(rng: np.random.Generator) -> None:
    """The gate is exactly 0 below its threshold and never above 1."""
    gate = Gate().eval()
    block, real = padded([states(rng, n) for n in (2, 30, 8)])
    with torch.no_grad():
        torch.nn.init.constant_(gate.last.bias, -50.0)
        assert (gate(block, real) == 0).all()
        torch.nn.init.constant_(gate.last.bias, 50.0)
        assert ((gate(block, real) > 0.99) & (gate(block, real) <= 1)).all()


def check_base(rng: np.random.Generator) -> None:
    """Base scores follow their documents when the slate is shuffled; one document has no feedback."""
    query = Reading.of(states(rng, 6), np.ones(4, np.float32))
    readings = [Reading.of(states(rng, n)) for n in (2, 90, 30, 200)]
    evidences = np.array([evidence(query, r, 0.1 * i) for i, r in enumerate(readings)], np.float32)
    means = np.stack([r.mean for r in readings])
    order = [2, 0, 3, 1]
    assert np.allclose(base_scores(evidences, means)[order], base_scores(evidences[order], means[order]), atol=1e-4)
    assert np.allclose(feedback(np.ones(1, np.float32), means[:1]), 0)
    longer = Reading.of(np.concatenate([states(rng, 1), np.zeros((0, 2 * HIDDEN), np.float16), states(rng, 300)]))
    assert len(longer.windows) == 9


def check_data() -> None:
    """Written instructions are distinct; twins share query and documents."""
    wordings = neutral_wordings(0, 600, ["one", "two", "three"])
    assert len(set(wordings)) == len(wordings) == 600
    row = Row(1, "stance", "for", "q", ("a", "b"), (3, 1), "g", False)
    other = Row(1, "stance", "against", "q", ("b", "a"), (3, 1), "g", False)
    assert twins([row, other, Row(1, "stance", "for", "r", ("a", "b"), (3, 1), "g", False)]) == [[row, other]]


def main() -> None:
    torch.manual_seed(0)
    random.seed(0)
    rng = np.random.default_rng(0)
    check_encoder()
    check_wish(rng)
    check_gate(rng)
    check_base(rng)
    check_data()
    print("5 checks passed")


if __name__ == "__main__":
    main()
