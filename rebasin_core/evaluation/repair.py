"""REPAIR: rescaling of activations to given means and standard deviations, through weights and biases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import UnreadWeightWarning
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.reading import Interception, WeightUse
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.tensors.inputs import AnyInputs

# Units with a smaller standard deviation are constant and are not rescaled.
_MIN_STDDEV = 1e-12


@final
@dataclass(frozen=True, slots=True)
class ActivationMoments:
    """Mean and standard deviation of the output of each unit, for all dense and convolutional layers but the last.

    Attributes:
        mean: Means ``[units]`` by layer; the name of a layer is that of its weight without ``.weight``.
        stddev: Standard deviations ``[units]`` by layer.
    """

    mean: Mapping[str, Tensor]
    stddev: Mapping[str, Tensor]

    def blend(self, other: ActivationMoments, t: float) -> ActivationMoments:
        """Return the linear interpolation of means and standard deviations between these moments and others.

        Args:
            other: Moments of the same layers.
            t: The interpolation coefficient, in [0, 1].

        Returns:
            The interpolated moments.
        """
        mean = {name: torch.lerp(first, other.mean[name], t) for name, first in self.mean.items()}
        stddev = {name: torch.lerp(first, other.stddev[name], t) for name, first in self.stddev.items()}
        return ActivationMoments(mean, stddev)


@final
@dataclass(frozen=True, slots=True)
class UnitMaps:
    """An affine map of the output of each unit, for some layers: scale * output + shift.

    Attributes:
        scale: Scales ``[units]`` by layer.
        shift: Shifts ``[units]`` by layer; zero for layers without a bias.
        layers: The layers.
    """

    scale: Mapping[str, Tensor]
    shift: Mapping[str, Tensor]
    layers: Sequence[WeightUse]

    def folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fold the maps into weights and biases.

        Args:
            tensors: Parameters and buffers by name.

        Returns:
            All parameters and buffers; the layers of the maps compute the mapped outputs.
        """
        result = dict(tensors)
        for use in self.layers:
            weight = tensors[use.name]
            scale = self.scale[use.layer]
            result[use.name] = weight * use.along_weight(scale, weight)
            if use.bias is not None:
                bias = tensors[use.bias]
                result[use.bias] = bias * scale.reshape(bias.shape) + self.shift[use.layer].reshape(bias.shape)
        return result


