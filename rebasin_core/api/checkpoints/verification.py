"""Verification of the outputs of alignments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rebasin_core.api.checkpoints.alignment import opened
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.output import PROVENANCE, permutation_path
from rebasin_core.api.checkpoints.preparation import permuted_tensor
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.errors import FileFormatError
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import load_element
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.reading import parse_json, shown

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.symmetry.permutation import GroupElement

_LENIENT = NamePolicy()


def verify_output(
    output: Path | str,
    reference: Checkpoint | Path | str,
    candidate: Checkpoint | Path | str,
    *,
    names: NamePolicy = _LENIENT,
) -> list[str]:
    """Verify that an output of an alignment is the permuted candidate, and that the inputs are those of the alignment.

    Args:
        output: The output: a file or folder.
        reference: The reference.
        candidate: The candidate.
        names: Rules for names in the files.

    Returns:
        The problems; empty if the output is verified. Every entry of every tensor is compared.

    Raises:
        FileFormatError: If a file is damaged, or the output has no provenance.
        InvalidInputError: If the candidate does not fit the permutation.
    """
    found = opened(output)
    record = provenance_of(found)
    if record.get("command") != "align":
        message = f"expected the output of an alignment, got that of {record.get('command')!r}: {shown(found.path)}"
        raise FileFormatError(message)
    inputs = [opened(each) for each in (reference, candidate)]
    problems = []
    for number, (given, stated) in enumerate(zip(inputs, record["inputs"], strict=True)):
        if dict(given.digests()) != stated.get("sha256"):
            role = ("reference", "candidate")[number]
            problems.append(f"the {role} {shown(given.path)} is not the file of the alignment: its SHA-256 differs")
    path = permutation_path(found.path)
    if record["permutations"].get(path.name) != digest_of_file(path):
        problems.append(f"{shown(path)} is not the permutation of the alignment: its SHA-256 differs")
    return problems or _differences(found, inputs[1], load_element(path), names)


def provenance_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the record in the metadata of an output.

    Args:
        checkpoint: The output.

    Returns:
        The record.

    Raises:
        FileFormatError: If there is none.
    """
    record = parse_json(checkpoint.metadata.get(PROVENANCE, "null"))
    if not _is_record(record):
        message = f"{shown(checkpoint.path)} has no record of an alignment in its metadata"
        raise FileFormatError(message)
    return dict(record)


def _is_record(value: object) -> bool:
    """Return whether a JSON value has the entries of a record, which anyone may have written."""
    if not isinstance(value, dict) or not isinstance(value.get("permutations"), dict):
        return False
    inputs = value.get("inputs")
    count = 2 if value.get("command") == "align" else None
    return isinstance(inputs, list) and all(isinstance(each, dict) for each in inputs) and count in {None, len(inputs)}


def _differences(output: Checkpoint, candidate: Checkpoint, element: GroupElement, names: NamePolicy) -> list[str]:
    """Return the tensors of an output that are not those of the permuted candidate; linear maps: up to rounding."""
    layout = element.layout
    form = StoredForm({name: layout.shape(name) for name in layout.tensors})
    network = CheckpointNetwork.of(candidate, layout.names, form, names)
    in_file = network.in_file(lambda name: permuted_tensor(element, network.tensors, name))
    expected = network.infos()
    problems = [f"`{name}` is missing in the output" for name in expected if name not in output.tensors]
    problems += [f"`{name}` of the output is not in the candidate" for name in output.tensors if name not in expected]
    for name in expected.keys() & output.tensors.keys():
        tensor = output.tensors[name]
        wanted = in_file(name).to(tensor.dtype)
        exact = isinstance(element, Permutation)
        if not equal_bytes(wanted, tensor) and (exact or not _equal_up_to_rounding(wanted, tensor)):
            problems.append(f"`{name}` of the output is not that of the permuted candidate")
    return sorted(problems)


def _equal_up_to_rounding(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors differ by no more than sums in another order, rounded to their dtype."""
    if first.shape != second.shape or not first.is_floating_point():
        return False
    rounding = 4 * torch.finfo(first.dtype).eps
    largest = first.double().abs().max().item() if first.numel() else 0.0
    return torch.allclose(first.double(), second.double(), rtol=rounding, atol=rounding * largest)


def equal_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors of one dtype have the same shape and the same bytes.

    Args:
        first: A tensor.
        second: A tensor.

    Returns:
        Whether they are the same; NaN is equal to itself.
    """
    return first.shape == second.shape and torch.equal(
        first.contiguous().view(-1).view(torch.uint8), second.contiguous().view(-1).view(torch.uint8)
    )
