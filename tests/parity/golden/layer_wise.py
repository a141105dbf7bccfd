"""Layer-wise MiniCPM in plain torch, because transformers has it only as code of the checkpoint.

Llama's layers with scaled embeddings and scaled residual branches, and a head for each layer from `start_layer` on, which
reads the last token after the final norm. The names are those of BAAI/bge-reranker-v2-minicpm-layerwise.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional

from .gte import angles, rotated


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, width = config.hidden_size, config.hidden_size // self.heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * width, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * width, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, states: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        tokens, hidden = states.shape
        split = lambda projection, heads: projection(states).view(tokens, heads, -1).transpose(0, 1)
        query, key = rotated(split(self.q_proj, self.heads), turned), rotated(split(self.k_proj, self.kv_heads), turned)
        value, times = split(self.v_proj, self.kv_heads), self.heads // self.kv_heads
        key, value = key.repeat_interleave(times, 0), value.repeat_interleave(times, 0)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(read.transpose(0, 1).reshape(tokens, hidden))


class MLP(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))


class Layer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.scale = config.scale_depth / math.sqrt(config.num_hidden_layers)

    def forward(self, states: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        states = states + self.scale * self.self_attn(self.input_layernorm(states), turned)
        return states + self.scale * self.mlp(self.post_attention_layernorm(states))


class Body(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def after_each_layer(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """States of one sequence after 0, 1, ... layers, each after the final norm."""
        assert input_ids.shape[0] == 1
        turned = angles(self.config, input_ids.shape[1])
        states = [self.embed_tokens(input_ids[0]) * self.config.scale_emb]
        for layer in self.layers:
            states.append(layer(states[-1], turned))
        return [self.norm(after) for after in states]

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.after_each_layer(input_ids)[-1][None])


class LayerWiseMiniCPMForCausalLM(nn.Module):
    base_model_prefix = "model"
    config_class = staticmethod(
        lambda **keys: SimpleNamespace(**{"model_type": "minicpm", "rope_scaling": None, "rope_theta": 10000.0} | keys)
    )

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config, self.model = config, Body(config)
        heads = config.num_hidden_layers + 1 - config.start_layer
        self.lm_head = nn.ModuleList(nn.Module() for _ in range(heads))
        for head in self.lm_head:
            head.linear_head = nn.Linear(config.hidden_size, 1, bias=False)

    @torch.no_grad()
    def scores(self, tokens: list[int]) -> list[float]:
        """The head of each layer from `start_layer` on, at the last token."""
        after = self.model.after_each_layer(torch.tensor([tokens]))[self.config.start_layer :]
        return [head.linear_head(states[-1]).item() for head, states in zip(self.lm_head, after, strict=True)]
