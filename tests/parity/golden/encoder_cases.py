"""Cross-encoders from texts to scores, by sentence-transformers' CrossEncoder on small random checkpoints."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from . import encoder_tokenizers as tokenizers
from . import family_tokenizer
from .families import Prompt, Tokens, qwen3_prompts
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
KEPT = ("config.json", "tokenizer.json", "model.safetensors", "modules.json", "config_sentence_transformers.json")
LONG = "The air presses less on the surface of the water, so it boils sooner. "
CASES = [
    {"name": "plain", "query": QUERY, "documents": PLAIN},
    {"name": "mixed scripts", "query": "Où est le café à 東京? 🙂", "documents": MIXED},
    {"name": "spaces", "query": "water  or   tea", "documents": ["a  b", "x    y     z  ", "tea\n\n  tea", "tea"]},
    {"name": "a cut document", "query": QUERY, "documents": [LONG * 20, PLAIN[0]]},
    {"name": "one document", "query": "tea", "documents": PLAIN[6:]},
]


DECODER = SIZE | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 500000.0}


@dataclass
class Shape:
    kind: str  # a class of transformers, without its task
    size: dict
    tokenizer: PreTrainedTokenizerFast
    config: dict = field(default_factory=dict)  # further keys of config.json
    chain: bool = False  # the classifier is modules of its own


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
        "cross-encoder-modules": Shape("ModernBert", MODERN, tokenizers.byte_level(roberta=False), chain=True),
        "qwen3-reranker-seq-cls": Shape("Qwen3", DECODER, decoder_tokenizer()),
        "nemotron": Shape(
            "Llama",
            DECODER | {"rope_parameters": LLAMA3},
            decoder_tokenizer("<|begin_of_text|>"),
            {"architectures": ["LlamaBidirectionalForSequenceClassification"], "model_type": "llama_bidirec"}
            | {"pooling": "avg", "temperature": 2.0},
        ),
    }


NAMES = ["cross-encoder-bert", "cross-encoder-xlm-roberta", "cross-encoder-roberta", "cross-encoder-modernbert"]
NAMES += ["cross-encoder-modules", "qwen3-reranker-seq-cls", "nemotron"]


def decoder_tokenizer(start: str | None = None) -> PreTrainedTokenizerFast:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        family_tokenizer.train(path, thinks=True)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), clean_up_tokenization_spaces=False)
    tokenizer.pad_token = "<|endoftext|>"
    if start:
        tokenizer.add_special_tokens({"bos_token": start})
    return tokenizer


def modules(folder: Path, width: int, dice: torch.Generator) -> None:
    """Writes the classifier of Ettin's rerankers: Pooling, Dense, LayerNorm, Dense."""
    package, models = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules"
    gelu = "torch.nn.modules.activation.GELU"
    dense = {"in_features": width, "module_input_name": "sentence_embedding"}
    parts = [
        ("", f"{package}.transformer.Transformer", {}),
        ("1_Pooling", f"{models}.pooling.Pooling", {"embedding_dimension": width, "pooling_mode": "cls"}),
        (
            "2_Dense",
            f"{package}.dense.Dense",
            dense | {"out_features": width, "bias": False, "activation_function": gelu},
        ),
        ("3_LayerNorm", f"{models}.layer_norm.LayerNorm", {"dimension": width}),
        (
            "4_Dense",
            f"{package}.dense.Dense",
            dense
            | {"out_features": 1, "bias": True, "activation_function": IDENTITY, "module_output_name": "scores"},
        ),
    ]
    sizes = {
        "2_Dense": {"linear.weight": (width, width)},
        "3_LayerNorm": {"norm.weight": (width,), "norm.bias": (width,)},
        "4_Dense": {"linear.weight": (1, width), "linear.bias": (1,)},
    }
    for name, _, config in parts[1:]:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if tensors := sizes.get(name):
            weights = {key: random_weight(key, torch.empty(size), dice) for key, size in tensors.items()}
            save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    listed = [{"idx": at, "name": str(at), "path": name, "type": kind} for at, (name, kind, _) in enumerate(parts)]
    settings = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    settings |= {"modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}}
    described = {"model_type": "CrossEncoder", "activation_fn": IDENTITY, "prompts": {}, "default_prompt_name": None}
    for name, contents in (
        ("modules.json", listed),
        ("sentence_bert_config.json", settings),
        ("config_sentence_transformers.json", described),
    ):
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n")


def write(folder: Path, shape: Shape, seed: int) -> None:
    """Writes a checkpoint as transformers writes it."""
    dice = torch.Generator().manual_seed(seed)
    task = getattr(transformers, shape.kind + ("Model" if shape.chain else "ForSequenceClassification"))
    vocabulary = len(shape.tokenizer) + 3
    special = {key: getattr(shape.tokenizer, key) for key in ("pad_token_id", "cls_token_id", "sep_token_id")}
    special |= {"bos_token_id": None, "eos_token_id": None}
    model = task(task.config_class(vocab_size=vocabulary, **special | shape.size)).requires_grad_(False)
    weights = {name: random_weight(name, weight, dice).bfloat16() for name, weight in model.named_parameters()}
    model.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | shape.config
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    usable = shape.size["max_position_embeddings"] - (2 if shape.size.get("type_vocab_size") == 1 else 0)
    shape.tokenizer.model_max_length = usable
    shape.tokenizer.save_pretrained(folder)
    if shape.chain:
        modules(folder, shape.size["hidden_size"], dice)


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


def nemotron_prompts(tokens: Tokens, query: str, documents: list[str], _instruction: str | None) -> list[Prompt]:
    texts = [f"<|begin_of_text|>question:{query} \n \n passage:{document}" for document in documents]
    return [Prompt([place], tokens.ids(text), []) for place, text in enumerate(texts)]


def expect_of_decoder(folder: Path, shape: Shape, case: dict) -> dict:
    """A decoder with a classifier, on the prompts of its family."""
    task = getattr(transformers, shape.kind + "ForSequenceClassification")
    config = task.config_class.from_pretrained(folder)
    model = task.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    bidirectional = shape.kind == "Llama"
    make = nemotron_prompts if bidirectional else qwen3_prompts
    prompts = make(Tokens(shape.tokenizer), case["query"], case["documents"], None)
    raw = []
    for prompt in prompts:
        ids = torch.tensor([prompt.token_ids])
        if bidirectional:
            everything = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
            states = model.model(input_ids=ids, attention_mask=everything).last_hidden_state[0]
            raw.append(model.score(states.mean(0))[0] / shape.config["temperature"])
        else:
            raw.append(model(input_ids=ids).logits[0, 0])
    raw = torch.stack(raw)
    listed = [{"token_ids": prompt.token_ids, "second_start": None} for prompt in prompts]
    return case | {"prompts": listed, "raw": rounded(raw), "predicted": rounded(torch.sigmoid(raw))}


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
        if shape.kind in ("Llama", "Qwen3"):
            made = [expect_of_decoder(folder, shape, case) for case in CASES if case["name"] != "a cut document"]
        else:
            model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
            made = [expect(model, case) for case in CASES]
        for file in folder.rglob("*"):
            kept = file.name in KEPT or file.parent != folder
            if file.is_file() and kept:
                copy = target / file.relative_to(folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(file, copy)
                copy.chmod(0o644)
    golden = {"kind": "cross-encoder", "shape": name, "cases": made}
    (target / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
