"""Measures the trained model: relevance, instructions, neutral instructions, profiles, order, calibration.

    python measure.py --data DATA --weights MINILM --work WORK --lexical LEXICAL.safetensors \\
        --profiles ../prompts/instructions.toml [--queries 100] [--model ../models/podium-mini]

Reads the states that states.py kept (those of documents are in bf16 arithmetic), prints tables and writes
WORK/figures.json. With `--model` the gate and the wish are those of an exported model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from data import EVAL_SETS, RankingTask, ndcg, read_eval
from instructed import DECIDING, NEUTRAL, PLAIN, PREFERENCE, Row, read_rows
from mini import PREFIX_TOKENS, Mini, read_exported, read_trained
from states import CANDIDATES, Encoded

NEUTRAL_ON_SETS = (
    "Given a web search query, retrieve relevant passages that answer the query",
    "Rank the documents by relevance to the query.",
    "You are a helpful assistant. Find the text that a person with this question would want to read.",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
)
RESAMPLES = 2000
HARM = 0.05
ORDERS = 3


def interval(values: Sequence[float]) -> list[float]:
    """Mean and 95 % bootstrap interval."""
    values = np.asarray(values, float)
    picks = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def calibration_error(shares: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equal bins."""
    places = np.minimum((shares * bins).astype(int), bins - 1)
    gaps = [abs(shares[places == b].sum() - labels[places == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(shares))


def kendall(left: np.ndarray, right: np.ndarray) -> float:
    """Kendall's tau-b."""
    upper = np.triu_indices(len(left), 1)
    a, b = (np.sign(np.subtract.outer(x, x))[upper] for x in (left, right))
    size = np.sqrt((a != 0).sum() * (b != 0).sum())
    return float((a * b).sum() / size) if size else 1.0


class Kept:
    """States from stores, or from the encoder where no store has the text."""

    def __init__(self, work: Path, names: Sequence[str]) -> None:
        self.encoded = [Encoded(work, name) for name in names]
        self.encode: Callable[[str, int], list[np.ndarray]] | None = None
        self.own: dict[str, list[np.ndarray]] = {}

    def __call__(self, text: str, limit: int) -> list[np.ndarray]:
        for encoded in self.encoded:
            if text in encoded.index and encoded.has(text):
                return [encoded[text]]
        if text not in self.own:
            self.own[text] = self.encode(text, limit)
        return self.own[text]


@dataclass
class Task:
    """A query of an evaluation set and the scores of its candidates."""

    task: RankingTask
    cosine: np.ndarray
    lexical: np.ndarray
    start: np.ndarray
    base: np.ndarray
    under: dict[str, np.ndarray] = field(default_factory=dict)
    taus: list[float] = field(default_factory=list)

    def ndcg(self, scores: np.ndarray) -> float:
        """nDCG@10 of the candidates ordered by scores."""
        order = np.argsort(-scores, kind="stable")
        return ndcg([self.task.run[i] for i in order], self.task.relevance)

    def labels(self) -> np.ndarray:
        """Which candidates are relevant."""
        return np.array([self.task.relevance.get(d, 0.0) >= 1 for d in self.task.run[: len(self.base)]], float)


def judge_task(mini: Mini, texts: dict[str, str], task: RankingTask, instructions: dict[str, str]) -> Task:
    """Scores without and under each instruction, and Kendall's tau between input orders."""
    documents = [mini.document(texts[d]) for d in task.run[:CANDIDATES]]
    _, query, _ = mini.prefix(task.query)
    evidences = mini.evidences(task.query, documents)
    cosine = np.array([d.reading.mean @ query.mean for d in documents])
    plain = [(query.content @ d.reading.content.T).max(1).mean() if len(d.reading.content) else 0.0 for d in documents]
    start = 9 * cosine + 9 * evidences[:, 0] + 10 * np.array(plain) + 6 * evidences[:, 2]
    found = Task(task, cosine, evidences[:, 2], start, mini.score(task.query, documents, evidences=evidences).scores)
    for name, text in instructions.items():
        found.under[name] = mini.score(task.query, documents, text, evidences).scores
    rng = random.Random(1)
    for _ in range(ORDERS - 1):
        order = rng.sample(range(len(documents)), len(documents))
        shuffled = mini.score(task.query, [documents[i] for i in order], evidences=evidences[order]).scores
        found.taus.append(kendall(found.base[order], shuffled))
    return found


def judge_set(mini: Mini, data: Path, name: str, queries: int, profiled: int, instructions: dict[str, str]) -> list[Task]:
    """The first queries of a set by id; the first `profiled` of them under the instructions too."""
    texts, tasks = read_eval(data, name)
    chosen = sorted(tasks, key=lambda t: t.id)[:queries]
    return [judge_task(mini, texts, task, instructions if i < profiled else {}) for i, task in enumerate(chosen)]


def relevance_table(sets: dict[str, list[Task]]) -> dict[str, dict[str, list[float]]]:
    """nDCG@10 with intervals of the systems that need no other program."""
    systems: dict[str, Callable[[Task], np.ndarray]] = {
        "BM25": lambda t: -np.arange(len(t.base)),
        "MiniLM cosine": lambda t: t.cosine,
        "MiniLM + .1 BM25": lambda t: t.cosine + 0.1 * t.lexical / max(t.lexical.max(), 1e-9),
        "four evidences, untrained": lambda t: t.start,
        "podium-mini": lambda t: t.base,
    }
    return {s: {n: interval([t.ndcg(f(t)) for t in tasks]) for n, tasks in sets.items()} for s, f in systems.items()}


def profile_table(mini: Mini, sets: dict[str, list[Task]], instructions: dict[str, str]) -> dict:
    """By instruction: its gate, and by set nDCG@10 without, under it, and the largest change of a score."""
    table = {}
    for name, text in instructions.items():
        table[name] = {"gate": round(mini.gate_of(mini.states_of(text, PREFIX_TOKENS)[0]), 3)}
        for set_name, tasks in sets.items():
            some = [t for t in tasks if name in t.under]
            without, under = (float(np.mean([t.ndcg(f(t)) for t in some])) for f in (lambda t: t.base, lambda t: t.under[name]))
            table[name][set_name] = {"without": round(without, 4), "change": round(under - without, 4)}
    return table


def profile_slates(mini: Mini, profiles: dict[str, str]) -> dict[str, dict]:
    """By profile, over slates of two documents that fit the query, one of them as the profile asks, and one that
    does not fit: how often the wish is for the right one of the two; how often it is first, without and with; the
    median change of the difference between their scores; how often the third is first."""
    table: dict[str, dict] = {}
    slates = json.loads((Path(__file__).resolve().parent / "profile_slates.json").read_text(encoding="utf-8"))
    for name, text in profiles.items():
        found = []
        for slate in (slate for slate in slates if slate["profile"] == name):
            documents = [mini.document(text) for text in slate["documents"]]
            scored = mini.score(slate["query"], documents, text)
            right, off = slate["preferred"], slate["off_topic"]
            other = 3 - right - off
            change = scored.scores - scored.base
            found.append((scored.wish[right] > scored.wish[other], np.argmax(scored.base) == right, np.argmax(scored.scores) == right, change[right] - change[other], np.argmax(scored.scores) == off))
        if found:
            wished, without, under, change, off = np.array(found, float).T
            table[name] = {"slates": len(found), "wish right": int(wished.sum()), "first without": int(without.sum()), "first with": int(under.sum()), "change": round(float(np.median(change)), 3), "off topic first": int(off.sum())}
    return table


def gains(row: Row, scores: np.ndarray) -> float:
    """nDCG@10 of a slate; only grades 2 and 3 gain."""
    relevance = {str(i): float(g) for i, g in enumerate(row.grades) if g >= 2}
    if not relevance:
        return 0.0
    return ndcg([str(i) for i in np.argsort(-scores, kind="stable")], relevance)


@dataclass
class Judged:
    """A validation slate with and without its instruction."""

    row: Row
    gate: float
    without: np.ndarray
    scores: np.ndarray

    def first_is_right(self, scores: np.ndarray) -> bool:
        return self.row.grades[int(np.argmax(scores))] == 3

    def loss(self) -> float:
        return gains(self.row, self.without) - gains(self.row, self.scores)


def judge_rows(mini: Mini, rows: Sequence[Row]) -> list[Judged]:
    """Scores of every validation slate."""
    found = []
    for number, row in enumerate(rows):
        documents = [mini.document(text) for text in row.documents]
        scored = mini.score(row.query, documents, row.instruction)
        found.append(Judged(row, scored.gate, scored.base, scored.scores))
        if number % 500 == 499:
            print(f"{number + 1} of {len(rows)} validation slates", flush=True)
    return found


def instruction_figures(judged: Sequence[Judged], relevance: Callable[[np.ndarray], np.ndarray]) -> dict:
    """Hit@1 by kind with and without, twins, harm, and what neutral instructions change."""
    kinds, twins, families = defaultdict(list), defaultdict(list), defaultdict(list)
    for j in judged:
        kinds[j.row.family, j.row.kind].append(j)
        families[j.row.family].append(j)
        if j.row.family == DECIDING:
            twins[j.row.query, frozenset(j.row.documents)].append(j)
    twin_groups = [group for group in twins.values() if len(group) > 1]

    def share(some: Sequence[bool]) -> float:
        return round(float(np.mean(some)), 4) if len(some) else float("nan")

    table = {
        kind: {
            "slates": len(some),
            "with": share([j.first_is_right(j.scores) for j in some]),
            "without": share([j.first_is_right(j.without) for j in some]),
            "gate above 0": share([j.gate > 0 for j in some]),
        }
        for (family, kind), some in sorted(kinds.items())
        if family in (DECIDING, PREFERENCE)
    }
    neutral = families[NEUTRAL]
    changes = [float(np.abs(relevance(j.scores) - relevance(j.without)).max()) for j in neutral]
    return {
        "kinds": table,
        "deciding": {k: share([j.first_is_right(getattr(j, a)) for j in families[DECIDING]]) for k, a in (("with", "scores"), ("without", "without"))},
        "preference": {k: share([j.first_is_right(getattr(j, a)) for j in families[PREFERENCE]]) for k, a in (("with", "scores"), ("without", "without"))},
        "twins all right": {
            "with": share([all(j.first_is_right(j.scores) for j in g) for g in twin_groups]),
            "without": share([all(j.first_is_right(j.without) for j in g) for g in twin_groups]),
            "groups": len(twin_groups),
        },
        "harm": {
            "deciding": share([j.loss() > HARM for j in families[DECIDING]]),
            "preference": share([j.loss() > HARM for j in families[PREFERENCE]]),
            "neutral": share([j.loss() > HARM for j in neutral]),
        },
        "neutral": {
            "slates": len(neutral),
            "gate above 0": share([j.gate > 0 for j in neutral]),
            "first unchanged": share([int(np.argmax(j.scores)) == int(np.argmax(j.without)) for j in neutral]),
            "relevance within .02": share([c <= 0.02 for c in changes]),
        },
    }


def fit_calibration(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """(scale, bias) of the logistic curve that fits the labels best (Newton's method)."""
    design = np.stack([scores, np.ones_like(scores)], 1)
    found = np.array([1.0, 0.0])
    for _ in range(50):
        share = 1 / (1 + np.exp(-design @ found))
        curve = (design * (weights * share * (1 - share))[:, None]).T @ design + 1e-6 * np.eye(2)
        found += np.linalg.solve(curve, design.T @ (weights * (labels - share)))
    return float(found[0]), float(found[1])


def calibrate(sets: dict[str, list[Task]], judged: Sequence[Judged]) -> tuple[float, float]:
    """The calibration over the sets and the validation slates without and with instruction, each weighing 1."""
    parts = [(np.concatenate([t.base for t in tasks]), np.concatenate([t.labels() for t in tasks])) for tasks in sets.values()]
    for families in ((PLAIN, NEUTRAL), (DECIDING,)):
        some = [j for j in judged if j.row.family in families]
        parts.append((np.concatenate([j.scores for j in some]), np.concatenate([np.array(j.row.grades) >= 2 for j in some]).astype(float)))
    weights = np.concatenate([np.full(len(s), 1 / len(s)) for s, _ in parts])
    return fit_calibration(np.concatenate([s for s, _ in parts]), np.concatenate([y for _, y in parts]), weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    parser.add_argument("--profiles", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="an exported model")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--profiled", type=int, default=100, help="queries of each set that are tried under the profiles")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    kept = Kept(options.work, ["eval-documents", "eval-prefixes", "train-documents", "train-prefixes"])
    if options.model:
        mini = read_exported(options.model, kept)
    else:
        mini = read_trained(options.weights, options.work, options.lexical, options.seed, options.members, kept)
    kept.encode = mini.encode
    profiles = {n: p["text"] for n, p in tomllib.loads(options.profiles.read_text(encoding="utf-8")).items()}
    instructions = profiles | {f"neutral {i}": text for i, text in enumerate(NEUTRAL_ON_SETS, 1)}
    sets = {n: judge_set(mini, options.data, n, options.queries, options.profiled, instructions) for n in EVAL_SETS}
    figures: dict = {"relevance": relevance_table(sets)}
    for system, row in figures["relevance"].items():
        print(f"{system:26s}", " ".join(f"{v[0]:.3f}" for v in row.values()), f"mean {np.mean([v[0] for v in row.values()]):.4f}", flush=True)
    taus = [tau for tasks in sets.values() for task in tasks for tau in task.taus]
    figures["order"] = {"mean": round(float(np.mean(taus)), 5), "least": round(float(np.min(taus)), 5)}
    figures["profiles"] = profile_table(mini, sets, instructions)
    for name, row in figures["profiles"].items():
        print(f"{name:12s}", row["gate"], {k: v["change"] for k, v in row.items() if k != "gate"}, flush=True)
    figures["profile slates"] = profile_slates(mini, profiles)
    print(json.dumps(figures["profile slates"]), flush=True)
    judged = judge_rows(mini, [row for row in read_rows(options.data) if row.valid])
    scale, bias = calibrate(sets, judged)

    def relevance(scores: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(scale * scores + bias)))

    figures["calibration"] = {"scale": round(scale, 4), "bias": round(bias, 4)}
    figures["validation slates"] = len(judged)
    figures["instructions"] = instruction_figures(judged, relevance)
    labels = {name: np.concatenate([t.labels() for t in tasks]) for name, tasks in sets.items()}
    plain = {n: calibration_error(relevance(np.concatenate([t.base for t in tasks])), labels[n]) for n, tasks in sets.items()}
    figures["ece"] = {"without": {n: round(e, 4) for n, e in plain.items()}}
    some = [j for j in judged if j.row.family == DECIDING]
    deciding = (np.concatenate([j.scores for j in some]), np.concatenate([np.array(j.row.grades) >= 2 for j in some]).astype(float))
    figures["ece"]["deciding validation slates"] = round(calibration_error(relevance(deciding[0]), deciding[1]), 4)
    under = {}
    for name, tasks in sets.items():
        some = [t for t in tasks if t.under]
        errors = [calibration_error(relevance(np.concatenate([t.under[i] for t in some])), np.concatenate([t.labels() for t in some])) for i in profiles]
        under[name] = round(float(max(errors)), 4)
    figures["ece"]["highest under a profile"] = under
    print(json.dumps({k: v for k, v in figures.items() if k not in ("relevance", "profiles")}, indent=1), flush=True)
    (options.work / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
