"""Posterior of a third party: uniform on a box, without registered functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

import rebasin_core as rc


class BoxPosterior(rc.posteriors.AbstractAttachedPosterior):
    """Independent uniform distributions on [center - radius, center + radius]."""

    kind: ClassVar[str] = "box"

    def __init__(self, center: Mapping[str, Tensor], radius: Mapping[str, Tensor]) -> None:
        super().__init__({"center": center, "radius": radius})

    @property
    def radius(self) -> dict[str, Tensor]:
        return dict(self._fields["radius"])

    @override
    def _mean(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._fields["center"].items()}

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {name: tensor / 3**0.5 for name, tensor in self._fields["radius"].items()}

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: 2 * torch.rand((*sample_shape, *t.shape), generator=generator, dtype=t.dtype) - 1
            for name, t in self._fields["center"].items()
        }

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        center = self._fields["center"]
        return {name: center[name] + self._fields["radius"][name] * noise[name] for name in center}

    @classmethod
    @override
    def _rebuild(
        cls,
        fields: Mapping[str, Mapping[str, Tensor]],
        unattached: Mapping[str, Tensor],
        auxiliary: rc.posteriors.AuxiliaryTensors,
    ) -> Self:
        return cls(fields["center"], fields["radius"])
