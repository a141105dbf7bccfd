"""Trains the gate: 0 for instructions that ask for nothing in particular, little for preferences, 1 for demands.

    python gate.py --data DATA --work WORK [--seed 1]

Three classes: neutral rows and written neutral instructions; preference rows, written ones and the stored
profiles; deciding rows and written demands. It reads only the instruction's states, reduced to principal
components, so a run takes a minute or two.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from encoder import HIDDEN
from instructed import DECIDING, NEUTRAL, PREFERENCE, read_rows
from model import Gate, Reduction
from states import Encoded, profile_texts

STEPS, BATCH, RATE, DECAY = 1600, 160, 5e-3, 0.3
DROPOUT, TOKEN_DROPOUT, AVERAGE = 0.5, 0.2, 0.99
COMPONENTS, SAMPLE = 128, 16_000
SHARES = {"deciding": 0.36, "asking": 0.08, "preference": 0.05, "preferring": 0.06, "profiles": 0.03, "neutral": 0.22, "written": 0.2}
NEUTRAL_CLASS, PREFERENCE_CLASS, DECIDING_CLASS = range(3)
CLASSES = {
    "deciding": DECIDING_CLASS,
    "asking": DECIDING_CLASS,
    "preference": PREFERENCE_CLASS,
    "preferring": PREFERENCE_CLASS,
    "profiles": PREFERENCE_CLASS,
    "neutral": NEUTRAL_CLASS,
    "written": NEUTRAL_CLASS,
}


def padded(states: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """States of several texts as one f32 block, and which places are real."""
    longest = max(map(len, states))
    block = np.zeros((len(states), longest, states[0].shape[1]), np.float32)
    for i, s in enumerate(states):
        block[i, : len(s)] = s
    real = torch.arange(longest)[None] < torch.tensor([len(s) for s in states])[:, None]
    return torch.from_numpy(block), real


def gate_values(gate: Gate, states: list[np.ndarray], batch: int = 128) -> np.ndarray:
    """The gate of many instructions."""
    with torch.no_grad():
        return torch.cat([gate(*padded(states[i : i + batch])) for i in range(0, len(states), batch)]).numpy()


def expand(gate: Gate, reduction: Reduction) -> Gate:
    """The gate of full states, from one trained on reduced states."""
    matrix = torch.from_numpy(reduction.matrix / reduction.spread[:, None])
    moved = -torch.from_numpy(reduction.center) @ matrix
    full, state = Gate(), gate.state_dict()
    for name in ("importance", "first"):
        parts = state[f"{name}.weight"].split(COMPONENTS, 1)
        state[f"{name}.weight"] = torch.cat([part @ matrix.T for part in parts], 1)
        state[f"{name}.bias"] = state[f"{name}.bias"] + sum(part @ moved for part in parts)
    full.load_state_dict(state)
    return full.eval()


def read_gate(work: Path) -> Gate:
    """The trained gate."""
    gate = Gate()
    gate.load_state_dict(load_file(str(work / "gate.safetensors")))
    return gate.eval()


def examples(data: Path, work: Path) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """States of training and validation instructions by class; validation has the wordings of validation rows only."""
    prefixes = Encoded(work, "train-prefixes")
    found: dict[bool, dict[str, dict[str, None]]] = {v: {c: {} for c in SHARES} for v in (False, True)}
    classes = {DECIDING: "deciding", NEUTRAL: "neutral", PREFERENCE: "preference"}
    rows = read_rows(data)
    trained = {row.instruction for row in rows if not row.valid}
    for row in rows:
        if row.family in classes and row.valid != (row.instruction in trained):
            found[row.valid][classes[row.family]][row.instruction] = None
    train, valid = ({c: [prefixes[t] for t in texts] for c, texts in found[v].items()} for v in (False, True))
    for name in ("written", "asking", "preferring"):
        store = Encoded(work, "gate-wordings" if name == "written" else f"gate-{name}")
        states = [store[text] for text in store.texts]
        held = len(states) // 10
        train[name], valid[name] = states[:-held], states[-held:]
    store = Encoded(work, "gate-preferring")
    train["profiles"] = valid["profiles"] = [store[text] for text in profile_texts()]
    return train, valid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pause", type=Path, help="wait while this file exists")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    train, valid = examples(options.data, options.work)
    print({c: (len(train[c]), len(valid[c])) for c in SHARES}, flush=True)
    tokens = np.concatenate([states for c in SHARES for states in train[c]])
    reduction = Reduction.fit(tokens[np.random.default_rng(0).permutation(len(tokens))[:SAMPLE]], ((2 * HIDDEN, COMPONENTS),))
    train, valid = ({c: [reduction(states) for states in part[c]] for c in SHARES} for part in (train, valid))
    gate, average = Gate(COMPONENTS), Gate(COMPONENTS)
    average.load_state_dict(gate.state_dict())
    optimizer = torch.optim.AdamW(gate.parameters(), RATE, weight_decay=DECAY)
    for step in range(options.steps):
        while options.pause and options.pause.exists():
            time.sleep(2)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        chosen = rng.choices(list(SHARES), SHARES.values(), k=BATCH)
        block, real = padded([rng.choice(train[c]) for c in chosen])
        logits = gate.logits(F.dropout(block, TOKEN_DROPOUT), real, DROPOUT)
        loss = F.cross_entropy(logits, torch.tensor([CLASSES[c] for c in chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            keep = min(AVERAGE, step / (step + 20))
            for mean, current in zip(average.parameters(), gate.parameters(), strict=True):
                mean.lerp_(current, 1 - keep)
        if step % 400 == 399 or step + 1 == options.steps:
            values = {c: gate_values(average, states) for c, states in valid.items() if states}
            shown = {c: (round(float((v > 0).mean()), 3), round(float(v.mean()), 3)) for c, v in values.items()}
            print(f"step {step + 1} loss {loss.item():.3f} share above 0, mean: {shown}", flush=True)
    temporary = options.work / "gate.tmp"
    save_file(expand(average, reduction).state_dict(), str(temporary))
    os.replace(temporary, options.work / "gate.safetensors")


if __name__ == "__main__":
    main()
