"""Whole sequences through encoders and decoders: states, pooled states and classes, for every architecture.

Unlike `runtime_cases`, these need no masks of their own: each sequence runs by itself through the stock transformers model.
"""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from . import gte, layer_wise
from .checkpoints import STORED, write_tensors
from .reference import rounded
from .runtime_cases import byte_tokenizer

VOCABULARY = 259
LENGTHS = (1, 2, 17, 33, 64, 65, 130, 260)
SHORT = {"max_position_embeddings": 320}

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "pad_token_id": 1,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
} | SHORT
DECODER = ENCODER | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu"}
MODERN = ENCODER | {
    "num_hidden_layers": 5,
    "global_attn_every_n_layers": 3,
    "local_attention": 22,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass
class Shape:
    architecture: str
    config: dict
    stored: str = "BF16"
    jina_names: bool = False
    extra: dict = field(default_factory=dict)  # keys that only the written config.json has

    @property
    def base(self) -> str:
        """The stock class that computes it."""
        return self.architecture.replace("LlamaBidirectional", "Llama")

    @property
    def bidirectional(self) -> bool:
        return "Bidirectional" in self.architecture

    def describe(self) -> str:
        size = f"h{self.config['hidden_size']} {self.config['num_hidden_layers']}L {self.config['num_attention_heads']}"
        return f"{self.architecture} {size} {self.stored.lower()}"


CLASSIFIER = "ForSequenceClassification"
SHAPES = {
    "bert-classifier": Shape("Bert" + CLASSIFIER, ENCODER | {"type_vocab_size": 2}, "F32"),
    "bert-bare-bf16": Shape("BertModel", ENCODER | {"num_attention_heads": 4, "hidden_act": "gelu_new"}, "BF16"),
    "xlm-roberta-classifier": Shape(
        "XLMRoberta" + CLASSIFIER, ENCODER | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}, "F16"
    ),
    "xlm-roberta-jina-names": Shape(
        "XLMRoberta" + CLASSIFIER, ENCODER | {"type_vocab_size": 1}, "BF16", jina_names=True
    ),
    "modernbert-mean": Shape("ModernBert" + CLASSIFIER, MODERN | {"classifier_pooling": "mean"}),
    "modernbert-cls-biases": Shape(
        "ModernBert" + CLASSIFIER,
        MODERN
        | {"classifier_pooling": "cls", "norm_bias": True, "mlp_bias": True, "attention_bias": True}
        | {"classifier_bias": True, "local_rope_theta": None},
        "BF16",
    ),
    "modernbert-bare": Shape("ModernBertModel", MODERN | {"num_attention_heads": 4}),
    "llama3-rope": Shape("LlamaForCausalLM", DECODER | {"rope_theta": 500000.0, "rope_scaling": LLAMA3}, "BF16"),
    "llama-linear-rope-biases": Shape(
        "LlamaForCausalLM",
        DECODER
        | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "attention_bias": True, "mlp_bias": True}
        | {"tie_word_embeddings": True, "head_dim": 16},
    ),
    "llama-bidirectional": Shape(
        "LlamaBidirectional" + CLASSIFIER,
        DECODER | {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
        extra={"pooling": "avg", "temperature": 2.0, "model_type": "llama_bidirec"},
    ),
    "mistral-window": Shape("MistralForCausalLM", DECODER | {"sliding_window": 24}),
    "qwen3-window": Shape(
        "Qwen3ForCausalLM",
        DECODER
        | {"use_sliding_window": True, "sliding_window": 20, "layer_types": SLIDING}
        | {"rope_theta": 1e6, "tie_word_embeddings": True},
    ),
    "qwen2-window-yarn": Shape(
        "Qwen2ForCausalLM",
        DECODER
        | {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1, "num_attention_heads": 2, "head_dim": 32}
        | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 80}},
    ),
    "qwen3-classifier": Shape("Qwen3" + CLASSIFIER, DECODER, "BF16"),
    "gte-classifier": Shape(
        "New" + CLASSIFIER,
        ENCODER
        | {"type_vocab_size": 1, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "position_embedding_type": "rope"}
        | {"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}, "pack_qkv": True},
    ),
    "gemma": Shape("GemmaForCausalLM", DECODER | {"hidden_act": "gelu_pytorch_tanh"}),
    # The large eps shows whether it is scaled as the states are.
    "layer-wise-minicpm": Shape(
        "LayerWiseMiniCPMForCausalLM",
        {key: value for key, value in DECODER.items() if key != "head_dim"}
        | {"num_hidden_layers": 5, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 0.05}
        | {"scale_emb": 2.5, "scale_depth": 1.4, "dim_model_base": 32}
        | {"start_layer": 2, "head_type": "simple", "head_multi": True},
    ),
}

OWN_CODE = {"New": gte, "LayerWise": layer_wise}  # architectures that transformers does not have


