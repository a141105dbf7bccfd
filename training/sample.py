"""Writes a small part of the training data, for `build.py --smoke`.

    python sample.py --data DATA --out FOLDER

One in 60 training groups, one in 12 validation groups, every 40th passage, and three queries of each
evaluation set with their candidates. Good for trying the chain, not for a model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from pathlib import Path

from data import EVAL_SETS, read_eval, read_lines
from instructed import digest

GROUPS, VALID_GROUPS, PASSAGES, QUERIES, CANDIDATES = 60, 12, 40, 3, 32


def write_lines(path: Path, rows: list[dict]) -> None:
    """A JSONL file; gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def sample_slates(data: Path) -> list[dict]:
    """One in `GROUPS` of the training groups, one in `VALID_GROUPS` of the validation groups."""
    rows = []
    for row in read_lines(data / "train-instructed.jsonl"):
        share = VALID_GROUPS if "split" in row else GROUPS
        if digest(f"sample/{row['src']}/{row['group']}") % share == 0:
            rows.append(row)
    return rows


def sample_eval(data: Path, out: Path, name: str) -> None:
    """The first queries of an evaluation set by id, with their candidates and judged documents."""
    source, target = data / "eval" / name, out / "eval" / name
    texts, tasks = read_eval(data, name)
    tasks = sorted(tasks, key=lambda task: task.id)[:QUERIES]
    ids, documents = {task.id for task in tasks}, {d for task in tasks for d in task.run[:CANDIDATES]}
    write_lines(target / "corpus.jsonl", [{"_id": d, "text": texts[d]} for d in sorted(documents)])
    write_lines(target / "queries.jsonl", [{"_id": task.id, "text": task.query} for task in tasks])
    runs = [line for line in (source / "bm25.trec").read_text(encoding="utf-8").splitlines() if line.split()[0] in ids and line.split()[2] in documents]
    (target / "bm25.trec").write_text("\n".join(runs) + "\n", encoding="utf-8")
    (target / "qrels").mkdir(exist_ok=True)
    head, *judged = (source / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in judged if line.split("\t")[0] in ids]
    (target / "qrels/test.tsv").write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    write_lines(options.out / "train-instructed.jsonl.gz", sample_slates(options.data))
    passages = [row for number, row in enumerate(read_lines(options.data / "train-passages.jsonl")) if number % PASSAGES == 0]
    write_lines(options.out / "train-passages.jsonl", passages)
    for name in EVAL_SETS:
        sample_eval(options.data, options.out, name)
    (options.out / "complete").touch()


if __name__ == "__main__":
    main()
