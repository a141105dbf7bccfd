"""ColBERT checkpoints from texts to scores, by PyLate's formula on transformers: markers behind the first token,
queries filled up with the mask token, punctuation of documents not compared, MaxSim of unit vectors."""

import json
import string
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from . import encoder_tokenizers as tokenizers
from .reference import rounded
from .sequence_cases import random_weight
from .texts import INJECTION, MIXED, PLAIN, QUERY

WIDTH = 24
SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
LONG = "The air presses less on the surface of the water, so it boils sooner. "
CASES = [
    {"name": "plain", "query": QUERY, "documents": PLAIN},
    {"name": "mixed scripts", "query": "Où est le café à 東京? 🙂", "documents": MIXED},
    {"name": "a cut document", "query": QUERY, "documents": [LONG * 20, PLAIN[0], "?!"]},
    {"name": "a cut query", "query": "water, mountains, temperature, pressure; " * 9, "documents": PLAIN[:3]},
    {"name": "control tokens in texts", "query": "What [MASK] now? [SEP]", "documents": ["[CLS] a [SEP]", *INJECTION]},
    {"name": "groups of three", "query": "tea", "documents": PLAIN, "block": 3},
]


@dataclass
class Shape:
    kind: str  # a class of transformers, without its task
    size: dict
    markers: tuple[str, str]
    lengths: tuple[int, int]
    attends: bool


SHAPES = {
    "colbert-modernbert": Shape(
        "ModernBert", SIZE | {"max_position_embeddings": 512, "local_attention": 128}, ("[Q] ", "[D] "), (32, 180), False
    ),
    # Heads of 16 have no CPU kernels: candle's layers run them.
    "colbert-bert": Shape(
        "Bert", SIZE | {"max_position_embeddings": 130, "num_attention_heads": 4}, ("[unused0]", "[unused1]"), (48, 100), False
    ),
    "colbert-attends": Shape("Bert", SIZE | {"max_position_embeddings": 130}, ("[unused0]", "[unused1]"), (32, 64), True),
}


def tokenizer_for(shape: Shape) -> PreTrainedTokenizerFast:
    """ModernBERT's has the markers as added tokens, BERT's as unused tokens of the vocabulary."""
    if shape.kind == "ModernBert":
        tokenizer = tokenizers.byte_level(roberta=False)
        tokenizer.add_tokens(list(shape.markers))
        return tokenizer
    tokenizer = tokenizers.word_piece()
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = written["model"]["vocab"]
    vocabulary |= {marker: len(vocabulary) + at for at, marker in enumerate(shape.markers)}
    return tokenizers.wrapped(Tokenizer.from_str(json.dumps(written)), tokenizers.BERT, types=True)


def build(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    bare = getattr(transformers, shape.kind + "Model")
    special = {key: getattr(tokenizer, key) for key in ("pad_token_id", "cls_token_id", "sep_token_id")}
    config = bare.config_class(vocab_size=len(tokenizer) + 3, **special | shape.size)
    config._attn_implementation = "eager"
    model = bare(config).eval().requires_grad_(False)
    weights = {name: random_weight(name, weight, dice).bfloat16().float() for name, weight in model.named_parameters()}
    model.load_state_dict(weights, strict=False)
    projection = torch.randn(WIDTH, config.hidden_size, generator=dice).bfloat16().float() / 8
    return model, projection


def write(folder: Path, shape: Shape, tokenizer: PreTrainedTokenizerFast, model: torch.nn.Module, projection: torch.Tensor):
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: weight.bfloat16() for name, weight in model.named_parameters()}
    linear = projection.bfloat16().contiguous()
    config = json.loads(model.config.to_json_string())
    query_length, document_length = shape.lengths
    if shape.kind == "ModernBert":  # PyLate's layout
        config["architectures"] = ["ModernBertModel"]
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
        ]
        dense = {"in_features": 64, "out_features": WIDTH, "bias": False}
        dense["activation_function"] = "torch.nn.modules.linear.Identity"
        settings = {"query_prefix": shape.markers[0], "document_prefix": shape.markers[1]}
        settings |= {"query_length": query_length, "document_length": document_length, "do_query_expansion": True}
        settings |= {"attend_to_expansion_tokens": shape.attends, "skiplist_words": list(string.punctuation)}
        settings |= {"similarity_fn_name": "MaxSim"}
        (folder / "1_Dense").mkdir(exist_ok=True)
        write_json(folder / "modules.json", modules)
        write_json(folder / "1_Dense/config.json", dense)
        write_json(folder / "config_sentence_transformers.json", settings)
        write_tensors({"linear.weight": linear}, folder / "1_Dense/model.safetensors")
    else:  # Stanford's
        config["architectures"] = ["HF_ColBERT"]
        stored = {f"bert.{name}": weight for name, weight in stored.items()} | {"linear.weight": linear}
        settings = {"query_token_id": shape.markers[0], "doc_token_id": shape.markers[1], "dim": WIDTH}
        settings |= {"query_maxlen": query_length, "doc_maxlen": document_length}
        settings |= {"attend_to_mask_tokens": shape.attends, "mask_punctuation": True}
        write_json(folder / "artifact.metadata", settings)
    write_json(folder / "config.json", dict(sorted(config.items())))
    write_tensors(stored, folder / "model.safetensors")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)


