"""State dicts nested in the dictionaries that training programs save, and the choice of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import Tensor

from rebasin_core.errors import FileFormatError, InvalidInputError, nearest
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_LEVELS = 6
_MAX_MAPPINGS = 100_000
_MAX_LISTED = 12


@final
@dataclass(frozen=True, slots=True)
class ChosenEntry:
    """A state dict in an object that was saved.

    Attributes:
        keys: Keys of the nested dictionaries that lead to it.
        tensors: Its tensors by name.
        ignored: Descriptions of the other content by its keys, joined by dots.
    """

    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    ignored: dict[str, str]


def choose_entry(saved: object, path: Path, entry: str | None) -> ChosenEntry:
    """Return the state dict in a saved object.

    A dictionary is a candidate if it has floating-point tensors with at least one dimension, under names. States of
    optimizers are not candidates.

    Args:
        saved: The object in the file.
        path: The file, for messages.
        entry: Keys of the dictionary to choose, joined by dots; None for the only candidate.

    Returns:
        The state dict.

    Raises:
        FileFormatError: If there is no candidate.
        InvalidInputError: If there is no such entry, or several candidates and none is given.
    """
    if isinstance(saved, Tensor):
        message = f"{shown(path)} contains one tensor without a name; expected a state dict, tensors by name"
        raise FileFormatError(message)
    found = dict(_mappings(saved))
    keys = _entry_keys(found, path, entry) if entry is not None else _only_candidate(found, path, saved)
    chosen = found[keys]
    tensors = {str(name): value.detach() for name, value in chosen.items() if isinstance(value, Tensor)}
    return ChosenEntry(keys, tensors, dict(_others(saved, keys)))


def _entry_keys(found: Mapping[tuple[str, ...], Mapping[object, object]], path: Path, entry: str) -> tuple[str, ...]:
    """Return the keys of a dictionary with tensors whose keys are joined to ``entry``."""
    named = {".".join(keys): keys for keys, value in found.items() if keys and _has_tensors(value)}
    if entry not in named:
        message = f"{shown(path)} has no dictionary of tensors {shown(entry)}; {nearest(entry, named)}"
        raise InvalidInputError(message)
    return named[entry]


def _only_candidate(
    found: Mapping[tuple[str, ...], Mapping[object, object]], path: Path, saved: object
) -> tuple[str, ...]:
    """Return the keys of the only candidate; if there is none, of the only dictionary of integer tensors."""
    candidates = [keys for keys, value in found.items() if _is_candidate(value)]
    if not candidates:
        candidates = [keys for keys, value in found.items() if _has_tensors(value, min_dim=1)]
    if not candidates:
        message = (
            f"{shown(path)} contains no state dict, got {_described(saved)}; expected tensors by name, as by "
            "`torch.save(model.state_dict(), path)`"
        )
        raise FileFormatError(message)
    if len(candidates) > 1:
        listed = ", ".join(repr(".".join(keys)) for keys in candidates[:_MAX_LISTED] if keys)
        more = f" and {len(candidates) - _MAX_LISTED} more" if len(candidates) > _MAX_LISTED else ""
        also = ", in addition to tensors outside of them" if () in candidates else ""
        message = (
            f"{shown(path)} contains several dictionaries of tensors: {listed}{more}{also}; choose one with the option "
            "`entry`"
        )
        raise InvalidInputError(message)
    return candidates[0]


def _mappings(saved: object) -> Iterator[tuple[tuple[str, ...], Mapping[object, object]]]:
    """Yield nested dictionaries with their keys, breadth first, each once; not those in states of optimizers."""
    level: list[tuple[tuple[str, ...], object]] = [((), saved)]
    seen: set[int] = set()
    for _ in range(_MAX_LEVELS):
        below: list[tuple[tuple[str, ...], object]] = []
        for keys, value in level:
            if not isinstance(value, Mapping) or id(value) in seen or _is_optimizer_state(value):
                continue
            seen.add(id(value))
            if len(seen) > _MAX_MAPPINGS:
                return
            yield keys, value
            below += [((*keys, key), item) for key, item in value.items() if isinstance(key, str)]
        level = below


def _is_optimizer_state(value: Mapping[object, object]) -> bool:
    return "param_groups" in value and "state" in value


def _has_tensors(value: Mapping[object, object], *, min_dim: int = 0) -> bool:
    return any(isinstance(t, Tensor) and t.dim() >= min_dim for key, t in value.items() if isinstance(key, str))


def _is_candidate(value: Mapping[object, object]) -> bool:
    """Return whether a dictionary looks like a state dict; counters and states of random generators do not."""
    return any(
        isinstance(key, str) and isinstance(t, Tensor) and t.dim() > 0 and (t.is_floating_point() or t.is_complex())
        for key, t in value.items()
    )


def _others(saved: object, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the names and descriptions of all content outside of the chosen state dict."""
    value = saved
    for depth in range(len(keys) + 1):
        if not isinstance(value, Mapping):
            return
        inner = keys[depth] if depth < len(keys) else None
        for key, item in value.items():
            is_chosen = key == inner if inner is not None else isinstance(item, Tensor) and isinstance(key, str)
            if not is_chosen:
                yield ".".join([*keys[:depth], str(key)]), _described(item)
        value = value.get(inner)


def _described(value: object) -> str:
    """Return the type and size of a value; the values of files are not repeated in messages."""
    match value:
        case Tensor():
            return f"a tensor of shape {tuple(value.shape)}"
        case Mapping():
            return f"a dict of {len(value)} entries"
        case list() | tuple() | set():
            return f"a {type(value).__name__} of {len(value)} entries"
        case bool() | int() | float() | None:
            return repr(value)
        case str():
            return shown(value, 60)
        case _:
            return f"an object of type {type(value).__name__}"
