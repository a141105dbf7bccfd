"""MODEL.md once more, in plain numpy and f64, against the golden values.

    python reference.py --model ../models/podium-mini --golden ../tests/fixtures/podium_mini.json

Shares only the tokenizer and the lexical share with `mini.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
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


def best_window(query: np.ndarray, row: Row) -> float:
    starts = [s for s in range(0, len(row[1]), 32) if s == 0 or s < len(row[1]) - 16]
    return max(float(unit(row[1][s : s + 64].mean(0)) @ query) for s in starts)


def numbers(text: str) -> list[re.Match[str]]:
    return [found for found in re.finditer("[0-9]+", text) if len(found[0]) <= 9]


def year(text: str) -> int:
    return next((int(n[0]) for n in numbers(text) if 1500 <= int(n[0]) <= 2099), 0)


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
        margin = self.constants["later_passages"]["token_margin"] * (np.arange(len(found)) >= len(rows[0][1]) - 2)
        return float((content([query]) @ found.T - margin).max(1) @ weights / weights.sum())

    def windows(self, query: np.ndarray, rows: list[Row]) -> list[float]:
        margin = self.constants["later_passages"]["window_margin"]
        return [best_window(query, row) - margin * (n > 0) for n, row in enumerate(rows)]

    def evidences(self, text: str, ids: list[int], query: Row, rows: list[Row], document: str) -> list[float]:
        lexical = self.table.score(self.table.weights(text), Bag.of(document))
        return [max(self.windows(mean([query]), rows)), self.maxsim(ids, query, rows), lexical]

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

    def facts(self, instruction: str, text: str) -> np.ndarray:
        c = self.constants["facts"]

        def words(pieces: list[str]) -> list[str]:
            return [piece.strip(c["punctuation"]).lower() for piece in pieces]

        pieces = text.split()
        own, total, characters = words(pieces), max(1, len(pieces)), max(1, len("".join(pieces)))
        when = year(text)
        found = [
            math.log(1 + len(pieces)) / 5,
            min(1, 4 * len([p for p in pieces if re.search("[0-9]", p)]) / total),
            bool(numbers(text)),
            when > 0,
            (when - 2000) / 20 * (when > 0),
            "?" in text,
            min(1, len([x for x in text if x in c["quotes"]]) / 4),
            any(x in c["money"] for x in text),
            min(1, 10 * len([x for x in text if x in c["code"]]) / characters),
            min(1, 4 * len(re.findall("[A-Z]", text)) / characters),
            text.startswith("["),
            ":" in text[:60],
        ]
        for name, listed in c["words"].items():
            first = bool(own) and own[0] in listed
            found.append(first if name == "question" else min(1, 8 * len([w for w in own if w in listed]) / total))
        languages = [min(1, 4 * len([w for w in own if w in listed]) / total) for listed in c["languages"].values()]
        for first, last in c["scripts"].values():
            languages.append(min(1, 4 * len([x for x in text if first <= ord(x) <= last]) / characters))
        asked = year(instruction)
        limit = next((int(n[0]) for n in numbers(instruction) if int(n[0]) and instruction[n.end() :].lower().startswith(" word")), 0)
        names = [*c["languages"], *c["scripts"]]
        named = next((w for w in words(instruction.split()) if w in names), None)
        dated = asked > 0 and when > 0
        found += [*languages, dated and when > asked, dated and when == asked, dated and when < asked]
        found += [limit and len(pieces) > limit, limit and len(pieces) == limit, limit and len(pieces) < limit]
        return np.array([*found, languages[names.index(named)] if named else 0], float)

    def wish(self, query: Row, instruction: Row, ids: list[int], best: Row, best_ids: list[int], scalars: list[float], facts: np.ndarray) -> float:
        q = self.linear(self.standard("prefix", digest(query)), "wish.query")
        i = self.linear(self.standard("prefix", digest(instruction)), "wish.instruction")
        d = self.linear(self.standard("document", digest(best)), "wish.document")
        f = self.standard("facts", facts)
        x = np.concatenate([d, i, q, d * i, d * q, i * q, scalars, f])
        whole = self.linear(gelu(self.linear(gelu(self.linear(x, "wish.first")), "wish.second")), "wish.last")[0]
        counted = f @ self.linear(gelu(i), "wish.facts")
        tokens = self.standard("token", np.concatenate(instruction, 1)[1:-1])
        inner = self.linear(tokens, "wish.token_first") + self.linear(gelu(i), "wish.token_context")
        weights = self.linear(gelu(inner), "wish.token_last")
        matches = np.zeros((len(ids), 4)) - [0.5, 0.5, 0, 0]
        pairs = set(zip(best_ids, best_ids[1:], strict=False))
        for n, token in enumerate(ids):
            near = {(token, after) for after in ids[n + 1 : n + 2]} | {(before, token) for before in ids[max(0, n - 1) : n]}
            matches[n, 2:] = np.array([token in best_ids, bool(near & pairs)]) * self.weights["token_weight"][token] / 2
        if best_ids:
            matches[:, :2] += np.stack([(content([instruction], n) @ content([best], n).T).max(1) for n in range(2)], 1)
        return self.constants["wish"]["scale"] * (whole + counted + float((weights * matches).sum()))

    def score(self, query: str, instruction: str, texts: list[str]) -> dict[str, np.ndarray]:
        """Every number of a golden case."""
        ids, c = tokenize(self.tokenizer, [query], 126)[0], self.constants
        asked = self.encode(ids)
        passages = []
        for text in texts:
            tokens = tokenize(self.tokenizer, [text], 508)[0]
            passages.append([tokens[at : at + 254] for at in range(0, max(1, len(tokens)), 254)])
        documents = [[self.encode(passage) for passage in found] for found in passages]
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
                best = int(np.argmax(self.windows(mean([asked]), rows)))
                facts = self.facts(instruction, texts[n])
                wish[n] = self.wish(asked, told, wanted, rows[best], passages[n][best], scalars, facts)
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
