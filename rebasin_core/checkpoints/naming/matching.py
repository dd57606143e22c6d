"""Matching of the names of a network's tensors with the names in a file."""

from __future__ import annotations

import itertools
from collections import Counter
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rebasin_core.checkpoints.naming.name_match import NameMatch
from rebasin_core.checkpoints.naming.policy import NamePolicy
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.names import first_names, have_equal_values, is_count_of_averaged, require_numbers
from rebasin_core.tensors.prefixes import split_common

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.tensors.names import TensorNames

_MAX_SHOWN = 6
# Number of entries by which equal matrices are found.
_NUM_COMPARED = 16


def match_names(
    expected: TensorNames, tensors: Mapping[str, Tensor], description: str, policy: NamePolicy | None = None
) -> NameMatch:
    """Find the tensors of a network in a file by their names and shapes.

    Lenient names can have a prefix that the network's names do not have, or lack one, such as ``module.``,
    ``_orig_mod.``, ``model.`` or ``transformer.``. The prefix is not from a list: it is the one for which most names
    and shapes agree. Extra tensors with the values of a matrix of the network are second names of tied weights.

    Values are compared only for second names of a tensor, and no tensor is copied.

    Args:
        expected: Names and shapes of the network, by `TensorNames.of_module` or `Layout.names`.
        tensors: Tensors by names in the file.
        description: Description of the file for messages, such as its path.
        policy: Rules for missing, extra and differently shaped tensors; lenient if None.

    Returns:
        The names.

    Raises:
        InvalidInputError: If tensors are missing, extra or differ in shape and the policy does not allow it; if the
            file contains the network several times; if two names of one tensor have different values; or if a
            parameter contains integers.
    """
    policy = NamePolicy() if policy is None else policy
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    resolved = _resolved(expected, tensors, description, policy)
    # A constant of another length, such as a mask for longer texts, is not that of the network.
    unlike = {own for own in expected.optional if own in expected.shapes}
    resolved = {n: own for n, own in resolved.items() if own not in unlike or shapes[n] == expected.shapes[own]}
    first = first_names(_own_names_first(resolved), tensors, description)
    names = {own: first[own] for own in expected.known if own in first}
    if policy.mode == "lenient":
        resolved |= _tied_by_value(names, tensors, [name for name in tensors if name not in resolved])
    removed, added = _prefixes(names)
    found = NameMatch(
        description=description,
        expected=expected,
        names=names,
        tied={name: own for name, own in resolved.items() if names[own] != name},
        removed=removed,
        added=added,
        missing=tuple(own for own in expected.known if own not in names and own not in expected.optional),
        optional=tuple(own for own in expected.known if own not in names and own in expected.optional),
        extra=tuple(name for name in tensors if name not in resolved),
        rule=policy.extra_tensors,
        resized={own: shapes[n] for own, n in names.items() if shapes[n] != expected.shapes.get(own, shapes[n])},
        shapes=shapes,
    )
    _require_agreement(found, policy)
    if expected.buffers is not None:
        parameters = {name: tensors[name] for own, name in names.items() if own not in expected.buffers}
        require_numbers(parameters, description)
    return found


def _resolved(
    expected: TensorNames, tensors: Mapping[str, Tensor], description: str, policy: NamePolicy
) -> dict[str, str]:
    """Return the network's name for every name in the file that has one."""
    if policy.mode == "lenient":
        return expected.resolved(tensors, description, prefix=policy.prefix)
    own = {name: name for name in expected.known} | dict(expected.aliases)
    prefixed = {f"{policy.prefix or ''}{name}": known for name, known in own.items()}
    return {name: prefixed[name] for name in tensors if name in prefixed}


def _own_names_first(resolved: Mapping[str, str]) -> dict[str, str]:
    """Return names with the second names of tied weights last: those that are less like the name in the network."""
    return dict(sorted(resolved.items(), key=lambda pair: sum(map(len, split_common(*pair)))))


