"""The test that a specification must pass: random group elements leave the function as it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, Any, final

import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented place
from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.axis import Atom, Axis, Product, atoms_of, product
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import named_tensors, shared_copy, unsaved_buffers, unwrapped
from rebasin_core.tensors.trees import tree_map, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class SpecCheck:
    """What `check_spec` found.

    Attributes:
        error: The largest relative change of an output over all tries, in float64.
        tolerance: What was allowed.
        failing_groups: Groups that change the function when they alone are permuted; with each, its error.
        suggestions: For each failing group, the changes to one axis of one tensor each of which would mend it, or, if
            none does, the tensors it acts on.
        moved: Tensors that at least one group acts on.
        frozen: Tensors that no group acts on.
        log10_order: Decimal logarithm of the number of group elements.
    """

    error: float
    tolerance: float
    failing_groups: dict[str, float]
    suggestions: tuple[str, ...]
    moved: tuple[str, ...]
    frozen: tuple[str, ...]
    log10_order: float

    @property
    def passed(self) -> bool:
        """Whether the function was kept."""
        return self.error <= self.tolerance

    @override
    def __str__(self) -> str:
        """Return a readable report."""
        kept = "kept" if self.passed else "NOT kept"
        count = len(self.moved) + len(self.frozen)
        lines = [
            f"function {kept}: relative error {self.error:.1e} (allowed {self.tolerance:.0e})",
            f"{len(self.moved)} of {count} tensors move; log10 of the group order: {self.log10_order:.1f}",
        ]
        lines += [f"  group {name!r} alone: relative error {error:.1e}" for name, error in self.failing_groups.items()]
        lines += [f"  look at {axis}" for axis in self.suggestions]
        return "\n".join(lines)

    def require(self) -> None:
        """Raise if the function was not kept.

        Raises:
            SpecError: With the report.
        """
        if not self.passed:
            message = f"the specification does not keep the function of the model\n{self}"
            raise SpecError(message)


def check_spec(  # ruff: ignore[too-many-arguments] - the last three have defaults that suit nearly everybody
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    tries: int = 3,
    tolerance: float = 1e-9,
    generator: torch.Generator | None = None,
) -> SpecCheck:
    """Return whether random group elements keep the function of a model, and if not, which groups fail.

    The model is run in float64 and evaluation mode, casts to narrower types inside it are left out, and its
    parameters and floating buffers are replaced by random ones, so that symmetries of a special initialisation (zero
    biases, unit scales) hide nothing. Buffers that are not part of the state dict are constants and stay. Every tensor
    in the output counts.

    Args:
        spec: The specification; it must name every parameter and buffer.
        model: The model; it is not changed.
        example_inputs: A small batch, or a tuple of positional inputs.
        kwargs: Named inputs.
        tries: Number of random group elements, at least 1.
        tolerance: Largest relative change of the outputs that counts as rounding.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The findings. A failed check is a value; call `SpecCheck.require` to make it an error.

    Raises:
        SpecError: If the specification does not name exactly the model's tensors.
    """
    generator = generator or torch.Generator().manual_seed(0)
    require_spec(spec)
    model = unwrapped(model)
    probe = _Probe(spec, model, _Inputs.of(example_inputs, kwargs), generator, tolerance)
    elements = [_moving_all(spec.layout, generator)]
    elements += [spec.random_permutation(generator=generator) for _ in range(tries - 1)]
    error = max((probe.error(element) for element in elements), default=0.0)
    failing: dict[str, float] = {}
    axes: list[str] = []
    if error > tolerance:
        for name in spec.groups:
            alone = _only(elements[0], name)
            found = probe.error(alone)
            if found > tolerance:
                failing[name] = found
                axes += [f"{name!r}: {advice}" for advice in probe.suggestions(alone, name)]
    layout = spec.layout
    return SpecCheck(
        error=error,
        tolerance=tolerance,
        failing_groups=failing,
        suggestions=tuple(axes),
        moved=layout.moved,
        frozen=tuple(name for name in layout.axes if name not in layout.moved),
        log10_order=layout.log10_order,
    )


@final
@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a model is called with, in float64 on the CPU."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example_inputs: object, kwargs: Mapping[str, Any] | None) -> _Inputs:
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        return cls(tree_map(_in_float64, args), tree_map(_in_float64, dict(kwargs or {})))


def _in_float64(leaf: object) -> object:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.cpu().double() if leaf.is_floating_point() else leaf.cpu()


@final
class _FullPrecision(TorchDispatchMode):
    """Keeps models that cast to a narrower type inside from rounding away what is checked."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        wide = {
            name: torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
            for name, value in (kwargs or {}).items()
        }
        return tree_map(_widened, func(*tree_map(_widened, args), **tree_map(_widened, wide)))


