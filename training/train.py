"""Trains the wish on slates with instructions; encoder and base stay as they are.

    python train.py --data DATA --work WORK [--steps 2000] [--seed 1]

Reads what states.py and features.py left in WORK. Digests and tokens are reduced to their principal components
first (WORK/inputs.npz), which makes a step cheap; export.py expands the trained weights again. A checkpoint is
written every minute (WORK/wish-SEED.pt), and a run that was killed goes on from it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from explicit import DOCUMENT_FACTS
from features import RowFeatures, read_features, read_matches
from instructed import DECIDING, PREFERENCE, Row, read_rows
from model import DIGEST, Pairs, Reduction, Wish, digest_states
from states import Encoded

LISTWISE_SCALE = 3.0
ODDS_WEIGHT, SECOND_WEIGHT = 0.5, 0.3
DOCUMENTS = 6
ROWS = 48
RATE, WARM_UP, DECAY = 2e-3, 60, 0.2
AVERAGE = 0.995
PREFERENCE_SHARE = 0.3
"""Preferences count little (the gate), so only this share of their groups is drawn."""
BLOCKS = {"document": ((1152, 128), (384, 128)), "prefix": ((1152, 64), (384, 128)), "token": ((768, 128),)}
"""Columns and principal components that training reads: of a digest's states after layer 3, then 6; of a token."""
REDUCED = {name: sum(width for _, width in blocks) for name, blocks in BLOCKS.items()}
SAMPLE = 8000
LEAST_SPREAD = 0.05


@dataclass
class Slate:
    """A row ready to train on: states are looked up by `row`'s texts."""

    row: Row
    features: RowFeatures
    matches: np.ndarray


@dataclass
class Data:
    """Slates by split, training slates grouped by query and documents; reduced inputs by text."""

    groups: list[list[Slate]]
    valid: list[Slate]
    reductions: dict[str, Reduction]
    documents: np.ndarray
    places: dict[str, int]
    digests: dict[str, np.ndarray]
    contents: dict[str, np.ndarray]

    @staticmethod
    def read(data: Path, work: Path) -> Data:
        rows = read_rows(data)
        together, valid = defaultdict(list), []
        matches = read_matches(work / "matches.npz")
        for number, features in read_features(work / "features.npz").items():
            row = rows[number]
            if row.family in (DECIDING, PREFERENCE):
                slate = Slate(row, features, matches[number])
                if row.valid:
                    valid.append(slate)
                else:
                    together[row.query, frozenset(row.documents)].append(slate)
        groups = list(together.values())
        slates = [slate for group in [*groups, valid] for slate in group]
        if not (work / "inputs.npz").exists():
            write_inputs(work, slates)
        kept = np.load(work / "inputs.npz")
        reductions = {n: Reduction(*(kept[f"{n}_{part}"] for part in ("center", "spread", "matrix"))) for n in REDUCED}
        places = {text: i for i, text in enumerate(json.loads((work / "digests.json").read_text()))}
        queries, instructions = (sorted({getattr(s.row, name) for s in slates}) for name in ("query", "instruction"))
        digests = dict(zip(sorted({*queries, *instructions}), kept["digests"], strict=True))
        contents = dict(zip(instructions, np.split(kept["contents"], kept["ends"][:-1]), strict=True))
        return Data(groups, valid, reductions, kept["documents"], places, digests, contents)


