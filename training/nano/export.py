"""Writes the files of the model: 8-bit weights, config, tokenizer, background table.

    python export.py --data DATA --work WORK --out OUT --blend 1.0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from lexical import LexicalTable, write_fixture
from model import Controls, Reranker, Shape
from slates import SlateMaker
from tokenizer import EMBED, END, INSTRUCT, RERANK, START
from train import Workspace, blend, controls_of, untrained

LIMIT_BYTES = 16 * 1024 * 1024
JOINT_LAYERS = 1
CALIBRATION_SLATES = 160
HELD_OUT_SLATES = 150
BLENDS = (0.0, 0.5, 0.75, 1.0)


def quantise(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit rows: values = int8 * scale[row]."""
    scale = np.abs(matrix).max(1) / 127
    scale[scale == 0] = 1
    return np.clip(np.rint(matrix / scale[:, None]), -127, 127).astype(np.int8), scale.astype(np.float32)


def write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """`model.safetensors`: I8 matrices with F32 `<name>.scale`, F32 norms."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in state.items():
        array = tensor.float().cpu().numpy()
        if array.ndim == 2:
            tensors[name], tensors[f"{name}.scale"] = quantise(array)
        else:
            tensors[name] = array
    save_file(tensors, str(path), {"format": "pt"})


def read_model(folder: Path) -> tuple[Reranker, Tokenizer, LexicalTable, dict]:
    """An exported model, its weights back in float32, and its config."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = Shape.__dataclass_fields__
    controls = Controls(*[tokenizer.token_to_id(t) for t in (START, END, RERANK, INSTRUCT, EMBED[0])])
    model = Reranker(Shape(**{k: v for k, v in config.items() if k in names}), controls)
    tensors = load_file(str(folder / "model.safetensors"))
    state = {}
    for name, array in tensors.items():
        if not name.endswith(".scale"):
            value = array.astype(np.float32)
            if array.dtype == np.int8:
                value = value * tensors[f"{name}.scale"][:, None]
            state[name] = torch.from_numpy(value)
    model.load_state_dict(state)
    return model.eval(), tokenizer, LexicalTable.load(folder / "lexical.safetensors"), config


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(scale, bias) of the logistic curve that fits the labels best (Newton's method)."""
    design = np.stack([scores, np.ones_like(scores)], 1)
    weight = np.zeros(2)
    for _ in range(50):
        share = 1 / (1 + np.exp(-design @ weight))
        curve = (design * (share * (1 - share))[:, None]).T @ design + 1e-6 * np.eye(2)
        weight += np.linalg.solve(curve, design.T @ (labels - share) - 1e-6 * weight)
    return float(weight[0]), float(weight[1])


@torch.no_grad()
def held_out_scores(model: Reranker, maker: SlateMaker, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and labels of plain slates from held-out articles."""
    rng = random.Random(seed)
    scores, labels = [], []
    for _ in range(CALIBRATION_SLATES):
        example = maker.plain(rng, rng.choice((4, 8, 16)), rng.choice((64, 96, 160)), held_out=True)
        scores.append(model.scores([example.slate])[0].numpy())
        labels.append(np.isin(np.arange(len(example.rows)), example.right).astype(float))
    return np.concatenate(scores), np.concatenate(labels)


@torch.no_grad()
def held_out_figures(model: Reranker, maker: SlateMaker, seed: int) -> dict[str, float]:
    """On held-out articles: mean reciprocal rank of plain slates by source, and share of
    instruction cases with an instructed document first."""
    rng = random.Random(seed)
    found: dict[str, list[float]] = {}
    for _ in range(HELD_OUT_SLATES):
        example = maker.plain(rng, 16, 96, held_out=True)
        scores = model.scores([example.slate])[0]
        rank = 1 + int((scores > scores[example.right[0]]).sum())
        source = maker.corpus.passages[example.rows[0]].source
        found.setdefault("plain", []).append(1 / rank)
        found.setdefault(source, []).append(1 / rank)
        example = maker.instructed(rng, 6, 96, held_out=True)
        hit = int(model.scores([example.slate])[0].argmax()) in example.right
        found.setdefault("instructed", []).append(float(hit))
    return {k: round(float(np.mean(v)), 3) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py filled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="default: WORK/reranker.pt")
    parser.add_argument(
        "--blend", type=float, help="share of the trained weights, the rest being the warm start; none: show figures"
    )
    parser.add_argument("--fixture", type=Path, help="also write the cases that test a port of lexical.py")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    space = Workspace(options.data, options.work, options.seed, 0, "cpu")
    maker = space.slates()
    shape = Shape(vocab_size=space.tokenizer.get_vocab_size())
    state = torch.load(options.weights or options.work / "reranker.pt", map_location="cpu")
    first = untrained(space.tokenizer, space.static, options.seed).state_dict()
    if options.blend is None:
        for share in BLENDS:
            model = Reranker(shape, controls_of(space.tokenizer)).eval()
            model.load_state_dict(blend(first, state, share))
            print(f"blend {share}:", held_out_figures(model, maker, options.seed), flush=True)
        return
    state = blend(first, state, options.blend)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as name:
        folder = Path(name)
        write_weights(state, folder / "model.safetensors")
        space.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        shutil.copy(options.work / "lexical.safetensors", folder)
        config = shape.config() | {"podium": {"family": "podium-nano", "joint_layers": JOINT_LAYERS}}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        # Calibrate the weights as they will run.
        model, *_ = read_model(folder)
        scale, bias = fit_calibration(*held_out_scores(model, maker, options.seed))
        config["podium"]["calibration"] = {"scale": round(scale, 4), "bias": round(bias, 4)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        size = sum(f.stat().st_size for f in folder.iterdir())
        assert size <= LIMIT_BYTES, f"{size} bytes are over the limit of {LIMIT_BYTES}"
        for file in folder.iterdir():
            file.chmod(0o644)
            os.replace(file, options.out / file.name)
    if options.fixture:
        write_fixture(space.table, options.fixture)
    print(f"{size} bytes, calibration {scale:.3f} {bias:.3f}")


if __name__ == "__main__":
    main()
