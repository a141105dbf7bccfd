"""Measures how many tokens of a document are read: nDCG@10 with 254 and 508, with and without the margins.

    python longer.py --data DATA --work WORK --model ../models/podium-mini [--queries 60]

Reads the states that states.py kept, and encodes second passages.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import mini as podium_mini
import model
from data import EVAL_SETS, read_eval
from encoder import CLS, SEP, pad, tokenize
from measure import Kept, Task
from mini import PASSAGE_TOKENS, Document, read_exported
from states import CANDIDATES, LAYERS

MARGINS = model.LATER_WINDOW_MARGIN, model.LATER_TOKEN_MARGIN


def set_margins(window: float, token: float) -> None:
    """The margins of later passages, for this process."""
    model.LATER_WINDOW_MARGIN = podium_mini.LATER_WINDOW_MARGIN = window
    model.LATER_TOKEN_MARGIN = token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(options.work, ["eval-documents", "eval-prefixes"])
    mini = read_exported(options.model, kept)
    kept.encode = mini.encode

    @lru_cache(1024)
    @torch.no_grad()
    def second(text: str) -> tuple[np.ndarray, ...]:
        """The second passage, if there is one."""
        ids = tokenize(mini.tokenizer, [text], 2 * PASSAGE_TOKENS)[0][PASSAGE_TOKENS:]
        if not ids:
            return ()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = mini.encoder(*pad([[CLS, *ids, SEP]]), LAYERS)
        return (torch.cat([s.float() for s in states], -1)[0].numpy().astype(np.float16),)

    for name in EVAL_SETS:
        texts, tasks = read_eval(options.data, name)
        found: dict[str, list[float]] = {}
        longer = 0
        for task in sorted(tasks, key=lambda t: t.id)[: options.queries]:
            candidates = [texts[d] for d in task.run[:CANDIDATES]]
            first = [kept(text, PASSAGE_TOKENS)[0] for text in candidates]
            both = [[states, *second(text)] for states, text in zip(first, candidates, strict=True)]
            longer += sum(len(passages) > 1 for passages in both)
            read = {"254": [[s] for s in first], "508": both, "508 without margins": both}
            for label, slate in read.items():
                set_margins(*((0.0, 0.0) if "without" in label else MARGINS))
                documents = []
                for passages, text in zip(slate, candidates, strict=True):
                    ids = tokenize(mini.tokenizer, [text], sum(len(states) - 2 for states in passages))[0]
                    documents.append(Document.of(passages, ids, text))
                scores = mini.score(task.query, documents).scores
                found.setdefault(label, []).append(Task(task, scores, scores, scores, scores).ndcg(scores))
        print(name, {label: round(float(np.mean(values)), 4) for label, values in found.items()}, f"{longer} longer documents", flush=True)


if __name__ == "__main__":
    main()
