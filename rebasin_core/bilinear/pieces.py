"""Terms in pieces: large tensors are widened, permuted and multiplied one slice at a time.

The tensors of a term keep the dtype of the network, and may be mapped from a file. Products need at least single
precision, and the candidate permuted. Doing both for a slice at a time bounds the memory by the size of a slice, for
checkpoints that do not fit into memory. If products are computed on another device, slices are copied to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from rebasin_core.bilinear.stacked_cell import positions_of
from rebasin_core.bilinear.stacked_cell import whole as whole_cell
from rebasin_core.tensors.precision import working_dtype

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term

MAX_ENTRIES = 2**24
"""Number of entries of a slice of one network: 64 MiB in single precision."""

Piece: TypeAlias = "tuple[Tensor, Tensor, tuple[int, ...]]"
"""A slice of the reference, the same slice of the permuted candidate, and the positions that are permuted already."""


def pieces(
    term: Term, indices: Mapping[str, Tensor], *, whole: Collection[int] = (), nested: Collection[str] = ()
) -> Iterator[Piece]:
    """Yield the term in slices along its longest dimension, in the precision of its products.

    Args:
        term: The term.
        indices: Permutations of groups, applied to the dimension along which the candidate is cut; the identity for
            groups without one.
        whole: Positions among the atoms that must not be cut.
        nested: Groups that must not be cut: nested groups and the groups around them.

    Yields:
        The slices, on the device of the term; one with views of the tensors if the term is not large, and has that
        precision and device already.
    """
    size = term.candidate.numel()
    cut = _longest(term, whole, nested) if size > MAX_ENTRIES else None
    if cut is None:
        yield _placed(whole_cell(term.reference), term), _placed(whole_cell(term.candidate), term), ()
        return
    dim = 1 + cut
    length = term.candidate.shape[dim]
    index = indices.get(term.atoms[cut].group or "")
    index = None if index is None else index.to(term.candidate.device)
    step = max(1, MAX_ENTRIES * length // size)
    for start in range(0, length, step):
        count = min(step, length - start)
        reference = term.reference.narrow(dim, start, count)
        if index is None:
            candidate = term.candidate.narrow(dim, start, count)
        else:
            candidate = positions_of(term.candidate, dim, index.narrow(0, start, count))
        yield _placed(reference, term), _placed(candidate, term), (cut,)


def _longest(term: Term, whole: Collection[int], nested: Collection[str]) -> int | None:
    """Return the position of the longest dimension that may be cut, None if there is none."""
    sizes = term.candidate.shape[1:]
    allowed = [p for p, atom in enumerate(term.atoms) if p not in whole and atom.group not in nested]
    return max(allowed, key=sizes.__getitem__, default=None)


def _placed(tensor: Tensor, term: Term) -> Tensor:
    """Return a slice on the device and in the precision of the products; it is copied before it is widened."""
    return tensor.to(device=term.device).to(working_dtype(tensor.dtype))
