"""REPAIR: activations given wanted means and standard deviations, folded into weights and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.layers import Layer, layers_called_once
from rebasin_core.tensors.modules import forward_hooks, named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

# A unit whose output hardly varies is left as it is: there is nothing to scale.
_LEAST_STDDEV = 1e-12


@final
@dataclass(frozen=True, slots=True)
class ActivationMoments:
    """Mean and standard deviation of every unit's output, of every dense and convolutional layer but the last.

    Attributes:
        mean: ``[units]`` by the layer's name.
        stddev: The same.
    """

    mean: Mapping[str, Tensor]
    stddev: Mapping[str, Tensor]

    def blend(self, other: ActivationMoments, t: float) -> ActivationMoments:
        """Return the moments between these and others: mean and standard deviation linear in t.

        Args:
            other: Of the same layers.
            t: In [0, 1].

        Returns:
            The moments there.
        """
        mean, stddev = (
            {name: torch.lerp(start, ends[name], t) for name, start in starts.items()}
            for starts, ends in ((self.mean, other.mean), (self.stddev, other.stddev))
        )
        return ActivationMoments(mean, stddev)


@final
@dataclass(frozen=True, slots=True)
class UnitMaps:
    """For every unit of some layers, an affine map of its output, to be folded into weight and bias.

    Attributes:
        scale: ``[units]`` by the layer's name.
        shift: The same; zero for layers without a bias.
        layers: The layers.
    """

    scale: Mapping[str, Tensor]
    shift: Mapping[str, Tensor]
    layers: Sequence[Layer]

    def folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whose layers compute the mapped outputs.

        Args:
            tensors: Parameters and buffers by name.

        Returns:
            All of them, changed where a layer has a map.
        """
        result = dict(tensors)
        for layer in self.layers:
            weight, bias = layer.name("weight"), layer.name("bias")
            scale = self.scale[layer.prefix]
            result[weight] = tensors[weight] * scale.reshape(-1, *[1] * (tensors[weight].dim() - 1))
            if bias in tensors:
                result[bias] = tensors[bias] * scale + self.shift[layer.prefix]
        return result


@final
class ActivationRepair:
    r"""REPAIR: rescales every unit so that its output has a wanted mean and standard deviation.

    Interpolated networks have activations of too small a variance. Every unit's output $z$ becomes
    $\sigma^* (z - \mu) / \sigma + \mu^*$, from the first layer to the last but one, and the map is folded into weight
    and bias. A layer without a bias can only be scaled: there the root mean square is set.

    Args:
        model: The network.
        inputs: A batch, to see which layers are called once, and in which order.
        device: Where it is run.
        dtype: Its floating dtype.

    References:
        K. Jordan et al. (2023), "REPAIR: renormalizing permuted activations for interpolation repair", ICLR, arXiv
        2211.08403, section 4.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._model = FunctionalModel(model, device=device, dtype=dtype)
        tensors = {name: self._model.to_device(tensor.detach()) for name, tensor in named_tensors(model).items()}
        called = layers_called_once(self._model, self._model.to_device(inputs), tensors)
        self._layers = called[:-1]

    def __bool__(self) -> bool:
        """Return whether any layer but the last can be repaired."""
        return bool(self._layers)

    def moments(self, tensors: Mapping[str, Tensor], data: Sequence[tuple[Tensor, Tensor]]) -> ActivationMoments:
        """Return the moments of a network's activations.

        Args:
            tensors: Its parameters and buffers.
            data: Batches ``(inputs, targets)``; one pass.

        Returns:
            The moments.
        """
        sums = {layer.prefix: _Sums() for layer in self._layers}
        self._run(tensors, data, sums, {})
        found = {name: total.moments() for name, total in sums.items()}
        like = next(iter(tensors.values())).dtype
        mean, stddev = ({name: pair[k].to(like) for name, pair in found.items()} for k in (0, 1))
        return ActivationMoments(mean, stddev)

    def maps(
        self, tensors: Mapping[str, Tensor], data: Sequence[tuple[Tensor, Tensor]], wanted: ActivationMoments
    ) -> UnitMaps:
        """Return the maps that give a network's activations the wanted moments.

        Args:
            tensors: Its parameters and buffers.
            data: Batches ``(inputs, targets)``.
            wanted: The moments.

        Returns:
            The maps.

        Complexity:
            One pass over the data for each layer, since what a layer sees depends on the maps before it.
        """
        known: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self._layers:
            name = layer.prefix
            total = _Sums()
            self._run(tensors, data, {name: total}, known)
            mean, stddev = total.moments()
            target_mean, target = wanted.mean[name].double(), wanted.stddev[name].double()
            if layer.name("bias") in tensors:
                ratio = target / stddev
            else:
                ratio = torch.sqrt((target.square() + target_mean.square()) / (stddev.square() + mean.square()))
            scale = torch.where(stddev > _LEAST_STDDEV, ratio, torch.ones_like(ratio))
            shift = target_mean - scale * mean
            if layer.name("bias") not in tensors:
                shift = torch.zeros_like(shift)
            like = tensors[layer.name("weight")]
            known[name] = scale.to(like), shift.to(like)
        scales, shifts = ({name: pair[k] for name, pair in known.items()} for k in (0, 1))
        return UnitMaps(scales, shifts, self._layers)

    def _run(
        self,
        tensors: Mapping[str, Tensor],
        data: Sequence[tuple[Tensor, Tensor]],
        sums: Mapping[str, _Sums],
        known: Mapping[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Run the network on the data, with the known maps; add up the outputs of the layers that have sums."""
        folded = UnitMaps(
            {name: scale for name, (scale, _) in known.items()},
            {name: shift for name, (_, shift) in known.items()},
            [layer for layer in self._layers if layer.prefix in known],
        ).folded(tensors)
        hooks = [
            (layer.module, lambda _, __, output, layer=layer: sums[layer.prefix].add(layer.by_unit(output)))
            for layer in self._layers
            if layer.prefix in sums
        ]
        with torch.no_grad(), forward_hooks(hooks):
            for inputs, _ in data:
                self._model(folded, self._model.to_device(inputs))


@final
class _Sums:
    """Sums of a layer's outputs and of their squares, unit by unit, in float64."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._count = 0

    def add(self, outputs: Tensor) -> None:
        """Add a batch of outputs, ``[units, everything else]``."""
        rows = outputs.double()
        first, second = rows.sum(1), rows.square().sum(1)
        self._first = first if self._first is None else self._first + first
        self._second = second if self._second is None else self._second + second
        self._count += rows.shape[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation."""
        assert self._first is not None  # ruff: ignore[assert] - layers are called, or they would not be here
        assert self._second is not None  # ruff: ignore[assert] - likewise
        mean = self._first / self._count
        return mean, (self._second / self._count - mean.square()).clamp_min(0).sqrt()
