"""Networks for pooling, convolution, sorting and reduction operators, with unusual arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional as F  # ruff: ignore[lowercase-imported-as-non-lowercase] - PyTorch's own alias

from tests.specs.operators.programs import Case, aten, column, grid

if TYPE_CHECKING:
    pass

POOLING: Final = {
    "adaptive_max_pool1d": Case(4, lambda h: F.adaptive_max_pool1d(h[:, None], 1, return_indices=True)),
    "adaptive_max_pool1d unbatched": Case(4, lambda h: F.adaptive_max_pool1d(h, 1, return_indices=True)),
    "adaptive_max_pool1d parts": Case(4, lambda h: F.adaptive_max_pool1d(h, 2, return_indices=True)),
    "adaptive_max_pool1d same": Case(4, lambda h: F.adaptive_max_pool1d(h, 4, return_indices=True)),
    "adaptive_max_pool2d": Case(6, lambda h: F.adaptive_max_pool2d(grid(h, 1, 2, 3), 1, return_indices=True)),
    "adaptive_max_pool2d axis": Case(6, lambda h: F.adaptive_max_pool2d(grid(h, 2, 3), (2, 1), return_indices=True)),
    "adaptive_max_pool3d": Case(6, lambda h: F.adaptive_max_pool3d(grid(h, 1, 2, 3), 1, return_indices=True)),
    "adaptive_avg_pool1d": Case(6, lambda h: F.adaptive_avg_pool1d(grid(h, 3, 2), 1)),
    "adaptive_avg_pool2d": Case(6, lambda h: F.adaptive_avg_pool2d(grid(h, 2, 3), (1, 3))),
    "adaptive_avg_pool3d": Case(6, lambda h: F.adaptive_avg_pool3d(grid(h, 1, 2, 3), (1, 2, None))),
    "_adaptive_avg_pool2d": Case(6, lambda h: aten._adaptive_avg_pool2d(grid(h, 1, 2, 3), [1, 1])),
    "_adaptive_avg_pool3d": Case(6, lambda h: aten._adaptive_avg_pool3d(grid(h, 1, 1, 2, 3), [1, 1, 2])),
    "max_pool1d": Case(6, lambda h: F.max_pool1d(grid(h, 2, 3), 2, 1)),
    "max_pool1d whole": Case(6, lambda h: F.max_pool1d(grid(h, 2, 3), 3)),
    "max_pool1d indices": Case(6, lambda h: F.max_pool1d(grid(h, 2, 3), 3, return_indices=True)),
    "max_pool1d stride": Case(6, lambda h: F.max_pool1d(grid(h, 2, 3), 1, 2)),
    "max_pool1d dilation": Case(6, lambda h: F.max_pool1d(grid(h, 1, 6), 3, 1, dilation=2)),
    "max_pool1d padding": Case(6, lambda h: F.max_pool1d(grid(h, 2, 3), 3, 3, padding=1)),
    "max_pool2d": Case(6, lambda h: F.max_pool2d(grid(h, 1, 2, 3), (1, 3), return_indices=True)),
    "max_pool2d one axis": Case(6, lambda h: F.max_pool2d(grid(h, 2, 3), (1, 2), 1)),
    "max_pool2d ceil": Case(6, lambda h: F.max_pool2d(grid(h, 2, 3), 2, ceil_mode=True)),
    "max_pool2d functional": Case(6, lambda h: aten.max_pool2d(grid(h, 1, 2, 3), [2, 3])),
    "max_pool3d": Case(6, lambda h: F.max_pool3d(grid(h, 1, 2, 3), (1, 2, 3), return_indices=True)),
    "max_pool3d functional": Case(6, lambda h: aten.max_pool3d(grid(h, 1, 2, 3), [1, 1, 3])),
    "avg_pool1d": Case(6, lambda h: F.avg_pool1d(grid(h, 2, 3), 2)),
    "avg_pool1d whole": Case(6, lambda h: F.avg_pool1d(grid(h, 2, 3), 3)),
    "avg_pool1d whole with padding": Case(6, lambda h: F.avg_pool1d(grid(h, 2, 3), 3, padding=1)),
    "avg_pool1d part": Case(6, lambda h: F.avg_pool1d(grid(h, 2, 3), 2, 3)),
    "avg_pool2d": Case(6, lambda h: F.avg_pool2d(grid(h, 2, 3), (1, 3))),
    "avg_pool2d part": Case(6, lambda h: F.avg_pool2d(grid(h, 2, 3), (2, 1), ceil_mode=True)),
    "avg_pool3d": Case(6, lambda h: F.avg_pool3d(grid(h, 1, 2, 3), (1, 2, 1))),
    "max_unpool1d": Case(4, lambda h: F.max_unpool1d(*F.max_pool1d(grid(h, 1, 4), 2, return_indices=True), [2])),
    "upsample_nearest1d": Case(4, lambda h: F.interpolate(grid(h, 2, 2), scale_factor=2)),
    "upsample_nearest2d": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=(2, 4))),
    "upsample_nearest3d": Case(4, lambda h: F.interpolate(grid(h, 1, 1, 2, 2), size=(1, 2, 2))),
    "upsample_nearest one": Case(4, lambda h: F.interpolate(grid(h, 4, 1), size=3)),
    "upsample_linear1d": Case(4, lambda h: F.interpolate(grid(h, 2, 2), size=3, mode="linear")),
    "upsample_bilinear2d": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=3, mode="bilinear")),
    "upsample_bicubic2d": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=3, mode="bicubic")),
    "upsample_trilinear3d": Case(4, lambda h: F.interpolate(grid(h, 1, 1, 2, 2), size=(1, 3, 3), mode="trilinear")),
    "nearest exact 1d": Case(4, lambda h: F.interpolate(grid(h, 2, 2), size=3, mode="nearest-exact")),
    "nearest exact 2d": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=3, mode="nearest-exact")),
    "nearest exact 3d": Case(4, lambda h: F.interpolate(grid(h, 1, 1, 2, 2), size=3, mode="nearest-exact")),
    "bilinear antialias": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=3, mode="bilinear", antialias=True)),
    "bicubic antialias": Case(4, lambda h: F.interpolate(grid(h, 1, 2, 2), size=3, mode="bicubic", antialias=True)),
}

CONVOLUTION: Final = {
    "conv1d": Case(6, lambda h, w: F.conv1d(grid(h, 2, 3), w), ((4, 2, 2),)),
    "conv1d one": Case(6, lambda h, w, b: F.conv1d(grid(h, 2, 3), w, b, padding="same"), ((4, 2, 1), (4,))),
    "conv1d whole": Case(6, lambda h, w: F.conv1d(grid(h, 2, 3), w), ((4, 2, 3),)),
    "conv1d stride": Case(6, lambda h, w: F.conv1d(grid(h, 2, 3), w, stride=2), ((4, 2, 1),)),
    "conv1d padded": Case(6, lambda h, w: F.conv1d(grid(h, 2, 3), w, padding=1, stride=2), ((4, 2, 1),)),
    "conv2d groups": Case(8, lambda h, w: F.conv2d(grid(h, 4, 1, 2), w, groups=2), ((6, 2, 1, 2),)),
    "conv2d depthwise": Case(8, lambda h, w: F.conv2d(grid(h, 4, 1, 2), w, groups=4, padding=(0, 1)), ((8, 1, 1, 2),)),
    "conv3d": Case(8, lambda h, w: F.conv3d(grid(h, 2, 1, 2, 2), w), ((3, 2, 1, 1, 2),)),
    "conv_transpose1d": Case(6, lambda h, w: F.conv_transpose1d(grid(h, 2, 3), w, stride=2), ((2, 4, 1),)),
    "conv_transpose1d one": Case(6, lambda h, w: F.conv_transpose1d(grid(h, 2, 3), w), ((2, 4, 1),)),
    "conv_transpose2d": Case(8, lambda h, w: F.conv_transpose2d(grid(h, 4, 1, 2), w, groups=2), ((4, 3, 1, 2),)),
    "conv_transpose3d": Case(4, lambda h, w: F.conv_transpose3d(grid(h, 2, 1, 1, 2), w), ((2, 3, 1, 1, 2),)),
    "convolution": Case(
        6, lambda h, w: aten.convolution(grid(h, 2, 3), w, None, [1], [0], [1], True, [0], 1), ((2, 4, 2),)
    ),
    "conv along the units": Case(4, lambda h, w: F.conv1d(h[:, None], w).relu(), ((3, 1, 4),)),
    "grid_sampler": Case(
        4, lambda h, w: F.grid_sample(grid(h, 1, 2, 2), w.expand(2, 1, 3, 2), align_corners=False), ((1, 3, 2),)
    ),
    "grid_sampler_2d": Case(
        4, lambda h, w: aten.grid_sampler_2d(grid(h, 1, 2, 2), w.expand(2, 1, 3, 2), 0, 0, False), ((1, 3, 2),)
    ),
    "grid_sampler_3d": Case(
        4, lambda h, w: aten.grid_sampler_3d(grid(h, 1, 1, 2, 2), w.expand(2, 1, 3, 1, 3), 0, 0, False), ((1, 3, 1, 3),)
    ),
    "channel_shuffle": Case(6, lambda h: F.channel_shuffle(grid(h, 6, 1), 2)),
    "native_channel_shuffle": Case(6, lambda h: F.native_channel_shuffle(grid(h, 6, 1, 1), 3)),
    "im2col": Case(6, lambda h: F.unfold(grid(h, 2, 1, 3), (1, 2))),
    "col2im": Case(8, lambda h: F.fold(grid(h, 4, 2), (1, 3), (1, 2))),
    "pixel_shuffle": Case(4, lambda h: F.pixel_shuffle(grid(h, 4, 1, 1), 2)),
    "pixel_unshuffle": Case(4, lambda h: F.pixel_unshuffle(grid(h, 1, 2, 2), 2)),
}

ORDER: Final = {
    "max.dim": Case(6, lambda h: grid(h, 2, 3).max(-1)),
    "min.dim": Case(6, lambda h: grid(h, 2, 3).min(1, keepdim=True)),
    "max of all": Case(4, lambda h: h + h.max()),
    "max of two": Case(4, lambda h: torch.max(h, h.flip(0))),
    "median.dim": Case(6, lambda h: grid(h, 2, 3).median(-2, keepdim=True)),
    "nanmedian": Case(6, lambda h: grid(h, 3, 2).nanmedian(2)),
    "median of all": Case(4, lambda h: h - h.median()),
    "kthvalue": Case(6, lambda h: grid(h, 2, 3).kthvalue(2, -1)),
    "mode": Case(6, lambda h: grid(h, 2, 3).mode(1)),
    "aminmax": Case(6, lambda h: grid(h, 2, 3).aminmax(dim=-1)),
    "aminmax of all": Case(4, lambda h: [h + value for value in h.aminmax()]),
    "argmax": Case(6, lambda h: [grid(h, 2, 3).argmax(-1), grid(h, 2, 3).argmax(1, keepdim=True)]),
    "argmin of all": Case(4, lambda h: h + h.argmin()),
    "sort": Case(6, lambda h: grid(h, 2, 3).sort(-1)),
    "sort stable": Case(6, lambda h: grid(h, 2, 3).sort(dim=1, descending=True, stable=True)),
    "topk": Case(6, lambda h: grid(h, 2, 3).topk(2)),
    "topk all": Case(4, lambda h: h.topk(4, largest=False)),
    "argsort": Case(6, lambda h: [grid(h, 2, 3).argsort(-1), h.argsort(1, descending=True)]),
    "msort": Case(4, lambda h, w: h @ w.msort(), ((4, 3),)),
    "cumsum": Case(6, lambda h: grid(h, 2, 3).cumsum(-2)),
    "cumsum_": Case(6, lambda h: (grid(h, 2, 3) * 2).cumsum_(1)),
    "cumprod": Case(6, lambda h: grid(h, 3, 2).cumprod(-1)),
    "cummax": Case(6, lambda h: grid(h, 2, 3).cummax(-1)),
    "cummin": Case(6, lambda h: grid(h, 3, 2).cummin(1)),
    "logcumsumexp": Case(6, lambda h: grid(h, 2, 3).logcumsumexp(1)),
    "diff": Case(6, lambda h: grid(h, 2, 3).diff(dim=-1)),
    "diff prepend": Case(6, lambda h, w: grid(h, 3, 2).diff(dim=-1, prepend=column(w)), ((3, 1),)),
    "diff twice": Case(6, lambda h: grid(h, 3, 2).diff(n=2, dim=1)),
    "tril": Case(6, lambda h: [grid(h, 2, 3).tril(), grid(h, 2, 3).triu(1)]),
    "tril_": Case(6, lambda h: [(grid(h, 2, 3) * 1).tril_(), (grid(h, 2, 3) * 1).triu_()]),
    "tril ones": Case(4, lambda h: h @ torch.ones(4, 4, dtype=h.dtype).tril()),
    "softmax": Case(6, lambda h: grid(h, 2, 3).softmax(-2)),
    "_softmax": Case(6, lambda h: [aten._softmax(h, -1, False), aten._log_softmax(grid(h, 2, 3), 1, False)]),
    "log_softmax": Case(6, lambda h: grid(h, 2, 3).log_softmax(1)),
    "_safe_softmax": Case(6, lambda h: aten._safe_softmax(grid(h, 2, 3), 2)),
    "special_softmax": Case(6, lambda h: [torch.special.softmax(grid(h, 2, 3), 1), torch.special.log_softmax(h, -1)]),
    "cdist": Case(6, lambda h, w: torch.cdist(grid(h, 2, 3), w), ((4, 3),)),
    "cosine_similarity": Case(6, lambda h, w: F.cosine_similarity(grid(h, 2, 3), w, dim=-2), ((2, 3),)),
}


def _every(name: str, **options: object) -> Case:
    return Case(6, lambda h: getattr(torch, name)(grid(h, 2, 3), **options))


REDUCTION: Final = {
    "sum": _every("sum", dim=-2, keepdim=True),
    "mean": _every("mean", dim=(-1,)),
    "prod": _every("prod", dim=-1),
    "amax": _every("amax", dim=(1,)),
    "amin": _every("amin", dim=-1, keepdim=True),
    "logsumexp": _every("logsumexp", dim=(-1,)),
    "std": _every("std", dim=-1),
    "var": _every("var", dim=(1,), correction=0),
    "var_mean": _every("var_mean", dim=-1),
    "std_mean": _every("std_mean", dim=1, keepdim=True),
    "nansum": _every("nansum", dim=-1),
    "nanmean": _every("nanmean", dim=1),
    "norm": Case(6, lambda h: aten.norm(grid(h, 2, 3), 2, [-1])),
    "norm of all": Case(4, lambda h: h / h.norm()),
    "frobenius_norm": Case(6, lambda h: aten.frobenius_norm(grid(h, 2, 3), [-1])),
    "linalg_vector_norm": Case(6, lambda h: torch.linalg.vector_norm(grid(h, 2, 3), 3, -2)),
    "all": Case(6, lambda h: [(grid(h, 2, 3) > 0).all(-1), (grid(h, 2, 3) > 0).any(1)]),
    "count_nonzero": Case(6, lambda h: grid(h, 2, 3).relu().count_nonzero(-1)),
    "special_logsumexp": Case(6, lambda h: torch.special.logsumexp(grid(h, 2, 3), 1)),
}

CASES: Final[dict[str, Case]] = {**POOLING, **CONVOLUTION, **ORDER, **REDUCTION}
