"""Self-check: the fast forward agrees with its definition, whatever shares the batch, and the
lexical rules give what the fixture says.

    python check.py [--model MODEL] [--fixture FIXTURE]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from export import read_model
from lexical import Bag, LexicalTable, bucket
from model import Controls, Reranker, Shape, Slate


def random_slates(rng: random.Random, vocabulary: int) -> list[Slate]:
    """Slates of several sizes, with and without instruction, of ordinary token ids."""

    def text(longest: int) -> list[int]:
        return [rng.randrange(300, vocabulary) for _ in range(rng.randint(1, longest))]

    slates = []
    for k in (1, 2, 5, 9):
        documents = [text(40) for _ in range(k)]
        slates.append(Slate(text(9), documents, [rng.randrange(32) for _ in documents], text(6) if k % 2 else []))
    return slates


@torch.no_grad()
def largest_difference(model: Reranker, slates: list[Slate]) -> float:
    """Between scores in a batch, alone, and by the definition."""
    batched = model.scores(slates)
    largest = 0.0
    for row, slate in enumerate(slates):
        own = batched[row, : len(slate.documents)]
        largest = max(largest, float((model.flat_scores(slate) - own).abs().max()))
        largest = max(largest, float((model.scores([slate])[0] - own).abs().max()))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported model; without it, random weights")
    parser.add_argument("--fixture", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.model:
        model = read_model(options.model)[0]
    else:
        model = Reranker(Shape(vocab_size=1000), Controls(1, 2, 3, 4, 900))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
    # Below the control tokens, whichever end of the vocabulary those take.
    slates = random_slates(random.Random(0), model.controls.embed - 40)
    difference = largest_difference(model.eval(), slates)
    print(f"largest difference of a score: {difference:.2e}")
    assert difference < 2e-5
    if options.fixture and options.model:
        table = LexicalTable.load(options.model / "lexical.safetensors")
        for case in json.loads(options.fixture.read_text(encoding="utf-8")):
            score = table.score(table.weights(case["query"]), Bag.of(case["document"]))
            assert abs(score - case["score"]) < 1e-6 and bucket(score) == case["bucket"], case
        print("lexical fixture holds")


if __name__ == "__main__":
    main()
