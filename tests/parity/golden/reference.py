"""The expected output of a pass, by a masked transformers forward on one flat sequence.

A pass is a prefix, suffixes that see the prefix and themselves, and perhaps cross-document last layers,
in which the read positions also see the shared ones. The reference uses explicit 4-D masks, one for the
lower layers and one for the cross-document layers; suffix positions continue from the prefix's end.
"""

from dataclasses import dataclass, field

import torch

Mark = tuple[int, int]  # (segment: 0 is the prefix, n is suffix n - 1; offset in it)


@dataclass
class Pass:
    name: str
    prefix: list[int]
    suffixes: list[list[int]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    cross_document_layers: int = 0
    shared: list[Mark] = field(default_factory=list)

    def segments(self) -> list[list[int]]:
        return [self.prefix, *self.suffixes]

    def flat(self, mark: Mark) -> int:
        segment, offset = mark
        return sum(len(tokens) for tokens in self.segments()[:segment]) + offset


def flatten(item: Pass) -> tuple[list[int], list[int], list[int]]:
    """Tokens, their positions, and their segments."""
    tokens, positions, owners = [], [], []
    for number, segment in enumerate(item.segments()):
        start = len(item.prefix) if number else 0
        tokens += segment
        positions += range(start, start + len(segment))
        owners += [number] * len(segment)
    return tokens, positions, owners


def visibility(item: Pass) -> tuple[torch.Tensor, torch.Tensor]:
    """Visibility masks, `[token, token]`, of the lower and of the cross-document layers."""
    tokens, _, owners = flatten(item)
    owner = torch.tensor(owners)
    earlier = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    lower = earlier & ((owner[:, None] == owner[None]) | (owner[None] == 0))
    crossing = lower.clone()
    for probed in item.marks:
        for shared in item.shared:
            crossing[item.flat(probed), item.flat(shared)] = True
    return lower, crossing


def additive(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, 1, *mask.shape).masked_fill(~mask, float("-inf"))


@torch.no_grad()
def hidden_states(model: torch.nn.Module, item: Pass) -> torch.Tensor:
    """Final-normed states at the pass's marks, `[marks, hidden]`."""
    tokens, positions, _ = flatten(item)
    if not item.suffixes:
        states = model.model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
        return states[[item.flat(mark) for mark in item.marks]]
    lower, crossing = (additive(mask) for mask in visibility(item))
    swapped = [
        layer.register_forward_pre_hook(
            lambda _layer, arguments, named: (arguments, named | {"attention_mask": crossing}), with_kwargs=True
        )
        for layer in model.model.layers[len(model.model.layers) - item.cross_document_layers :]
    ]
    states = model.model(
        input_ids=torch.tensor([tokens]),
        position_ids=torch.tensor([positions]),
        attention_mask=lower,
        use_cache=False,
    ).last_hidden_state[0]
    for hook in swapped:
        hook.remove()
    return states[[item.flat(mark) for mark in item.marks]]


@torch.no_grad()
def hidden_states_apart(model: torch.nn.Module, item: Pass) -> torch.Tensor:
    """The same without masks: prefix and suffix as one sequence each. Only without cross-document layers."""
    assert item.cross_document_layers == 0
    rows = []
    for segment, offset in item.marks:
        tokens = item.prefix + (item.suffixes[segment - 1] if segment else [])
        place = offset + (len(item.prefix) if segment else 0)
        rows.append(model.model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0, place])
    return torch.stack(rows)


@torch.no_grad()
def next_token_logits(model: torch.nn.Module, states: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    return (states @ model.lm_head.weight.T)[:, token_ids]


def rounded(values: torch.Tensor) -> list:
    """Seven significant digits: f32 holds no more."""
    if values.dim() == 0:
        return float(f"{values.item():.7g}")
    return [rounded(value) for value in values]
