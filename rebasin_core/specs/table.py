"""Specifications written as a table of tensor names and axes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final

from pydantic import Field, PositiveInt
from torch import nn
from typing_extensions import override

from rebasin_core.errors import SpecError, nearest
from rebasin_core.specs.base import PermutationSpec, SpecFactory
from rebasin_core.specs.stacked_rows import stacked_rows
from rebasin_core.specs.unit_maps import KindsByGroup, UnitMaps, symmetries_of
from rebasin_core.symmetry.axis import Atom, Group
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.resolve import names_of, resolve, solve, without_nesting
from rebasin_core.tensors.arguments import raise_wrong_type, require_mapping
from rebasin_core.tensors.checks import require_tensors, shorten
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.tensors.names import TensorNames

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.symmetry.linear import Symmetry
    from rebasin_core.symmetry.notation import Expression


class TableSpec(PermutationSpec):
    """A specification given as a table: a subclass defines `table`, the axes of every tensor.

    Lengths are inferred from the tensors, so one table applies to all widths. A name is a group, ``-`` a fixed axis,
    ``a*b`` a row-major product (flattening), ``a + b`` a concatenation, and ``w@heads`` a group nested in ``heads``:
    it is permuted separately within each unit of ``heads``. If modules are exchanged with each other, one row states
    the axes of all of them: ``experts.{expert}.w1.weight`` means ``experts.0.w1.weight``, ``experts.1.w1.weight``,
    ..., the units of the group ``expert``, and ``{side=left|right}.weight`` for ``left.weight`` and ``right.weight``.

    Args:
        tensors: The model, or its parameters and buffers by name. Only names and shapes are used; of a model, also the
            distinction between parameters and buffers.

    Raises:
        SpecError: When `layout` is first accessed: if the table omits a tensor or contains an unknown one, or if
            lengths contradict each other or cannot be inferred.

    Examples:
        >>> from torch import nn
        >>> class TwoLayers(TableSpec):
        ...     table = {"0.weight": "hidden, -", "0.bias": "hidden", "2.weight": "-, hidden", "2.bias": "-"}
        >>> spec = TwoLayers(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)))
        >>> spec.groups["hidden"].size
        7
    """

    def __init__(self, tensors: nn.Module | Mapping[str, Tensor]) -> None:
        if not isinstance(tensors, nn.Module):
            require_mapping(tensors, "the model as a torch.nn.Module, or its tensors by name")
            require_tensors(tensors, "the tensors of the table")
        named = named_tensors(tensors) if isinstance(tensors, nn.Module) else tensors
        self._names = TensorNames.of_module(tensors) if isinstance(tensors, nn.Module) else None
        self._shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}

    @final
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the tensors by name, for tables that depend on them."""
        return self._shapes

    @property
    @abstractmethod
    def table(self) -> Mapping[str, str]:
        """The axes of every tensor, such as ``{"0.weight": "hidden, -"}``; may be a class attribute."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Sizes of groups that the shapes do not determine, such as the number of heads; may be a class attribute."""
        return {}

    @property
    def buffers(self) -> Collection[str] | None:
        """Names of the buffers, if the tensors are given by name; None to use those of the module, if given."""
        return None

    @property
    def kinds(self) -> KindsByGroup:
        """Linear maps of the units of groups, such as ``{"hidden": "positive"}``; may be a class attribute.

        A value is a kind, a mapping of the fields of `UnitMaps`, or a list of several families.
        """
        return {}

    @final
    @override
    def _layout(self) -> Layout:
        return self._symmetries[0].permutations

    @final
    @override
    def _symmetry(self) -> Symmetry:
        return self._symmetries[0]

    @final
    @property
    @override
    def folded_symmetry(self) -> Symmetry:
        return self._symmetries[1]

    @cached_property
    def _symmetries(self) -> tuple[Symmetry, Symmetry]:
        require_mapping(self.kinds, "kinds as a mapping by the names of groups")
        return symmetries_of(self.kinds, self._full_layout())

    def _full_layout(self) -> Layout:
        """Return the groups and axes of the table, including groups that have maps but no permutations."""
        require_mapping(self.table, "a table as a mapping of axes by the names of tensors")
        require_mapping(self.sizes, "sizes as a mapping of integers by the names of groups")
        for part in (*self.table.values(), *self.table):
            if not isinstance(part, str):
                raise_wrong_type(part, "names and axes in the table as texts, such as 'hidden, -'")
        table, shapes = stacked_rows(self.table, self._shapes)
        self._check_names(table, shapes)
        within = _nesting(table)
        table, sizes = _solve(table, shapes, dict(self.sizes))
        open_groups = [name for name in within if name not in sizes]
        if open_groups:
            message = f"the shapes do not determine the size of {shorten(open_groups)}; add it to `sizes`"
            raise SpecError(message)
        groups = {name: Group(name, sizes[name], outer) for name, outer in within.items()}
        axes = {
            name: tuple(resolve(axis, groups, f"`{name}`") for axis in table[name])
            if name in table
            else tuple(Atom(length) for length in shape)
            for name, shape in shapes.items()
        }
        buffers = self.buffers if self.buffers is not None or self._names is None else self._names.buffers
        aliases = {} if self._names is None else self._names.aliases
        return Layout(groups, axes, None if buffers is None else frozenset(buffers), aliases)

    @staticmethod
    def _check_names(table: Mapping[str, tuple[Expression, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, axes in table.items():
            if name not in shapes:
                message = f"unknown tensor `{name}` in the table; {nearest(name, shapes)}"
                raise SpecError(message)
            if len(axes) != len(shapes[name]):
                message = f"`{name}` has shape {shapes[name]}, the table has {len(axes)} axes"
                raise SpecError(message)
        # Scalars, such as step counters, may be omitted.
        missing = [name for name, shape in shapes.items() if name not in table and shape]
        if missing:
            message = f"missing from the table: {shorten(missing)}; list every tensor, with `-` for fixed axes"
            raise SpecError(message)


def table_spec(
    table: Mapping[str, str],
    tensors: nn.Module | Mapping[str, Tensor],
    *,
    sizes: Mapping[str, int] | None = None,
    buffers: Collection[str] | None = None,
    kinds: KindsByGroup | None = None,
) -> TableSpec:
    """Create a specification from a table, without a subclass of `TableSpec`.

    Args:
        table: The axes of every tensor, as in `TableSpec`.
        tensors: The model, or its parameters and buffers by name.
        sizes: Sizes of groups that the shapes do not determine.
        buffers: Names of the buffers, if ``tensors`` are given by name; used to divide a state dict into parameters
            and buffers. If None, integer tensors and normalization statistics are assumed to be buffers.
        kinds: Linear maps of the units of groups, as in `TableSpec.kinds`.

    Returns:
        The specification.

    Raises:
        SpecError: If the table does not match the tensors, or the kinds do not match the table.

    Examples:
        >>> from torch import nn
        >>> table = {"0.weight": "hidden, -", "0.bias": "hidden", "2.weight": "-, hidden", "2.bias": "-"}
        >>> model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
        >>> spec = table_spec(table, model, kinds={"hidden": "positive"})
        >>> spec.symmetry.dimension, list(spec.symmetry.linear[0].degrees.values())
        (7, [1, 1, -1])
    """
    spec = _GivenTable(tensors, table, {} if sizes is None else sizes, buffers, kinds)
    _ = spec.layout  # raise here rather than at the first use
    return spec


@final
class TableSpecFactory(SpecFactory):
    """Specification factory with one table for all models, as in `TableSpec`.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> factory = TableSpecFactory(table={"weight": "-, -", "bias": "-"})
        >>> factory.derive(nn.Linear(4, 3), torch.zeros(1, 4)).identity().is_identity
        True
    """

    name: Literal["table"] = "table"

    table: Mapping[str, str]
    """Axes of every parameter and buffer, such as ``fc1.weight: hidden, -``."""

    sizes: Mapping[str, PositiveInt] = Field(default_factory=dict)
    """Sizes of groups that the shapes do not determine, such as the number of heads."""

    kinds: Mapping[str, str | UnitMaps | tuple[str | UnitMaps, ...]] = Field(default_factory=dict)
    """Linear maps of the units of groups, such as ``hidden: positive``."""

    @override
    def derive(self, model: nn.Module, example_inputs: Tensor, *, rules: Rules | None = None) -> PermutationSpec:
        return table_spec(self.table, model, sizes=self.sizes, kinds=self.kinds)


@final
class _GivenTable(TableSpec):
    """A specification with a table given as an argument."""

    def __init__(
        self,
        tensors: nn.Module | Mapping[str, Tensor],
        table: Mapping[str, str],
        sizes: Mapping[str, int],
        buffers: Collection[str] | None,
        kinds: KindsByGroup | None,
    ) -> None:
        super().__init__(tensors)
        self._buffers = buffers
        self._kinds = kinds or {}
        self._table = table
        self._sizes = sizes

    @property
    @override
    def table(self) -> Mapping[str, str]:
        return self._table

    @property
    @override
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    @property
    @override
    def buffers(self) -> Collection[str] | None:
        return self._buffers

    @property
    @override
    def kinds(self) -> KindsByGroup:
        return self._kinds


def _nesting(table: Mapping[str, tuple[Expression, ...]]) -> dict[str, str | None]:
    """Return every group with its outer group or None; one occurrence of ``@`` in the table suffices."""
    within: dict[str, str | None] = {}
    for tensor, axes in table.items():
        for found in (name for axis in axes for name in names_of(axis)):
            known = within.get(found.name)
            if found.within is not None and known not in {None, found.within}:
                message = f"`{tensor}`: {found.name!r} is nested in {found.within!r} here, in {known!r} elsewhere"
                raise SpecError(message)
            within[found.name] = found.within or known
    return within


def _solve(
    table: Mapping[str, tuple[Expression, ...]], shapes: Mapping[str, tuple[int, ...]], sizes: dict[str, int]
) -> tuple[dict[str, tuple[Expression, ...]], dict[str, int]]:
    """Infer lengths from the shapes; return the table with these lengths, and the group sizes."""
    solved = {name: tuple(without_nesting(axis) for axis in axes) for name, axes in table.items()}
    known = -1
    while known < len(sizes):  # a length inferred in one pass can determine others in the next
        known = len(sizes)
        for name, axes in solved.items():
            try:
                lengths = zip(axes, shapes[name], strict=True)
                solved[name] = tuple(solve(axis, length, sizes) for axis, length in lengths)
            except SpecError as error:
                message = f"`{name}` of shape {shapes[name]}: {error}"
                raise SpecError(message) from error
    return solved, sizes
