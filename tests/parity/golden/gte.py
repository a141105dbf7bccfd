"""GTE's `new` architecture in plain torch, because transformers has it only as code of the checkpoint.

BERT's post-norm layers with rotary positions (NTK scaling) and a gated MLP; the classifier reads the first token through a
pooler. The names are those of Alibaba-NLP/gte-multilingual-reranker-base.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional


def angles(config: SimpleNamespace, tokens: int) -> torch.Tensor:
    """`[tokens, head_dim]`: each frequency twice, as rotating halves needs it."""
    width = config.hidden_size // config.num_attention_heads
    base, divisor = config.rope_theta, 1.0
    if scaling := config.rope_scaling:
        base, divisor = base * scaling["factor"], scaling["factor"] ** (2 / width)
    frequencies = 1.0 / base ** (torch.arange(0, width, 2).float() / width) / divisor
    turned = torch.outer(torch.arange(tokens).float(), frequencies)
    return torch.cat([turned, turned], dim=-1)


def rotated(values: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    first, second = values.chunk(2, dim=-1)
    return values * turned.cos() + torch.cat([-second, first], dim=-1) * turned.sin()


class Attention(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        tokens, hidden = states.shape
        parts = self.qkv_proj(states).chunk(3, dim=-1)
        query, key, value = (part.view(tokens, self.heads, -1).transpose(0, 1) for part in parts)
        query, key = rotated(query, turned), rotated(key, turned)
        read = functional.scaled_dot_product_attention(query, key, value)
        return self.o_proj(read.transpose(0, 1).reshape(tokens, hidden))


class GatedMLP(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.up_gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        up, gate = self.up_gate_proj(states).chunk(2, dim=-1)
        return self.down_proj(functional.gelu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.attention, self.mlp = Attention(config), GatedMLP(config)
        self.attn_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        states = self.attn_ln(states + self.attention(states, turned))
        return self.mlp_ln(states + self.mlp(states))


class Embeddings(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class NewModel(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder, self.pooler = nn.Module(), nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """One sequence without padding."""
        assert input_ids.shape[0] == 1 and attention_mask.all()
        turned = angles(self.config, input_ids.shape[1])
        words, kinds = self.embeddings.word_embeddings(input_ids[0]), self.embeddings.token_type_embeddings.weight[0]
        states = self.embeddings.LayerNorm(words + kinds)
        for layer in self.encoder.layer:
            states = layer(states, turned)
        return SimpleNamespace(last_hidden_state=states[None])


class NewForSequenceClassification(nn.Module):
    base_model_prefix = "new"
    config_class = staticmethod(lambda **keys: SimpleNamespace(**{"model_type": "new", "rope_scaling": None} | keys))

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.new = NewModel(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, **named: torch.Tensor) -> SimpleNamespace:
        first = self.new(**named).last_hidden_state[:, 0]
        return SimpleNamespace(logits=self.classifier(torch.tanh(self.new.pooler.dense(first))))
