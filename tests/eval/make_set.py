"""Writes a BEIR folder with made-up texts, judgements and a run.

A small one for `tests/eval/run`, or a large one to measure the memory of `podium eval`:

    python tests/eval/make_set.py large --gigabytes 2
    /usr/bin/time -v podium eval large --run first.trec --orders 1

With a run, `podium eval` keeps only the texts to rerank, so its peak memory does not grow with the corpus. The last
command prints it as "Maximum resident set size".
"""

import argparse
import json
import pathlib
import random

WORDS = """river stone bread winter market letter doctor station bridge island village law price tax court contract theory
measure signal pressure energy surface metal carbon water paper garden window morning teacher engine harbour""".split()
RUN_DEPTH = 100
JUDGED = 12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gigabytes", type=float, default=0.0003, help="size of the corpus")
    parser.add_argument("--characters", type=int, default=1_000, help="size of a document")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    # Slices of one long text: drawing every word would take minutes for each gigabyte.
    source = " ".join(draw.choices(WORDS, k=400_000))
    size, count = 0, 0
    (arguments.folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (arguments.folder / "corpus.jsonl").open("w") as corpus:
        while size < arguments.gigabytes * 1e9:
            start = draw.randrange(len(source) - arguments.characters)
            text = source[start : start + arguments.characters]
            size += corpus.write(json.dumps({"_id": f"d{count}", "title": f"document {count}", "text": text}) + "\n")
            count += 1
    queries, judgements, run = [], ["query-id\tcorpus-id\tscore"], []
    for number in range(arguments.queries):
        queries.append(json.dumps({"_id": f"q{number}", "text": " ".join(draw.choices(WORDS, k=6)) + "?"}))
        ranked = draw.sample(range(count), min(RUN_DEPTH, count))
        # Some judged documents are not in the run; one grade is certain to be relevant.
        judged = draw.sample(ranked[:40], JUDGED - 2) + draw.sample(sorted(set(range(count)) - set(ranked)), 2)
        grades = [1, *draw.choices([-1, 0, 0, 1, 2, 3], k=JUDGED - 1)]
        judgements += [f"q{number}\td{place}\t{grade}" for place, grade in zip(judged, grades, strict=True)]
        # Three documents each have the same score.
        run += [f"q{number} Q0 d{place} {rank} {-(rank // 3)} made-up" for rank, place in enumerate(ranked, 1)]
    for name, lines in {"queries.jsonl": queries, "qrels/test.tsv": judgements, "first.trec": run}.items():
        (arguments.folder / name).write_text("\n".join(lines) + "\n")
    print(f"{count} documents, {size / 1e9:.4f} GB, {arguments.queries} queries in {arguments.folder}")


if __name__ == "__main__":
    main()
