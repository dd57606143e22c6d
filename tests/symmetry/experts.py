"""A mixture of experts with one module for each expert, and the same model with stacked weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPERTS = 3
WIDTH = 4
HIDDEN = 5

TABLE = {
    "embed.weight": "d, -",
    "embed.bias": "d",
    "gate.weight": "expert, d",
    "gate.bias": "expert",
    "experts.{expert}.up.weight": "hidden@expert, d",
    "experts.{expert}.up.bias": "hidden@expert",
    "experts.{expert}.down.weight": "d, hidden@expert",
    "out.weight": "-, d",
    "out.bias": "-",
}

STACKED_TABLE = {
    **{name: axes for name, axes in TABLE.items() if "{" not in name},
    "up": "expert, hidden@expert, d",
    "up_bias": "expert, hidden@expert",
    "down": "expert, d, hidden@expert",
}

STACKS = {
    "up": "experts.{expert}.up.weight",
    "up_bias": "experts.{expert}.up.bias",
    "down": "experts.{expert}.down.weight",
}


class Expert(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down(torch.tanh(self.up(x)))
        return output


class Mixture(nn.Module):
    """Experts in a module list, weighted by a gate."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed, self.gate = nn.Linear(3, WIDTH), nn.Linear(WIDTH, EXPERTS)
            self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])
            self.out = nn.Linear(WIDTH, 2)
        self.double()

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        weights = self.gate(h).softmax(-1)
        mixed = h
        for number, expert in enumerate(self.experts):
            mixed = torch.add(mixed, weights[..., number : number + 1] * expert(h))
        output: Tensor = self.out(mixed)
        return output


def spec() -> rc.PermutationSpec:
    return rc.table_spec(TABLE, Mixture())


def stacked_spec() -> rc.PermutationSpec:
    return rc.table_spec(STACKED_TABLE, stacked(tensors_of(Mixture())))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def stacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the model with stacked weights."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("experts.")}
    parts = {"up": "up.weight", "up_bias": "up.bias", "down": "down.weight"}
    return plain | {
        name: torch.stack([tensors[f"experts.{number}.{part}"] for number in range(EXPERTS)])
        for name, part in parts.items()
    }


def run(model: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    output: Any = torch.func.functional_call(model, dict(tensors), (x,))
    return torch.as_tensor(output)


def element(seed: int = 1) -> rc.Permutation:
    """Return a random permutation that exchanges all experts."""
    generator = torch.Generator().manual_seed(seed)
    found = spec().random_permutation(generator=generator)
    index = torch.arange(EXPERTS).roll(1)
    return rc.Permutation(found.layout, {**found.indices, "expert": index})
