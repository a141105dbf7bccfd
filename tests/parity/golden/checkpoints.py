"""Tiny random checkpoints in the Hugging Face layout, and the torch models that they are.

The random weights are scaled so that a wrong norm, bias, rotation or mask moves the results by far
more than the tolerance: attention is peaked, norms and biases are not trivial.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass
class Shape:
    """A decoder's shape, and how its checkpoint is written."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    tied: bool
    stored: str  # F32, F16, BF16, or I8: matrices as rows of int8 with a scale, the rest F16
    rope_theta: float = 1_000_000.0
    new_rope: bool = False  # rope_parameters.rope_theta instead of rope_theta
    norm_eps: float = 1e-6
    max_positions: int = 4096
    shards: int = 1
    prefix: str = "model."  # of the decoder's tensor names
    projector: tuple[int, int] | None = None  # middle and output width
    windows: tuple[int, list[str]] | None = None  # a sliding window, and the type of each layer
    extra: dict = field(default_factory=dict)  # further keys of config.json

    @property
    def is_qwen3(self) -> bool:
        return self.architecture in ("Qwen3ForCausalLM", "Qwen3Model", "JinaForRanking")

    def describe(self) -> str:
        return (
            f"{'qwen3' if self.is_qwen3 else 'qwen2'} h{self.hidden} {self.layers}L "
            f"{self.heads}/{self.kv_heads}x{self.head_dim} mlp{self.mlp} "
            f"{'tied' if self.tied else 'untied'} {self.stored.lower()}"
            + (f" window {self.windows[0]}" if self.windows else "")
        )


@dataclass
class Reference:
    """A torch model with the weights that the checkpoint stores."""

    model: torch.nn.Module
    projector: list[torch.Tensor] | None

    def project(self, states: torch.Tensor) -> torch.Tensor:
        first, second = self.projector
        return torch.relu(states @ first.T) @ second.T


def config_json(shape: Shape) -> dict:
    config = {
        "architectures": [shape.architecture],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": shape.max_positions,
        "max_window_layers": shape.layers,
        "model_type": "qwen3" if shape.is_qwen3 else "qwen2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }
    if shape.is_qwen3:
        config |= {"head_dim": shape.head_dim, "attention_bias": False}
    if shape.new_rope:
        config |= {"rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"}}
        config |= {"dtype": STORED_NAMES[shape.stored], "layer_types": ["full_attention"] * shape.layers}
    else:
        config |= {"rope_theta": shape.rope_theta, "rope_scaling": None}
        config |= {"torch_dtype": STORED_NAMES[shape.stored]}
    return dict(sorted((config | window_keys(shape) | shape.extra).items()))


def window_keys(shape: Shape) -> dict:
    if not shape.windows:
        return {}
    window, types = shape.windows
    return {"use_sliding_window": True, "sliding_window": window, "layer_types": types}


STORED_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "float16"}


def build(shape: Shape) -> torch.nn.Module:
    """The stock transformers model of that shape, with weights yet to be set."""
    kind, causal_lm = (Qwen3Config, Qwen3ForCausalLM) if shape.is_qwen3 else (Qwen2Config, Qwen2ForCausalLM)
    if not shape.is_qwen3 and shape.hidden != shape.heads * shape.head_dim:
        raise ValueError("stock Qwen2 has hidden = heads x head_dim")
    config = kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
        **({"head_dim": shape.head_dim} if shape.is_qwen3 else {}),
        **window_keys(shape),
    )
    model = causal_lm(config).eval().requires_grad_(False)
    if shape.tied:
        model.tie_weights()
    return model


def random_weight(name: str, like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    noise = torch.randn(like.shape, generator=random)
    if name.endswith("norm.weight"):
        # Strong q/k norms make attention choose; a flat softmax would hide a wrong mask.
        centre = 1.8 if "q_norm" in name or "k_norm" in name else 1.0
        return centre + 0.25 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if "embed_tokens" in name:
        return 0.4 * noise
    gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
    return gain * noise / math.sqrt(like.shape[1])


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(dim=1) / 127
    return torch.round(weight / scale[:, None]).to(torch.int8), scale.float()


def make(folder: Path, shape: Shape, seed: int, tokenizer: Path) -> Reference:
    """Writes a checkpoint into `folder` and returns the same model in torch."""
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    model = build(shape)
    stored: dict[str, torch.Tensor] = {}
    exact: dict[str, torch.Tensor] = {}
    names = [name for name, _ in model.named_parameters()]  # a tied head is not listed

    def store(name: str, weight: torch.Tensor) -> torch.Tensor:
        """Notes what the file will hold, and returns what a reader makes of it."""
        if shape.stored == "I8" and weight.dim() == 2:
            stored[name], stored[f"{name}.scale"] = quantise_rows(weight)
            return stored[name].float() * stored[f"{name}.scale"][:, None]
        stored[name] = weight.to(STORED["F16" if shape.stored == "I8" else shape.stored])
        return stored[name].float()

    parameters = dict(model.named_parameters())
    for name in names:
        weight = random_weight(name, parameters[name], random)
        of_decoder = name.startswith("model.")
        exact[name] = store(shape.prefix + name.removeprefix("model.") if of_decoder else name, weight)
    model.load_state_dict(exact, strict=False)
    if shape.tied:
        model.tie_weights()
    projector = None
    if shape.projector:
        middle, width = shape.projector
        projector = [
            store(f"projector.{place}.weight", random_weight("projector", torch.empty(size), random))
            for place, size in ((0, (middle, shape.hidden)), (2, (width, middle)))
        ]
    write_shards(folder, stored, shape.shards)
    (folder / "config.json").write_text(json.dumps(config_json(shape), indent=2) + "\n")
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return Reference(model, projector)


def write_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        write_tensors(tensors, folder / "model.safetensors")
        return
    place, names = {}, sorted(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_tensors(part, folder / file)
        place |= {name: file for name in part}
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(place.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