def _tied_by_value(names: Mapping[str, str], tensors: Mapping[str, Tensor], extra: Sequence[str]) -> dict[str, str]:
    """Return the extra matrices that have the values of a matrix of the network, with the name of that matrix.

    Vectors are excluded: many biases are zero, and many scales are one.
    """
    by_start: dict[object, list[tuple[str, Tensor]]] = {}
    shapes = {tuple(tensors[name].shape) for name in extra}
    for own, name in names.items():
        if tuple(tensors[name].shape) in shapes and _is_matrix(tensors[name]):
            by_start.setdefault(_start(tensors[name]), []).append((own, tensors[name]))
    found: dict[str, str] = {}
    for name in extra:
        if by_start and _is_matrix(tensors[name]) and not _is_constant(tensors[name]):
            same = (own for own, t in by_start.get(_start(tensors[name]), ()) if have_equal_values(t, tensors[name]))
            found.update((name, own) for own in itertools.islice(same, 1))
    return found


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.numel() > 0 and tensor.is_floating_point()


def _start(tensor: Tensor) -> object:
    """Return the shape, dtype and first entries, which differ for almost all tensors, and are one page of a file."""
    row = tensor[(0,) * (tensor.dim() - 1)][:_NUM_COMPARED]
    return tuple(tensor.shape), tensor.dtype, tuple(row.tolist())


def _is_constant(tensor: Tensor) -> bool:
    """Return whether all entries are equal; the first row is tested first, which reads little of a file."""
    return all(
        have_equal_values(part, part[(slice(1),) * part.dim()].expand(part.shape)) for part in (tensor[:1], tensor)
    )


def _prefixes(names: Mapping[str, str]) -> tuple[str, str]:
    """Return the prefixes with the largest count in the file and in the network."""
    counts = Counter(split_common(name, own) for own, name in names.items())
    return counts.most_common(1)[0][0] if counts else ("", "")


def _require_agreement(found: NameMatch, policy: NamePolicy) -> None:
    """Raise if tensors are missing, extra or resized, and the policy does not allow it."""
    problems, remedies = [], []
    if found.missing and policy.missing == "error":
        problems.append(_missing(found))
        remedies.append('`missing="skip"` aligns without missing tensors')
    extra = [name for name in found.extra if not is_count_of_averaged(name, found.shapes)]
    if extra and found.rule == "error":
        described = [f"`{name}` {[*found.shapes[name]]}" for name in extra]
        problems.append(f"not in the network: {_listed(described)}")
        remedies.append('`extra="keep"` copies such tensors to the output, `extra="skip"` omits them')
    wrong = [
        own
        for own, shape in found.resized.items()
        if policy.resized == "error" or len(shape) != len(found.expected.shapes[own])
    ]
    if wrong:
        described = [
            f"`{found.names[own]}` {[*found.resized[own]]} instead of {[*found.expected.shapes[own]]}" for own in wrong
        ]
        problems.append(f"of another shape: {_listed(described)}")
        remedies.append('`resized="keep"` accepts other vocabularies and numbers of classes')
    if problems:
        message = f"{found.description} does not fit the network; {'; '.join(problems)}. {'; '.join(remedies)}"
        raise InvalidInputError(message)


def _missing(found: NameMatch) -> str:
    """Return a description of the missing tensors, with the nearest extra names."""
    if not found.names:
        expected, given = _quoted(found.expected.known[:1]), _quoted([*found.shapes][:1])
        return f"none of the {len(found.expected.known)} tensors is in it: expected {expected}, got {given}"
    described = []
    for own in found.missing[:_MAX_SHOWN]:
        shape = found.expected.shapes.get(own)
        same = [name for name in found.extra if found.shapes[name] == shape]
        close = get_close_matches(found.removed + own.removeprefix(found.added), same or found.extra, n=1)
        hint = f" (did you mean `{close[0]}` {[*found.shapes[close[0]]]}?)" if close else ""
        described.append(f"`{own}`{'' if shape is None else f' {[*shape]}'}{hint}")
    return f"missing: {_listed(described, len(found.missing))}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no tensors"


def _listed(described: Sequence[str], total: int | None = None) -> str:
    more = (len(described) if total is None else total) - len(described[:_MAX_SHOWN])
    return ", ".join(described[:_MAX_SHOWN]) + (f" and {more} more" if more else "")
