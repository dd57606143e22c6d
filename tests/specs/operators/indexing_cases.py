"""Networks for indexing operators."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # ruff: ignore[lowercase-imported-as-non-lowercase] - PyTorch's own alias

from tests.specs.operators.programs import Case, after, aten, column, grid

INDEX = torch.tensor([2, 0, 0])
ONE = torch.tensor([1])
GRID_INDEX = torch.tensor([[0, 1, 1], [1, 0, 1]])

CASES: Final[dict[str, Case]] = {
    "embedding": Case(4, lambda h, w: h[:, None] * F.embedding(INDEX, w), ((3, 4),)),
    "embedding of argmin": Case(4, lambda h, w: F.embedding(h.argmin(1), w), ((4, 3),)),
    "codebook": Case(4, lambda h, w: F.embedding(torch.cdist(h, w).argmin(1), w), ((3, 4),)),
    "embedding_bag": Case(
        4, lambda h, w: h * F.embedding_bag(torch.tensor([[0, 2], [1, 1]]), w, mode="sum"), ((3, 4),)
    ),
    "embedding_bag outputs": Case(
        4,
        lambda h, w: [
            h * value if value.numel() == 8 else after(h, value)
            for value in aten.embedding_bag(w, INDEX, torch.tensor([0, 2]))
        ],
        ((3, 4),),
    ),
    "index": Case(6, lambda h: grid(h, 3, 2)[:, INDEX]),
    "index one": Case(4, lambda h: h[:, ONE]),
    "index list": Case(4, lambda h: [h[:, [2]], h[:, [-1, 1]]]),
    "index run": Case(6, lambda h: grid(h, 3, 2)[:, [1, 2]]),
    "index two": Case(6, lambda h: grid(h, 3, 2)[:, INDEX, torch.tensor([1, 1, 0])]),
    "index apart": Case(6, lambda h: grid(h, 2, 3)[:, :, INDEX][:, torch.tensor([[0], [1]])]),
    "index mask": Case(4, lambda h, w: _masked(h, w), ((4,),)),
    "index mask of all": Case(4, lambda h, w: h[:, w < 1e9] * torch.arange(4), ((4,),)),
    "index mask of both": Case(
        6, lambda h: grid(h, 2, 3)[:, torch.tensor([[True, False, True], [False, True, False]])]
    ),
    "index mask of bytes": Case(
        4, lambda h, w: [h[:, torch.tensor([1, 1, 0, 1]).byte()], h[:, (w < 1e9).byte()]], ((4,),)
    ),
    "index one integer": Case(6, lambda h, w: [grid(h, 2, 3)[:, torch.tensor(1)], h * w[w.argmin()]], ((6,),)),
    "_unsafe_index": Case(4, lambda h: aten._unsafe_index(h, [None, INDEX])),
    "index_select": Case(6, lambda h: [grid(h, 3, 2).index_select(-2, INDEX), h.index_select(1, ONE)]),
    "index_select argsort": Case(6, lambda h, w: grid(h, 3, 2).index_select(1, w.argsort()), ((3,),)),
    "gather": Case(6, lambda h: grid(h, 2, 3).gather(-1, GRID_INDEX.expand(2, 2, 3))),
    "gather some": Case(8, lambda h, w: grid(h, 4, 2).gather(2, (column(w) > 0).long()), ((3, 2),)),
    "gather blocks": Case(6, lambda h, w: grid(h, 3, 2).gather(1, column(w.argsort(0))), ((3, 2),)),
    "take_along_dim": Case(6, lambda h: grid(h, 2, 3).take_along_dim(grid(h, 2, 3).argsort(-1), -1)),
    "take_along_dim of all": Case(4, lambda h: h + h.take_along_dim(torch.tensor(3))),
    "take": Case(4, lambda h, w: h + w.take(INDEX).sum(), ((4,),)),
    "put": Case(4, lambda h, w: h * w.put(INDEX, w[:3]), ((4,),)),
    "as_strided": Case(4, lambda h, w: h @ w.as_strided((4, 4), (1, 1)), ((8,),)),
    "masked_select": Case(4, lambda h, w: after(h, w.masked_select(w > w.median())), ((4,),)),
    "masked_scatter": Case(4, lambda h, w: h * w.masked_scatter(w > 0, w * 2), ((4,),)),
    "select_scatter": Case(6, lambda h: grid(h, 3, 2).select_scatter(grid(h, 3, 2)[:, 0].tanh(), 1, 2)),
    "slice_scatter": Case(6, lambda h: grid(h, 3, 2).slice_scatter(grid(h, 3, 2)[:, :1].tanh(), -2, 1, 2)),
    "index_put": Case(6, lambda h: _put(grid(h, 3, 2))),
    "index_put mask": Case(4, lambda h, w: _put_mask(h, w), ((4,),)),
    "index_put_ all": Case(4, lambda h, w: aten.index_put_(h * 1, [None, w.argsort()], h[:, :4]), ((4,),)),
    "_unsafe_index_put": Case(6, lambda h: aten._unsafe_index_put(grid(h, 3, 2), [None, INDEX], grid(h, 3, 2))),
    "index_copy blocks": Case(6, lambda h: grid(h, 3, 2).index_copy(1, torch.tensor([1, 2, 0]), grid(h, 3, 2))),
    "index_copy_": Case(4, lambda h: (h * 1).index_copy_(-1, ONE, h[:, :1])),
    "index_add": Case(6, lambda h: grid(h, 3, 2).index_add(-2, INDEX, grid(h, 3, 2).tanh())),
    "index_add_ one": Case(4, lambda h, w: h * (w * 1).index_add_(0, w.argsort(), w), ((4,),)),
    "index_fill": Case(6, lambda h: grid(h, 3, 2).index_fill(-2, ONE, 0.5)),
    "index_fill_": Case(4, lambda h: (h * 1).index_fill_(1, ONE, 0.5)),
    "scatter": Case(6, lambda h: grid(h, 2, 3).scatter(-1, GRID_INDEX.expand(2, 2, 3), grid(h, 2, 3).tanh())),
    "scatter_": Case(6, lambda h: (grid(h, 3, 2) * 1).scatter_(1, torch.tensor([[1, 2]]).expand(2, 1, 2), 0.5)),
    "scatter blocks": Case(6, lambda h, w: grid(h, 3, 2).scatter(1, column(w.argsort(0)), grid(h, 3, 2)), ((3, 2),)),
    "scatter_add": Case(6, lambda h: grid(h, 2, 3).scatter_add(2, GRID_INDEX.expand(2, 2, 3), grid(h, 2, 3))),
    "scatter_add_": Case(4, lambda h: (h * 1).scatter_add_(1, torch.tensor([[0, 1], [1, 1]]), h[:, 2:])),
    "scatter_reduce": Case(
        6, lambda h: grid(h, 2, 3).scatter_reduce(2, GRID_INDEX.expand(2, 2, 3), grid(h, 2, 3), "amax")
    ),
    "scatter_reduce_": Case(4, lambda h: (h * 1).scatter_reduce_(1, torch.tensor([[0, 1], [1, 1]]), h[:, 2:], "mean")),
    "where": Case(4, lambda h: torch.where(h > 0, h, 2 * h)),
    "unique": Case(4, lambda h, w: [after(h, part) for part in torch.unique(w, return_inverse=True)], ((4,),)),
    "unique_consecutive": Case(
        4, lambda h, w: [after(h, part) for part in torch.unique_consecutive(w, return_inverse=True)], ((4,),)
    ),
    "unique counts": Case(
        4, lambda h, w: [after(h, p) for p in torch.unique(w, return_inverse=True, return_counts=True)], ((4,),)
    ),
    "unique consecutive counts": Case(
        4, lambda h, w: [after(h, p) for p in aten.unique_consecutive(w, True, True)], ((4,),)
    ),
    "histc": Case(4, lambda h, w: after(h, w.histc(3, -1, 1)), ((4,),)),
    "bincount": Case(4, lambda h, w: after(h, (w > 0).long().bincount(minlength=3)), ((4,),)),
    "searchsorted": Case(4, lambda h, w: torch.searchsorted(w.sort()[0], h), ((3,),)),
    "searchsorted values": Case(4, lambda h, w: torch.searchsorted(h.sort()[0], column(w).contiguous()), ((3,),)),
    "bucketize": Case(4, lambda h: torch.bucketize(h, torch.tensor([-0.5, 0.0, 0.5], dtype=h.dtype))),
    "nonzero": Case(4, lambda h, w: after(h, (w > w.median()).nonzero()), ((4,),)),
    "nonzero_numpy": Case(4, lambda h, w: after(h, (w > w.median()).nonzero(as_tuple=True)[0]), ((4,),)),
    "where only": Case(4, lambda h, w: after(h, torch.where(w > w.median())[0]), ((4,),)),
    "argwhere": Case(4, lambda h, w: after(h, torch.argwhere(w > w.median())), ((4,),)),
    "isin": Case(4, lambda h: torch.isin((h * 4).round(), torch.arange(-3, 3, dtype=h.dtype))),
    "one_hot": Case(4, lambda h: F.one_hot((h > 0).long(), 3)),
    "multinomial": Case(4, lambda h: h + 0 * h.softmax(1).multinomial(1)),
}


def _masked(h: Tensor, w: Tensor) -> Tensor:
    """Return the half of the units with the larger weights."""
    return h[:, w > w.median()]


def _put(values: Tensor) -> Tensor:
    values = values.clone()
    values[:, ONE] = values[:, :1].tanh()
    return values


def _put_mask(h: Tensor, w: Tensor) -> Tensor:
    h = h.clone()
    h[:, w > 0] = 0.5
    return h
