"""Random numbers that are permuted with the units for which they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented place
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@final
class EquivariantNoise(TorchDispatchMode):
    """Replaces each random number by a function of the entry for which it is drawn.

    Permuting units preserves the distribution of the outputs of a stochastic network, because the noise of the units is
    independent and identically distributed. With this mode the outputs themselves are preserved: noise that is a
    function of the entries is permuted with them. If a network uses one random tensor twice, and a wrong specification
    permutes only one of its uses, the outputs still change.

    Attributes:
        unkeyed: Random operators whose arguments do not determine the entries for which numbers are drawn.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self.unkeyed: set[str] = set()
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}
        self._count = 0

    @override
    def __enter__(self) -> EquivariantNoise:
        self._sources.clear()
        self._count = 0
        super().__enter__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        return self

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        name = func.overloadpacket.__name__
        draw = _DRAWS.get(name)
        key = self._key(args, in_place=name.endswith("_"))
        if draw is None or key is None:
            result = func(*args, **(kwargs or {}))
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.unkeyed.add(name)
            if isinstance(result, torch.Tensor) and key is not None and name in _LIKE:
                # Keep the tensor alive: otherwise another tensor could reuse its memory address.
                self._sources[result.data_ptr()] = result, key
            return result
        self._count += 1
        return draw(args, kwargs or {}, _uniform(key, self._count))

    def _key(self, args: tuple[Any, ...], *, in_place: bool) -> Tensor | None:
        """Return the tensor for whose entries numbers are drawn: the source of `empty_like`, or the first argument."""
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point() and arg.numel()]
        if not tensors:
            return None
        source = self._sources.get(tensors[0].data_ptr())
        if source is not None:
            return source[1]
        return None if in_place else tensors[0]


_LIKE = frozenset({"empty_like", "zeros_like", "ones_like", "full_like"})


def _uniform(key: Tensor, count: int) -> Tensor:
    """Return numbers in (0, 1): a smooth, oscillating function of each entry."""
    return 0.5 + 0.49 * (7 * key + 2 * count).sin()


def _normal(uniform: Tensor) -> Tensor:
    return (2 * uniform - 1).erfinv() * 2**0.5


def _filled(args: tuple[Any, ...], values: Tensor) -> Tensor:
    target: Tensor = args[0]
    filled: Tensor = target.copy_(values.expand_as(target))
    return filled


def _bernoulli_(args: tuple[Any, ...], kwargs: dict[str, Any], uniform: Tensor) -> Tensor:
    probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return _filled(args, (uniform < probability).to(args[0].dtype))


def _dropout(args: tuple[Any, ...], kwargs: dict[str, Any], uniform: Tensor) -> tuple[Tensor, Tensor]:
    del kwargs
    kept = uniform >= args[1]
    if args[2] is False:
        kept = torch.ones_like(kept)
    scale = 1 / (1 - args[1]) if args[2] is not False and args[1] < 1 else 1.0
    return args[0] * kept * scale, kept


def _affine_normal(args: tuple[Any, ...], kwargs: dict[str, Any], uniform: Tensor) -> Tensor:
    del kwargs
    mean: Tensor | float = args[0]
    return mean + (args[1] if len(args) > 1 else 1.0) * _normal(uniform)


def _option(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str, default: float) -> Tensor | float:
    found: Tensor | float = args[index] if len(args) > index else kwargs.get(name, default)
    return found


_DRAWS: dict[str, Callable[[tuple[Any, ...], dict[str, Any], Tensor], object]] = {
    "rand_like": lambda _, __, u: u,
    "randn_like": lambda _, __, u: _normal(u),
    "bernoulli": lambda args, kwargs, u: (u < (args[0] if len(args) == 1 else _option(args, kwargs, 1, "p", 0.5))).to(
        args[0].dtype
    ),
    "bernoulli_": _bernoulli_,
    "native_dropout": _dropout,
    "normal": _affine_normal,
    "normal_": lambda args, kwargs, u: _filled(
        args, _option(args, kwargs, 1, "mean", 0.0) + _option(args, kwargs, 2, "std", 1.0) * _normal(u)
    ),
    "uniform_": lambda args, kwargs, u: _filled(
        args,
        _option(args, kwargs, 1, "from", 0.0)
        + (_option(args, kwargs, 2, "to", 1.0) - _option(args, kwargs, 1, "from", 0.0)) * u,
    ),
    "exponential_": lambda args, kwargs, u: _filled(args, -u.log() / _option(args, kwargs, 1, "lambd", 1.0)),
}
