"""Networks for operators that rearrange, create and copy elements."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # ruff: ignore[lowercase-imported-as-non-lowercase] - PyTorch's own alias

from tests.specs.operators.programs import Case, after, aten, column, grid

SHAPE: Final = {
    "view": Case(6, lambda h: h.view(2, 3, 2).tanh().reshape(2, 2, 3).flatten(1)),
    "unsafe view": Case(6, lambda h: aten._unsafe_view(h, [2, 2, 3]).softmax(1)),
    "flatten": Case(6, lambda h: grid(h, 2, 3).softmax(-1).flatten(-2)),
    "squeeze": Case(4, lambda h: h.unsqueeze(-1).squeeze(-1).view_as(h).reshape_as(h)),
    "squeeze_": Case(4, lambda h: (h * 1).unsqueeze_(-1).squeeze_(2)),
    "view_copy": Case(4, lambda h: aten._reshape_alias(aten.view_copy(h, [2, 2, 2]), [2, 4], [4, 1])),
    "ravel": Case(4, lambda h, w: h + w.ravel() + torch.atleast_1d(w.mean()), ((2, 2),)),
    "transpose": Case(6, lambda h: grid(h, 2, 3).softmax(-1).transpose(-1, -2)),
    "swapaxes": Case(6, lambda h: grid(h, 2, 3).softmax(-1).swapaxes(1, 2).swapdims(-1, 1)),
    "mT": Case(6, lambda h: grid(h, 2, 3).softmax(-1).mT.adjoint()),
    "mH": Case(4, lambda h, w: h @ w.mH @ w @ w.H, ((3, 4),)),
    "T": Case(4, lambda h, w: h @ w.T @ w, ((3, 4),)),
    "t": Case(4, lambda h, w: h @ w.t() @ w, ((3, 4),)),
    "transpose_": Case(4, lambda h, w: h @ (w * 1).transpose_(0, 1) @ (w * 1).t_().swapaxes_(0, -1), ((3, 4),)),
    "expand": Case(4, lambda h, w: h + w.expand(2, -1).expand_as(h).broadcast_to(2, 4), ((4,),)),
    "expand_copy": Case(4, lambda h: aten.expand_copy(h.unsqueeze(-1), [2, 4, 3])),
    "roll": Case(6, lambda h: grid(h, 2, 3).roll(1, -1)),
    "roll of blocks": Case(6, lambda h: grid(h, 3, 2).roll(1, 1)),
    "roll of all": Case(4, lambda h, w: h @ w.roll(1), ((4, 3),)),
    "flip": Case(6, lambda h: grid(h, 3, 2).flip(1)),
    "flip last": Case(6, lambda h: grid(h, 2, 3).flip(-1)),
    "rot90": Case(4, lambda h: grid(h, 2, 2).rot90(1, (1, 2))),
    "fliplr": Case(6, lambda h: grid(h, 3, 2).fliplr()),
    "flipud": Case(6, lambda h, w: h @ w.flipud(), ((6, 2),)),
    "repeat": Case(4, lambda h: h.repeat(1, 2)),
    "tile": Case(6, lambda h: grid(h, 2, 3).softmax(-1).tile(2, 1)),
    "movedim": Case(6, lambda h: grid(h, 2, 3).softmax(-1).movedim(-1, 1).moveaxis((1, 2), (2, 1))),
    "diag_embed": Case(4, lambda h: h.diag_embed()),
    "diag_embed of ones": Case(4, lambda h: h @ torch.ones(4, dtype=h.dtype).diag_embed()),
    "diag_embed elsewhere": Case(4, lambda h: h.unflatten(1, (2, 2)).diag_embed(dim1=-2, dim2=1)),
    "diag_embed turned": Case(4, lambda h: h.diag_embed(0, -1, 1)),
    "diag_embed above": Case(3, lambda h: h.diag_embed(1)),
    "diagonal": Case(4, lambda h: grid(h, 2, 2).diagonal(dim1=-2, dim2=-1)),
    "diagonal of parameters": Case(4, lambda h, w: h * w.diagonal(), ((4, 4),)),
    "diagonal not square": Case(6, lambda h: grid(h, 2, 3).diagonal(0, 1, 2)),
    "diagonal above": Case(4, lambda h, w: h[:, :3] * w.diagonal(1), ((4, 4),)),
    "meshgrid": Case(
        4,
        lambda h, w, v: [column(part) * h[:, None, None, 0] for part in torch.meshgrid(w, v, indexing="xy")],
        ((4,), (3,)),
    ),
    "meshgrid twice": Case(4, lambda h, w: [h @ g for g in torch.meshgrid(w, w.sin(), indexing="ij")], ((4,),)),
    "permute": Case(6, lambda h: grid(h, 1, 2, 3).softmax(-1).permute(0, -1, 2, 1)),
    "repeat_interleave": Case(6, lambda h: grid(h, 2, 3).softmax(-1).repeat_interleave(2, -2)),
    "repeat_interleave last": Case(4, lambda h: h.repeat_interleave(2, dim=-1)),
    "repeat_interleave uneven": Case(4, lambda h: h.repeat_interleave(torch.tensor([1, 2, 1, 1]), 1)),
    "unfold": Case(4, lambda h: h.unfold(-1, 2, 2)),
    "unfold blocks": Case(6, lambda h: grid(h, 3, 2).unfold(-2, 2, 1)),
    "unfold whole": Case(6, lambda h: grid(h, 2, 3).unfold(2, 3, 1)),
    "fill_diagonal_": Case(4, lambda h, w: h @ (w * 1).fill_diagonal_(0.5), ((4, 4),)),
}

SLICING: Final = {
    "split": Case(5, lambda h: [part.tanh() for part in h.split(2, -1)]),
    "split_with_sizes": Case(6, lambda h: [p.softmax(-1) for p in grid(h, 2, 3).split_with_sizes([1, 2], -1)]),
    "chunk": Case(6, lambda h: h.chunk(2, -1)[0] * h.chunk(2, 1)[1].tanh()),
    "tensor_split": Case(6, lambda h: [part.tanh() for part in grid(h, 3, 2).tensor_split((1,), -2)]),
    "unsafe_split": Case(6, lambda h: [p.tanh() for p in (*aten.unsafe_split(h, 3, -1), *aten.unsafe_chunk(h, 3, 1))]),
    "split_copy": Case(6, lambda h: [part.tanh() for part in aten.split_copy(h, 3, -1)]),
    "cat": Case(4, lambda h: torch.cat([h.tanh(), h.sin()], -1)),
    "concat": Case(4, lambda h: torch.concat([grid(h, 2, 2), torch.concatenate([grid(h, 2, 2)] * 2, 2).sin()], 2)),
    "pad": Case(6, lambda h: F.pad(grid(h, 2, 3), (1, 0, 0, 2))),
    "pad cut": Case(6, lambda h: F.pad(grid(h, 2, 3), (-1, 1))),
    "pad reflected": Case(6, lambda h: F.pad(grid(h, 2, 3), (1, 1), mode="reflect")),
    "pad circular": Case(6, lambda h: F.pad(grid(h, 2, 3), (1, 1), mode="circular")),
    "pad replicated": Case(6, lambda h: F.pad(grid(h, 1, 2, 3), (0, 0, 1, 0), mode="replicate")),
    "constant_pad_nd": Case(4, lambda h: aten.constant_pad_nd(h, [1, 1], 0.5)),
    "slice": Case(6, lambda h: grid(h, 2, 3)[:, :, -2:]),
    "slice step": Case(6, lambda h: [h[:, 1::2], h[:, ::4], h[:, -3:-1]]),
    "slice_copy": Case(6, lambda h: aten.slice_copy(grid(h, 3, 2), -2, -2, None, 1)),
    "narrow": Case(6, lambda h: [grid(h, 3, 2).narrow(-2, 1, 2), h.narrow(1, -2, 2)]),
    "select": Case(6, lambda h: [grid(h, 3, 2).select(-2, -1), grid(h, 3, 2)[:, 0]]),
    "stack": Case(4, lambda h: torch.stack([h.tanh(), h.sin()], -1)),
    "stack slices": Case(6, lambda h: torch.stack([grid(h, 2, 3)[:, 1], grid(h, 2, 3)[:, 0]], 1)),
    "unbind": Case(6, lambda h: [part.tanh() for part in grid(h, 2, 3).unbind(-2)]),
    "memory": Case(6, lambda h: _written(h)),
}


def _written(h: Tensor) -> Tensor:
    memory = h.new_zeros(2, 8)
    memory[:, 1:4] = h[:, :3]
    memory[:, 5:].copy_(h[:, 3:])
    return memory


CREATION: Final = {
    "ones": Case(4, lambda h: h * torch.ones(4, dtype=h.dtype) + torch.zeros(4) + torch.full((4,), 2.0)),
    "like": Case(4, lambda h: h + torch.ones_like(h) + torch.zeros_like(h) + torch.full_like(h, 3)),
    "new": Case(4, lambda h: h + h.new_ones(4) + h.new_zeros(4) + h.new_full((4,), 2.0)),
    "empty": Case(4, lambda h: _filled(h)),
    "scalar_tensor": Case(4, lambda h: h * torch.scalar_tensor(2.0)),
    "arange": Case(4, lambda h: h * torch.arange(4) + torch.linspace(0, 1, 4) + torch.logspace(0, 1, 4)),
    "eye": Case(4, lambda h: [h @ torch.eye(4, dtype=h.dtype), h @ torch.eye(4, 3, dtype=h.dtype)]),
    "eye and weights": Case(4, lambda h, w: h @ (torch.eye(4, dtype=h.dtype) + w), ((4, 4),)),
    "eye twice": Case(4, lambda h, w: h @ (torch.eye(4, dtype=h.dtype) @ w + torch.eye(4, dtype=h.dtype)), ((4, 4),)),
    "identity": Case(4, lambda h, w: h @ (torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double().repeat(2, 2) + w), ((4, 4),)),
    "random": Case(
        4,
        lambda h: (
            h
            + 0 * (torch.rand(4) + torch.randn(4) + torch.randint(3, (4,)) + torch.randperm(4))
            + 0 * (torch.rand_like(h) + torch.randn_like(h) + torch.randint_like(h, 3))
        ),
    ),
    "noise": Case(4, lambda h, w: h + 0 * w.sigmoid().bernoulli() + 0 * torch.normal(w, 1.0), ((4,),)),
    "windows": Case(4, lambda h: h * torch.hann_window(4) + torch.hamming_window(4)),
    "tril_indices": Case(
        3, lambda h, w: after(h, w[tuple(torch.tril_indices(3, 3))] + w[tuple(torch.triu_indices(3, 3))]), ((3, 3),)
    ),
}


def _filled(h: Tensor) -> Tensor:
    tensors = [torch.empty(2, 4), h.new_empty(2, 4), torch.empty_like(h), torch.empty_permuted((2, 4), (0, 1))]
    tensors += [torch.empty_strided((2, 4), (4, 1)), h.new_empty_strided((2, 4), (4, 1))]
    return h + sum(tensor.fill_(1.0) for tensor in tensors)


ELEMENTWISE: Final = {
    "arithmetic": Case(4, lambda h, w: ((h - w) / (2 + w.square())) * 3 + 1 / (1 + h**2), ((4,),)),
    "in place": Case(4, lambda h: F.mish(F.gelu((h * 1).masked_fill_(h > 1, 0.5)).mul_(2), inplace=True)),
    "zero_": Case(4, lambda h: h + (h * 1).zero_() + F.threshold(h * 1, 0.1, 0.2, inplace=True)),
    "gelu_": Case(4, lambda h: aten.gelu_(h * 1) + aten.mish_(h * 1)),
    "compared": Case(
        4,
        lambda h: (
            torch.isclose(h, h.round(), atol=0.2).double()
            + torch.isnan(h)
            + torch.isinf(h)
            + torch.isfinite(h)
            + h.not_equal(0.1)
            + h.greater(h.tanh())
            + h.less(0.3)
            + h.greater_equal(0.2)
            + h.less_equal(0.5)
            + torch.isreal(h)
        ),
    ),
    "long names": Case(
        4,
        lambda h: (
            h.true_divide(2)
            + h.floor_divide(2)
            + h.subtract(1).multiply(2).divide(3)
            + h.absolute().negative()
            + h.fix()
            + torch.rsub(h, 1)
            + h.tanh().arccos()
            + h.tanh().arcsin()
            + h.arctan()
            + h.arctan2(h.sin())
        ),
    ),
    "special": Case(
        4,
        lambda h: (
            torch.special.expit(h)
            + torch.special.logit(h.sigmoid())
            + torch.special.erf(h)
            + torch.special.ndtr(h)
            + torch.special.log1p(h.abs())
            + torch.special.expm1(h)
            + F.hardswish(h)
            + F.logsigmoid(h)
        ),
    ),
    "bits": Case(
        4,
        lambda h: (
            ((h > 0) & (h < 1)).double()
            + ((h > 0) | (h < 1))
            + ((h > 0).long() ^ 3)
            + ((h > 0).long() << 2)
            + ((h > 0).long() >> 1)
        ),
    ),
    "copies": Case(
        4,
        lambda h: (
            aten.alias(h)
            + aten.alias_copy(h)
            + h.clone().contiguous()
            + aten.lift(h)
            + aten.lift_fresh(h)
            + aten.lift_fresh_copy(h)
            + h.to(torch.float32)
            + aten._to_copy(h)
            + h.type_as(h)
            + h.resolve_conj().resolve_neg()
            + h.conj()
            + h.detach()
            + torch.real(torch.complex(h, h))
            + torch.imag(torch.complex(h, h).conj())
        ),
    ),
    "copies in place": Case(4, lambda h: (h * 1).detach_() + aten.copy(h, h.tanh()) + aten.fill(h, 2.0)),
    "dropout": Case(
        4,
        lambda h: (
            F.dropout(h, training=False)
            + torch.dropout_(h * 1, 0.5, False)
            + F.alpha_dropout(h)
            + torch.feature_dropout(h, 0.5, False)
            + torch.feature_alpha_dropout(h, 0.5, False)
        ),
    ),
    "prelu": Case(4, lambda h, w: F.prelu(h, w), ((4,),)),
    "prelu one": Case(4, lambda h, w: F.prelu(grid(h, 2, 2), w), ((1,),)),
    "_prelu_kernel": Case(4, lambda h, w: aten._prelu_kernel(grid(h, 2, 2), w), ((2, 1),)),
    "glu": Case(6, lambda h: F.glu(grid(h, 2, 3), -2)),
    "complex": Case(6, lambda h: [torch.complex(h, h.sin()), torch.polar(h.abs(), h), torch.complex(h, h).conj()]),
    "fake quantized, mask": Case(4, lambda h: aten.fake_quantize_per_tensor_affine_cachemask(h, 0.5, 0, -2, 1)),
    "fake quantized by parameters": Case(
        4,
        lambda h: aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            h, torch.tensor(0.5), torch.tensor(0), torch.tensor(1), -2, 1
        ),
    ),
    "fake quantized channels, mask": Case(
        4,
        lambda h, w: aten.fake_quantize_per_channel_affine_cachemask(
            h.float(), w.detach().abs().float(), torch.zeros(4).int(), 1, -2, 1
        ),
        ((4,),),
    ),
    "fake quantized channels": Case(
        4,
        lambda h, w: torch.fake_quantize_per_channel_affine(
            h.float(), w.detach().abs().float(), torch.zeros(4).int(), 1, -8, 7
        ),
        ((4,),),
    ),
    "fake_quantize": Case(4, lambda h: torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -128, 127)),
}

PIECEWISE: Final = {
    "clamp at zero": Case(4, lambda h: h.clamp(min=0) + h.clamp_max(0).tanh().clamp_min(0)),
    "clamp": Case(4, lambda h: torch.clip(h, -0.5, 0.5) + F.hardtanh(h)),
    "clamp between": Case(4, lambda h: h.clamp(-0.5, 1) + F.relu6(h)),
    "clamp by tensors": Case(4, lambda h, w: h.clamp(w, w + 1), ((4,),)),
    "threshold": Case(4, lambda h: F.threshold(h, 0, 0)),
    "threshold of one": Case(4, lambda h: F.threshold(h, 1, 0)),
    "maximum": Case(4, lambda h, w: torch.maximum(h, w).minimum(h * 2).fmax(w).fmin(h), ((4,),)),
    "maximum and number": Case(4, lambda h, w: torch.maximum(h, w), ((),)),
    "rectifier by a mask": Case(4, lambda h: h * (h > 0)),
    "rectifier by halves": Case(6, lambda h: torch.cat([h, -h], 1) * (torch.cat([h, h], 1) >= 0)),
    "compared with units": Case(4, lambda h, w: h * (h < w) * (h.abs() > 0.5), ((4,),)),
    "where zero": Case(4, lambda h: torch.where(h.le(0), h * 0.1, h) + torch.where(h < 0, 0.0, h)),
    "where zero tensor": Case(4, lambda h: torch.where(h > 0, h, torch.tensor(0.0, dtype=h.dtype))),
    "where one": Case(4, lambda h: torch.where(h > 0, h, 1.0)),
    "where parameter": Case(6, lambda h, w: torch.where(grid(h, 2, 3) > 0, grid(h, 2, 3), w), ((2, 1),)),
    "where rows": Case(6, lambda h: torch.where(torch.tensor([[True], [False]]), grid(h, 2, 3), 2 * grid(h, 2, 3))),
    "where rows are one": Case(6, lambda h: torch.where(torch.tensor([[True], [False]]), grid(h, 2, 3), 1.0)),
    "masked_fill zero": Case(4, lambda h: h.masked_fill(h < 0, 0)),
    "masked_fill rows": Case(6, lambda h: grid(h, 2, 3).masked_fill(torch.tensor([[True], [False]]), 0)),
    "masked_fill rows one": Case(6, lambda h: grid(h, 2, 3).masked_fill(torch.tensor([[True], [False]]), 1)),
    "masked_fill units": Case(4, lambda h, w: h.masked_fill(w > 0, 0), ((4,),)),
    "masked_fill tensor": Case(4, lambda h: h.masked_fill(h > 0, torch.tensor(0.5, dtype=h.dtype))),
    "lerp": Case(4, lambda h, w: torch.lerp(h, w, 0.3), ((4,),)),
    "lerp of units": Case(4, lambda h, w: torch.lerp(h, h.tanh(), w), ((4,),)),
    "addcmul": Case(4, lambda h, w, v: torch.addcmul(h, w, v), ((4,), (4,))),
    "addcdiv": Case(4, lambda h, w, v: torch.addcdiv(h, h.tanh(), w) + torch.addcmul(h, h, v), ((4,), (4,))),
    "even": Case(4, lambda h: h.cos() + h.cosh() + h.abs()),
    "odd": Case(4, lambda h: h.round() + F.softsign(h) + F.tanhshrink(h)),
    "padded with zeros": Case(6, lambda h: F.pad(grid(h, 2, 3), (1, 2)).flatten(1) + column(h.new_zeros(12)).exp()),
    "padded and added": Case(4, lambda h, w: F.pad(h, (1, 1)) + w, ((6,),)),
    "padded and shifted": Case(4, lambda h, w: F.pad(h, (1, 1)).add(1) + w, ((6,),)),
    "padded and exponentiated": Case(4, lambda h, w: F.pad(h, (2, 0)).exp() + w, ((6,),)),
    "padded and normalized": Case(4, lambda h, w: F.layer_norm(F.pad(h, (2, 0)), (6,)) + w, ((6,),)),
    "padded and contracted": Case(4, lambda h, w: F.pad(h, (2, 0)) @ w, ((6, 3),)),
    "zeros written": Case(4, lambda h: torch.zeros_like(h).add_(h).mul(2)),
    "values of topk": Case(6, lambda h: grid(h, 3, 2).topk(2, 1)[0]),
}

CASES: Final[dict[str, Case]] = {**SHAPE, **SLICING, **CREATION, **ELEMENTWISE, **PIECEWISE}
