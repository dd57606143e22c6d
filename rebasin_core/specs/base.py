"""Interfaces of permutation specifications and of the factories that derive them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.specs.folding import Foldable
from rebasin_core.strategy import Strategy
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.stack import members_of
from rebasin_core.tensors.arguments import raise_wrong_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.symmetry.axis import Axis, Group
    from rebasin_core.symmetry.layout import Layout

ExampleInputs: TypeAlias = "tuple[tuple[Any, ...], Mapping[str, Any]]"
"""Positional and keyword inputs of a model."""


class PermutationSpec(ABC):
    """Permutation symmetries of a model: its groups, and the axes of each tensor on which they act.

    A subclass returns the layout from `_layout`, and may return further symmetries from `_symmetry`. To write the
    layout as a table, derive from `TableSpec`.

    Laws:
        - *Function preserved*: applying any group element to all parameters and buffers of the model leaves its
          outputs unchanged, up to rounding. `check_spec` tests it.
        - *Complete*: the layout contains every parameter and buffer of the model, including those that are fixed.
        - *Deterministic*: `layout` always returns the same value.
    """

    @abstractmethod
    def _layout(self) -> Layout:
        """Return the groups, and the axes of every tensor.

        The property `layout` calls this method once.

        Returns:
            The layout.
        """

    @final
    @cached_property
    def layout(self) -> Layout:
        """The groups, and the axes of every tensor."""
        return self._layout()

    def _symmetry(self) -> Symmetry:
        """Return the linear maps of the model's units; none unless a subclass derives them.

        The property `symmetry` calls this method once.

        Returns:
            The symmetry. Its `Symmetry.permutations` must equal `layout`.
        """
        return Symmetry(self.layout)

    @final
    @cached_property
    def symmetry(self) -> Symmetry:
        """The maps that the model admits on the units of its groups, in addition to permutations.

        Raises:
            SpecError: If the permutations of the symmetry are not those of `layout`.
        """
        symmetry = self._symmetry()
        if symmetry.permutations.fingerprint != self.layout.fingerprint:
            message = (
                f"`_symmetry` of `{type(self).__qualname__}` returned a symmetry whose `permutations` differ from "
                "`layout`; list in `unpermuted` the groups that only the symmetry has"
            )
            raise SpecError(message)
        return symmetry

    @property
    def folded_symmetry(self) -> Symmetry:
        """The maps that the model admits if the scales of its normalizations are one, as after folding.

        It is equal to ``symmetry`` for a model without such normalizations.
        """
        return self.symmetry

    @property
    def foldable(self) -> Foldable:
        """Shifts and means that `rebasin_core.fold` can fold, and reasons for others; empty unless derived."""
        return Foldable()

    @final
    def symmetry_of(self, *networks: Mapping[str, Tensor]) -> Symmetry:
        """Return the symmetry that networks have in common.

        Args:
            networks: Tensors of each network by name.

        Returns:
            ``folded_symmetry`` if the scales of all normalizations that it names are one (those that are stored minus
            one are zero), else ``symmetry``.
        """
        stacks = self.layout.stacks
        required = [
            (member, value)
            for linear in self.folded_symmetry.linear
            for name, value in linear.required.items()
            for member in members_of(stacks, name)
        ]
        folded = all(bool((tensors[n] == value).all()) for tensors in networks for n, value in required if n in tensors)
        return self.folded_symmetry if folded else self.symmetry

    @property
    def example_inputs(self) -> ExampleInputs | None:
        """Example inputs of the model, with tensors on the meta device; None if unknown."""
        return None

    @final
    @property
    def groups(self) -> Mapping[str, Group]:
        """The groups by name."""
        return self.layout.groups

    @final
    @property
    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """The axes of every parameter and buffer."""
        return self.layout.axes

    @final
    def require_fit(self, tensors: Mapping[str, Tensor], description: str = "the specification") -> None:
        """Raise if this specification does not match the tensors of a model.

        Args:
            tensors: The parameters and buffers of the model, by name.
            description: Description of this specification, for the message.

        Raises:
            SpecError: If the names differ.
            InvalidInputError: If a shape differs.
        """
        different = sorted(set(tensors) ^ set(self.layout.tensors))
        if different:
            message = f"{description} and the model have different tensors: {different}"
            raise SpecError(message)
        self.layout.check(tensors, "the model")

    @final
    def identity(self) -> Permutation:
        """Return the identity permutation."""
        return Permutation.identity(self.layout)

    @final
    def random_permutation(self, *, generator: torch.Generator) -> Permutation:
        """Return a uniformly random group element.

        Args:
            generator: The source of randomness.

        Returns:
            A permutation.
        """
        return Permutation.random(self.layout, generator=generator)

    @final
    @override
    def __repr__(self) -> str:
        """Return the class, the groups and the order of the symmetry group."""
        groups = ", ".join(f"{name}={group.size}" for name, group in self.groups.items())
        return f"{type(self).__name__}({groups or 'no groups'}; log10 of the order {self.layout.log10_order:.1f})"


def require_spec(value: object) -> None:
    """Raise if a value is not a specification.

    Args:
        value: Any object.

    Raises:
        InvalidInputError: If it is not a `PermutationSpec`.
    """
    if not isinstance(value, PermutationSpec):
        raise_wrong_type(value, "a `PermutationSpec`", "`trace_spec` derives one from a model")


class SpecFactory(Strategy):
    """A method of obtaining the specification of a model, which run files can select by name.

    Laws:
        - *Valid*: the specification satisfies the laws of `PermutationSpec` for the given model.
        - *No side effects*: the model is not changed.
    """

    family: ClassVar[str] = "spec"

    @abstractmethod
    def derive(self, model: nn.Module, example_inputs: Tensor, *, rules: Rules | None = None) -> PermutationSpec:
        """Return the specification of a model.

        Args:
            model: Any module.
            example_inputs: A small batch, for factories that run or trace the model.
            rules: Rules by operator name, for factories that trace the model; those of all installed plugins if None.

        Returns:
            The specification.

        Raises:
            SpecError: If there is no specification for this model.
        """