_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})


def _widened(leaf: object) -> object:
    narrow = isinstance(leaf, torch.Tensor) and leaf.dtype in _NARROW
    return leaf.double() if isinstance(leaf, torch.Tensor) and narrow else leaf


class _Probe:
    """A model with random tensors in float64, and its outputs on one batch."""

    def __init__(
        self,
        spec: PermutationSpec,
        model: nn.Module,
        inputs: _Inputs,
        generator: torch.Generator,
        tolerance: float,
    ) -> None:
        self._tolerance = tolerance
        self._layout = spec.layout
        self._model = model
        self._inputs = inputs
        named: dict[str, Tensor] = tree_map(_in_float64, named_tensors(model))
        spec.require_fit(named)
        parameters = dict(model.named_parameters())
        constant = unsaved_buffers(model)
        self._tensors = {
            name: _randomised(tensor, generator, positive=name not in parameters)
            for name, tensor in named.items()
            if name not in constant
        } | {name: tensor.clone() for name, tensor in named.items() if name in constant}
        self._expected = self._run(self._tensors)

    def error(self, permutation: Permutation) -> float:
        """Return the relative change of the outputs under a group element."""
        return self._distance(permutation.apply(self._tensors))

    def suggestions(self, permutation: Permutation, group: str) -> list[str]:
        """Return the single changes to the specification each of which would mend a group, or where else to look."""
        moved = permutation.apply(self._tensors)
        advice: list[str] = []
        for name, axes in self._layout.axes.items():
            for place, axis in enumerate(axes):
                for changed, hint in _changes(axis, group, self._layout.groups[group].size):
                    trial = (*axes[:place], changed, *axes[place + 1 :])
                    tensor = act(self._layout, permutation.indices, self._tensors[name], trial)
                    if self._distance({**moved, name: tensor}) <= self._tolerance:
                        advice.append(f"`{name}`, axis {place}: {hint}")
        return advice or [
            f"no change to a single axis mends it; it acts on {shorten([*self._layout.tensors_of(group)])}"
        ]

    def _distance(self, tensors: dict[str, Tensor]) -> float:
        pairs = list(zip(self._run(tensors), self._expected, strict=True))
        if any(found.shape != expected.shape for found, expected in pairs):
            return math.inf  # outputs whose number depends on values, as detections
        return max(starmap(_relative, pairs), default=0.0)

    def _run(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        # Fresh copies each time: some models keep results of earlier runs, or put other buffers into the mapping.
        model = shared_copy(self._model).eval()
        with torch.no_grad(), _FullPrecision():
            output: object = functional_call(model, dict(tensors), self._inputs.args, self._inputs.kwargs)
        found = tree_tensors(output)
        if not found:
            message = f"expected the model to return a tensor, or tensors in containers, got {type(output).__name__}"
            raise SpecError(message)
        return found


def _relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest change relative to the largest value; an output that is not finite cannot be compared."""
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected) else math.inf
    error = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()
    return math.inf if math.isnan(error) else error


def _changes(axis: Axis, group: str, size: int) -> Iterator[tuple[Axis, str]]:
    """Yield the likely corrections of an axis, each with the advice it stands for."""
    if any(atom.group == group for atom in atoms_of(axis)):
        yield Atom(axis.size), "should not move with it"
        if isinstance(axis, Product):
            yield product(*reversed(axis.factors)), "its factors should stand in the other order"
    elif axis == Atom(size):
        yield Atom(size, group), "should move with it"


def _moving_all(layout: Layout, generator: torch.Generator) -> Permutation:
    """Return a random group element that leaves no unit in place, where a group has at least two."""
    order = Permutation.random(layout, generator=generator)
    shift = Permutation(
        layout, {name: index.roll(1, -1) for name, index in Permutation.identity(layout).indices.items()}
    )
    return order.compose(shift).compose(order.inverse())


def _only(permutation: Permutation, group: str) -> Permutation:
    """Return the permutation restricted to one group, and the groups within it left in order."""
    identity = Permutation.identity(permutation.layout)
    return Permutation(permutation.layout, {**identity.indices, group: permutation.indices[group]})


def _randomised(tensor: Tensor, generator: torch.Generator, *, positive: bool) -> Tensor:
    """Return random values in place of a tensor's; buffers are kept positive, since some are variances."""
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    if positive:
        return torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
    # The scale keeps deep networks from dying or exploding: outputs stay of order one.
    fan_in = max(1, tensor[0].numel() if tensor.dim() > 1 else 1)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * math.sqrt(2.0 / fan_in)
