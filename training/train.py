"""Trains the wish on slates with instructions; encoder and base stay as they are.

    python train.py --data DATA --weights MINILM --work WORK --lexical LEXICAL.safetensors [--steps 2000] [--seed 1]

Reads what states.py, gate.py and features.py left in WORK. A checkpoint is written every two
minutes (WORK/wish-SEED.pt), and a run that was killed goes on from it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from features import Features, read_features, read_similarities
from instructed import DECIDING, NEUTRAL, PREFERENCE, Row, read_rows
from model import DIGEST, Pairs, Wish

LISTWISE_SCALE = 3.0
ODDS_WEIGHT, SECOND_WEIGHT, NEUTRAL_WEIGHT = 0.5, 0.3, 0.5
DOCUMENTS = 7
ROWS = 48
NEUTRAL_SHARE = 0.1
RATE, WARM_UP, DECAY = 2e-3, 60, 0.2
AVERAGE = 0.995


@dataclass
class Slate:
    """A row ready to train on: states are looked up by `row`'s texts; `base` is the base score."""

    row: Row
    base: np.ndarray
    scalars: np.ndarray
    similarities: np.ndarray


@dataclass
class Data:
    """Slates by split, training slates grouped by query and documents; neutral instructions."""

    groups: list[list[Slate]]
    valid: list[Slate]
    features: Features
    digests: np.ndarray
    places: dict[str, int]
    neutral: list[str]
    written: list[str]
    known: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def read(data: Path, weights: Path, work: Path, lexical: Path) -> Data:
        rows = read_rows(data)
        together, valid = defaultdict(list), []
        similarities = read_similarities(work / "similarities.npz")
        for number, (base, scalars) in read_features(work / "features.npz").items():
            row = rows[number]
            if row.family in (DECIDING, PREFERENCE):
                slate = Slate(row, base, scalars, similarities[number].reshape(len(base), -1, 2))
                if row.valid:
                    valid.append(slate)
                else:
                    together[row.query, frozenset(row.documents)].append(slate)
        neutral = sorted({row.instruction for row in rows if row.family == NEUTRAL and not row.valid})
        features = Features(work, weights, lexical, "train-documents", ["train-prefixes", "gate-wordings"])
        digests = np.fromfile(work / "digests.f16", np.float16).reshape(-1, DIGEST)
        places = {text: i for i, text in enumerate(json.loads((work / "digests.json").read_text()))}
        return Data(list(together.values()), valid, features, digests, places, neutral, features.prefixes[1].texts)

    def prefix(self, text: str) -> np.ndarray:
        """The digest of a query or an instruction."""
        if text not in self.known:
            self.known[text] = self.features.digest(text)
        return self.known[text]


@dataclass
class Example:
    """A slate's chosen documents under an instruction; `neutral` if the instruction was exchanged for a neutral one."""

    slate: Slate
    instruction: str
    chosen: list[int]
    neutral: bool = False


def choose(rng: random.Random, group: list[Slate]) -> list[str]:
    """Documents of a group of twins: those right under one of the instructions first, `DOCUMENTS` at most."""
    best: dict[str, int] = defaultdict(int)
    for slate in group:
        for document, grade in zip(slate.row.documents, slate.row.grades, strict=True):
            best[document] = max(best[document], grade)
    texts = list(best)
    rng.shuffle(texts)
    right = [t for t in texts if best[t] == 3][: DOCUMENTS - 2]
    second = [t for t in texts if best[t] in (1, 2)]
    others = [t for t in texts if best[t] == 0]
    room = DOCUMENTS - len(right)
    some = second[: max(room - 2, room - len(others))]
    return right + some + others[: room - len(some)]


