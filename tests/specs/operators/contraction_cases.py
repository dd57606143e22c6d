"""Networks for contractions, normalizations, recurrent layers, Fourier transforms and matrix functions."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # ruff: ignore[lowercase-imported-as-non-lowercase] - PyTorch's own alias

from tests.specs.operators.programs import Case, after, aten, column, grid

INDEX = torch.tensor([2, 0, 0])


def _attended(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of two heads with two units each, for three tokens."""
    tokens = torch.tensor([1.0, 2.0, 3.0], dtype=h.dtype).view(3, 1) * grid(h, 2, 1, 2)
    return tokens, tokens.tanh(), tokens.sin()


CONTRACTION: Final = {
    "linear": Case(6, lambda h, w, b: F.linear(grid(h, 2, 3), w, b), ((4, 3), (4,))),
    "linear vector": Case(6, lambda h, w: F.linear(grid(h, 2, 3), w), ((3,),)),
    "bilinear": Case(4, lambda h, w, b: F.bilinear(h, h.tanh(), w, b), ((3, 4, 4), (3,))),
    "einsum": Case(6, lambda h, w: torch.einsum("bij,jk->bik", grid(h, 2, 3), w), ((3, 4),)),
    "einsum ellipsis": Case(6, lambda h: torch.einsum("...i,...i->...", grid(h, 2, 3), grid(h, 2, 3).tanh())),
    "einsum diagonal": Case(4, lambda h, w: torch.einsum("bi,jj->bij", h, w), ((3, 3),)),
    "einsum three": Case(6, lambda h, w, v: torch.einsum("bij,jk,i->bk", grid(h, 2, 3), w, v), ((3, 4), (2,))),
    "outer": Case(4, lambda h, w, v: h @ torch.outer(w, v), ((4,), (3,))),
    "ger": Case(4, lambda h, w, v: h @ torch.ger(w, v), ((4,), (3,))),
    "matmul": Case(6, lambda h: grid(h, 2, 3) @ grid(h, 2, 3).mT),
    "matmul batch": Case(6, lambda h, w: grid(h, 2, 1, 3) @ w, ((2, 3, 4),)),
    "matmul vector": Case(6, lambda h, w: grid(h, 2, 3) @ w, ((3,),)),
    "linalg_matmul": Case(4, lambda h, w: aten.linalg_matmul(h, w), ((4, 3),)),
    "mm": Case(4, lambda h, w: aten.mm(h, w), ((4, 3),)),
    "bmm": Case(6, lambda h: aten.bmm(grid(h, 2, 3), grid(h, 3, 2))),
    "mv": Case(4, lambda h, w, v: h * aten.mv(w, v), ((4, 3), (3,))),
    "dot": Case(4, lambda h, w, v: h * aten.dot(w, v) * aten.vdot(w, v.tanh()), ((4,), (4,))),
    "addmm": Case(4, lambda h, w, b: aten.addmm(b, h, w), ((4, 3), (3,))),
    "addmm_": Case(4, lambda h, w: h.new_zeros(2, 3).addmm_(h, w), ((4, 3),)),
    "baddbmm": Case(6, lambda h, w: aten.baddbmm(w, grid(h, 2, 3), grid(h, 3, 2)), ((1, 2, 2),)),
    "addmv": Case(4, lambda h, b, w, v: h + aten.addmv(b, w, v), ((4,), (4, 3), (3,))),
    "attention": Case(4, lambda h: F.scaled_dot_product_attention(*_attended(h))),
    "attention causal": Case(4, lambda h: F.scaled_dot_product_attention(*_attended(h), is_causal=True)),
    "attention for cpu": Case(4, lambda h: aten._scaled_dot_product_flash_attention_for_cpu(*_attended(h))),
    "attention math": Case(4, lambda h: aten._scaled_dot_product_attention_math(*_attended(h))),
}


