"""Names of a network's tensors: buffers, additional names of tied weights, and prefixes added by wrappers."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import named_tensors, repeated_names, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

_STATISTICS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$")
# Parts of names that parallel and compiled modules add.
_WRAPPERS = frozenset({"module", "_orig_mod"})
# The entry that `torch.optim.swa_utils.AveragedModel` adds to the state dict of the network.
COUNT_OF_AVERAGED = "n_averaged"


@final
@dataclass(frozen=True)
class TensorNames:
    """The names of the parameters and buffers of one network.

    Attributes:
        known: The first name of every tensor, in the network's order.
        buffers: Names in ``known`` that are buffers; None if unknown.
        aliases: Additional names of tensors (tied weights, modules registered twice), with their name in ``known``.
    """

    known: tuple[str, ...]
    buffers: frozenset[str] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_module(cls, module: nn.Module) -> TensorNames:
        """Return the names of a module's tensors.

        Args:
            module: Any module; compiled, parallel and averaged modules are unwrapped.

        Returns:
            The names.
        """
        inner = unwrapped(module)
        buffers = frozenset(name for name, _ in inner.named_buffers())
        return cls(tuple(named_tensors(inner)), buffers, repeated_names(inner))

    def of(self, name: str) -> str | None:
        """Return the known name of a tensor.

        Args:
            name: A name as in a state dict of the network or of a wrapper (with ``module.`` or ``_orig_mod.``).

        Returns:
            The name in ``known``, or None if there is none.
        """
        if name in self._positions:
            return name
        return self.aliases.get(name) or self._plain.get(_without_wrappers(name))

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {name: position for position, name in enumerate(self.known)}

    def has_order_of(self, names: Iterable[str]) -> bool:
        """Return whether all names are known and in the network's order.

        Args:
            names: Names of tensors.

        Returns:
            True if so.
        """
        positions = [self._positions.get(name, -1) for name in names]
        return all(before < after for before, after in itertools.pairwise([-1, *positions]))

    @cached_property
    def _plain(self) -> Mapping[str, str]:
        """The known names by their spelling without wrappers; ambiguous spellings are omitted."""
        pairs = [(_without_wrappers(name), name) for name in self.known]
        pairs += [(_without_wrappers(alias), name) for alias, name in self.aliases.items()]
        targets: dict[str, set[str]] = {}
        for plain, name in pairs:
            targets.setdefault(plain, set()).add(name)
        return {plain: next(iter(names)) for plain, names in targets.items() if len(names) == 1}

    def renamed(self, tensors: Mapping[str, Tensor], description: str) -> dict[str, Tensor]:
        """Return tensors by their known names, in the network's order; unknown names are not changed.

        Args:
            tensors: Named tensors.
            description: Description of the tensors for the message.

        Returns:
            Each tensor once.

        Raises:
            InvalidInputError: If two names of one tensor have different values.
        """
        if self.has_order_of(tensors):
            return dict(tensors)
        found: dict[str, Tensor] = {}
        first: dict[str, str] = {}
        for name, tensor in tensors.items():
            if is_count_of_averaged(name, tensors):
                continue
            own = self.of(name) or name
            if own in found and not _equal(found[own], tensor):
                message = (
                    f"{description}: `{first[own]}` and `{name}` are one tensor of the network, but have different "
                    "values; pass one of them, or a specification of the network in which they are not tied"
                )
                raise InvalidInputError(message)
            found.setdefault(own, tensor)
            first.setdefault(own, name)
        # Files sort tensors by name; rounding of sums over tensors depends on the order.
        return dict(sorted(found.items(), key=lambda item: self._positions.get(item[0], len(self.known))))

    def divide(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], description: str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return tensors by their known names, divided into the network's parameters and buffers.

        Args:
            parameters: Presumed parameters.
            buffers: Presumed buffers; the division is not changed if the network's buffers are unknown.
            description: Description of the tensors for the message.

        Returns:
            The parameters, and the buffers.

        Raises:
            InvalidInputError: If a parameter contains integers, or two names of one tensor have different values.
        """
        if self.buffers is None:
            return self.renamed(parameters, description), self.renamed(buffers, description)
        every = self.renamed({**parameters, **buffers}, description)
        divided = {name: tensor for name, tensor in every.items() if name not in self.buffers}
        require_numbers({name: tensor for name, tensor in divided.items() if name in self._positions}, description)
        return divided, {name: tensor for name, tensor in every.items() if name in self.buffers}


def buffers_among(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the presumed buffers of a state dict: integer tensors, and normalization statistics by name.

    Args:
        tensors: A state dict.

    Returns:
        The presumed buffers.
    """
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (tensor.is_floating_point() or tensor.is_complex()) or _STATISTICS.search(name) is not None
    }


def require_numbers(parameters: Mapping[str, Tensor], description: str) -> None:
    """Raise if parameters contain integers, as quantized weights do.

    Args:
        parameters: Parameters by name.
        description: Description of the parameters for the message.

    Raises:
        InvalidInputError: If there are integer parameters; names them and their dtypes.
    """
    integers = sorted(name for name, t in parameters.items() if not (t.is_floating_point() or t.is_complex()))
    if integers:
        dtypes = Counter(str(parameters[name].dtype) for name in integers)
        message = (
            f"{description}: {shorten(integers)} {'is a parameter' if len(integers) == 1 else 'are parameters'} of the "
            f"network, got {', '.join(dtypes)}; quantized weights cannot be compared or averaged. Dequantize them "
            "first (integers times their scales, in float32), and quantize the result again"
        )
        raise InvalidInputError(message)


def is_count_of_averaged(name: str, tensors: Iterable[str]) -> bool:
    """Return whether a name is that of the counter in the state dict of an averaged model.

    Args:
        name: A name.
        tensors: All names of the state dict.

    Returns:
        True if so: all other names start with ``module.``.
    """
    return name == COUNT_OF_AVERAGED and all(n.startswith("module.") for n in tensors if n != COUNT_OF_AVERAGED)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second.to(first.device)))