@final
class ActivationRepair:
    r"""REPAIR: rescaling of units to given means and standard deviations of their outputs.

    The activations of interpolated networks have too small a variance. From the first layer to the last but one, the
    output $z$ of each unit becomes $\sigma^* (z - \mu) / \sigma + \mu^*$. The map is folded into weight and bias.
    Layers without a bias can only be scaled; for them the root mean square is matched instead.

    A layer is any dense or convolutional product of activations with a weight, in any module or function. Its weight
    and bias must not be used in other operations.

    Args:
        model: The network; not changed.
        inputs: A small batch, on which the use of each weight is determined.
        device: Device to run on.
        dtype: Dtype of floating-point parameters, buffers and inputs.

    Warns:
        UnreadWeightWarning: If weights before the last layer cannot be rescaled unit by unit; the message names them.

    References:
        K. Jordan et al. (2023), "REPAIR: renormalizing permuted activations for interpolation repair", ICLR, arXiv
        2211.08403, section 4.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: AnyInputs,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._model = FunctionalModel(model, device=device, dtype=dtype)
        tensors = {name: self._model.to_device(tensor.detach()) for name, tensor in named_tensors(model).items()}
        reading = self._model.reading(self._model.to_device(inputs), tensors)
        # Buffers such as fixed filters are not interpolated, so they are not rescaled.
        names = {name for name, _ in model.named_parameters()} - reading.last
        self._layers = [use for use in reading.layers if names.issuperset(use.parameter_names)]
        buffers = [use.name for use in reading.layers if use.name in names and use not in self._layers]
        excluded = dict.fromkeys(buffers, "its bias is a buffer") | reading.excluded
        excluded = {name: why for name, why in excluded.items() if name in names}
        if excluded:
            named = ", ".join(f"`{name}` ({why})" for name, why in excluded.items())
            message = f"REPAIR skips weights that cannot be rescaled unit by unit: {named}"
            warnings.warn(message, UnreadWeightWarning, stacklevel=2)

    def __bool__(self) -> bool:
        """Return whether there are layers to repair."""
        return bool(self._layers)

    def moments(self, tensors: Mapping[str, Tensor], data: Sequence[Batch]) -> ActivationMoments:
        """Return the activation moments of a network on data.

        Args:
            tensors: Parameters and buffers of the network by name.
            data: Batches ``(inputs, targets)``; one pass.

        Returns:
            The moments.
        """
        sums = {use.layer: _Sums() for use in self._layers}
        self._run(tensors, data, sums, {})
        moments = {name: total.moments() for name, total in sums.items()}
        dtype = next(iter(tensors.values())).dtype
        mean = {name: pair[0].to(dtype) for name, pair in moments.items()}
        stddev = {name: pair[1].to(dtype) for name, pair in moments.items()}
        return ActivationMoments(mean, stddev)

    def maps(self, tensors: Mapping[str, Tensor], data: Sequence[Batch], target: ActivationMoments) -> UnitMaps:
        """Return the maps after which the activations of a network have given moments.

        Args:
            tensors: Parameters and buffers of the network by name.
            data: Batches ``(inputs, targets)``; one pass for each layer.
            target: Moments of the activations after the maps.

        Returns:
            The maps.

        Complexity:
            One pass over the data for each layer, because its inputs depend on the maps of earlier layers.
        """
        maps: dict[str, tuple[Tensor, Tensor]] = {}
        for use in self._layers:
            name = use.layer
            total = _Sums()
            self._run(tensors, data, {name: total}, maps)
            mean, stddev = total.moments()
            target_mean = target.mean[name].double()
            target_stddev = target.stddev[name].double()
            if use.bias is not None:
                ratio = target_stddev / stddev
            else:
                ratio = torch.sqrt((target_stddev.square() + target_mean.square()) / (stddev.square() + mean.square()))
            scale = torch.where(stddev > _MIN_STDDEV, ratio, torch.ones_like(ratio))
            shift = target_mean - scale * mean
            if use.bias is None:
                shift = torch.zeros_like(shift)
            like = tensors[use.name]
            maps[name] = scale.to(like), shift.to(like)
        return _unit_maps(maps, self._layers)

    def _run(
        self,
        tensors: Mapping[str, Tensor],
        data: Sequence[Batch],
        sums: Mapping[str, _Sums],
        maps: Mapping[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Run the network with some maps folded in, and accumulate the outputs of the layers in `sums`."""
        folded = _unit_maps(maps, self._layers).folded(tensors)
        watched = [use for use in self._layers if use.layer in sums]

        def add(use: WeightUse, output: Tensor) -> Tensor:
            sums[use.layer].add(use.by_unit(output))
            return output

        with torch.no_grad():
            for inputs, _ in data:
                with Interception(watched, folded, on_output=add):
                    self._model(folded, self._model.to_device(inputs))


def _unit_maps(maps: Mapping[str, tuple[Tensor, Tensor]], layers: Sequence[WeightUse]) -> UnitMaps:
    return UnitMaps(
        {name: scale for name, (scale, _) in maps.items()},
        {name: shift for name, (_, shift) in maps.items()},
        [use for use in layers if use.layer in maps],
    )


@final
class _Sums:
    """Sums of the outputs of each unit and of their squares, in float64."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._count = 0

    def add(self, outputs: Tensor) -> None:
        """Add a batch of outputs ``[units, n]``."""
        rows = outputs.double()
        first = rows.sum(1)
        second = rows.square().sum(1)
        self._first = first if self._first is None else self._first + first
        self._second = second if self._second is None else self._second + second
        self._count += rows.shape[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation."""
        assert self._first is not None  # ruff: ignore[assert] - every watched layer was called
        assert self._second is not None  # ruff: ignore[assert] - likewise
        mean = self._first / self._count
        return mean, (self._second / self._count - mean.square()).clamp_min(0).sqrt()
