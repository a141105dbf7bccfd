"""Trains the gate: 0 for instructions that ask for nothing in particular, little for preferences, 1 for demands.

    python gate.py --data DATA --work WORK [--seed 1]

Three classes: neutral rows and written neutral instructions; preference rows, written ones and the stored
profiles; deciding rows and written demands. It reads only the instruction's states, so a run takes minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from encoder import HIDDEN
from instructed import DECIDING, NEUTRAL, PREFERENCE, read_rows
from model import Gate
from states import Encoded, profile_texts

STEPS, BATCH, RATE = 500, 160, 1e-3
SHARES = {"deciding": 0.3, "asking": 0.08, "preference": 0.07, "preferring": 0.08, "profiles": 0.04, "neutral": 0.19, "written": 0.24}
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
    block = np.zeros((len(states), longest, 2 * HIDDEN), np.float32)
    for i, s in enumerate(states):
        block[i, : len(s)] = s
    real = torch.arange(longest)[None] < torch.tensor([len(s) for s in states])[:, None]
    return torch.from_numpy(block), real


def gate_values(gate: Gate, states: list[np.ndarray], batch: int = 128) -> np.ndarray:
    """The gate of many instructions."""
    with torch.no_grad():
        return torch.cat([gate(*padded(states[i : i + batch])) for i in range(0, len(states), batch)]).numpy()


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
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    train, valid = examples(options.data, options.work)
    print({c: (len(train[c]), len(valid[c])) for c in SHARES}, flush=True)
    gate = Gate()
    optimizer = torch.optim.AdamW(gate.parameters(), RATE, weight_decay=0.3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        chosen = rng.choices(list(SHARES), SHARES.values(), k=BATCH)
        block, real = padded([rng.choice(train[c]) for c in chosen])
        block = F.dropout(block, 0.4)
        loss = F.cross_entropy(gate.logits(block, real), torch.tensor([CLASSES[c] for c in chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 249 or step + 1 == STEPS:
            values = {c: gate_values(gate.eval(), states) for c, states in valid.items()}
            shown = {c: (round(float((v > 0).mean()), 3), round(float(v.mean()), 3)) for c, v in values.items()}
            print(f"step {step + 1} loss {loss.item():.3f} share above 0, mean: {shown}", flush=True)
            gate.train()
    save_file(gate.state_dict(), str(options.work / "gate.safetensors"))


if __name__ == "__main__":
    main()
