"""The interface of permutation specifications."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.strategy import Strategy
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.kinds import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.symmetry.axis import Axis, Group
    from rebasin_core.symmetry.layout import Layout

ExampleInputs: TypeAlias = "tuple[tuple[Any, ...], Mapping[str, Any]]"
"""Positional and named inputs of a model."""


class PermutationSpec(ABC):
    """The permutation symmetries of one model: its groups, and the axes of every tensor that each group acts on.

    A subclass says where the layout comes from: a table written by hand (`TableSpec`), or anything else.

    Laws:
        - *Function preserved*: applying any group element to all parameters and buffers of the model leaves its
          outputs unchanged (to rounding). `check_spec` tests it.
        - *Complete*: the layout names every parameter and buffer of the model, also those that do not move.
        - *Stable*: the layout is the same every time it is asked for.
    """

    @abstractmethod
    def _layout(self) -> Layout:
        """Return the layout; called once."""

    @final
    @cached_property
    def layout(self) -> Layout:
        """The groups and axes as a value."""
        return self._layout()

    @property
    def example_inputs(self) -> ExampleInputs | None:
        """Inputs that the model takes, tensors without values (on the meta device); None if none are known."""
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
    def require_fit(self, tensors: Mapping[str, Tensor], what: str = "the specification") -> None:
        """Raise if this is not a specification of a model with these tensors.

        Args:
            tensors: The parameters and buffers of the model, by name.
            what: What this is, for the message.

        Raises:
            SpecError: If the names differ.
            InvalidInputError: If a shape differs.
        """
        odd = sorted(set(tensors) ^ set(self.axes))
        if odd:
            message = f"{what} and the model do not have the same tensors; they differ in {odd}"
            raise SpecError(message)
        self.layout.check(tensors, "the model")

    @final
    def identity(self) -> Permutation:
        """Return the permutation that moves nothing."""
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
        """Return the class, the groups and the size of the group."""
        groups = ", ".join(f"{name}={group.size}" for name, group in self.groups.items())
        return f"{type(self).__name__}({groups or 'no groups'}; log10 of the order {self.layout.log10_order:.1f})"


def require_spec(value: object) -> None:
    """Raise if a value is not a specification.

    Args:
        value: What was passed as one.

    Raises:
        InvalidInputError: If it is something else.
    """
    if not isinstance(value, PermutationSpec):
        refuse(value, "a `PermutationSpec`", "`trace_spec` derives one of a model")


class SpecFactory(Strategy):
    """Gives the specification of a model: a strategy that can be named in run files.

    Laws:
        - *Valid*: the specification obeys the laws of `PermutationSpec` for the given model.
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
            SpecError: If none can be given for this model.
        """
