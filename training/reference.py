"""MODEL.md once more, in plain numpy and f64, against the golden values.

    python reference.py --model ../models/podium-mini --golden ../tests/fixtures/podium_mini.json

Shares only the tokenizer and the lexical share with `mini.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from encoder import CLS, SEP, read_tokenizer, tokenize
from lexical import Bag, LexicalTable

Row = tuple[np.ndarray, np.ndarray]
TOLERANCE = 1e-4
erf = np.vectorize(math.erf)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def content(rows: list[Row], layer: int = 1) -> np.ndarray:
    """Content states of all rows, of length 1; layer 0 is H3, 1 is H6."""
    return unit(np.concatenate([row[layer][1:-1] for row in rows]))


def mean(rows: list[Row]) -> np.ndarray:
    return unit(np.concatenate([h6 for _, h6 in rows]).mean(0))


def best_window(query: np.ndarray, rows: list[Row]) -> float:
    starts = [(h6, s) for _, h6 in rows for s in range(0, len(h6), 32) if s == 0 or s < len(h6) - 16]
    return max(float(unit(h6[s : s + 64].mean(0)) @ query) for h6, s in starts)


def digest(row: Row) -> np.ndarray:
    return np.concatenate([row[0].mean(0), row[0].max(0), row[0].min(0), row[1].mean(0)])


class Reference:
    """The weights of a model folder, and the forward pass."""

    def __init__(self, folder: Path) -> None:
        packed = load_file(str(folder / "model.safetensors")) | load_file(str(folder / "instructions.safetensors"))
        self.weights = {
            name: array.astype(float) * packed[f"{name}.scale"][:, None] if array.dtype == np.int8 else array.astype(float)
            for name, array in packed.items()
            if not name.endswith(".scale")
        }
        self.constants = json.loads((folder / "config.json").read_text())["podium"]
        self.tokenizer = read_tokenizer(folder)
        self.table = LexicalTable.load(folder / "lexical.safetensors")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def encode(self, tokens: list[int]) -> Row:
        """H3 and H6 of a row."""
        ids, e = [CLS, *tokens, SEP], "embeddings."
        word, position, kind = (self.weights[f"{e}{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
        x, kept = self.norm(word[ids] + position[: len(ids)] + kind[0], f"{e}LayerNorm"), []
        for number in range(6):
            p = f"encoder.layer.{number}."
            parts = (self.linear(x, f"{p}attention.self.{n}") for n in ("query", "key", "value"))
            q, k, v = (t.reshape(len(ids), 12, 32).transpose(1, 0, 2) for t in parts)
            attended = (softmax(q @ k.transpose(0, 2, 1) / math.sqrt(32)) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
            x = self.norm(x + self.linear(attended, f"{p}attention.output.dense"), f"{p}attention.output.LayerNorm")
            inner = gelu(self.linear(x, f"{p}intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{p}output.dense"), f"{p}output.LayerNorm")
            kept.append(x)
        return kept[2], kept[5]

    def maxsim(self, ids: list[int], query: Row, rows: list[Row]) -> float:
        found = content(rows)
        if not ids or not len(found):
            return 0.0
        weights = self.weights["token_weight"][ids]
        return float((content([query]) @ found.T).max(1) @ weights / weights.sum())

    def evidences(self, text: str, ids: list[int], query: Row, rows: list[Row], document: str) -> list[float]:
        lexical = self.table.score(self.table.weights(text), Bag.of(document))
        return [best_window(mean([query]), rows), self.maxsim(ids, query, rows), lexical]

    def gate(self, instruction: Row) -> float:
        states = np.concatenate(instruction, 1)
        attention = softmax(self.linear(states, "gate.importance")[:, 0])
        x = np.concatenate([states.mean(0), attention @ states])
        neutral, preference, demand = softmax(self.linear(gelu(self.linear(x, "gate.first")), "gate.last"))
        c = self.constants["gate"]
        opened = min(max((1 - neutral - c["closed"]) / (c["open"] - c["closed"]), 0), 1)
        return opened * (c["preference"] * preference + demand) / (preference + demand)

    def standard(self, name: str, x: np.ndarray) -> np.ndarray:
        return (x - self.weights[f"wish.{name}_center"]) / self.weights[f"wish.{name}_spread"]

    def wish(self, query: Row, instruction: Row, rows: list[Row], scalars: list[float]) -> float:
        row = rows[int(np.argmax([best_window(mean([query]), [r]) for r in rows]))]
        q = self.linear(self.standard("prefix", digest(query)), "wish.query")
        i = self.linear(self.standard("prefix", digest(instruction)), "wish.instruction")
        d = self.linear(self.standard("document", digest(row)), "wish.document")
        x = np.concatenate([d, i, q, d * i, d * q, i * q, scalars])
        whole = self.linear(gelu(self.linear(gelu(self.linear(x, "wish.first")), "wish.second")), "wish.last")[0]
        tokens = self.standard("token", np.concatenate(instruction, 1)[1:-1])
        weights = self.linear(gelu(self.linear(tokens, "wish.token_first")), "wish.token_last")
        cosines = np.zeros((len(tokens), 2))
        if len(row[0]) > 2:
            cosines = np.stack([(content([instruction], n) @ content([row], n).T).max(1) for n in range(2)], 1)
        return self.constants["wish"]["scale"] * (whole + float((weights * (cosines - 0.5)).sum()))

    def score(self, query: str, instruction: str, texts: list[str]) -> dict[str, np.ndarray]:
        """Every number of a golden case."""
        ids, c = tokenize(self.tokenizer, [query], 126)[0], self.constants
        asked = self.encode(ids)
        documents = []
        for text in texts:
            tokens = tokenize(self.tokenizer, [text], 508)[0]
            documents.append([self.encode(tokens[at : at + 254]) for at in range(0, max(1, len(tokens)), 254)])
        evidences = np.array([self.evidences(query, ids, asked, rows, t) for rows, t in zip(documents, texts, strict=True)])
        first = evidences @ np.array(c["evidence_weights"])
        means = np.stack([mean(rows) for rows in documents])
        centred = means - means.mean(0)
        feedback = centred @ (softmax(first / c["feedback"]["temperature"]) @ centred)
        base = c["base"]["scale"] * (first + c["feedback"]["weight"] * feedback) + c["base"]["bias"]
        gate, wish = 0.0, np.zeros(len(texts))
        if instruction:
            wanted = tokenize(self.tokenizer, [instruction], 126)[0]
            told = self.encode(wanted)
            gate = self.gate(told)
            for n, rows in enumerate(documents if gate > 0 else []):
                window, maxsim, lexical = self.evidences(instruction, wanted, told, rows, texts[n])
                length = math.log(sum(len(row[0]) for row in rows)) / 5
                scalars = [*evidences[n], float(means[n] @ mean([told])), window, maxsim, lexical, length]
                wish[n] = self.wish(asked, told, rows, scalars)
        found = {"evidences": evidences, "feedback": feedback, "base": base, "gate": np.array(gate), "wish": wish}
        return found | {"scores": base + gate * wish}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    options = parser.parse_args()
    reference, worst = Reference(options.model), 0.0
    for case in json.loads(options.golden.read_text(encoding="utf-8")):
        for name, values in reference.score(case["query"], case["instruction"], case["documents"]).items():
            worst = max(worst, float(np.abs(np.array(case[name]) - values).max()))
    print(f"largest difference: {worst:.1e}")
    assert worst < TOLERANCE


if __name__ == "__main__":
    main()
