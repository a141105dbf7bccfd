"""Measures an exported model: ranking quality, order stability, calibration, instructions.

    python evaluate.py --data DATA --model MODEL [--work WORK] [--json FILE]

Reranks BM25's top 32 in one slate, in `--orders` shuffled input orders. With `--work` also
the teacher's ranking and the instruction cases (from held-out articles, held-out wordings).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from data import EVAL_SETS, ndcg, read_eval
from export import read_model
from lexical import Bag, bucket
from model import Slate
from slates import NEUTRAL_BUCKET
from tokenizer import encode

TOP = 32
QUERY_TOKENS, DOCUMENT_TOKENS = 128, 512
INSTRUCTION_KINDS = ("question", "mention", "avoid", "source", "language", "length")


def ranked(run: list[str], scores: np.ndarray) -> list[str]:
    """The run with its first documents reordered by score, ties in the order given."""
    order = np.argsort(-scores, kind="stable")
    return [run[i] for i in order] + run[len(scores) :]


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-a of two score lists."""
    upper = np.triu_indices(len(a), 1)
    signs = np.sign(a[:, None] - a[None])[upper] * np.sign(b[:, None] - b[None])[upper]
    return float(signs.mean())


def interval(values: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, over queries."""
    rng = np.random.default_rng(seed)
    array = np.array(values)
    means = rng.choice(array, (2000, len(array))).mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def calibration_error(share: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error with equal-width bins."""
    place = np.minimum((share * bins).astype(int), bins - 1)
    return float(
        sum(abs(share[place == b].mean() - labels[place == b].mean()) * (place == b).mean() for b in set(place))
    )


@torch.no_grad()
def measure_set(folder: Path, name: str, model, tokenizer, table, config, orders: int, limit: int, blind: bool) -> dict:
    """All figures of one evaluation set."""
    texts, tasks = read_eval(folder, name)
    tasks = tasks[: limit or None]
    calibration = config["podium"]["calibration"]
    found: dict[str, list[float]] = {"bm25": [], "lexical": [], "model": [], **({"blind": []} if blind else {})}
    tau, shares, labels = [], [], []
    ids: dict[str, tuple[list[int], Bag]] = {}
    for number, task in enumerate(tasks):
        pool = task.run[:TOP]
        for d in pool:
            if d not in ids:
                kept = tokenizer.encode(" " + " ".join(texts[d].split()))
                end = kept.offsets[DOCUMENT_TOKENS - 1][1] if len(kept.ids) > DOCUMENT_TOKENS else None
                ids[d] = (kept.ids[:DOCUMENT_TOKENS], Bag.of((" " + " ".join(texts[d].split()))[:end]))
        weights = table.weights(task.query)
        lexical = np.array([table.score(weights, ids[d][1]) for d in pool])
        query = encode(tokenizer, task.query, QUERY_TOKENS)
        seen = []
        for order in range(orders):
            shuffled = list(range(len(pool)))
            random.Random(f"{order}/{number}").shuffle(shuffled)
            slate = Slate(query, [ids[pool[i]][0] for i in shuffled], [bucket(lexical[i]) for i in shuffled])
            scores = np.zeros(len(pool))
            scores[shuffled] = model.scores([slate])[0].numpy()
            seen.append(scores)
        found["bm25"].append(ndcg(task.run, task.relevance))
        found["lexical"].append(ndcg(ranked(task.run, lexical), task.relevance))
        found["model"].append(float(np.mean([ndcg(ranked(task.run, s), task.relevance) for s in seen])))
        if blind:
            unaided = Slate(query, [ids[d][0] for d in pool], [NEUTRAL_BUCKET] * len(pool))
            found["blind"].append(ndcg(ranked(task.run, model.scores([unaided])[0].numpy()), task.relevance))
        tau += [kendall(seen[0], s) for s in seen[1:]]
        shares.append(1 / (1 + np.exp(-(calibration["scale"] * seen[0] + calibration["bias"]))))
        labels.append(np.array([task.relevance.get(d, 0) > 0 for d in pool], float))
    gaps = [m - b for m, b in zip(found["model"], found["bm25"], strict=True)]
    worst = sorted(range(len(tasks)), key=lambda i: gaps[i])[:3]
    return {
        "queries": len(tasks),
        **{k: round(float(np.mean(v)), 4) for k, v in found.items()},
        "interval": [round(v, 3) for v in interval(found["model"])],
        "gain_interval": [round(v, 3) for v in interval(gaps)],
        "tau": round(float(np.mean(tau)), 4) if tau else None,
        "ece": round(calibration_error(np.concatenate(shares), np.concatenate(labels)), 4),
        "per_query": {k: [round(v, 4) for v in found[k]] for k in found},
        "worst": [(tasks[i].query, round(gaps[i], 3)) for i in worst],
    }


def teacher_ndcg(folder: Path, work: Path, name: str, limit: int) -> float:
    """The MiniLM bi-encoder's ranking of the same top 32."""
    from teacher import cached_vectors

    texts, tasks = read_eval(folder, name)
    needed = sorted({d for t in tasks for d in t.run[:TOP]})
    place = {d: i for i, d in enumerate(needed)}
    documents = cached_vectors([texts[d] for d in needed], work / f"eval-{name}-documents.npy").astype(np.float32)
    queries = cached_vectors([t.query for t in tasks], work / f"eval-{name}-queries.npy").astype(np.float32)
    values = [
        ndcg(ranked(t.run, documents[[place[d] for d in t.run[:TOP]]] @ queries[i]), t.relevance)
        for i, t in enumerate(tasks[: limit or None])
    ]
    return round(float(np.mean(values)), 4)


@torch.no_grad()
def measure_instructions(maker, model, cases: int, seed: int) -> dict:
    """Share of cases with an instructed document first, with and without the instruction."""
    rng = random.Random(seed)
    first: dict[str, list[tuple[bool, bool]]] = {k: [] for k in INSTRUCTION_KINDS}
    for number in range(cases):
        kind = INSTRUCTION_KINDS[number % len(INSTRUCTION_KINDS)]
        example = maker.instructed(rng, 6, 96, held_out=True, kind=kind)
        bare = Slate(example.slate.query, example.slate.documents, example.slate.buckets)
        told, untold = (int(model.scores([s])[0].argmax()) in example.right for s in (example.slate, bare))
        first[kind].append((told, untold))
    everything = [x for v in first.values() for x in v]
    summary = {k: [round(float(np.mean([x[i] for x in v])), 3) for i in (0, 1)] for k, v in first.items()}
    return {"with, without": summary, "all": [round(float(np.mean([x[i] for x in everything])), 3) for i in (0, 1)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sets", nargs="*", default=EVAL_SETS)
    parser.add_argument("--orders", type=int, default=3, help="shuffled input orders to average over")
    parser.add_argument("--blind", action="store_true", help="also without the lexical evidence")
    parser.add_argument("--queries", type=int, default=0, help="first queries of each set; 0: all")
    parser.add_argument("--cases", type=int, default=204)
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer, table, config = read_model(options.model)
    report: dict = {"sets": {}}
    for name in options.sets:
        facts = measure_set(
            options.data, name, model, tokenizer, table, config, options.orders, options.queries, options.blind
        )
        if options.teacher and options.work:
            facts["teacher"] = teacher_ndcg(options.data, options.work, name, options.queries)
        report["sets"][name] = facts
        print(name, {k: v for k, v in facts.items() if k != "per_query"}, flush=True)
    if options.work and options.cases:
        from train import Workspace

        space = Workspace(options.data, options.work, 1, 0, "cpu")
        maker = space.slates()
        maker.tokenizer = tokenizer
        report["instructions"] = measure_instructions(maker, model, options.cases, 7)
        print(report["instructions"], flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
