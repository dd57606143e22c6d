"""REPAIR: rescales activations to given means and standard deviations, by changing weights and biases."""

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

# A unit whose output hardly varies is left as it is: there is nothing to scale.
_LEAST_STDDEV = 1e-12


@final
@dataclass(frozen=True, slots=True)
class ActivationMoments:
    """Mean and standard deviation of every unit's output, of every dense and convolutional layer but the last.

    Attributes:
        mean: ``[units]`` by the name of the layer, which is that of its weight without ``.weight``.
        stddev: The same.
    """

    mean: Mapping[str, Tensor]
    stddev: Mapping[str, Tensor]

    def blend(self, other: ActivationMoments, t: float) -> ActivationMoments:
        """Return the moments between these and others: mean and standard deviation are linear in t.

        Args:
            other: Moments of the same layers.
            t: The interpolation coefficient, in [0, 1].

        Returns:
            The moments at t.
        """
        mean = {name: torch.lerp(start, other.mean[name], t) for name, start in self.mean.items()}
        stddev = {name: torch.lerp(start, other.stddev[name], t) for name, start in self.stddev.items()}
        return ActivationMoments(mean, stddev)


@final
@dataclass(frozen=True, slots=True)
class UnitMaps:
    """For every unit of some layers, an affine map of its output, which is applied to weight and bias.

    Attributes:
        scale: ``[units]`` by the name of the layer.
        shift: The same; zero for layers without a bias.
        layers: The layers.
    """

    scale: Mapping[str, Tensor]
    shift: Mapping[str, Tensor]
    layers: Sequence[WeightUse]

    def folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whose layers compute the mapped outputs.

        Args:
            tensors: Parameters and buffers by name.

        Returns:
            All of them, changed where a layer has a map.
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
    r"""REPAIR: rescales every unit so that its output has a given mean and standard deviation.

    Interpolated networks have activations of too small a variance. The output $z$ of every unit becomes
    $\sigma^* (z - \mu) / \sigma + \mu^*$, from the first layer to the last but one. Weight and bias are changed
    accordingly. A layer without a bias can only be scaled: there the root mean square is set.

    A layer is any dense or convolutional product of activations with a weight, whatever module or function computes
    it. Its weight and bias must be used nowhere else.

    Args:
        model: The network.
        inputs: A small batch, to see how the network uses its weights.
        device: Where it is run.
        dtype: Its floating dtype.

    Warns:
        UnreadWeightWarning: If weights before the last layer cannot be rescaled by unit; the message names them.

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
        reading = self._model.reading(self._model.to_device(inputs), tensors)
        # Buffers, such as fixed filters, are no weights that an interpolation changes.
        own = {name for name, _ in model.named_parameters()} - reading.last
        self._layers = [use for use in reading.layers if own.issuperset(use.parameter_names)]
        buffers = [use.name for use in reading.layers if use.name in own and use not in self._layers]
        left_out = dict.fromkeys(buffers, "its bias is a buffer") | reading.left_out
        left_out = {name: why for name, why in left_out.items() if name in own}
        if left_out:
            named = ", ".join(f"`{name}` ({why})" for name, why in left_out.items())
            message = f"the activations of some weights are not repaired, as they cannot be rescaled by unit: {named}"
            warnings.warn(message, UnreadWeightWarning, stacklevel=2)

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
        sums = {use.layer: _Sums() for use in self._layers}
        self._run(tensors, data, sums, {})
        found = {name: total.moments() for name, total in sums.items()}
        like = next(iter(tensors.values())).dtype
        mean = {name: pair[0].to(like) for name, pair in found.items()}
        stddev = {name: pair[1].to(like) for name, pair in found.items()}
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
            One pass over the data for each layer, since the inputs of a layer depend on the maps before it.
        """
        known: dict[str, tuple[Tensor, Tensor]] = {}
        for use in self._layers:
            name = use.layer
            total = _Sums()
            self._run(tensors, data, {name: total}, known)
            mean, stddev = total.moments()
            target_mean = wanted.mean[name].double()
            target = wanted.stddev[name].double()
            if use.bias is not None:
                ratio = target / stddev
            else:
                ratio = torch.sqrt((target.square() + target_mean.square()) / (stddev.square() + mean.square()))
            scale = torch.where(stddev > _LEAST_STDDEV, ratio, torch.ones_like(ratio))
            shift = target_mean - scale * mean
            if use.bias is None:
                shift = torch.zeros_like(shift)
            like = tensors[use.name]
            known[name] = scale.to(like), shift.to(like)
        return _maps(known, self._layers)

    def _run(
        self,
        tensors: Mapping[str, Tensor],
        data: Sequence[tuple[Tensor, Tensor]],
        sums: Mapping[str, _Sums],
        known: Mapping[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Run the network on the data, with the known maps; add up the outputs of the layers that have sums."""
        folded = _maps(known, self._layers).folded(tensors)
        watched = [use for use in self._layers if use.layer in sums]

        def add(use: WeightUse, output: Tensor) -> Tensor:
            sums[use.layer].add(use.by_unit(output))
            return output

        with torch.no_grad():
            for inputs, _ in data:
                with Interception(watched, folded, on_output=add):
                    self._model(folded, self._model.to_device(inputs))


def _maps(known: Mapping[str, tuple[Tensor, Tensor]], layers: Sequence[WeightUse]) -> UnitMaps:
    """Return the maps of the layers that have some."""
    return UnitMaps(
        {name: scale for name, (scale, _) in known.items()},
        {name: shift for name, (_, shift) in known.items()},
        [use for use in layers if use.layer in known],
    )


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
        first = rows.sum(1)
        second = rows.square().sum(1)
        self._first = first if self._first is None else self._first + first
        self._second = second if self._second is None else self._second + second
        self._count += rows.shape[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation."""
        assert self._first is not None  # ruff: ignore[assert] - layers are called, or they would not be here
        assert self._second is not None  # ruff: ignore[assert] - likewise
        mean = self._first / self._count
        return mean, (self._second / self._count - mean.square()).clamp_min(0).sqrt()