def draw(rng: random.Random, data: Data) -> list[Example]:
    """A batch: groups of twins until it has `ROWS` slates."""
    batch: list[Example] = []
    while len(batch) < ROWS:
        group = rng.choice(data.groups)
        chosen = set(choose(rng, group))
        for slate in rng.sample(group, min(3, len(group))):
            places = [i for i, text in enumerate(slate.row.documents) if text in chosen]
            if not any(slate.row.grades[i] == 3 for i in places):
                continue
            batch.append(Example(slate, slate.row.instruction, places))
            if rng.random() < NEUTRAL_SHARE:
                text = rng.choice(data.neutral if rng.random() < 0.5 else data.written)
                batch.append(Example(slate, text, places, True))
    return batch


def scalars_of(data: Data, example: Example) -> np.ndarray:
    """The wish's scalars; computed here only for an exchanged instruction."""
    slate = example.slate
    if not example.neutral:
        return slate.scalars[example.chosen]
    texts = [slate.row.documents[i] for i in example.chosen]
    query = slate.row.query
    found = [data.features.scalars(example.instruction, t, data.features.evidence(query, t)) for t in texts]
    return np.array(found, np.float32)


def similarities_of(data: Data, example: Example) -> np.ndarray:
    """Similarities of the instruction's tokens; computed here only for an exchanged instruction."""
    slate = example.slate
    if not example.neutral:
        return slate.similarities[example.chosen]
    return data.features.similarities(example.instruction, [slate.row.documents[i] for i in example.chosen])


def collate(data: Data, examples: list[Example], device: str) -> Pairs:
    """The inputs of the wish for all chosen documents."""
    return Pairs.of(
        [data.prefix(e.slate.row.query) for e in examples],
        [data.prefix(e.instruction) for e in examples],
        [data.features.prefix_states(e.instruction) for e in examples],
        [data.digests[[data.places[e.slate.row.documents[i]] for i in e.chosen]] for e in examples],
        [scalars_of(data, e) for e in examples],
        [similarities_of(data, e) for e in examples],
        device,
    )