class ColBERT:
    """PyLate's encoding, one text at a time."""

    def __init__(self, shape: Shape, tokenizer: PreTrainedTokenizerFast, model: torch.nn.Module, projection: torch.Tensor):
        self.shape, self.tokenizer, self.model, self.projection = shape, tokenizer, model, projection
        self.skiplist = {tokenizer.convert_tokens_to_ids(word) for word in string.punctuation}
        self.skiplist -= {tokenizer.unk_token_id}

    def clean(self, text: str) -> str:
        """Without the control tokens spelled out in it, until none is left."""
        names = [*self.tokenizer.all_special_tokens, *self.shape.markers]
        while True:
            cleaned = text
            for name in names:
                cleaned = cleaned.replace(name, "")
            if cleaned == text:
                return text
            text = cleaned

    def ids(self, text: str, marker: str, length: int) -> list[int]:
        ids = self.tokenizer(self.clean(text), truncation=True, max_length=length - 1)["input_ids"]
        return [ids[0], self.tokenizer.convert_tokens_to_ids(marker), *ids[1:]]

    def vectors(self, ids: list[int], mask: list[int]) -> torch.Tensor:
        states = self.model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([mask])).last_hidden_state[0]
        return torch.nn.functional.normalize(states @ self.projection.T, dim=-1)

    def query(self, text: str) -> tuple[list[int], torch.Tensor]:
        length = self.shape.lengths[0]
        ids = self.ids(text, self.shape.markers[0], length)
        missing = length - len(ids)
        mask = [1] * len(ids) + [int(self.shape.attends)] * missing
        ids = ids + [self.tokenizer.mask_token_id] * missing
        return ids, self.vectors(ids, mask)

    def document(self, text: str) -> tuple[list[int], torch.Tensor]:
        ids = self.ids(text, self.shape.markers[1], self.shape.lengths[1])
        compared = [token not in self.skiplist for token in ids]
        return ids, self.vectors(ids, [1] * len(ids))[compared]


@torch.no_grad()
def make_colbert_case(fixtures: Path, name: str) -> None:
    shape = SHAPES[name]
    tokenizer = tokenizer_for(shape)
    model, projection = build(shape, tokenizer, 3000 + list(SHAPES).index(name))
    write(fixtures / name, shape, tokenizer, model, projection)
    reference = ColBERT(shape, tokenizer, model, projection)
    made = []
    for case in CASES:
        query_ids, query = reference.query(case["query"])
        documents = [reference.document(text) for text in case["documents"]]
        scores = torch.stack([(query @ document.T).amax(dim=1).sum() for _, document in documents])
        made.append(
            case
            | {"query_ids": query_ids, "document_ids": [ids for ids, _ in documents]}
            | {"compared": [len(document) for _, document in documents], "scores": rounded(scores)}
        )
    golden = {"kind": "colbert", "shape": f"{shape.kind} {shape.lengths} attends={shape.attends}", "cases": made}
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (fixtures / name / "golden.json").write_text(text + "\n")
