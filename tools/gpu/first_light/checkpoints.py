"""Checkpoints with random weights, made by torch and read by both sides."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

QWEN3_06B = dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16)
QWEN3_4B = dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32)
SMALL = dict(hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4)


def sizes(run, shape):
    """The keys of a configuration: `shape`, or tiny ones."""
    heads = dict(num_key_value_heads=2, head_dim=32, vocab_size=1000) if run.small else {}
    return {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        **(SMALL if run.small else shape),
        **heads,
    }


class Checkpoint:
    """A model in torch, and its folder. Weights are bf16 numbers on both sides."""

    def __init__(self, run, name, config, model_class, architecture, seed=1):
        torch.manual_seed(seed)
        self.folder = Path(run.scratch) / name
        self.config, self.run = config, run
        with torch.device(run.torch_device):
            torch.set_default_dtype(torch.bfloat16)
            try:
                self.model = model_class(config).eval().requires_grad_(False)
            finally:
                torch.set_default_dtype(torch.float32)
            # Angles are computed in f32, as after from_pretrained.
            self.model.rotary_emb = type(self.model.rotary_emb)(config)
        with torch.no_grad():
            for key, weight in self.model.named_parameters():
                # Matrices at the usual deviation of an untrained decoder; norms near 1, and each different.
                weight.normal_(0, 0.02) if weight.dim() > 1 else weight.normal_(1, 0.1)
        self.save(architecture)

    def save(self, architecture):
        self.folder.mkdir()
        tensors = {f"model.{key}": value.to("cpu").contiguous() for key, value in self.model.named_parameters()}
        # Passes are token ids; the tokenizer is only there because a checkpoint has one.
        shutil.copy(self.run.root / "tests/parity/fixtures/qwen3-window/tokenizer.json", self.folder)
        save_file(tensors, self.folder / "model.safetensors", metadata={"format": "pt"})
        (self.folder / "config.json").write_text(json.dumps(dict(self.config.to_dict(), architectures=[architecture])))

    def to(self, dtype):
        """Changes the type of the weights, and not that of the rotary frequencies."""
        for weight in self.model.parameters():
            weight.data = weight.data.to(dtype)

    def use(self, attention):
        """Chooses torch's attention: `sdpa` or `flash_attention_2`."""
        self.model.set_attn_implementation(attention)

    @torch.no_grad()
    def states(self, tokens):
        """Final states of one sequence, `[tokens, hidden]`."""
        ids = torch.tensor([tokens], device=self.run.torch_device)
        return self.model(input_ids=ids, use_cache=False).last_hidden_state[0].float()

    @torch.no_grad()
    def states_without_mask(self, tokens):
        """As `states`, and every token attends to every token."""
        ids = torch.tensor([tokens], device=self.run.torch_device)
        open_mask = torch.zeros(1, 1, len(tokens), len(tokens), device=ids.device, dtype=self.model.dtype)
        output = self.model(input_ids=ids, attention_mask=open_mask, use_cache=False)
        return output.last_hidden_state[0].float()

    def logits(self, states, token_ids):
        rows = self.model.embed_tokens.weight[torch.tensor(token_ids, device=states.device)].float()
        return states @ rows.T


def qwen3(run, name, shape, **more):
    config = Qwen3Config(**sizes(run, shape), **more)
    return Checkpoint(run, name, config, Qwen3Model, "Qwen3ForCausalLM")


def llama(run, name, shape, architecture="LlamaForCausalLM", **more):
    config = LlamaConfig(**sizes(run, shape), **more)
    return Checkpoint(run, name, config, LlamaModel, architecture)
