"""Writes the files of podium-mini: 8-bit weights, config, tokenizer, background table; and golden values.

    python export.py --weights MINILM --work WORK --lexical LEXICAL.safetensors --out OUT [--seed 1] [--golden FILE]

The calibration is the one in WORK/figures.json, if measure.py has written it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import explicit
import model
from encoder import HIDDEN, LAYERS, read_tokenizer, tokenize
from mini import PASSAGE_TOKENS, PREFIX_TOKENS, Mini, read_exported
from states import LAYERS as KEPT_LAYERS
from train import read_wish

LIMIT_BYTES = 26_000_000
FILES = {
    "model.safetensors": ("embeddings.", "encoder."),
    "instructions.safetensors": ("token_weight", "gate.", "wish."),
}
"""Which tensors lie in which file: what training changes is apart from the encoder."""
GOLDEN = (
    ("capital of france", "", ("Paris is the capital of France.", "Berlin is the capital of Germany.", "Bananas are yellow.", "")),
    ("capital of france", "Given a web search query, retrieve relevant passages that answer the query", ("Paris is the capital of France.", "Bananas are yellow.")),
    ("Should school uniforms be compulsory?", "Only arguments against it, please.", (
        "Uniforms make pupils feel equal, because nobody can show off expensive clothes.",
        "Uniforms take away a pupil's freedom to express who they are, and they cost families money.",
        "The school bus leaves at half past seven.",
    )),
    ("ibuprofen", "No texts about side effects.", (
        "Ibuprofen can cause stomach pain, nausea and dizziness.",
        "Ibuprofen is a medicine against pain, fever and inflammation. " + "It belongs to the anti-inflammatory drugs. " * 40,
    )),
    ("history of the printing press", "Only German texts from 1990 or later, at most 12 words.", (
        "3. Mai 2004 - Der Buchdruck mit beweglichen Lettern ist eine Erfindung von Gutenberg.",
        "June 24, 1985 - The printing press was invented by Gutenberg: what did \"movable type\" change?",
        "[blog] I can't say that the printing press was not important to me.",
    )),
    ("how do I list files", "Prefer short documents that answer the question directly.", ("ls lists files.",)),
)  # fmt: skip


def quantise(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit rows: values = int8 * scale[row]."""
    scale = np.abs(matrix).max(1) / 127
    scale[scale == 0] = 1
    return np.clip(np.rint(matrix / scale[:, None]), -127, 127).astype(np.int8), scale.astype(np.float32)


def write_weights(tensors: dict[str, np.ndarray], path: Path) -> None:
    """I8 matrices with F32 `<name>.scale`; everything else as it is."""
    packed = {}
    for name, array in tensors.items():
        if array.ndim == 2:
            packed[name], packed[f"{name}.scale"] = quantise(array.astype(np.float32))
        else:
            packed[name] = array
    save_file(packed, str(path), {"format": "pt"})


def all_tensors(weights: Path, work: Path, seed: int, members: int) -> dict[str, np.ndarray]:
    """Encoder with Hugging Face's names (no pooler), gate, averaged wish, token weights."""
    tensors = {}
    for name, array in load_file(str(weights / "model.safetensors")).items():
        name = name.removeprefix("bert.")
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids"):
            tensors[name] = array.astype(np.float32)
    for name, array in load_file(str(work / "gate.safetensors")).items():
        tensors[f"gate.{name}"] = array
    for name, tensor in read_wish(work, seed, members).state_dict().items():
        tensors[f"wish.{name}"] = tensor.numpy()
    tensors["token_weight"] = np.load(work / "token-weights.npy")
    return tensors


