"""Random numbers that move with the units they are drawn for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented place
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@final
class MovingNoise(TorchDispatchMode):
    """Draws each random number from the entry that it is drawn for, as a function of that entry.

    A network with noise inside is the same as another one if the noise of a unit may move with the unit: independent
    and equally distributed random numbers may. Here they do, since equal entries get equal numbers. A network that uses
    one random tensor in two places, of which a wrong specification moves one, still changes.

    Attributes:
        unkeyed: Random operators whose arguments do not tell which unit a number is for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self.unkeyed: set[str] = set()
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}
        self._count = 0

    @override
    def __enter__(self) -> MovingNoise:
        self._sources.clear()
        self._count = 0
        super().__enter__()  # type: ignore[no-untyped-call]  # likewise
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
                # Kept alive with its source, so that no other tensor gets its memory.
                self._sources[result.data_ptr()] = result, key
            return result
        self._count += 1
        return draw(args, kwargs or {}, _uniform(key, self._count))

    def _key(self, args: tuple[Any, ...], *, in_place: bool) -> Tensor | None:
        """Return the tensor whose entries the numbers are for: what memory was made like, or the first argument."""
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point() and arg.numel()]
        if not tensors:
            return None
        source = self._sources.get(tensors[0].data_ptr())
        if source is not None:
            return source[1]
        return None if in_place else tensors[0]


_LIKE = frozenset({"empty_like", "zeros_like", "ones_like", "full_like"})


def _uniform(key: Tensor, count: int) -> Tensor:
    """Return numbers between 0 and 1 that look random, a smooth function of each entry."""
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


def _option(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: float) -> Tensor | float:
    found: Tensor | float = args[place] if len(args) > place else kwargs.get(name, default)
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
