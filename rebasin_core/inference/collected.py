"""Samples collected during training."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.inference.stacked import AbstractStackedObjective

_COUNT = "collected"


@final
class Collected:
    """Snapshots of K networks, stored in the memory of an objective.

    Args:
        objective: Objective of the networks.
        capacity: Maximum number of snapshots of each network, at least 1.
    """

    def __init__(self, objective: AbstractStackedObjective, capacity: int) -> None:
        self._objective = objective
        self._names = list(objective.parameters)
        # A tensor: checkpoints save the memory as tensors.
        objective.memory[_COUNT] = torch.zeros((), dtype=torch.int64)
        for name, tensor in {**objective.parameters, **objective.buffers}.items():
            objective.memory[f"samples/{name}"] = tensor.new_zeros((capacity, *tensor.shape), requires_grad=False)

    def add(self) -> None:
        """Add a snapshot of the current state of all networks."""
        memory = self._objective.memory
        count = memory[_COUNT]
        for name, tensor in {**self._objective.parameters, **self._objective.buffers}.items():
            memory[f"samples/{name}"][int(count)].copy_(tensor.detach())
        count += 1

    def posterior(self) -> SamplesPosterior:
        """Return the snapshots as posterior samples, sorted by chain, then by time."""
        count = int(self._objective.memory[_COUNT])
        members = self._objective.members

        def flat(name: str) -> Tensor:
            return self._objective.memory[f"samples/{name}"][:count].transpose(0, 1).flatten(0, 1).clone()

        return SamplesPosterior(
            {name: flat(name) for name in self._names},
            sample_buffers={name: flat(name) for name in self._objective.buffers},
            chains=torch.arange(members).repeat_interleave(count),
            prior=self._objective.prior,
        )