def _statistics(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    values, *statistics = outputs
    return [values, *(after(values.flatten(1), value) for value in statistics)]


def _evaluated(name: str, *training: bool) -> Case:
    """Return a batch normalization in evaluation mode, whose statistics of the batch are empty."""

    def function(h: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> list[Tensor]:
        variance = v.detach().square()
        return _statistics(getattr(aten, name)(grid(h, 2, 3), w, b, m.detach(), variance, *training, 0.1, 1e-5))

    return Case(6, function, ((2,), (2,), (2,), (2,)))


NORMALIZATION: Final = {
    "batch_norm": Case(
        6,
        lambda h, w, b, m, v: F.batch_norm(grid(h, 2, 3), m.detach(), v.detach().square(), w, b),
        ((2,), (2,), (2,), (2,)),
    ),
    "batch_norm of the batch": Case(
        6, lambda h: F.batch_norm(grid(h, 2, 3).flatten(0, 1), None, None, training=True).unflatten(0, (2, 2))
    ),
    "native_batch_norm": Case(
        6,
        lambda h, w, b: _statistics(aten.native_batch_norm(grid(h, 2, 3), w, b, None, None, True, 0.1, 1e-5)),
        ((2,), (2,)),
    ),
    "legit": Case(
        6,
        lambda h, w, b: _statistics(aten._native_batch_norm_legit.no_stats(grid(h, 2, 3), w, b, True, 0.1, 1e-5)),
        ((2,), (2,)),
    ),
    "legit functional": Case(
        6,
        lambda h, w, b: _statistics(
            aten._native_batch_norm_legit_functional(
                grid(h, 2, 3), w, b, h.new_zeros(2), h.new_ones(2), True, 0.1, 1e-5
            )
        ),
        ((2,), (2,)),
    ),
    "native_batch_norm in evaluation": _evaluated("native_batch_norm", False),
    "legit no training": _evaluated("_native_batch_norm_legit_no_training"),
    "no update": _evaluated("_batch_norm_no_update"),
    "with update": Case(
        6,
        lambda h, w, b: _statistics(
            aten._batch_norm_with_update(grid(h, 2, 3), w, b, h.new_zeros(2), h.new_ones(2), 0.1, 1e-5)
        ),
        ((2,), (2,)),
    ),
    "with update functional": Case(
        6,
        lambda h, w, b: _statistics(
            aten._batch_norm_with_update_functional(grid(h, 2, 3), w, b, h.new_zeros(2), h.new_ones(2), 0.1, 1e-5)
        ),
        ((2,), (2,)),
    ),
    "impl index": Case(
        6,
        lambda h, w, b: _statistics(
            aten._batch_norm_impl_index(grid(h, 2, 3), w, b, None, None, True, 0.1, 1e-5, False)[:4]
        ),
        ((2,), (2,)),
    ),
    "instance_norm": Case(6, lambda h, w: F.instance_norm(grid(h, 2, 3), weight=w), ((2,),)),
    "layer_norm": Case(6, lambda h, w, b: F.layer_norm(grid(h, 2, 3), (3,), w, b), ((3,), (3,))),
    "layer_norm all": Case(6, lambda h: F.layer_norm(grid(h, 2, 3), (2, 3))),
    "native_layer_norm": Case(6, lambda h, w: aten.native_layer_norm(grid(h, 2, 3), [3], w, None, 1e-5), ((3,),)),
    "rms_norm": Case(6, lambda h, w: F.rms_norm(grid(h, 2, 3), (3,), w), ((3,),)),
    "_fused_rms_norm": Case(6, lambda h, w: aten._fused_rms_norm(grid(h, 2, 3), [3], w, 1e-5), ((3,),)),
    "group_norm": Case(6, lambda h, w, b: F.group_norm(h, 2, w, b), ((6,), (6,))),
    "native_group_norm": Case(
        6, lambda h, w: aten.native_group_norm(grid(h, 6, 1), w, None, 2, 6, 1, 3, 1e-5), ((6,),)
    ),
    "_weight_norm": Case(4, lambda h, v, g: h @ torch._weight_norm(v, g, 0), ((4, 3), (4, 1))),
    "_weight_norm_interface": Case(
        4, lambda h, v, g: _weighted(h, *aten._weight_norm_interface(v, g, 1)), ((4, 3), (1, 3))
    ),
}


def _weighted(h: Tensor, weight: Tensor, norms: Tensor) -> list[Tensor]:
    return [h @ weight, after(h, norms)]


def _recurrent(name: str, states: int, *, bidirectional: bool = False) -> Case:
    """Return a layer of 3 units on two time steps, whose initial state is the hidden units."""
    gates = {"lstm": 4, "gru": 3}.get(name, 1)
    cells = 2 if bidirectional else 1

    def function(h: Tensor, *weights: Tensor) -> list[Tensor]:
        state = h.unflatten(1, (cells, 3)).transpose(0, 1)
        given = [state, state.tanh()] if states == 2 else state
        steps = torch.ones(2, 2, 4, dtype=h.dtype)
        first, *rest = getattr(torch, name)(steps, given, list(weights), False, 1, 0.0, False, bidirectional, True)
        return [first, *(value.transpose(0, 1) for value in rest)]

    return Case(3 * cells, function, ((3 * gates, 4), (3 * gates, 3)) * cells)


def _over_nodes(h: Tensor, start: Tensor, into: Tensor, again: Tensor) -> Tensor:
    """Return the final states of a layer whose batch axis is the hidden units."""
    steps = h.mT.unsqueeze(-1)  # [nodes, steps, 1]
    _, last = torch.rnn_tanh(steps, start, [into, again], False, 1, 0.0, False, False, True)
    return last.expand(2, -1, -1)


RECURRENT: Final = {
    **{name: _recurrent(name, 2 if name == "lstm" else 1) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "lstm both ways": _recurrent("lstm", 2, bidirectional=True),
    "rnn over nodes": Case(4, _over_nodes, ((1, 4, 3), (3, 1), (3, 3))),
}

FOURIER: Final = {
    **{
        f"fft_{name}": Case(6, lambda h, name=name: getattr(torch.fft, name)(grid(h, 2, 3), dim=-1))
        for name in ("fft", "ifft", "rfft", "irfft")
    },
    **{
        f"fft_{name}": Case(6, lambda h, name=name: getattr(torch.fft, name)(grid(h, 2, 3)))
        for name in ("fft2", "ifft2", "rfft2", "irfft2")
    },
    **{
        f"fft_{name}": Case(6, lambda h, name=name: getattr(torch.fft, name)(grid(h, 2, 3), dim=(-2,)))
        for name in ("fftn", "ifftn", "rfftn", "irfftn")
    },
    "view_as_complex": Case(6, lambda h: torch.view_as_complex(grid(h, 3, 2)) ** 2),
}


def _column_of(*outputs: Tensor) -> list[Tensor]:
    return [output.flatten(1) if output.dim() > 1 else output[:, None] for output in outputs]


MATRIX: Final = {
    "matrix_exp": Case(4, lambda h, w: h @ torch.matrix_exp(w), ((4, 4),)),
    "linalg_matrix_exp": Case(4, lambda h: torch.linalg.matrix_exp(grid(h, 2, 2))),
    "matrix_power": Case(4, lambda h, w: h @ w.matrix_power(3) + h @ torch.linalg.matrix_power(w, -1), ((4, 4),)),
    "linalg_inv": Case(4, lambda h, w: h @ torch.linalg.inv(w), ((4, 4),)),
    "linalg_inv of the units": Case(4, lambda h: torch.linalg.inv(grid(h, 2, 2))),
    "linalg_inv_ex": Case(4, lambda h, w: h @ torch.linalg.inv_ex(w)[0] + h @ w.inverse(), ((4, 4),)),
    "linalg_pinv": Case(6, lambda h: torch.linalg.pinv(grid(h, 2, 3))),
    "pinverse": Case(4, lambda h, w: h @ w.pinverse(), ((3, 4),)),
    "linalg_inv_ex of the units": Case(4, lambda h: _column_of(*torch.linalg.inv_ex(grid(h, 2, 2)))),
    "slogdet": Case(4, lambda h: _column_of(*torch.slogdet(grid(h, 2, 2)))),
    "linalg_solve": Case(4, lambda h, w: torch.linalg.solve(w, h.unsqueeze(-1)), ((4, 4),)),
    "linalg_solve vectors": Case(4, lambda h, w: torch.linalg.solve(column(w), h), ((4, 4),)),
    "linalg_solve right": Case(4, lambda h, w: torch.linalg.solve(w, h, left=False), ((4, 4),)),
    "linalg_det": Case(
        4,
        lambda h: [
            torch.linalg.det(grid(h, 2, 2))[:, None],
            *(d[:, None] for d in torch.linalg.slogdet(grid(h, 2, 2))),
        ],
    ),
    "det": Case(4, lambda h, w: h * w.det() * torch.slogdet(w)[1] * (w @ w.mT).logdet(), ((3, 3),)),
    "linalg_matrix_norm": Case(
        6,
        lambda h: [
            torch.linalg.matrix_norm(grid(h, 2, 3), order)[:, None] for order in ("fro", "nuc", 1, 2, float("inf"))
        ],
    ),
    "nuclear_norm": Case(6, lambda h: torch.nuclear_norm(grid(h, 1, 2, 3), (-2, -1), keepdim=True)),
    "linalg_svdvals": Case(6, lambda h: torch.linalg.svdvals(grid(h, 2, 3))),
    "linalg_matrix_rank": Case(6, lambda h: torch.linalg.matrix_rank(grid(h, 2, 3))[:, None]),
    "linalg_cond": Case(6, lambda h: torch.linalg.cond(grid(h, 2, 3))[:, None]),
    "one triangle": Case(
        4,
        lambda h: [
            torch.linalg.eigvalsh(grid(h, 2, 2)),
            torch.linalg.pinv(grid(h, 2, 2), hermitian=True),
            torch.linalg.matrix_rank(grid(h, 2, 2), hermitian=True, atol=0.5)[:, None],
        ],
    ),
}

DECOMPOSED: Final = {
    "lstm_cell": Case(6, lambda h, x, w, u: torch.lstm_cell(column(x), h.chunk(2, 1), w, u), ((4,), (12, 4), (12, 3))),
    "gru_cell": Case(
        3, lambda h, x, w, u, b, c: torch.gru_cell(column(x), h, w, u, b, c), ((4,), (9, 4), (9, 3), (9,), (9,))
    ),
    "rnn_tanh_cell": Case(3, lambda h, x, w, u: torch.rnn_tanh_cell(column(x), h, w, u), ((4,), (3, 4), (3, 3))),
    "tensordot": Case(6, lambda h, w: torch.tensordot(grid(h, 2, 3), w, dims=([2, 1], [0, 1])), ((3, 2, 4),)),
    "linalg_norm": Case(6, lambda h, w: h * torch.linalg.norm(w, dim=1), ((6, 3),)),
    "linalg_norm of matrices": Case(6, lambda h: h / torch.linalg.norm(grid(h, 2, 3), dim=(1, 2))[:, None]),
    "kron": Case(4, lambda h, w: h @ torch.kron(w[:2], w[2:]), ((4, 2),)),
    "diag": Case(4, lambda h, w, m: h @ torch.diag(w) * m.diag(), ((4,), (4, 4))),
    "pairwise_distance": Case(6, lambda h, w: F.pairwise_distance(grid(h, 2, 3), w), ((2, 3),)),
    "quantile": Case(6, lambda h: grid(h, 2, 3).quantile(0.3, dim=-1)),
    "nanquantile": Case(
        6, lambda h: grid(h, 3, 2).nanquantile(torch.tensor([0.2, 0.7]).double(), dim=1, keepdim=True)[0]
    ),
    "renorm": Case(4, lambda h, w: h @ w.renorm(2, 0, 0.5), ((4, 3),)),
    "linalg_cross": Case(6, lambda h: torch.linalg.cross(grid(h, 2, 3), grid(h, 2, 3).tanh())),
    "trace": Case(4, lambda h, w: h * w.trace(), ((3, 3),)),
    "inner": Case(6, lambda h, w: torch.inner(grid(h, 2, 3), w), ((4, 3),)),
    "multi_dot": Case(4, lambda h, w, v: torch.linalg.multi_dot([h, w, v]), ((4, 3), (3, 2))),
    "addbmm": Case(4, lambda h, w: aten.addbmm(h, h[None].tanh(), w), ((1, 4, 4),)),
    "vecdot": Case(6, lambda h, w: torch.linalg.vecdot(grid(h, 2, 3), w), ((3,),)),
    "trapezoid": Case(6, lambda h: torch.trapezoid(grid(h, 2, 3), dim=1)),
    "local response": Case(6, lambda h: F.local_response_norm(grid(h, 3, 2), 2)),
    "cosine loss": Case(
        6,
        lambda h: F.cosine_embedding_loss(grid(h, 2, 3)[:, 0], grid(h, 2, 3)[:, 1], torch.ones(2), reduction="none")[
            :, None
        ],
    ),
    "triplet": Case(6, lambda h: F.pairwise_distance(grid(h, 3, 2)[:, 0], grid(h, 3, 2)[:, 1])[:, None]),
    "vmap": Case(6, lambda h, w: torch.vmap(lambda row: row @ w)(grid(h, 2, 3)), ((3, 4),)),
}

CASES: Final[dict[str, Case]] = {
    **CONTRACTION,
    **NORMALIZATION,
    **RECURRENT,
    **FOURIER,
    **MATRIX,
    **DECOMPOSED,
}
