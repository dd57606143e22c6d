"""The names of a network's tensors: which are buffers, which repeat a tensor, and how wrappers spell them."""

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
# What parallel and compiled modules put into the names of the tensors of the module that they wrap.
_WRAPPERS = frozenset({"module", "_orig_mod"})
# What `torch.optim.swa_utils.AveragedModel` saves beside the tensors of the network.
COUNT_OF_AVERAGED = "n_averaged"


@final
@dataclass(frozen=True)
class TensorNames:
    """The names of the parameters and buffers of one network.

    Attributes:
        known: The name of every tensor, each tensor once, in the network's order.
        buffers: Those that are buffers; None if that is not known.
        aliases: Further names of tensors (tied weights, modules that are registered twice), with the one in ``known``.
    """

    known: tuple[str, ...]
    buffers: frozenset[str] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_module(cls, module: nn.Module) -> TensorNames:
        """Return the names of a module's tensors.

        Args:
            module: Any module; a compiled, parallel or averaged one stands for the module that it wraps.

        Returns:
            The names.
        """
        inner = unwrapped(module)
        buffers = frozenset(name for name, _ in inner.named_buffers())
        return cls(tuple(named_tensors(inner)), buffers, repeated_names(inner))

    def of(self, name: str) -> str | None:
        """Return the known name that a name stands for.

        Args:
            name: A name; as a state dict, or a wrapper of the network (``module.``, ``_orig_mod.``), spells it.

        Returns:
            The name in ``known``, or None.
        """
        if name in self._places:
            return name
        return self.aliases.get(name) or self._plain.get(_without_wrappers(name))

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.known)}

    def has_order_of(self, names: Iterable[str]) -> bool:
        """Return whether names are known ones, in the network's order.

        Args:
            names: Some names.

        Returns:
            True if so.
        """
        places = [self._places.get(name, -1) for name in names]
        return all(before < after for before, after in itertools.pairwise([-1, *places]))

    @cached_property
    def _plain(self) -> Mapping[str, str]:
        """The known names by how they are spelt without wrappers; left out where two are spelt alike."""
        pairs = [(_without_wrappers(name), name) for name in self.known]
        pairs += [(_without_wrappers(alias), name) for alias, name in self.aliases.items()]
        targets: dict[str, set[str]] = {}
        for plain, name in pairs:
            targets.setdefault(plain, set()).add(name)
        return {plain: next(iter(names)) for plain, names in targets.items() if len(names) == 1}

    def renamed(self, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """Return tensors by their known names, in the network's order; names that are not known are kept.

        Args:
            tensors: Named tensors.
            what: What they are, for the message.

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
                    f"{what}: `{first[own]}` and `{name}` are one tensor of the network, and have different values; "
                    "give one of them, or a specification of the network in which they are not tied"
                )
                raise InvalidInputError(message)
            found.setdefault(own, tensor)
            first.setdefault(own, name)
        # Files sort their tensors; sums over tensors are rounded in their order.
        return dict(sorted(found.items(), key=lambda item: self._places.get(item[0], len(self.known))))

    def divide(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], what: str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return tensors by their known names, divided into parameters and buffers as the network has them.

        Args:
            parameters: Taken for parameters so far.
            buffers: Taken for buffers so far; stays as it is where it is not known which names are buffers.
            what: What they are, for the message.

        Returns:
            The parameters, and the buffers.

        Raises:
            InvalidInputError: If a parameter holds integers, or two names of one tensor have different values.
        """
        if self.buffers is None:
            return self.renamed(parameters, what), self.renamed(buffers, what)
        every = self.renamed({**parameters, **buffers}, what)
        divided = {name: tensor for name, tensor in every.items() if name not in self.buffers}
        require_numbers({name: tensor for name, tensor in divided.items() if name in self._places}, what)
        return divided, {name: tensor for name, tensor in every.items() if name in self.buffers}


def buffers_among(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state dict that are buffers: integers, and normalization statistics.

    Args:
        tensors: A state dict.

    Returns:
        The buffers, as far as names and types tell.
    """
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (tensor.is_floating_point() or tensor.is_complex()) or _STATISTICS.search(name) is not None
    }


def require_numbers(parameters: Mapping[str, Tensor], what: str) -> None:
    """Refuse parameters that hold integers: quantised weights.

    Args:
        parameters: Parameters by name.
        what: What they are, for the message.

    Raises:
        InvalidInputError: If there are some; names them and their dtypes.
    """
    whole = sorted(name for name, t in parameters.items() if not (t.is_floating_point() or t.is_complex()))
    if whole:
        kinds = Counter(str(parameters[name].dtype) for name in whole)
        message = (
            f"{what}: {shorten(whole)} {'is a parameter' if len(whole) == 1 else 'are parameters'} of the network, got "
            f"{', '.join(kinds)}; quantized weights cannot be compared or averaged. Dequantize them first (numbers "
            "times their scales, in float32), and quantize the result again"
        )
        raise InvalidInputError(message)


def is_count_of_averaged(name: str, tensors: Iterable[str]) -> bool:
    """Return whether a name is that of the counter in the state dict of an averaged model.

    Args:
        name: A name.
        tensors: All names of the state dict.

    Returns:
        True if so: all other names begin with ``module.``.
    """
    return name == COUNT_OF_AVERAGED and all(n.startswith("module.") for n in tensors if n != COUNT_OF_AVERAGED)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second.to(first.device)))
