"""The map that folds normalizations of a network, with its inverse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.errors import FileFormatError, InvalidInputError, RebasinError
from rebasin_core.specs.folding import BiasedWeight, Dim
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.stack import members_of
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from rebasin_core.analysis.folding.plan import FoldingPlan
    from rebasin_core.symmetry.linear_maps import LinearMaps

_KIND = "folding"
# Deviation of scales and shifts from one and zero that averages of folded networks in single precision can have.
_ROUNDING = 1e-5


@final
@dataclass(frozen=True, eq=False)
class Folding:
    r"""The map that folds the normalizations of one network, and its inverse.

    It has three steps. Each leaves the function unchanged, whatever the values of the other weights are. Therefore the
    inverse can be applied to other networks of the model with the same scales and shifts, such as one that was aligned
    with the folded network.

    1. *Scales* $\gamma$: a group element with the factors $1/\gamma$, which makes them one and multiplies the columns
       of the next weights by $\gamma$. If the scale is $\gamma = 1 + w$, the parameter $w$ becomes zero.
    2. *Shifts* $\beta$: they become zero, and $W\beta$ is added to the next biases.
    3. *Means*: multiples of the vector of ones that no layer sees are subtracted.

    Attributes:
        element: The group element of the first step.
        scales: Names of the scales that are one afterwards.
        shifts: The shifts that become zero, after the first step.
        layers: For every shift, the layers whose biases contain it afterwards.
        means: The means that are subtracted, by dimension, with a dimension of length 1.
        zeros: Names of the ``scales`` that are stored minus one, which are zero afterwards.
    """

    element: SymmetryElement
    scales: tuple[str, ...]
    shifts: Mapping[str, Tensor]
    layers: Mapping[str, tuple[BiasedWeight, ...]]
    means: Mapping[Dim, Tensor]
    zeros: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], plan: FoldingPlan) -> Folding:
        """Return the map for the values of a network.

        Args:
            tensors: The tensors of the network, under the names of its specification; read one at a time.
            plan: The parts to fold.

        Returns:
            The map, on the CPU.
        """
        symmetry = plan.symmetry
        factors: list[Tensor | None] = [None] * len(symmetry.linear)
        for name, (index, degree) in plan.scales.items():
            scale = tensors[name].detach().cpu().double() + (name in plan.zeros)
            factors[index] = scale.reshape(symmetry.map_shape(symmetry.linear[index])) ** -degree
        element = SymmetryElement(symmetry, Permutation.identity(symmetry.permutations), factors)
        shifts = {name: element.linear_maps.act(name, tensors[name].detach().cpu().double()) for name in plan.shifts}
        found = cls(element, tuple(plan.scales), shifts, plan.shifts, {}, plan.zeros)
        dims: dict[str, list[Dim]] = {}
        for at in sorted(plan.centered):
            dims.setdefault(at.tensor, []).append(at)
        means: dict[Dim, Tensor] = {}
        for name, own in dims.items():
            current = found.folded(name, tensors)
            for at in own:
                mean = current.mean(at.dim, keepdim=True)
                current = current.sub(mean)
                means[at] = mean.cpu()
        return replace(found, means=means)

    @property
    def changed(self) -> frozenset[str]:
        """Names of the tensors that the map changes."""
        acting = {name for name in self.element.symmetry.by_tensor if self.element.linear_maps.acting_on(name)}
        biases = {layer.bias for layers in self.layers.values() for layer in layers}
        named = acting | set(self.shifts) | biases | {at.tensor for at in self.means}
        stacks = self.element.layout.stacks
        return frozenset(member for name in named for member in members_of(stacks, name))

    def folded(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a tensor of the folded network.

        Args:
            name: Name of the tensor.
            tensors: The network that the map was made for; only the tensors that this one depends on are read.

        Returns:
            The tensor in double precision, on its device; integer tensors are unchanged. It may share memory with the
            given one.
        """
        value = tensors[name].detach()
        if not value.is_floating_point():
            return value
        if name in self.scales:
            return torch.full_like(value, self._values[name], dtype=torch.float64)
        value = self.element.linear_maps.act(name, value.double())
        if name in self.shifts:
            value = value.sub(self.shifts[name].to(value.device))
        for shift, layer in self._layers_with(name):
            weight = self.element.linear_maps.act(layer.units.tensor, tensors[layer.units.tensor].detach().double())
            value = value.add(_contracted(weight, layer, self.shifts[shift]))
        for mean in self._means_of(name):
            value = value.sub(mean.to(value.device))
        return value

    def require_folded(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise if a network does not have the scales and shifts of the folded network.

        Args:
            tensors: Any network of the model.

        Raises:
            InvalidInputError: If a scale is not one, or a shift is not zero.
        """
        expected = {**self._values, **dict.fromkeys(self.shifts, 0.0)}
        for name, value in expected.items():
            difference = (tensors[name].detach().double() - value).abs().max().item()
            if not difference <= _ROUNDING:
                message = (
                    f"expected a folded network, in which `{name}` is {value:.0f} in all entries, got entries that "
                    f"differ by up to {difference:.2g}; fold it, and align it with a folded network"
                )
                raise InvalidInputError(message)

    def unfolded(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a tensor of the network before folding.

        Args:
            name: Name of the tensor.
            tensors: The folded network, or another one of the model with its scales.

        Returns:
            The tensor in double precision, on its device; integer tensors are unchanged. It may share memory with the
            given one.
        """
        value = tensors[name].detach()
        if not value.is_floating_point():
            return value
        value = self._with_means(name, value.double())
        if name in self.zeros:
            return self._inverse_maps.act(name, value + 1) - 1
        if name in self.shifts:
            value = value.add(self.shifts[name].to(value.device))
        for shift, layer in self._layers_with(name):
            weight = self._with_means(layer.units.tensor, tensors[layer.units.tensor].detach().double())
            value = value.sub(_contracted(weight, layer, self.shifts[shift]))
        return self._inverse_maps.act(name, value)

    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write the map, with the symmetry it belongs to, to a safetensors file, atomically.

        Args:
            path: The file; replaced if it exists.
            meta: JSON values by name to store in the file.

        Raises:
            StorageError: If the file cannot be written; an existing file is not changed.
        """
        tensors = {f"map/{k}": value for k, value in enumerate(self.element.maps) if value is not None}
        tensors |= {f"shift/{name}": value for name, value in self.shifts.items()}
        tensors |= {f"mean/{at.dim}/{at.tensor}": value for at, value in self.means.items()}
        layers = [[s, layer.units.tensor, layer.units.dim, layer.bias] for s, of in self.layers.items() for layer in of]
        document = {"symmetry": self.element.symmetry.as_json(), "scales": list(self.scales), "layers": layers}
        document |= {"zeros": sorted(self.zeros)} if self.zeros else {}
        write_tensors(path, tensors, kind=_KIND, document={**(meta or {}), **document})

    @classmethod
    def load(cls, path: Path | str) -> Folding:
        """Read a map from a file; no code in the file is executed.

        Args:
            path: A file written by `save`.

        Returns:
            The map.

        Raises:
            FileFormatError: If the file is missing or damaged, or of another kind.
        """
        tensors, document = read_tensors(path, kind=_KIND)
        try:
            return cls._from_file(tensors, document)
        except (RebasinError, ValueError, TypeError, KeyError) as error:
            message = f"{shown(Path(path))}: expected a folding as `Folding.save` writes it: {error}"
            raise FileFormatError(message) from error

    @classmethod
    def _from_file(cls, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Folding:
        symmetry = Symmetry.from_json(document["symmetry"])
        maps = [tensors.get(f"map/{k}") for k in range(len(symmetry.linear))]
        element = SymmetryElement(symmetry, Permutation.identity(symmetry.permutations), maps)
        shifts = {key.removeprefix("shift/"): value for key, value in tensors.items() if key.startswith("shift/")}
        means: dict[Dim, Tensor] = {}
        for key, value in tensors.items():
            if key.startswith("mean/"):
                dim, _, name = key.removeprefix("mean/").partition("/")
                means[Dim(name, int(dim))] = value
        layers: dict[str, tuple[BiasedWeight, ...]] = dict.fromkeys(shifts, ())
        for shift, weight, dim, bias in document["layers"]:
            layers[shift] = (*layers[shift], BiasedWeight(Dim(str(weight), int(dim)), str(bias)))
        zeros = frozenset(map(str, document.get("zeros", [])))
        found = cls(element, tuple(map(str, document["scales"])), shifts, layers, means, zeros)
        found._check()
        return found

    def _check(self) -> None:
        """Raise if the parts do not fit the layout of the element."""
        axes, shape = self.element.layout.axes, self.element.layout.shape
        layers = [layer for of in self.layers.values() for layer in of]
        dims = [*self.means, *(layer.units for layer in layers)]
        named = {*self.scales, *self.shifts, *(layer.bias for layer in layers), *(at.tensor for at in dims)}
        unknown = sorted((named - axes.keys()) | (self.zeros - {*self.scales}))
        if unknown:
            message = f"the layout, or the list of scales, does not have the tensors {shorten(unknown)}"
            raise FileFormatError(message)
        for at in dims:
            if not 0 <= at.dim < len(axes[at.tensor]):
                message = f"`{at.tensor}` has {len(axes[at.tensor])} dimensions, got dimension {at.dim}"
                raise FileFormatError(message)
        for at, mean in self.means.items():
            expected = tuple(1 if dim == at.dim else size for dim, size in enumerate(shape(at.tensor)))
            _require_shape(mean, expected, f"the mean of `{at.tensor}`")
        for name, shift in self.shifts.items():
            _require_shape(shift, shape(name), f"the shift `{name}`")

    @property
    def _values(self) -> dict[str, float]:
        """The value of every folded scale."""
        return {name: 0.0 if name in self.zeros else 1.0 for name in self.scales}

    @cached_property
    def _inverse_maps(self) -> LinearMaps:
        return self.element.linear_maps.inverse()

    def _with_means(self, name: str, value: Tensor) -> Tensor:
        for mean in self._means_of(name):
            value = value.add(mean.to(value.device))
        return value

    def _means_of(self, name: str) -> list[Tensor]:
        return [mean for at, mean in self.means.items() if at.tensor == name]

    def _layers_with(self, bias: str) -> Iterator[tuple[str, BiasedWeight]]:
        for shift, layers in self.layers.items():
            for layer in layers:
                if layer.bias == bias:
                    yield shift, layer


def _contracted(weight: Tensor, layer: BiasedWeight, shift: Tensor) -> Tensor:
    """Return the product of a weight and a shift of the units that it uses."""
    product: Tensor = torch.tensordot(weight, shift.to(weight.device), dims=([layer.units.dim], [0]))
    return product


def _require_shape(tensor: Tensor, shape: tuple[int, ...], label: str) -> None:
    if tensor.dtype != torch.float64 or tuple(tensor.shape) != shape:
        message = f"{label}: expected float64 of shape {shape}, got {tensor.dtype} of {tuple(tensor.shape)}"
        raise FileFormatError(message)
