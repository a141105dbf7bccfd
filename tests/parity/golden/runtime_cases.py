"""The runtime's cases: token ids in, hidden states and logits out, for every shape."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from .checkpoints import Reference, Shape, make
from .reference import Pass, hidden_states, hidden_states_apart, next_token_logits, rounded

VOCABULARY = 259

SHAPES = {
    "qwen3-mha-f32": Shape("Qwen3ForCausalLM", 48, 2, 4, 4, 16, 53, VOCABULARY, True, "F32"),
    "qwen3-gqa2-sharded": Shape(
        "Qwen3ForCausalLM", 40, 3, 4, 2, 32, 71, VOCABULARY, False, "BF16", 500_000.0, new_rope=True, shards=3
    ),
    "qwen3-gqa4-projector": Shape(
        "Qwen3Model", 40, 2, 4, 1, 64, 71, VOCABULARY, True, "BF16", 10_000.0, prefix="", projector=(96, 33)
    ),
    "qwen3-gqa8-head128": Shape(
        "Qwen3ForCausalLM", 24, 2, 8, 1, 128, 65, VOCABULARY, False, "F16", norm_eps=1e-5, max_positions=8192
    ),
    "qwen3-int8": Shape(
        "Qwen3Model", 64, 3, 8, 4, 16, 67, VOCABULARY, True, "I8", prefix="", projector=(64, 48), max_positions=1024
    ),
    "qwen2-mha-f32": Shape("Qwen2ForCausalLM", 48, 2, 3, 3, 16, 45, VOCABULARY, True, "F32", 10_000.0),
    "qwen2-gqa2-untied": Shape("Qwen2ForCausalLM", 64, 3, 2, 1, 32, 61, VOCABULARY, False, "BF16", new_rope=True),
    "qwen2-gqa2-head64": Shape("Qwen2ForCausalLM", 128, 2, 2, 1, 64, 21, VOCABULARY, True, "BF16"),
    "qwen2-gqa4-f16": Shape("Qwen2ForCausalLM", 64, 2, 4, 1, 16, 67, VOCABULARY, True, "F16", norm_eps=1e-5),
    "qwen2-gqa8-int8": Shape("Qwen2Model", 128, 2, 8, 1, 16, 53, VOCABULARY, True, "I8", prefix=""),
}


def byte_tokenizer(path: Path) -> None:
    """Every byte a token, and three special ones: what a checkpoint folder needs to be complete."""
    vocabulary = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(path), pretty=False)


def passes(layers: int, seed: int) -> list[Pass]:
    """Every kind of tree; lengths that fall on, before and after the usual tile borders."""
    dice = random.Random(seed)

    def some(count: int) -> list[int]:
        return [dice.randrange(VOCABULARY) for _ in range(count)]

    def ends(suffixes: list[list[int]]) -> list[tuple[int, int]]:
        return [(number + 1, len(suffix) - 1) for number, suffix in enumerate(suffixes)]

    slate = [some(length) for length in (9, 1, 14, 33, 6)]
    long_slate = [some(length) for length in (64, 130, 1, 65, 31, 16, 128, 17)]
    made = [
        Pass("one token", some(1), marks=[(0, 0)]),
        Pass("causal", some(37), marks=[(0, 36), (0, 0), (0, 17)]),
        Pass("causal, long", some(300), marks=[(0, 299), (0, 63), (0, 64), (0, 128), (0, 255)]),
        Pass("prefix and suffixes", some(11), slate, [*ends(slate), (0, 10), (3, 5), (4, 0)]),
        Pass("one suffix", some(5), slate[2:3], ends(slate[2:3])),
        Pass("prefix and suffixes, long", some(129), long_slate, ends(long_slate)),
        Pass("cross-document 1", some(11), slate, ends(slate), 1, ends(slate)[:-1]),
        Pass("cross-document 2", some(11), slate, ends(slate), 2, ends(slate)[:-1]),
        Pass("cross-document 1, long", some(40), long_slate, ends(long_slate), 1, ends(long_slate)[:-1]),
        Pass("cross-document 2, only the closing position is read", some(7), slate, ends(slate)[-1:], 2, ends(slate)[:-1]),
    ]
    if layers > 2:
        made.append(Pass("cross-document 3, every layer", some(7), slate, ends(slate), layers, ends(slate)[:-1]))
    return made


def expect(reference: Reference, item: Pass, token_ids: list[int]) -> dict:
    states = hidden_states(reference.model, item)
    if item.cross_document_layers == 0:
        apart = (states - hidden_states_apart(reference.model, item)).abs().max().item()
        assert apart < 1e-4, f"{item.name}: one sequence per suffix differs from the masked forward by {apart}"
    made = {
        "name": item.name,
        "prefix": item.prefix,
        "suffixes": item.suffixes,
        "marks": item.marks,
        "cross_document_layers": item.cross_document_layers,
        "shared": item.shared,
        "hidden_states": rounded(states),
        "token_ids": token_ids,
        "logits": rounded(next_token_logits(reference.model, states, token_ids)),
    }
    if reference.projector:
        made["projected"] = rounded(reference.project(states))
    return made


def make_runtime_case(fixtures: Path, name: str) -> None:
    shape, seed = SHAPES[name], 1000 + list(SHAPES).index(name)
    fixtures.mkdir(parents=True, exist_ok=True)
    tokenizer = fixtures / "byte-tokenizer.json"
    byte_tokenizer(tokenizer)
    torch.manual_seed(seed)
    reference = make(fixtures / name, shape, seed, tokenizer)
    tokenizer.unlink()
    token_ids = [0, VOCABULARY - 1, 65, 66, 130]
    golden = {
        "kind": "runtime",
        "shape": shape.describe(),
        "passes": [expect(reference, item, token_ids) for item in passes(shape.layers, seed)],
    }
    (fixtures / name / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
