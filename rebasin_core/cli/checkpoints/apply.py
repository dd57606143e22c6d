"""The commands `rebasin apply` and `rebasin invert`, for saved permutations and other group elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebasin_core.cli.checkpoints.options import PATH, name_options, shared, size_of

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("permutation", type=PATH)
@click.argument("checkpoint", type=PATH)
@click.option("--inverse", is_flag=True, help="Apply the inverse permutation.")
@shared("names", "device", "output")
def apply(permutation: Path, checkpoint: Path, *, inverse: bool, **given: Any) -> None:  # ruff: ignore[any-type] - options of click
    """Apply a saved PERMUTATION to another CHECKPOINT of the model.

    `rebasin align` and `merge` write permutations next to their outputs. Files of other group elements (signs, scales,
    rotations) are accepted, too. No model is needed.
    """
    import torch

    from rebasin_core.api.checkpoints.applying import apply_to_checkpoint
    from rebasin_core.api.checkpoints.recipes import opened_entries
    from rebasin_core.checkpoints.naming import NamePolicy
    from rebasin_core.cli.checkpoints.output import print_files

    print_files(
        apply_to_checkpoint(
            permutation,
            opened_entries([checkpoint], given["entry"])[0],
            given["output"],
            inverse=inverse,
            names=NamePolicy(**name_options(given)),
            force=given["force"],
            dtype=None if given["dtype"] is None else getattr(torch, given["dtype"]),
            max_shard_bytes=size_of(given["max_shard"], "--max-shard"),
            device=given["device"],
        )
    )


@click.command()
@click.argument("permutation", type=PATH)
@click.option("--output", "-o", type=PATH, required=True, help="Output file (safetensors).")
@click.option("--force", is_flag=True, help="Replace an existing output (never the input).")
def invert(permutation: Path, output: Path, *, force: bool) -> None:
    """Write the inverse of a saved PERMUTATION or other group element."""
    from rebasin_core.cli.checkpoints.output import print_files
    from rebasin_core.cli.targets import require_free
    from rebasin_core.symmetry.symmetry_element import load_element

    require_free(output, [permutation], force=force)
    load_element(permutation).inverse().save(output)
    print_files((output,))
