"""Writes held-out instruction cases as labelled slates that `podium eval` reads.

    python cases.py --data DATA --work WORK --out CASES
    podium eval CASES/*.jsonl -k 1 --orders 1

One file a kind of instruction, from articles, wordings and combinations that training never
sees. What the instruction asks for has grade 1; `podium eval` runs every slate with its instruction
and without, so Hit@1 is the share with an instructed document first.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from slates import Example
from train import Workspace

KINDS = ("question", "mention", "avoid", "source", "language", "length")
DOCUMENTS, DOCUMENT_TOKENS = 6, 96


def labelled(example: Example, name: str, decode) -> dict:
    """A slate as `podium eval` takes it: what the model would read, as text."""
    slate = example.slate
    return {
        "id": name,
        "query": example.query,
        "instruction": decode(slate.instruction).strip(),
        "documents": [decode(d).strip() for d in slate.documents],
        "relevance": [int(i in example.right) for i in range(len(slate.documents))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py filled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=34, help="of each kind")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    space = Workspace(options.data, options.work, 1, 0, "cpu")
    maker, rng = space.slates(), random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        made = [maker.instructed(rng, DOCUMENTS, DOCUMENT_TOKENS, held_out=True, kind=kind) for _ in range(options.cases)]
        rows = [labelled(e, f"{kind}-{i}", space.tokenizer.decode) for i, e in enumerate(made)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.out / f"{kind}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
