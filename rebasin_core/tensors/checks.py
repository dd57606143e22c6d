"""The checks on tensors that several interfaces share, each with its one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Args:
        tensors: Named tensors; integer tensors always pass.
        what: What they are, for the message ("the candidate's mean").

    Raises:
        InvalidInputError: If an entry is not finite; names the tensor and counts the entries.
    """
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if _sum_to_numbers(floating.values()):
        return
    for name, tensor in floating.items():
        bad = int(tensor.numel() - torch.isfinite(tensor).sum().item())
        if bad:
            message = (
                f"{what}: `{name}` has {bad} of {tensor.numel()} entries that are NaN or infinite; "
                "expected finite numbers. Look for a diverged training run or a damaged file"
            )
            raise InvalidInputError(message)


def _sum_to_numbers(tensors: Iterable[Tensor]) -> bool:
    """Return whether all sums are finite, as no sum over NaN or infinity is.

    That takes an eighth of the time of looking at every entry, and one answer from each device.
    """
    sums: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        sums.setdefault((tensor.device, wide), []).append(tensor.sum(dtype=wide))
    return all(bool(torch.isfinite(torch.stack(alike)).all()) for alike in sums.values())


def require_tensors(tensors: Mapping[str, object], what: str) -> None:
    """Refuse a mapping that holds something else than tensors by name.

    Args:
        tensors: The mapping to look at.
        what: What it is, for the message.

    Raises:
        InvalidInputError: If a key is no string, or a value is no tensor; names the first.
    """
    keys: list[object] = [*tensors]
    for name, value in zip(keys, tensors.values(), strict=True):
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            continue
        way_out = "`torch.as_tensor` converts arrays and numbers"
        if isinstance(value, Mapping):
            way_out = f"if this is a training checkpoint, give the state dict in it, such as the entry {name!r}"
        elif str(name).endswith("_extra_state"):
            way_out = "leave out what modules save beside their parameters and buffers"
        message = f"{what}: expected tensors by name, got `{type(value).__qualname__}` at {name!r}; {way_out}"
        raise InvalidInputError(message)


def require_same_names(expected: Mapping[str, object], given: Mapping[str, object], what: str) -> None:
    """Refuse a mapping whose names are not exactly the expected ones.

    Args:
        expected: A mapping with the names that must be there.
        given: The mapping to look at.
        what: What it is, for the message.

    Raises:
        InvalidInputError: If names are missing or left over; lists both.
    """
    missing = sorted(expected.keys() - given.keys())
    extra = sorted(given.keys() - expected.keys())
    if missing or extra:
        parts = [f"{what} does not have the expected tensors"]
        if missing:
            parts.append(f"missing: {shorten(missing)}")
        if extra:
            parts.append(f"not expected: {shorten(extra)}")
        raise InvalidInputError("; ".join(parts))


def shorten(names: list[str], limit: int = 8) -> str:
    """Return the names in backticks, cut after ``limit`` of them.

    Args:
        names: The names.
        limit: How many are written out.

    Returns:
        One readable line.
    """
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