def random_weight(name: str, like: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Scaled so that a wrong norm, bias, rotation or mask moves the results by far more than the tolerance."""
    noise = torch.randn(like.shape, generator=dice)
    if ("norm" in name.lower() or "_ln." in name) and name.endswith("weight"):
        return (1.8 if "q_norm" in name or "k_norm" in name else 1.0) + 0.25 * noise
    if like.dim() == 1:
        return 0.3 * noise
    if "embed" in name:
        return 0.4 * noise
    gain = 1.6 if any(part in name for part in ("q_proj", "k_proj", "query", "key", "Wqkv")) else 1.0
    return gain * noise / math.sqrt(like.shape[1])


def as_jina(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """XLM-RoBERTa's tensors under the names of jina-reranker-v2."""
    layers = {int(name.split(".")[3]) for name in weights if ".encoder.layer." in name}
    renamed = {name: weight for name, weight in weights.items() if ".encoder.layer." not in name}
    for kind in ("weight", "bias"):
        renamed[f"roberta.emb_ln.{kind}"] = renamed.pop(f"roberta.embeddings.LayerNorm.{kind}")
        for layer in layers:
            old, new = f"roberta.encoder.layer.{layer}.", f"roberta.encoder.layers.{layer}."
            parts = [weights[f"{old}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            renamed[f"{new}mixer.Wqkv.{kind}"] = torch.cat(parts)
            for theirs, ours in (
                ("mixer.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                renamed[f"{new}{theirs}.{kind}"] = weights[f"{old}{ours}.{kind}"]
    return renamed


def make(folder: Path, shape: Shape, seed: int, tokenizer: Path) -> torch.nn.Module:
    folder.mkdir(parents=True, exist_ok=True)
    dice = torch.Generator().manual_seed(seed)
    own = [module for start, module in OWN_CODE.items() if shape.base.startswith(start)]
    kind = getattr((own or [transformers])[0], shape.base)
    more = {"reference_compile": False} if "ModernBert" in shape.base else {}
    config = kind.config_class(**shape.config, **more)
    config._attn_implementation = "sdpa"
    model = kind(config).eval().requires_grad_(False)
    # Gemma stores the weights of norms less 1.
    offset = lambda name: 1.0 if shape.base.startswith("Gemma") and "norm" in name else 0.0
    exact = {
        name: (random_weight(name, weight, dice) - offset(name)).to(STORED[shape.stored])
        for name, weight in model.named_parameters()
    }
    model.load_state_dict({name: weight.float() for name, weight in exact.items()}, strict=False)
    if getattr(config, "tie_word_embeddings", False):
        model.tie_weights()
    write_tensors(as_jina(exact) if shape.jina_names else exact, folder / "model.safetensors")
    written = {"architectures": [shape.architecture], "model_type": config.model_type} | shape.config | shape.extra
    (folder / "config.json").write_text(json.dumps(dict(sorted(written.items())), indent=2) + "\n")
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return model


@torch.no_grad()
def run(model: torch.nn.Module, shape: Shape, tokens: list[int], pair: int | None) -> tuple[torch.Tensor, list[float]]:
    """Final states of a sequence, and its classes if there are any."""
    named = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
    if pair is not None:
        named["token_type_ids"] = torch.tensor([[0] * pair + [1] * (len(tokens) - pair)])
    body = getattr(model, model.base_model_prefix, model)  # a bare model is its own
    if shape.bidirectional:
        named["attention_mask"] = torch.zeros(1, 1, len(tokens), len(tokens))
    states = body(**named).last_hidden_state[0]
    if isinstance(model, layer_wise.LayerWiseMiniCPMForCausalLM):
        return states, model.scores(tokens)[-1:]
    if CLASSIFIER not in shape.architecture:
        return states, []
    if shape.bidirectional:
        return states, (model.score(states.mean(0)) / shape.extra["temperature"]).tolist()
    return states, model(**named).logits[0].tolist()


def expect(model: torch.nn.Module, shape: Shape, dice: random.Random, length: int) -> dict:
    # Not the ids of padding: transformers skips them.
    tokens = [dice.randrange(2, VOCABULARY) for _ in range(length)]
    pair = dice.randrange(1, length + 1) if shape.config.get("type_vocab_size") == 2 else None
    states, classes = run(model, shape, tokens, pair)
    offsets = sorted({0, length - 1, length // 2, length // 3})
    layers = {}
    if isinstance(model, layer_wise.LayerWiseMiniCPMForCausalLM):
        layers = {"layer_classes": [float(f"{value:.7g}") for value in model.scores(tokens)]}
    return layers | {
        "tokens": tokens,
        "second_start": pair,
        "offsets": offsets,
        "states": rounded(states[offsets]),
        "mean": rounded(states.mean(0)),
        "classes": [float(f"{value:.7g}") for value in classes],
    }


def make_sequence_case(fixtures: Path, name: str) -> None:
    shape, seed = SHAPES[name], 3000 + list(SHAPES).index(name)
    fixtures.mkdir(parents=True, exist_ok=True)
    tokenizer = fixtures / "byte-tokenizer.json"
    byte_tokenizer(tokenizer)
    torch.manual_seed(seed)
    model = make(fixtures / name, shape, seed, tokenizer)
    tokenizer.unlink()
    dice = random.Random(seed)
    golden = {
        "kind": "sequences",
        "shape": shape.describe(),
        "sequences": [expect(model, shape, dice, length) for length in LENGTHS],
    }
    (fixtures / name / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
