"""Prefixes: the part of every name that differs between a network and a file, found from the names and shapes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Shape: TypeAlias = "tuple[int, ...]"
# Names of the network that are compared with all names of the file to find possible prefixes. Rare names are
# more informative: an embedding occurs once, a bias in every layer.
_NUM_PROBES = 8
# Number of prefixes for each of these names; those that leave most of both names in common come first.
_NUM_PER_PROBE = 256
# A prefix is tried first on this number of names, which are spaced evenly: mixtures of experts have 100,000 names.
_NUM_TRIED = 64
# Number of prefixes that are tried on all names.
_NUM_CANDIDATES = 64


@final
@dataclass(frozen=True, order=True)
class Renaming:
    """Replacement of a prefix that all names have.

    Attributes:
        removed: Prefix of the names in the file, empty or with a final dot.
        added: Prefix of the names in the network that replaces it.
    """

    removed: str = ""
    added: str = ""

    def of(self, name: str) -> str | None:
        """Return the name in the network.

        Args:
            name: A name in the file.

        Returns:
            The name; None if ``name`` does not have the prefix.
        """
        return self.added + name[len(self.removed) :] if name.startswith(self.removed) else None

    def source_of(self, name: str) -> str | None:
        """Return the name in the file.

        Args:
            name: A name in the network.

        Returns:
            The name; None if ``name`` does not have the prefix.
        """
        return self.removed + name[len(self.added) :] if name.startswith(self.added) else None

    @property
    def num_parts(self) -> int:
        """The number of parts of both prefixes."""
        return self.removed.count(".") + self.added.count(".")

    @property
    def complexity(self) -> int:
        """The number of prefixes that differ: 0 for equal names, 2 if one prefix replaces another."""
        return bool(self.removed) + bool(self.added)


@final
@dataclass(frozen=True, eq=False)
class NamesOfNetwork:
    """The names of a network in a common spelling.

    Attributes:
        targets: For every spelling, also those of second names, the tensor it names.
        shapes: Shapes of the tensors; any shape fits a tensor that is not listed.
    """

    targets: Mapping[str, str]
    shapes: Mapping[str, Shape]

    def fits(self, target: str, shape: Shape) -> bool:
        """Return whether a shape can be that of a tensor of the network, with additional leading dimensions.

        Args:
            target: Name of the tensor.
            shape: The shape in the file.

        Returns:
            True if so.
        """
        expected = self.shapes.get(target)
        return expected is None or shape[len(shape) - len(expected) :] == expected

    def covered(
        self, renaming: Renaming, given: Mapping[str, Shape], spellings: Iterable[str]
    ) -> tuple[set[str], set[str]]:
        """Return the tensors of the network that a file contains.

        Args:
            renaming: The renaming.
            given: Shapes in the file by name.
            spellings: Spellings of the network's names to look for.

        Returns:
            Names of the tensors in the network: those that the renaming finds, and those with equal names.
        """
        found, equal = set(), set()
        for spelling in spellings:
            source, target = renaming.source_of(spelling), self.targets[spelling]
            if source is not None and source in given and self.fits(target, given[source]):
                found.add(target)
            elif spelling in given and self.fits(target, given[spelling]):
                equal.add(target)
        return found, equal - found


def split_common(first: str, second: str) -> tuple[str, str]:
    """Return two names without their common last parts.

    Args:
        first: A name.
        second: Another name.

    Returns:
        The two prefixes, empty or with a final dot.
    """
    left, right = first.split("."), second.split(".")
    common = 0
    for own, other in zip(reversed(left), reversed(right), strict=False):
        if own != other:
            break
        common += 1
    return _prefix(left[: len(left) - common]), _prefix(right[: len(right) - common])


def best_renamings(
    network: NamesOfNetwork, given: Mapping[str, Shape], *, removed: str | None = None
) -> tuple[Renaming, ...]:
    """Return the renamings for which a file contains the largest number of the network's tensors.

    Names and shapes must agree. Equal names are preferred, then a prefix that only one side has. A prefix must fit more
    than half of the tensors.

    Args:
        network: The names of the network.
        given: Shapes in the file, by names in the same spelling.
        removed: Prefix of the names in the file that must be used; any if None.

    Returns:
        The best renamings, at least one unless ``removed`` is given. Several are equally good.
    """
    spellings = [*network.targets]
    candidates = set(_candidates(network, given))
    if removed is not None:
        candidates = {renaming for renaming in candidates | {Renaming(removed)} if renaming.removed == removed}
    num_tensors = len(set(network.targets.values()))
    # Only the prefixes that fit many of a few names are tried on all names.
    few = spellings[:: max(1, len(spellings) // _NUM_TRIED)]
    counts = {renaming: len(network.covered(renaming, given, few)[0]) for renaming in candidates}
    most = max(counts.values(), default=0)
    promising = [renaming for renaming, count in counts.items() if 2 * count >= most]
    promising = sorted(promising, key=lambda renaming: (-counts[renaming], renaming))[:_NUM_CANDIDATES]
    covered = {}
    for renaming in promising:
        found, equal = network.covered(renaming, given, spellings)
        if 2 * len(found) > num_tensors or (removed is not None and found):
            # A prefix need not be part of all names: `lm_head.weight` of GPT-2 is next to `transformer.wte.weight`.
            covered[renaming] = len(found | equal)
    if removed is None:
        covered[Renaming()] = len(network.covered(Renaming(), given, spellings)[0])
    ranks = {renaming: (-count, renaming.complexity) for renaming, count in covered.items()}
    best = min(ranks.values(), default=(0, 0))
    return tuple(sorted(renaming for renaming, rank in ranks.items() if rank == best))


def _candidates(network: NamesOfNetwork, given: Mapping[str, Shape]) -> Iterator[Renaming]:
    """Yield the renamings that map a name of the file to a rare name of the network."""
    by_last = defaultdict(list)
    for name in given:
        by_last[name.rpartition(".")[2]].append(name)
    found = {
        spelling: [name for name in by_last[spelling.rpartition(".")[2]] if network.fits(target, given[name])]
        for spelling, target in _one_of_each_shape(network)
    }
    rare = sorted((spelling for spelling in found if found[spelling]), key=lambda spelling: len(found[spelling]))
    for spelling in rare[:_NUM_PROBES]:
        renamings = {Renaming(*split_common(name, spelling)) for name in found[spelling]}
        yield from sorted(renamings, key=lambda renaming: (renaming.num_parts, renaming))[:_NUM_PER_PROBE]


def _one_of_each_shape(network: NamesOfNetwork) -> Iterator[tuple[str, str]]:
    """Yield one name for each pair of a shape and a last part; the others have the same number of candidates."""
    seen = set()
    for spelling, target in network.targets.items():
        key = network.shapes.get(target), spelling.rpartition(".")[2]
        if key not in seen:
            seen.add(key)
            yield spelling, target


def _prefix(parts: list[str]) -> str:
    return "".join(itertools.chain.from_iterable((part, ".") for part in parts))
