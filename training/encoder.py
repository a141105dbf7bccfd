"""The BERT encoder of all-MiniLM-L6-v2, and its token states kept on disk.

`Encoder.states` gives the token states after chosen layers. `StateStore` holds them for many
texts as 16-bit floats, so that training reads them instead of running the encoder again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

CLS, SEP = 101, 102
HIDDEN, HEADS, INNER, LAYERS = 384, 12, 1536, 6
NORM_EPSILON = 1e-12
NAMES = {
    "word.weight": "embeddings.word_embeddings.weight",
    "position.weight": "embeddings.position_embeddings.weight",
    "token_type.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
LAYER_NAMES = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
"""Hugging Face's names of the tensors; a layer's query, key and value are apart there."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """The WordPiece tokenizer of a checkpoint, without padding and truncation."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of texts without special tokens, `limit` at most each."""
    return [e.ids[:limit] for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by addition and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.attention_output = nn.Linear(HIDDEN, HIDDEN)
        self.attention_norm = nn.LayerNorm(HIDDEN, NORM_EPSILON)
        self.up = nn.Linear(HIDDEN, INNER)
        self.down = nn.Linear(INNER, HIDDEN)
        self.output_norm = nn.LayerNorm(HIDDEN, NORM_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` [rows, tokens, HIDDEN]; `mask` [rows, 1, 1, tokens] is true for real tokens."""
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.query_key_value(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attention_output(attended))
        return self.output_norm(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """BERT with token type 0 throughout."""

    def __init__(self, vocabulary: int = 30522, positions: int = 512) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, HIDDEN)
        self.position = nn.Embedding(positions, HIDDEN)
        self.token_type = nn.Embedding(2, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, NORM_EPSILON)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))

    @staticmethod
    def read(folder: Path) -> Encoder:
        """The published weights of a checkpoint folder."""
        weights = load_file(str(folder / "model.safetensors"))
        return Encoder.of({n.removeprefix("bert."): t.float() for n, t in weights.items()})

    @staticmethod
    def of(weights: dict[str, Tensor]) -> Encoder:
        """From tensors with Hugging Face's names; others are left alone."""
        state = {ours: weights[theirs] for ours, theirs in NAMES.items()}
        for i in range(LAYERS):
            own = f"encoder.layer.{i}."
            for kind in ("weight", "bias"):
                parts = [weights[f"{own}attention.self.{n}.{kind}"] for n in ("query", "key", "value")]
                state[f"layers.{i}.query_key_value.{kind}"] = torch.cat(parts)
                for ours, theirs in LAYER_NAMES.items():
                    state[f"layers.{i}.{ours}.{kind}"] = weights[f"{own}{theirs}.{kind}"]
        encoder = Encoder()
        encoder.load_state_dict(state)
        return encoder.eval()

    def forward(self, ids: Tensor, real: Tensor, keep: Sequence[int]) -> list[Tensor]:
        """States after the layers in `keep` (1 to 6) of padded rows; `real` is true for real tokens."""
        x = self.word(ids) + self.position.weight[: ids.shape[1]] + self.token_type.weight[0]
        x = self.norm(x)
        mask, kept = real[:, None, None], {}
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask)
            kept[number] = x
        return [kept[n] for n in keep]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids as one matrix padded with 0, and which places are real."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.arange(width)[None] < torch.tensor([[len(row)] for row in rows])


class StateStore:
    """Token states of texts on disk, [CLS] and [SEP] included, in the order of `add`.

    `states.f16` holds one row of `len(layers) * HIDDEN` numbers a token, `index.json` the number of
    texts and tokens that are complete, `ends.i64` each text's last token plus one. An `add` that was
    interrupted goes on where it stopped.
    """

    def __init__(self, folder: Path, layers: Sequence[int]) -> None:
        self.folder, self.layers, self.width = folder, tuple(layers), len(layers) * HIDDEN
        folder.mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        """Map what is on disk."""
        index = self.folder / "index.json"
        self.texts, self.tokens = (json.loads(index.read_text()).values()) if index.exists() else (0, 0)
        ends = np.fromfile(self.folder / "ends.i64", np.int64)[: self.texts] if self.texts else np.zeros(0, np.int64)
        self.starts = np.concatenate([[0], ends])
        path = self.folder / "states.f16"
        self.states = np.memmap(path, np.float16, "r", shape=(self.tokens, self.width)) if self.tokens else None

    def __len__(self) -> int:
        return self.texts

    def __getitem__(self, text: int) -> np.ndarray:
        """[tokens, layers * HIDDEN] of one text."""
        return self.states[self.starts[text] : self.starts[text + 1]]

    @torch.no_grad()
    def add(self, encoder: Encoder, rows: Sequence[Sequence[int]], device: str, chunk: int = 2048, batch: int = 4096) -> None:
        """Encode ids (without special tokens) of all texts; those that the store holds are skipped."""
        state_path, end_path = self.folder / "states.f16", self.folder / "ends.i64"
        began, done = time.time(), 0
        for first in range(self.texts, len(rows), chunk):
            part = [[CLS, *row, SEP] for row in rows[first : first + chunk]]
            order = sorted(range(len(part)), key=lambda i: len(part[i]))
            found: list[np.ndarray | None] = [None] * len(part)
            at = 0
            while at < len(order):
                count = max(4, batch // len(part[order[at]]))
                chosen = order[at : at + count]
                at += count
                ids, real = pad([part[i] for i in chosen])
                ids, real = ids.to(device), real.to(device)
                with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                    states = torch.cat([s.float() for s in encoder(ids, real, self.layers)], -1)
                states = states.half().cpu().numpy()
                for row, i in enumerate(chosen):
                    found[i] = states[row, : len(part[i])]
            ends = self.tokens + np.cumsum([len(row) for row in part])
            with open(state_path, "r+b" if state_path.exists() else "wb") as file:
                file.seek(self.tokens * self.width * 2)
                file.write(np.concatenate(found).tobytes())
            with open(end_path, "r+b" if end_path.exists() else "wb") as file:
                file.seek(self.texts * 8)
                file.write(ends.astype(np.int64).tobytes())
            self.texts, done = self.texts + len(part), done + int(ends[-1]) - self.tokens
            self.tokens = int(ends[-1])
            temporary = self.folder / "index.tmp"
            temporary.write_text(json.dumps({"texts": self.texts, "tokens": self.tokens}))
            os.replace(temporary, self.folder / "index.json")
            print(f"{self.folder.name}: {self.texts} of {len(rows)} texts, {done / (time.time() - began):.0f} tokens/s", flush=True)
        self.open()
