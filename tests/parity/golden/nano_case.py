"""podium-nano's case, on the model in `models/podium-nano`: remade whenever that is retrained.

Texts to token ids, ids to cosines. Which bucket of lexical evidence a document gets is computed by
the training's own code, so this also holds that and the runtime together.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from .checkpoints import Reference
from .reference import Pass, hidden_states, rounded
from .texts import LONG, MIXED, PLAIN, QUERY, written_out

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "podium-nano"
LIMITS = {"query": 256, "instruction": 128, "document": 200}

CASES = [
    {"name": "plain", "query": QUERY, "documents": PLAIN},
    {
        "name": "instruction",
        "query": QUERY,
        "instruction": "Prefer passages that give a number.\nIgnore advertising?",
        "documents": PLAIN,
    },
    {"name": "mixed scripts", "query": "Où est le café à 東京? 🙂", "documents": MIXED},
    {"name": "one document", "query": "tea", "documents": PLAIN[6:]},
    {
        "name": "cut texts",
        "query": ["water, mountains, temperature, pressure; ", 80],
        "instruction": "Only numbers. " * 60,
        "documents": [PLAIN[0], LONG, PLAIN[1]],
    },
    {
        "name": "64 documents",
        "query": "where do boats rest in winter",
        "documents": [f"{PLAIN[at % 7]} {'Ice, ' * (at % 5)}{at}" for at in range(64)],
    },
]


def load_model(folder: Path) -> tuple[Reference, int]:
    """The stored weights (rows of int8 with their scales, or f16) in f32, and the number of cross-document layers."""
    config = json.loads((folder / "config.json").read_text())
    own = config.pop("podium")
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, weight in stored.items():
        if name.endswith(".scale"):
            continue
        scale = stored.get(f"{name}.scale")
        weights[name] = weight.float() if scale is None else weight.float() * scale.float()[:, None]
    projector = [weights.pop("projector.0.weight"), weights.pop("projector.2.weight")]
    model = Qwen3ForCausalLM(Qwen3Config(**config, attn_implementation="sdpa")).eval().requires_grad_(False)
    model = model.float()
    missing, unexpected = model.model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return Reference(model, projector), own["joint_layers"]


def cut(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """A text to the last whole character within the limit; one that is within it is kept as it is."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) <= limit:
        return text
    ids = ids[:limit]
    while tokenizer.decode(ids).endswith("\ufffd"):
        ids.pop()
    return tokenizer.decode(ids)


def read_query(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """A query or instruction: limited on its own, and read after a space."""
    return f" {cut(tokenizer, ' '.join(text.split()), limit)}"


def read_document(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """A document: limited with the space that it is read after."""
    return cut(tokenizer, f" {' '.join(text.split())}", limit)


def make_nano_case(fixtures: Path, name: str) -> None:
    reference, crossing = load_model(MODEL)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    start, end, instruct, rerank = (
        tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>", "<|instruct|>", "<|rerank_token|>")
    )
    sys.path.insert(0, str(ROOT / "training"))
    from lexical import Bag, LexicalTable, bucket

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    table = LexicalTable.load(MODEL / "lexical.safetensors")
    made = []
    for case in CASES:
        query = read_query(tokenizer, written_out(case["query"]), LIMITS["query"])
        weights = table.weights(query)
        query = encode(query)
        asked = [start, *query]
        if "instruction" in case:
            asked += [instruct, *encode(read_query(tokenizer, case["instruction"], LIMITS["instruction"]))]
        documents = []
        for text in case["documents"]:
            read = read_document(tokenizer, written_out(text), LIMITS["document"])
            evidence = bucket(table.score(weights, Bag.of(read)))
            documents.append([*encode(read), tokenizer.token_to_id(f"<|embed_{evidence}|>")])
        suffixes = [*documents, [start, *query, rerank]]
        marks = [(number + 1, len(suffix) - 1) for number, suffix in enumerate(suffixes)]
        item = Pass(case["name"], [*asked, end], suffixes, marks, crossing, marks[:-1])
        vectors = torch.nn.functional.normalize(reference.project(hidden_states(reference.model, item)), dim=-1)
        made.append(
            case
            | {"prefix": item.prefix, "suffixes": suffixes, "marks": marks, "shared": item.shared, "cross_document_layers": crossing}
            | {"scores": rounded(vectors[:-1] @ vectors[-1])}
        )
    config = reference.model.config
    shape = (
        f"qwen3 h{config.hidden_size} {config.num_hidden_layers}L {config.num_attention_heads}/"
        f"{config.num_key_value_heads}x{config.head_dim} mlp{config.intermediate_size} tied"
    )
    golden = {"kind": "nano", "family": name, "shape": shape, "cases": made}
    (fixtures / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (fixtures / name / "golden.json").write_text(text + "\n")
