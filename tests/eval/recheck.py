"""Recomputes the figures of `podium eval` from its run files with ir_measures.

    podium eval SET... --write-runs runs --json report.json
    python tests/eval/recheck.py report.json runs

Needs Perl and `pip install -r tests/eval/requirements.txt`. Exits with 1 if a figure differs by more than 1e-6 (ERR:
5e-5, because gdeval.pl prints five decimals).
"""

import json
import pathlib
import re
import sys

import ir_measures

NAMES = {"ndcg": "nDCG", "mrr": "RR", "hit": "Success", "recall": "R", "p": "P", "err": "ERR"}


def measure(name):
    if name == "map":
        return ir_measures.AP
    persistence = re.fullmatch(r"rbp\((\d+)\)", name)
    if persistence:
        return ir_measures.RBP(p=int(persistence[1]) / 100, rel=1)
    kind, cutoff = name.split("@")
    return ir_measures.parse_measure(f"{NAMES[kind]}@{cutoff}")


def renumber(records, numbers):
    """The records with numbers in place of the queries' ids, because gdeval.pl reads no others."""
    return [record._replace(query_id=numbers.setdefault(record.query_id, str(len(numbers)))) for record in records]


def mean(measure, qrels, run):
    """The mean over the judged queries; a query that the run lacks has 0."""
    values = {value.query_id: value.value for value in ir_measures.iter_calc([measure], qrels, run)}
    queries = {judgement.query_id for judgement in qrels}
    return sum(values.get(query, 0.0) for query in queries) / len(queries)


def main():
    report, folder = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    worst = failures = 0
    for found in report["sets"]:
        name = found["name"].replace("/", "_")
        numbers = {}
        qrels = renumber(ir_measures.read_trec_qrels(str(folder / f"{name}.qrels")), numbers)
        read_run = lambda file: renumber(ir_measures.read_trec_run(str(file)), numbers)  # noqa: E731
        orders = sorted(folder.glob(f"{name}.[0-9]*.run"))
        runs = {"reranked": orders, "input": [folder / f"{name}.input.run"], "bm25": [folder / f"{name}.bm25.run"]}
        for system, files in runs.items():
            runs_of_orders = [read_run(file) for file in files]  # noqa: B023
            for label in report["metrics"]:
                values = [mean(measure(label), qrels, run) for run in runs_of_orders]
                expected, printed = sum(values) / len(values), found["systems"][system][label]["mean"]
                difference = abs(expected - printed)
                worst = max(worst, difference)
                if difference > (5e-5 if label.startswith("err") else 1e-6):
                    failures += 1
                    print(f"{name} {system} {label}: {printed} printed, {expected} by ir_measures")
    print(f"{len(report['sets'])} sets, {len(report['metrics'])} measures: largest difference {worst:.2e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
