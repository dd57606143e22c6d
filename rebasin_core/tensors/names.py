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
from rebasin_core.tensors.modules import named_tensors, repeated_names, shared_names, unsaved_buffers, unwrapped
from rebasin_core.tensors.prefixes import NamesOfNetwork, Renaming, Shape, best_renamings
from rebasin_core.tensors.spelling import canonical_names, without_wrappers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

_STATISTICS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$")
_COUNTER = re.compile(r"(^|\.)num_batches_tracked$")
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
        shapes: Shapes of the tensors; empty if unknown.
        optional: Names in ``known`` that a state dict may omit: buffers that are not saved, and counters of batches,
            which older versions of PyTorch do not have.
    """

    known: tuple[str, ...]
    buffers: frozenset[str] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

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
        tensors = named_tensors(inner)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        optional = (unsaved_buffers(inner) & tensors.keys()) | counters_among(tensors)
        return cls(tuple(tensors), buffers, repeated_names(inner), shapes, optional)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> TensorNames:
        """Return the names of the tensors of a state dict, if there is no network.

        Args:
            tensors: Tensors by name. Names that share memory are names of one tensor.

        Returns:
            The names; it is unknown which of them are buffers.
        """
        aliases = shared_names(tensors)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in aliases}
        return cls(tuple(shapes), None, aliases, shapes, counters_among(shapes))

    def of(self, name: str) -> str | None:
        """Return the known name of a tensor.

        Args:
            name: A name as in a state dict of the network or of a wrapper (with ``module.`` or ``_orig_mod.``).

        Returns:
            The name in ``known``, or None if there is none.
        """
        return self._direct(name) or self._targets.get(without_wrappers(name))

    def _direct(self, name: str) -> str | None:
        return name if name in self._positions else self.aliases.get(name)

    def resolved(self, tensors: Mapping[str, Tensor], description: str, *, prefix: str | None = None) -> dict[str, str]:
        """Return the known names of the tensors of a state dict or file.

        All names can have one prefix that the network's names do not have, or lack one (``module.``, ``model.``,
        ``transformer.``, ...). The prefix is found from the names and shapes: it must fit more than half of the
        network's tensors. Older spellings of names are replaced (see `canonical_names`). An unknown name of a tensor
        that shares its memory with a known one is a second name of it.

        Args:
            tensors: Tensors by name.
            description: Description of the tensors for the message.
            prefix: Prefix of the names to use, if the tensors contain several networks; found if None.

        Returns:
            The known name for every name in ``tensors`` that has one, in the order of ``tensors``.

        Raises:
            InvalidInputError: If several prefixes fit equally well, or ``prefix`` fits no tensor.
        """
        direct = {name: known for name in tensors if (known := self._direct(name)) is not None}
        if prefix is None and len(direct) == len(tensors):
            return direct
        spellings = canonical_names([name for name in tensors if not is_count_of_averaged(name, tensors)])
        renaming = self._renaming(tensors, spellings, description, prefix)
        images = {name: image for name, spelling in spellings.items() if (image := renaming.of(spelling)) is not None}
        found = {name: self._targets[image] for name, image in images.items() if image in self._targets}
        if renaming == Renaming():
            found |= direct
        elif prefix is None:
            # Names that do not have the prefix: `lm_head.weight` of GPT-2 is next to `transformer.wte.weight`.
            taken = set(found.values())
            equal = {name: self.of(name) for name in spellings if name not in found}
            found |= {n: own for n, own in equal.items() if own is not None and (own not in taken or n in self.aliases)}
        found |= _sharing_memory(tensors, found)
        return {name: found[name] for name in tensors if name in found}

    def _renaming(
        self, tensors: Mapping[str, Tensor], spellings: Mapping[str, str], description: str, prefix: str | None
    ) -> Renaming:
        """Return the best renaming of the spellings."""
        sources = _unique((spelling, name) for name, spelling in spellings.items())
        given = {spelling: tuple(tensors[name].shape) for spelling, name in sources.items()}
        required = {spelling: name for spelling, name in self._targets.items() if name not in self.optional}
        network = NamesOfNetwork(required, self.shapes)
        removed = None if prefix is None else without_wrappers(prefix)
        best = best_renamings(network, given, removed=removed)
        if not best:
            message = f"{description}: no tensor of the network has the prefix {prefix!r}; {_prefixes(tensors)}"
            raise InvalidInputError(message)
        found = [_selected(tensors, sources, renaming, required) for renaming in best]
        if not all(_are_equal(found[0], other) for other in found[1:]):
            several = " and ".join(f"`{renaming.removed or renaming.added}`" for renaming in best)
            message = (
                f"{description}: the network is contained several times, under the prefixes {several}; choose one of "
                "them as `prefix`, or pass only the tensors of one network"
            )
            raise InvalidInputError(message)
        return best[0]

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
    def _targets(self) -> Mapping[str, str]:
        """The known names by their common spelling; ambiguous spellings are omitted."""
        modern = canonical_names([*self.known, *self.aliases])
        spellings = [(spelling, name) for name in modern for spelling in (modern[name], without_wrappers(name))]
        return _unique((spelling, self._direct(name) or name) for spelling, name in spellings)

    def renamed(self, tensors: Mapping[str, Tensor], description: str) -> dict[str, Tensor]:
        """Return tensors by their known names, in the network's order; unknown names are not changed.

        Args:
            tensors: Named tensors.
            description: Description of the tensors for the message.

        Returns:
            Each tensor once.

        Raises:
            InvalidInputError: If two names of one tensor have different values, or the network is contained several
                times.
        """
        if self.has_order_of(tensors):
            return dict(tensors)
        resolved = self.resolved(tensors, description)
        named = {n: resolved.get(n, n) for n in tensors if not is_count_of_averaged(n, tensors)}
        found = {own: tensors[name] for own, name in first_names(named, tensors, description).items()}
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


def first_names(known: Mapping[str, str], tensors: Mapping[str, Tensor], description: str) -> dict[str, str]:
    """Return one name in a file for each tensor of a network, and check that all its names have the same values.

    Args:
        known: Names of the network's tensors by names in the file.
        tensors: Tensors by names in the file.
        description: Description of the tensors for the message.

    Returns:
        For each tensor of the network, its first name in the file.

    Raises:
        InvalidInputError: If two names of one tensor have different values.
    """
    first: dict[str, str] = {}
    for name, own in known.items():
        other = first.setdefault(own, name)
        if other != name and not have_equal_values(tensors[other], tensors[name]):
            message = (
                f"{description}: `{other}` and `{name}` are one tensor of the network, but have different "
                "values; pass one of them, or a specification of the network in which they are not tied"
            )
            raise InvalidInputError(message)
    return first


def have_equal_values(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors have the same shape and values; without a copy unless their devices differ.

    Args:
        first: A tensor.
        second: Another tensor.

    Returns:
        True if so.
    """
    return first is second or (first.shape == second.shape and torch.equal(first, second.to(first.device)))


