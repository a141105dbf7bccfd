"""Encodes everything that training and measuring read, once: documents, queries, instructions.
Before that it counts the tokens' weights in MaxSim.

    python states.py --data DATA --weights MINILM --work WORK [--only gate|train|eval]

Each text is encoded alone. The stores in WORK/states are resumed after an interruption and left
alone when complete.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from data import EVAL_SETS, background_texts, read_eval
from encoder import Encoder, StateStore, read_tokenizer, tokenize
from instructed import digest, is_used, read_rows
from wordings import PREFERENCES, STRESS, asking_wordings, neutral_wordings

LAYERS = (3, 6)
LIMITS = {
    "gate-wordings": 126,
    "gate-asking": 126,
    "gate-preferring": 126,
    "train-prefixes": 126,
    "train-documents": 126,
    "eval-prefixes": 126,
    "eval-documents": 254,
}
"""Tokens of a text, without [CLS] and [SEP]."""
SHARD = 32_768
CANDIDATES = 32
GATE_WORDINGS, ASKING_SHARE = 5000, 0.24
"""Written instructions that ask for nothing; for each of them so many that ask, and as many that prefer."""
PROFILES = Path(__file__).resolve().parent.parent / "prompts/instructions.toml"


def train_texts(data: Path) -> dict[str, list[str]]:
    """Distinct queries and instructions, and documents: those of validation rows first, then a mixture of sources."""
    documents: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    for row in sorted(read_rows(data), key=lambda row: (not row.valid, digest(row.group))):
        if is_used(row):
            documents |= dict.fromkeys(row.documents)
        prefixes |= dict.fromkeys([row.query, row.instruction] if row.instruction else [row.query])
    return {"train-prefixes": list(prefixes), "train-documents": list(documents)}


def profile_texts() -> list[str]:
    """The stored profiles."""
    return [profile["text"] for profile in tomllib.loads(PROFILES.read_text(encoding="utf-8")).values()]


def gate_texts(data: Path, wordings: int = GATE_WORDINGS) -> dict[str, list[str]]:
    """Written instructions: neutral, asking, preferring. The stored profiles are among the last."""
    rows = read_rows(data)
    words = sorted({word for row in rows[::50] if not row.valid for word in row.documents[0].split()})
    asking = round(ASKING_SHARE * wordings)
    return {
        "gate-wordings": neutral_wordings(0, wordings, words),
        "gate-asking": asking_wordings(0, asking, STRESS),
        "gate-preferring": profile_texts() + asking_wordings(1, asking, PREFERENCES),
    }


def eval_texts(data: Path) -> dict[str, list[str]]:
    """The candidates and queries of the evaluation sets, as measured."""
    documents: dict[str, None] = {}
    queries: dict[str, None] = {}
    sets = [read_eval(data, name) for name in EVAL_SETS]
    for part in (slice(0, 100), slice(100, None)):  # so that measuring can begin early
        for texts, tasks in sets:
            for task in tasks[part]:
                queries[task.query] = None
                documents |= dict.fromkeys(texts[d] for d in task.run[:CANDIDATES])
    return {"eval-prefixes": list(queries), "eval-documents": list(documents)}


GROUPS = {"gate": gate_texts, "train": train_texts, "eval": eval_texts}


def token_weights(data: Path, tokenizer: Tokenizer) -> np.ndarray:
    """Square roots of the tokens' idf over the English passages: their weights in MaxSim."""
    texts = [text for language, text in background_texts(data) if language == "en"]
    frequency = np.zeros(tokenizer.get_vocab_size())
    for first in range(0, len(texts), 2048):
        for ids in tokenize(tokenizer, texts[first : first + 2048], 4096):
            frequency[list(set(ids))] += 1
    return np.sqrt(np.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))).astype(np.float16)


class Encoded:
    """A list of texts with their states, in one store for each `SHARD` texts."""

    def __init__(self, work: Path, name: str) -> None:
        self.texts: list[str] = json.loads((work / "states" / f"{name}.json").read_text())
        self.index = {text: i for i, text in enumerate(self.texts)}
        self.stores = [StateStore(work / "states" / f"{name}-{n}", LAYERS) for n in range(-(-len(self.texts) // SHARD))]

    def has(self, text: str) -> bool:
        """Whether a text is encoded."""
        shard, place = divmod(self.index[text], SHARD)
        return place < len(self.stores[shard])

    def __getitem__(self, text: str) -> np.ndarray:
        shard, place = divmod(self.index[text], SHARD)
        return self.stores[shard][place]


def encode(work: Path, name: str, texts: list[str], encoder: Encoder, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Fill the stores of a list of texts; with `--shard`, one of them."""
    (work / "states").mkdir(parents=True, exist_ok=True)
    listed = work / "states" / f"{name}.json"
    temporary = listed.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(texts))
    os.replace(temporary, listed)
    for shard, first in enumerate(range(0, len(texts), SHARD)):
        if options.shard in (None, shard):
            part = texts[first : first + SHARD]
            store = StateStore(work / "states" / f"{name}-{shard}", LAYERS)
            if len(store) < len(part):
                store.add(encoder, tokenize(tokenizer, part, LIMITS[name]), options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=tuple(GROUPS))
    parser.add_argument("--shard", type=int, help="only this shard of each list: shards can be encoded side by side")
    parser.add_argument("--wordings", type=int, default=GATE_WORDINGS, help="written instructions of the gate that ask for nothing")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    encoder, tokenizer = Encoder.read(options.weights).to(options.device), read_tokenizer(options.weights)
    if not (options.work / "token-weights.npy").exists():
        temporary = options.work / "token-weights.tmp.npy"
        np.save(temporary, token_weights(options.data, tokenizer))
        os.replace(temporary, options.work / "token-weights.npy")
    for group, texts_of in GROUPS.items():
        if options.only in (None, group):
            for name, texts in (texts_of(options.data, options.wordings) if group == "gate" else texts_of(options.data)).items():
                encode(options.work, name, texts, encoder, tokenizer, options)


if __name__ == "__main__":
    main()