def listwise(scores: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Each right document against all wrong ones, averaged over the right ones."""
    against = torch.logsumexp(scores[wrong], 0)
    return (torch.logaddexp(scores[right], against) - scores[right]).mean()


def loss_of(examples: list[Example], wishes: Tensor) -> tuple[Tensor, dict[str, list[float]]]:
    """The mean loss of the examples, and what to report."""
    total, at, report = wishes.new_zeros(()), 0, defaultdict(list)
    for example in examples:
        wish = wishes[at : at + len(example.chosen)]
        at += len(example.chosen)
        if example.neutral:
            total = total + NEUTRAL_WEIGHT * wish.square().mean()
            report["neutral size"].append(float(wish.detach().abs().mean()))
            continue
        row = example.slate.row
        grades = torch.tensor([row.grades[i] for i in example.chosen], device=wish.device)
        scores = torch.from_numpy(example.slate.base[example.chosen]).to(wish.device) + wish
        if bool((grades < 3).any()):
            total = total + listwise(LISTWISE_SCALE * scores, grades == 3, grades < 3)
        if bool((grades == 2).any()) and bool((grades < 2).any()):
            total = total + SECOND_WEIGHT * listwise(LISTWISE_SCALE * scores, grades == 2, grades < 2)
        target = (grades >= 2).float()
        total = total + ODDS_WEIGHT * F.binary_cross_entropy_with_logits(scores, target)
        name = "deciding" if row.family == DECIDING else "preference"
        report[name].append(float(grades[scores.argmax()] == 3))
    return total / len(examples), report


@torch.no_grad()
def score_valid(data: Data, wish: Wish, device: str, rows: int = 100) -> list[np.ndarray]:
    """The wish for every document of the validation slates."""
    wish.eval()
    found = []
    for first in range(0, len(data.valid), rows):
        slates = data.valid[first : first + rows]
        examples = [Example(s, s.row.instruction, list(range(len(s.row.documents)))) for s in slates]
        wishes = wish(collate(data, examples, device)).cpu().numpy()
        found += np.split(wishes, np.cumsum([len(e.chosen) for e in examples])[:-1])
    wish.train()
    return found


def is_right(scores: np.ndarray, grades: tuple[int, ...]) -> bool:
    """Whether the first document has grade 3."""
    return grades[int(np.argmax(scores))] == 3


def summary(data: Data, wishes: list[np.ndarray]) -> dict[str, float]:
    """Hit@1 with and without the wish, and the share of twins that are both right."""
    right, twins = defaultdict(list), defaultdict(list)
    for slate, wish in zip(data.valid, wishes, strict=True):
        row = slate.row
        name = "deciding" if row.family == DECIDING else "preference"
        good = is_right(slate.base + wish, row.grades)
        right[name].append(good)
        right[name + " without"].append(is_right(slate.base, row.grades))
        right[row.kind].append(good)
        if row.family == DECIDING:
            twins[row.query, frozenset(row.documents)].append(good)
    both = [all(goods) for goods in twins.values() if len(goods) > 1]
    return {**{k: round(float(np.mean(v)), 3) for k, v in sorted(right.items())}, "twins": round(float(np.mean(both)), 3)}


@dataclass
class Run:
    """The state of a training run, as a checkpoint holds it."""

    wish: Wish
    average: Wish
    optimizer: torch.optim.Optimizer
    rng: random.Random
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        state = {
            "wish": self.wish.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.getstate(),
            "torch": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)
        self.wish.load_state_dict(state["wish"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.setstate(state["rng"])
        torch.set_rng_state(state["torch"])
        self.step, self.seconds = state["step"], state["seconds"]


def train_step(run: Run, data: Data, steps: int, device: str) -> dict[str, list[float]]:
    """One step of AdamW under a cosine schedule; the averaged weights follow."""
    share = min(1, (run.step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * run.step / steps)))
    for group in run.optimizer.param_groups:
        group["lr"] = RATE * share
    examples = draw(run.rng, data)
    wishes = run.wish(collate(data, examples, device))
    loss, report = loss_of(examples, wishes)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.wish.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    with torch.no_grad():
        keep = min(AVERAGE, run.step / (run.step + 20))
        for mean, current in zip(run.average.parameters(), run.wish.parameters(), strict=True):
            mean.lerp_(current, 1 - keep)
    report["loss"].append(loss.item())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    data = Data.read(options.data, options.weights, options.work, options.lexical)
    print(f"{len(data.groups)} groups, {sum(map(len, data.groups))} slates, {len(data.valid)} validation slates", flush=True)
    wish, average = Wish().to(options.device), Wish().to(options.device)
    sample = sorted(data.features.prefixes[0].index)[::10]
    tokens = np.concatenate([data.features.prefix_states(text)[1:-1] for text in sample])
    wish.standardise(data.digests[::10], np.stack([data.features.digest(text) for text in sample]), tokens)
    average.load_state_dict(wish.state_dict())
    optimizer = torch.optim.AdamW(wish.parameters(), RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    run = Run(wish, average, optimizer, random.Random(options.seed))
    checkpoint = options.work / f"wish-{options.seed}.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed at step {run.step}", flush=True)
    recent, saved = defaultdict(list), time.time()
    while run.step < options.steps:
        began = time.process_time()
        for name, values in train_step(run, data, options.steps, options.device).items():
            recent[name] += values
        run.seconds += time.process_time() - began
        if run.step % 25 == 0:
            shown = " ".join(f"{k} {np.mean(v[-400:]):.3f}" for k, v in sorted(recent.items()))
            print(f"step {run.step} {run.seconds:.0f} CPU s {shown}", flush=True)
            recent = defaultdict(list, {k: v[-400:] for k, v in recent.items()})
        if time.time() - saved > 60:
            run.save(checkpoint)
            saved = time.time()
        if run.step % 400 == 0 or run.step == options.steps:
            print(json.dumps(summary(data, score_valid(data, run.average, options.device))), flush=True)
    run.save(checkpoint)


if __name__ == "__main__":
    main()
