"""Cross-encoders from texts to scores, by sentence-transformers' CrossEncoder on small random checkpoints."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from . import encoder_tokenizers as tokenizers
from .reference import rounded
from .sequence_cases import random_weight
from .texts import MIXED, PLAIN, QUERY

SIZE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "num_labels": 1,
    "max_position_embeddings": 130,
}
MODERN = SIZE | {"num_hidden_layers": 3, "local_attention": 16, "max_position_embeddings": 128}
IDENTITY = "torch.nn.modules.linear.Identity"
LONG = "The air presses less on the surface of the water, so it boils sooner. "
CASES = [
    {"name": "plain", "query": QUERY, "documents": PLAIN},
    {"name": "mixed scripts", "query": "Où est le café à 東京? 🙂", "documents": MIXED},
    {"name": "spaces", "query": "water  or   tea", "documents": ["a  b", "x    y     z  ", "tea\n\n  tea", "tea"]},
    {"name": "a cut document", "query": QUERY, "documents": [LONG * 20, PLAIN[0]]},
    {"name": "one document", "query": "tea", "documents": PLAIN[6:]},
]


@dataclass
class Shape:
    kind: str  # a class of transformers, without its task
    size: dict
    tokenizer: PreTrainedTokenizerFast
    config: dict = field(default_factory=dict)  # further keys of config.json
    files: dict = field(default_factory=dict)  # further files


def shapes() -> dict[str, Shape]:
    return {
        "cross-encoder-bert": Shape(
            "Bert", SIZE, tokenizers.word_piece(), {"sbert_ce_default_activation_function": IDENTITY}
        ),
        "cross-encoder-xlm-roberta": Shape(
            "XLMRoberta", SIZE | {"type_vocab_size": 1, "pad_token_id": 1}, tokenizers.unigram()
        ),
        "cross-encoder-roberta": Shape(
            "Roberta",
            SIZE | {"type_vocab_size": 1, "pad_token_id": 1},
            tokenizers.byte_level(roberta=True),
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0.0"}},
        ),
        "cross-encoder-modernbert": Shape(
            "ModernBert", MODERN | {"classifier_pooling": "mean"}, tokenizers.byte_level(roberta=False)
        ),
    }


NAMES = ["cross-encoder-bert", "cross-encoder-xlm-roberta", "cross-encoder-roberta", "cross-encoder-modernbert"]


def write(folder: Path, shape: Shape, seed: int) -> None:
    """Writes a checkpoint as transformers writes it."""
    dice = torch.Generator().manual_seed(seed)
    task = getattr(transformers, shape.kind + "ForSequenceClassification")
    vocabulary = len(shape.tokenizer) + 3
    special = {key: getattr(shape.tokenizer, key) for key in ("pad_token_id", "cls_token_id", "sep_token_id")}
    model = task(task.config_class(vocab_size=vocabulary, **special | shape.size)).requires_grad_(False)
    weights = {name: random_weight(name, weight, dice).bfloat16() for name, weight in model.named_parameters()}
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | shape.config
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    usable = shape.size["max_position_embeddings"] - (2 if shape.size.get("type_vocab_size") == 1 else 0)
    shape.tokenizer.model_max_length = usable
    shape.tokenizer.save_pretrained(folder)
    for name, contents in shape.files.items():
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n")


def expect(model, case: dict) -> dict:
    pairs = [(case["query"], document) for document in case["documents"]]
    prompts = []
    for query, document in pairs:
        encoded = model.tokenizer(query, document, truncation="longest_first")
        types = encoded.get("token_type_ids", [])
        prompts.append({"token_ids": encoded["input_ids"], "second_start": types.index(1) if 1 in types else None})
    # One pair at a time: padding moves the last digit.
    options = {"batch_size": 1, "convert_to_tensor": True, "show_progress_bar": False}
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), **options)
    return case | {"prompts": prompts, "raw": rounded(logits), "predicted": rounded(model.predict(pairs, **options))}


@torch.no_grad()
def make_encoder_case(fixtures: Path, name: str) -> None:
    from sentence_transformers import CrossEncoder

    shape, seed = shapes()[name], 5000 + NAMES.index(name)
    torch.manual_seed(seed)
    target = fixtures / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, shape, seed)
        model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        for file in ("config.json", "tokenizer.json", "model.safetensors", *shape.files):
            shutil.copy(folder / file, target / file)
            (target / file).chmod(0o644)
    golden = {"kind": "cross-encoder", "shape": name, "cases": [expect(model, case) for case in CASES]}
    (target / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
