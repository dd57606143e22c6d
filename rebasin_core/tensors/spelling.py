"""Spellings of tensor names: parts that wrappers add, and names of older versions of libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# Parts of names that parallel, compiled, sharded and checkpointed modules add.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Scale and shift of normalizations in checkpoints converted from TensorFlow; transformers renames them, too.
_NORMALIZATION = {"gamma": "weight", "beta": "bias"}
# `torch.nn.utils.weight_norm` and `spectral_norm`, and the same tensors in `torch.nn.utils.parametrizations`: the
# suffix, the suffix that must exist next to it, and the new name.
_PARAMETRIZATIONS = (
    ("_g", "_v", "parametrizations.{}.original0"),
    ("_v", "_g", "parametrizations.{}.original1"),
    ("_orig", "_u", "parametrizations.{}.original"),
    ("_u", "_orig", "parametrizations.{}.0._u"),
    ("_v", "_orig", "parametrizations.{}.0._v"),
)


def canonical_names(names: Collection[str]) -> dict[str, str]:
    """Return a common spelling of the names of tensors.

    The parts ``module``, ``_orig_mod``, ``_fsdp_wrapped_module`` and ``_checkpoint_wrapped_module``, which wrappers
    add, are removed. The names ``gamma`` and ``beta`` of normalizations become ``weight`` and ``bias``, and
    ``weight_g``, ``weight_v``, ``weight_orig`` and ``weight_u`` of reparameterized weights become the names of
    `torch.nn.utils.parametrizations`. Whether a name is an older spelling depends on the other names.

    Args:
        names: All names of a network or of a file.

    Returns:
        The common spelling of every name. Two names can have the same one.
    """
    plain = {name: without_wrappers(name) for name in names}
    every = set(plain.values())
    return {name: _modern(spelling, every) for name, spelling in plain.items()}


def without_wrappers(name: str) -> str:
    """Return a name without the parts that wrappers add.

    Args:
        name: The name of a tensor, or a prefix with a final dot.

    Returns:
        The shorter name.
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _modern(name: str, every: set[str]) -> str:
    owner, dot, last = name.rpartition(".")
    start = f"{owner}{dot}"
    renamed = _NORMALIZATION.get(last)
    if renamed is not None and f"{start}{renamed}" not in every:
        return f"{start}{renamed}"
    for suffix, sibling, pattern in _PARAMETRIZATIONS:
        stem = last.removesuffix(suffix)
        if stem != last and f"{start}{stem}{sibling}" in every:
            return start + pattern.format(stem)
    return name
