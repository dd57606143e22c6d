"""Checks of tensors that several interfaces share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.widening import wide_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def require_finite(tensors: Mapping[str, Tensor], description: str) -> None:
    """Raise if tensors contain NaN or infinity.

    Args:
        tensors: Named tensors; integer tensors always pass.
        description: Description of the tensors for the message, such as "the candidate's mean".

    Raises:
        InvalidInputError: If an entry is not finite; names the tensor and counts the entries.
    """
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if _have_finite_sums(floating.values()):
        return
    for name, tensor in floating.items():
        bad = int(tensor.numel() - torch.isfinite(tensor).sum().item())
        if bad:
            message = (
                f"{description}: `{name}` has {bad} of {tensor.numel()} entries that are NaN or infinite; "
                "expected finite numbers. Check for a diverged training run or a damaged file"
            )
            raise InvalidInputError(message)


def _have_finite_sums(tensors: Iterable[Tensor]) -> bool:
    """Return whether the sums of all tensors are finite. A sum with NaN or infinite terms is not.

    This takes an eighth of the time of `torch.isfinite` on every entry, and one synchronization per device.
    """
    sums: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        sums.setdefault((tensor.device, wide), []).extend(part.sum() for part in wide_parts(tensor, wide))
    return all(bool(torch.isfinite(torch.stack(of_device)).all()) for of_device in sums.values())


def require_tensors(tensors: Mapping[str, object], description: str) -> None:
    """Raise if a mapping contains anything other than tensors by name.

    Args:
        tensors: The mapping.
        description: Description of the mapping for the message.

    Raises:
        InvalidInputError: If a key is not a string, or a value is not a tensor; names the first.
    """
    keys: list[object] = [*tensors]
    for name, value in zip(keys, tensors.values(), strict=True):
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            continue
        remedy = "`torch.as_tensor` converts arrays and numbers"
        if isinstance(value, Mapping):
            remedy = f"if this is a training checkpoint, pass the state dict in it, such as the entry {name!r}"
        elif str(name).endswith("_extra_state"):
            remedy = "remove the extra state of modules, pass only parameters and buffers"
        message = f"{description}: expected tensors by name, got `{type(value).__qualname__}` at {name!r}; {remedy}"
        raise InvalidInputError(message)


def require_same_names(expected: Mapping[str, object], given: Mapping[str, object], description: str) -> None:
    """Raise if the names of a mapping are not exactly the expected ones.

    Args:
        expected: A mapping with the expected names.
        given: The mapping to check.
        description: Description of the mapping for the message.

    Raises:
        InvalidInputError: If names are missing or not expected; lists both.
    """
    missing = sorted(expected.keys() - given.keys())
    extra = sorted(given.keys() - expected.keys())
    if missing or extra:
        parts = [f"{description} does not have the expected tensors"]
        if missing:
            parts.append(f"missing: {shorten(missing)}")
        if extra:
            parts.append(f"not expected: {shorten(extra)}")
        raise InvalidInputError("; ".join(parts))


def shorten(names: list[str], limit: int = 8) -> str:
    """Return a list of names in backticks, of which at most ``limit`` are shown.

    Args:
        names: The names.
        limit: Maximum number of names that are shown.

    Returns:
        The list as one line.
    """
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