def config_of(weights: Path, work: Path, members: int) -> dict:
    """The encoder's config and the constants of the score."""
    published = json.loads((weights / "config.json").read_text())
    left_out = ("_name_or_path", "transformers_version", "gradient_checkpointing", "use_cache", "classifier_dropout", "position_embedding_type")
    config = {k: v for k, v in published.items() if k not in left_out}
    figures = work / "figures.json"
    config["podium"] = {
        "family": "podium-mini",
        "states_after_layers": list(KEPT_LAYERS),
        "window": {"tokens": model.WINDOW, "stride": model.STRIDE, "last_start": model.LAST_START},
        "later_passages": {"window_margin": model.LATER_WINDOW_MARGIN, "token_margin": model.LATER_TOKEN_MARGIN},
        "evidence_weights": [float(w) for w in model.EVIDENCE_WEIGHTS],
        "feedback": {"weight": model.FEEDBACK_WEIGHT, "temperature": model.FEEDBACK_TEMPERATURE},
        "base": {"scale": model.BASE_SCALE, "bias": model.BASE_BIAS},
        "gate": {"closed": model.GATE_CLOSED, "open": model.GATE_OPEN, "preference": model.PREFERENCE_GATE},
        "wish": {"width": members * model.WIDTH, "inner": members * model.INNER, "token": members * model.TOKEN_INNER, "scale": model.WISH_SCALE},
        "facts": {
            "punctuation": explicit.PUNCTUATION,
            "quotes": explicit.QUOTES,
            "money": explicit.MONEY,
            "code": explicit.CODE,
            "words": {name: words.split() for name, words in explicit.WORD_LISTS.items()},
            "languages": {name: words.split() for name, words in explicit.LANGUAGES.items()},
            "scripts": {name: list(ranges) for name, ranges in explicit.SCRIPTS.items()},
        },
        "calibration": json.loads(figures.read_text())["calibration"] if figures.exists() else {"scale": 1.0, "bias": 0.0},
    }
    assert published["hidden_size"] == HIDDEN and published["num_hidden_layers"] == LAYERS
    return config


def golden_values(mini: Mini, config: dict) -> list[dict]:
    """Requests with every number between the text and the score, computed in f32 from the exported weights."""
    calibration, cases = config["podium"]["calibration"], []
    for query, instruction, texts in GOLDEN:
        documents = [mini.document(text, 2 * PASSAGE_TOKENS) for text in texts]
        scored = mini.score(query, documents, instruction)
        states = mini.encode(query, PREFIX_TOKENS)[0]
        case = {
            "query": query,
            "instruction": instruction,
            "documents": list(texts),
            "query_ids": tokenize(mini.tokenizer, [query], PREFIX_TOKENS)[0],
            "query_states_first_token": {
                str(layer): [float(x) for x in states[0, i * HIDDEN : i * HIDDEN + 4]] for i, layer in enumerate(KEPT_LAYERS)
            },
            "evidences": scored.evidences.tolist(),
            "feedback": scored.feedback.tolist(),
            "base": scored.base.tolist(),
            "gate": scored.gate,
            "scalars": scored.scalars.tolist(),
            "facts": scored.facts.tolist(),
            "wish": scored.wish.tolist(),
            "scores": scored.scores.tolist(),
        }
        share = 1 / (1 + np.exp(-(calibration["scale"] * scored.scores + calibration["bias"])))
        case["relevance"] = share.tolist()
        cases.append(case)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=2, help="how many trained wishes are averaged")
    parser.add_argument("--golden", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    tensors = all_tensors(options.weights, options.work, options.seed, options.members)
    for file, prefixes in FILES.items():
        write_weights({n: t for n, t in tensors.items() if n.startswith(prefixes)}, options.out / file)
    config = config_of(options.weights, options.work, options.members)
    (options.out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    read_tokenizer(options.weights).save(str(options.out / "tokenizer.json"), pretty=False)
    shutil.copyfile(options.lexical, options.out / "lexical.safetensors")
    for file in options.out.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in options.out.iterdir() if file.name != "README.md")
    print(f"{size} bytes")
    assert size <= LIMIT_BYTES, f"{size} bytes are over the limit of {LIMIT_BYTES}"
    if options.golden:
        cases = golden_values(read_exported(options.out), config)
        options.golden.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