def counters_among(names: Iterable[str]) -> frozenset[str]:
    """Return the names of counters of batches in normalizations, which older versions of PyTorch do not have.

    Args:
        names: Names of tensors.

    Returns:
        The names that are ``num_batches_tracked`` or have it as their last part.
    """
    return frozenset(name for name in names if _COUNTER.search(name) is not None)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the values of keys that have only one value."""
    values: dict[str, set[str]] = {}
    for key, value in pairs:
        values.setdefault(key, set()).add(value)
    return {key: next(iter(of_key)) for key, of_key in values.items() if len(of_key) == 1}


def _selected(
    tensors: Mapping[str, Tensor], sources: Mapping[str, str], renaming: Renaming, spellings: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors that a renaming selects, by the network's spelling."""
    pairs = [(spelling, renaming.source_of(spelling)) for spelling in spellings]
    return {spelling: tensors[sources[name]] for spelling, name in pairs if name is not None and name in sources}


def _are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(have_equal_values(first[name], second[name]) for name in first)


def _sharing_memory(tensors: Mapping[str, Tensor], found: Mapping[str, str]) -> dict[str, str]:
    """Return the known names of further tensors that share memory with a tensor in ``found``."""
    known: dict[str, str] = {}
    repeated = shared_names(tensors)
    for name in tensors:
        if name in found:
            known.setdefault(repeated.get(name, name), found[name])
    first = {name: repeated.get(name, name) for name in tensors if name not in found}
    return {name: known[shared] for name, shared in first.items() if shared in known}


def _prefixes(names: Iterable[str]) -> str:
    counts = Counter(name.partition(".")[0] for name in names if "." in name)
    return "its prefixes: " + ", ".join(f"`{first}.` ({count} tensors)" for first, count in counts.most_common(8))
