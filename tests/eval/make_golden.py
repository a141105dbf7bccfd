"""Writes tests/fixtures/measures.json: random rankings with the field's value of every measure.

    python -m venv .venv && .venv/bin/pip install pytrec-eval-terrier==0.5.11 ir-measures==0.4.3 cwl-eval==1.0.12
    .venv/bin/python tests/eval/make_golden.py

pytrec_eval runs trec_eval's C code; ir_measures runs gdeval.pl for ERR (needs Perl) and cwl_eval
for RBP. trec_eval's recip_rank has no cut-off, so MRR@k is computed from the first k documents of
the run. gdeval.pl prints five decimals.
"""

import json
import random
from pathlib import Path

import ir_measures
import pytrec_eval
from ir_measures import ERR, RBP

CASES = 100
OUT = Path(__file__).parent.parent / "fixtures" / "measures.json"


def trec_order(run):
    """Sorts document ids as trec_eval does: by score and then by id, both descending."""
    return sorted(run, key=lambda document: (run[document], document), reverse=True)


def evaluate(measure, qrels, run):
    values = pytrec_eval.RelevanceEvaluator({"q": qrels}, {measure}).evaluate({"q": run})["q"]
    return next(iter(values.values()))


def measure_with_ir_measures(measure, qrels, run):
    judged = [ir_measures.Qrel("1", document, grade) for document, grade in qrels.items()]
    scored = [ir_measures.ScoredDoc("1", document, score) for document, score in run.items()]
    return ir_measures.calc_aggregate([measure], judged, scored)[measure]


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
    # cwl_eval orders ties in its own way.
    untied = {document: -float(rank) for rank, document in enumerate(trec_order(run))}
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
            f"p@{k}": evaluate(f"P.{k}", qrels, run),
            f"err@{k}": measure_with_ir_measures(ERR @ k, qrels, run),
            "rbp(80)": measure_with_ir_measures(RBP(p=0.8, rel=1), qrels, untied),
        },
    }


def main():
    rng = random.Random(7)
    rows = [json.dumps(case(rng)) for _ in range(CASES)]
    OUT.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