def write_inputs(work: Path, slates: list[Slate]) -> None:
    """WORK/inputs.npz: reductions and reduced inputs; prefixes and instructions in sorted order."""
    rng = np.random.default_rng(0)
    encoded = Encoded(work, "train-prefixes")
    instructions = sorted({slate.row.instruction for slate in slates})
    prefixes = sorted({slate.row.query for slate in slates} | set(instructions))
    tokens = [np.asarray(encoded[text][1:-1]) for text in instructions]
    full = {
        "document": np.fromfile(work / "digests.f16", np.float16).reshape(-1, DIGEST),
        "prefix": np.stack([digest_states(encoded[text]) for text in prefixes]),
        "token": np.concatenate(tokens),
    }
    written, names = {}, {"document": "documents", "prefix": "digests", "token": "contents"}
    for name, rows in full.items():
        reduction = Reduction.fit(rows[rng.permutation(len(rows))[: (1 + (name == "token")) * SAMPLE]], BLOCKS[name])
        written |= {f"{name}_{part}": getattr(reduction, part) for part in ("center", "spread", "matrix")}
        written[names[name]] = np.concatenate([reduction(part) for part in np.array_split(rows, 1 + len(rows) // 4096)])
    temporary = work / "inputs.tmp.npz"
    np.savez(temporary, ends=np.cumsum(list(map(len, tokens))), **written)
    os.replace(temporary, work / "inputs.npz")


@dataclass
class Example:
    """A slate and its chosen documents."""

    slate: Slate
    chosen: list[int]


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
        if group[0].row.family == PREFERENCE and rng.random() >= PREFERENCE_SHARE:
            continue
        chosen = set(choose(rng, group))
        for slate in rng.sample(group, min(3, len(group))):
            places = [i for i, text in enumerate(slate.row.documents) if text in chosen]
            if any(slate.row.grades[i] == 3 for i in places):
                batch.append(Example(slate, places))
    return batch


def collate(data: Data, examples: list[Example], device: str) -> Pairs:
    """The wish's inputs for a batch."""
    return Pairs.of(
        [data.digests[e.slate.row.query] for e in examples],
        [data.digests[e.slate.row.instruction] for e in examples],
        [data.contents[e.slate.row.instruction] for e in examples],
        [data.documents[[data.places[e.slate.row.documents[i]] for i in e.chosen]] for e in examples],
        [e.slate.features.scalars[e.chosen] for e in examples],
        [e.slate.features.facts[e.chosen] for e in examples],
        [e.slate.matches[e.chosen] for e in examples],
        device,
    )


def listwise(scores: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Each right document against all wrong ones, averaged over the right ones: [slates]."""
    scaled = LISTWISE_SCALE * scores
    against = scaled.masked_fill(~wrong, -1e4).logsumexp(1, keepdim=True)
    losses = (torch.logaddexp(scaled, against) - scaled) * (right & wrong.any(1, keepdim=True))
    return losses.sum(1) / right.sum(1).clamp(min=1)


def loss_of(examples: list[Example], wishes: Tensor) -> tuple[Tensor, dict[str, list[float]]]:
    """The mean loss of the examples, and the share with a right document first by family."""
    longest = max(len(e.chosen) for e in examples)
    grades = np.full((len(examples), longest), -1)
    base = np.zeros((len(examples), longest), np.float32)
    for i, e in enumerate(examples):
        grades[i, : len(e.chosen)] = [e.slate.row.grades[place] for place in e.chosen]
        base[i, : len(e.chosen)] = e.slate.features.base[e.chosen]
    grades = torch.from_numpy(grades).to(wishes.device)
    real = grades >= 0
    scores = torch.zeros(grades.shape, device=wishes.device).masked_scatter(real, wishes) + torch.from_numpy(base).to(wishes.device)
    odds = F.binary_cross_entropy_with_logits(scores, (grades >= 2).float(), reduction="none") * real
    total = listwise(scores, grades == 3, real & (grades < 3)) + ODDS_WEIGHT * odds.sum(1) / real.sum(1)
    total = total + SECOND_WEIGHT * listwise(scores, grades == 2, real & (grades < 2))
    first = grades.gather(1, scores.masked_fill(~real, -1e9).argmax(1, keepdim=True))[:, 0] == 3
    report = defaultdict(list)
    for e, right in zip(examples, first.tolist(), strict=True):
        report["deciding" if e.slate.row.family == DECIDING else "preference"].append(float(right))
    return total.mean(), report


@torch.no_grad()
def score_valid(data: Data, wish: Wish, device: str, rows: int = 100) -> list[np.ndarray]:
    """The wish for every document of the validation slates."""
    wish.eval()
    found = []
    for first in range(0, len(data.valid), rows):
        examples = [Example(s, list(range(len(s.row.documents)))) for s in data.valid[first : first + rows]]
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
        good = is_right(slate.features.base + wish, row.grades)
        right[name].append(good)
        right[name + " without"].append(is_right(slate.features.base, row.grades))
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


def read_wish(work: Path, seed: int, members: int) -> Wish:
    """The averaged wishes of `members` training runs, from `seed` on, as one for full inputs."""
    kept, wishes = np.load(work / "inputs.npz"), []
    reductions = {n: Reduction(*(kept[f"{n}_{part}"] for part in ("center", "spread", "matrix"))) for n in REDUCED}
    for number in range(seed, seed + members):
        wish = Wish(*REDUCED.values())
        wish.load_state_dict(torch.load(work / f"wish-{number}.pt", weights_only=False)["average"])
        wishes.append(wish.expand(reductions))
    return Wish.stack(wishes)


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
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pause", type=Path, help="wait while this file exists")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    data = Data.read(options.data, options.work)
    print(f"{len(data.groups)} groups, {sum(map(len, data.groups))} slates, {len(data.valid)} validation slates", flush=True)
    wish, average = (Wish(*REDUCED.values()).to(options.device) for _ in range(2))
    facts = np.concatenate([slate.features.facts for group in data.groups for slate in group])
    facts = facts[:, :DOCUMENT_FACTS]
    wish.facts_center[:DOCUMENT_FACTS] = torch.from_numpy(facts.mean(0))
    wish.facts_spread[:DOCUMENT_FACTS] = torch.from_numpy(np.maximum(facts.std(0), LEAST_SPREAD))
    average.load_state_dict(wish.state_dict())
    optimizer = torch.optim.AdamW(wish.parameters(), RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    run = Run(wish, average, optimizer, random.Random(options.seed))
    checkpoint = options.work / f"wish-{options.seed}.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"resumed at step {run.step}", flush=True)
    recent, saved = defaultdict(list), time.time()
    while run.step < options.steps:
        while options.pause and options.pause.exists():
            time.sleep(2)
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
