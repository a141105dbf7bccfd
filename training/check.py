"""Self-check with random weights, without data: what the definition promises holds.

    python check.py
"""

from __future__ import annotations

import random

import numpy as np
import torch

from encoder import HIDDEN, Encoder, pad
from explicit import FACTS, LANGUAGE_NAMES, PAIR_FACTS, Asked, Counted, facts, numbers
from gate import COMPONENTS, expand, padded
from instructed import Row, twins
from model import (
    PREFERENCE_GATE,
    SCALARS,
    WISH_SHRINK,
    Gate,
    Pairs,
    Reading,
    Reduction,
    Wish,
    base_scores,
    digest_states,
    evidence,
    feedback,
    token_matches,
    token_similarities,
    unit_content,
)
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
    """A document's wish does not depend on the others, nor on other requests in the batch; the expanded and stacked wish is the reduced one."""
    reductions = {}
    for name, width, reduced in (("document", 4 * HIDDEN, 30), ("prefix", 4 * HIDDEN, 20), ("token", 2 * HIDDEN, 10)):
        reductions[name] = Reduction.fit(rng.normal(size=(60, width)), ((width - 9, reduced - 4), (9, 4)))
    small = Wish(30, 20, 10).eval()
    for layer in (small.last, small.token_last, small.facts):
        torch.nn.init.normal_(layer.weight)
    wish = Wish.stack([small.expand(reductions)] * 2)
    texts = ["I do not know. 1999?", "[note] 12 words: " + "the of and " * 9, "Das ist nicht der Weg für mich."]
    rows = [states(rng, n) for n in (3, 40, 17)]
    ids = [[1], list(range(38)), [5, 6, 7]]
    requests = []
    for tokens in (9, 4):
        query, instruction = states(rng, 5), states(rng, tokens)
        own, weights = list(range(3, 1 + tokens)), np.ones(tokens - 2)
        matches = [
            np.concatenate([token_similarities(unit_content(instruction), unit_content(r)), token_matches(own, weights, i)], 1)
            for r, i in zip(rows, ids, strict=True)
        ]
        asked = Asked.of("German texts of at most 5 words, after 1990")
        counted = np.stack([facts(asked, Counted.of(text)) for text in texts])
        scalars = rng.normal(size=(3, SCALARS)).astype(np.float32)
        digests = np.stack([digest_states(row) for row in rows])
        requests.append((digest_states(query), digest_states(instruction), instruction[1:-1], digests, scalars, counted, np.stack(matches)))
    with torch.no_grad():
        together = wish(Pairs.of(*zip(*requests, strict=True)))
        assert together.abs().max() > 0.1
        for number, (q, i, c, d, x, f, m) in enumerate(requests):
            r = {n: reductions[n] for n in reductions}
            reduced = WISH_SHRINK * small(Pairs.of([r["prefix"](q)], [r["prefix"](i)], [r["token"](c)], [r["document"](d)], [x], [f], [m]))
            assert torch.allclose(together[3 * number : 3 * number + 3], reduced, atol=1e-3)
            for place in range(3):
                one = slice(place, place + 1)
                alone = wish(Pairs.of([q], [i], [c], [d[one]], [x[one]], [f[one]], [m[one]]))
                assert torch.allclose(together[3 * number + place], alone[0], atol=1e-3)


def check_facts() -> None:
    """Years, limits and languages are compared as MODEL.md says."""
    asked = Asked.of("Only Spanish texts from 2003 or later, at most 12 words.")
    assert (asked.year, asked.words, LANGUAGE_NAMES[asked.language]) == (2003, 12, "spanish")
    counted = Counted.of("June 24, 2015 - el perro de la casa")
    assert (counted.year, counted.words) == (2015, 9)
    assert facts(asked, counted)[-PAIR_FACTS:-1].tolist() == [1, 0, 0, 0, 0, 1]
    assert facts(asked, counted)[-1] > 0.8 and len(facts(asked, counted)) == FACTS
    assert numbers("a1234567890 12, 3") == [(12, 14), (3, 17)]
    assert token_matches([7, 8, 9], np.full(3, 2.0), [8, 9, 1]).tolist() == [[0, 0], [1, 1], [1, 1]]


def check_gate(rng: np.random.Generator) -> None:
    """The gate is exactly 0 for a neutral instruction and 1 for a demand; the expanded gate is the reduced one."""
    reduction = Reduction.fit(rng.normal(size=(200, 2 * HIDDEN)), ((2 * HIDDEN, COMPONENTS),))
    rows = [states(rng, n).astype(np.float32) for n in (3, 12)]
    small = Gate(COMPONENTS).eval()
    with torch.no_grad():
        full, reduced = (g.logits(*padded(s)) for g, s in ((expand(small, reduction), rows), (small, [reduction(r) for r in rows])))
        assert torch.allclose(full, reduced, atol=1e-3)
    gate = Gate().eval()
    block, real = padded([states(rng, n) for n in (2, 30, 8)])
    with torch.no_grad():
        for place, expected in enumerate((0.0, PREFERENCE_GATE, 1.0)):
            gate.last.bias.copy_(50.0 * torch.eye(3)[place])
            values = gate(block, real)
            assert (values == 0).all() if place == 0 else torch.allclose(values, torch.tensor(expected), atol=1e-3)


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
    check_facts()
    check_gate(rng)
    check_base(rng)
    check_data()
    print("6 checks passed")


if __name__ == "__main__":
    main()
