"""Writes tests/fixtures/measures.json: random rankings with trec_eval's value of every measure.

    python -m venv .venv && .venv/bin/pip install pytrec-eval-terrier==0.5.11
    .venv/bin/python tests/eval/make_golden.py

pytrec_eval runs trec_eval's C code. Its recip_rank has no cut-off, so MRR@k is computed from the
first k documents of the run.
"""

import json
import random
from pathlib import Path

import pytrec_eval

CASES = 100
OUT = Path(__file__).parent.parent / "fixtures" / "measures.json"


def trec_order(run):
    """Sorts document ids as trec_eval does: by score and then by id, both descending."""
    return sorted(run, key=lambda document: (run[document], document), reverse=True)


def evaluate(measure, qrels, run):
    values = pytrec_eval.RelevanceEvaluator({"q": qrels}, {measure}).evaluate({"q": run})["q"]
    return next(iter(values.values()))


def case(rng):
    k = rng.choice([1, 3, 5, 10, 20])
    documents = [f"d{number}" for number in range(rng.randint(2, 30))]
    # Grades with ties, zeros and negative values; at least one is relevant.
    qrels = {document: rng.choice([-2, -1, 0, 0, 0, 1, 1, 2, 3]) for document in documents if rng.random() < 0.6}
    qrels[rng.choice(documents)] = rng.choice([1, 2, 3])
    # The run lacks some judged documents, has unjudged ones, is often shorter than k, and has ties.
    found = rng.sample(documents, rng.randint(1, len(documents)))
    run = {document: rng.choice([0.25, 0.5, 1.0, 1.5, -2.0]) for document in found}
    run |= {f"u{number}": rng.choice([0.5, 1.0]) for number in range(rng.randint(0, 4))}
    first = {document: run[document] for document in trec_order(run)[:k]}
    return {
        "k": k,
        "qrels": qrels,
        "run": run,
        "expected": {
            f"ndcg@{k}": evaluate(f"ndcg_cut.{k}", qrels, run),
            f"mrr@{k}": evaluate("recip_rank", qrels, first),
            f"hit@{k}": evaluate(f"success.{k}", qrels, run),
            f"recall@{k}": evaluate(f"recall.{k}", qrels, run),
            "map": evaluate("map", qrels, run),
        },
    }


def main():
    rng = random.Random(7)
    rows = [json.dumps(case(rng)) for _ in range(CASES)]
    OUT.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
