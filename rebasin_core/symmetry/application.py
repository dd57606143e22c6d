"""The application of a group element to tensors by name, to modules and to other objects."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

import torch
from torch import nn

from rebasin_core.providers import import_providers
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.checks import require_tensors
from rebasin_core.tensors.modules import named_tensors, shared_names
from rebasin_core.tensors.names import is_count_of_averaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

T = TypeVar("T")


class AbstractAction(ABC):
    """Base class of group elements: they transform tensors by name, modules and other objects in the same way."""

    __slots__ = ()

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The groups that are permuted, and the axes they act on: the layout of the specification."""

    @abstractmethod
    def _act(self, name: str, tensor: Tensor) -> Tensor:
        """Return a transformed copy of a tensor ``[*lead, *s]`` attached to a tensor of the layout."""

    def _act_among(self, name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a transformed copy of a tensor that can depend on others, which have their names in the layout."""
        del tensors
        return self._act(name, tensor)

    @abstractmethod
    def _require_preserving(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise as `require_preserving`."""

    @final
    def require_preserving(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise if this element changes the function of a network with these tensors.

        Args:
            tensors: Tensors by their names in the layout, those of stacks also one by one; others are ignored.

        Raises:
            InvalidInputError: If a tensor must be one in all entries and is not (see `LinearSymmetry`).
        """
        self._require_preserving(tensors)

    @abstractmethod
    def _applied_to(self, target: object) -> object:
        """Return a transformed copy of an object that is neither a mapping nor a module of the layout."""

    @overload
    def apply(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def apply(self, target: T) -> T: ...
    @final
    def apply(self, target: object) -> Any:
        """Return a transformed copy of a mapping of tensors, a module, a posterior, or an object of another library.

        Args:
            target: Tensors by name, each ``[*lead, *shape]`` with ``shape`` from the layout, on any device; a module
                (also compiled, parallel or averaged); an object with the methods ``permute`` and ``transform``; or an
                object of another library whose adapter can write into it, such as a fitted Laplace object.

        Returns:
            An object of the same type with the same names, sharing no memory with ``target``. Tensors keep their
            dtype; linear maps are applied in double precision.

        Raises:
            InvalidInputError: If a tensor is not in the layout or has another shape, if it is of an integer dtype and
                a linear map acts on it, if a tensor that must be one is not (see `LinearSymmetry`), if a posterior is
                not closed under the element, if the weight of a bias that a flip shifts is missing, or if the type of
                ``target`` is not supported.
        """
        if isinstance(target, Mapping):
            return self._transformed(target, check=True)
        if isinstance(target, torch.Tensor):
            raise_wrong_type(target, "tensors by name", "`apply({name: tensor})` transforms one")
        if isinstance(target, nn.Module) and all(self.layout.names.of(name) for name in named_tensors(target)):
            return self._transformed_module(target)
        return self._applied_to(target)

    @final
    def apply_to_deviations(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return transformed copies of tensors that are not those of a network, such as deviations from a mean.

        Unlike `apply`, this does not require that certain tensors are one.

        Args:
            tensors: Tensors by name, each ``[*lead, *shape]`` with ``shape`` from the layout.

        Returns:
            The transformed tensors.

        Raises:
            InvalidInputError: If a tensor is not in the layout, has another shape, or is of an integer dtype and a
                linear map acts on it, or if the weight of a bias that a flip shifts is missing.
        """
        return self._transformed(tensors, check=False)

    def _transformed(self, tensors: Mapping[str, Tensor], *, check: bool) -> dict[str, Tensor]:
        layout = self.layout
        require_tensors(tensors, "the mapping")
        # Tensors that share memory are transformed once, and the results share memory.
        repeated = {} if tensors.keys() <= layout.axes.keys() else shared_names(tensors)
        resolved = layout.names.resolved(tensors, "the mapping")
        kept = {name for name in tensors if name not in resolved and is_count_of_averaged(name, tensors)}
        own = {name: resolved.get(name, name) for name in tensors}
        described = {own[name]: tensor for name, tensor in tensors.items() if name not in kept}
        layout.check(described, "the mapping", complete=False)
        if check:
            self.require_preserving(described)
        found = self._transformed_stacks(described)
        transformed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name in kept:
                transformed[name] = tensor.clone()
            elif name in repeated:
                transformed[name] = transformed[repeated[name]]
            elif own[name] in found:
                transformed[name] = found[own[name]]
            else:
                transformed[name] = self._act_among(own[name], tensor, described)
        return transformed

    def _transformed_stacks(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return transformed copies of the tensors that belong to stacks, one stack after the other."""
        found: dict[str, Tensor] = {}
        for stack in self.layout.stacks.values():
            members = self.layout.stacked({name: tensors[name] for name in stack.members if name in tensors})
            acted = {name: self._act(name, tensor) for name, tensor in members.items()}
            found |= {name: tensor.clone() for name, tensor in self.layout.unstacked(acted).items()}
        return found

    def _transformed_module(self, module: nn.Module) -> nn.Module:
        tensors = named_tensors(module)
        self.layout.check(tensors, "the module")
        own = {name: self.layout.names.of(name) or name for name in tensors}
        described = {own[name]: tensor for name, tensor in tensors.items()}
        self.require_preserving(described)
        transformed = copy.deepcopy(module)
        with torch.no_grad():
            found = self._transformed_stacks(described)
            for name, tensor in named_tensors(transformed).items():
                name_in_layout = own[name]
                moved = found.get(name_in_layout)
                tensor.copy_(self._act_among(name_in_layout, tensors[name], described) if moved is None else moved)
        return transformed


_FOREIGN: list[Callable[[Any, object], object]] = []


def transform_foreign_by(action: Callable[[Any, object], object]) -> None:
    """Set the function that transforms objects of other libraries.

    Args:
        action: Returns a copy of an object transformed by a group element; raises InvalidInputError if it cannot.
    """
    _FOREIGN[:] = [action]


def transformed_foreign(element: AbstractAction, target: object) -> object:
    """Return a transformed copy of an object of another library.

    Args:
        element: The group element.
        target: The object.

    Returns:
        The copy.

    Raises:
        InvalidInputError: If its type is not supported.
    """
    if not _FOREIGN:
        import_providers()
    return _FOREIGN[0](element, target)
