"""Random programs of operators that are hard to trace: they split, tie, slice and merge axes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable


class Program(nn.Module):
    """A dense layer, random steps on its output, and a dense layer on the result.

    With ``indexing``, some steps use operators that return indices, look up or write by index, or mix neighbors. The
    steps are sampled while a batch runs through them, because they depend on its shape.
    """

    def __init__(self, seed: int, steps: int = 6, *, indexing: bool = False) -> None:
        super().__init__()
        self._indexing = indexing
        self._random = random.Random(seed)
        torch.manual_seed(seed)
        width = self._random.choice([12, 16, 24])
        self.first = nn.Linear(3, width)
        self.members = nn.ModuleList()
        self.scales = nn.ParameterList()
        self.names: list[str] = []
        self._steps: list[Callable[[Tensor], Tensor]] = []
        value = self.first(self.inputs())
        for _ in range(steps):
            step = self._random_step(value)
            after = step(value)
            if after.numel() > 4096 or after.dim() > 5 or 0 in after.shape:
                continue
            self._steps.append(step)
            value = after
        self.last = nn.Linear(value.flatten(1).shape[1], 2)

    def inputs(self) -> Tensor:
        return torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        value = self.first(inputs)
        for step in self._steps:
            value = step(value)
        output: Tensor = self.last(value.flatten(1))
        return output

    def _random_step(self, value: Tensor) -> Callable[[Tensor], Tensor]:
        draw = self._random
        dims = list(range(1, value.dim()))
        dim = draw.choice(dims)
        size = value.shape[dim]
        factories = [self._tanh, self._split, self._merged, self._swapped, self._scaled, self._softmax, self._dense]
        factories += [
            self._sliced,
            self._gated,
            self._normed,
            self._unbound,
            self._contracted,
            self._reduced,
            self._padded,
        ]
        if self._indexing:
            factories += [self._chosen, self._pooled, self._ordered, self._looked_up, self._written, self._mixed]
        factory = draw.choice(factories)
        self.names.append(f"{factory.__name__[1:]}({dim}) of {tuple(value.shape)}")
        return factory(value, dim, size)

    def _tanh(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value, dim, size
        return torch.tanh

    def _split(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        outer = self._random.choice([d for d in range(1, size + 1) if size % d == 0])
        return lambda x: x.unflatten(dim, (outer, size // outer))

    def _merged(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del size
        return (lambda x: x.flatten(dim, dim + 1)) if dim + 1 < value.dim() else torch.relu

    def _swapped(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del size
        other = self._random.choice(range(1, value.dim()))
        return lambda x: x.transpose(dim, other)

    def _scaled(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del dim, size
        shape = [length if self._random.random() < 0.6 else 1 for length in value.shape[1:]]
        self.scales.append(nn.Parameter(torch.randn(shape)))
        index = len(self.scales) - 1
        return lambda x: x * self.scales[index]

    def _softmax(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value, size
        return lambda x: x.softmax(dim)

    def _dense(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del dim, size
        self.members.append(nn.Linear(value.shape[-1], self._random.choice([4, 6, 8])))
        index = len(self.members) - 1
        return lambda x: self.members[index](x)

    def _sliced(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        start = self._random.randrange(size)
        stop = self._random.randint(start + 1, size)
        step = self._random.choice([1, 1, 2])
        return lambda x: x[(slice(None),) * dim + (slice(start, stop, step),)]

    def _gated(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        if size % 2:
            return torch.sigmoid
        return lambda x: x.chunk(2, dim)[0] * x.chunk(2, dim)[1].sigmoid()

    def _normed(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        self.members.append(nn.LayerNorm(value.shape[dim:]))
        del size
        index = len(self.members) - 1
        return lambda x: self.members[index](x)

    def _unbound(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        if value.dim() < 3:
            return torch.sin
        order = list(range(size))
        self._random.shuffle(order)
        joined: Callable[..., Tensor] = self._random.choice([torch.stack, torch.cat])
        last = dim if joined is torch.stack else 1
        return lambda x: joined([f(x.select(dim, i)) for i, f in zip(order, _cycle(size), strict=True)], last)

    def _contracted(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del dim, size
        if value.dim() < 3:
            return torch.relu
        return lambda x: x @ x.transpose(-1, -2)

    def _reduced(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del size
        return (lambda x: x.mean(dim)) if value.dim() > 2 else torch.relu

    def _padded(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value, size
        before, after = self._random.randrange(3), self._random.randrange(3)
        return lambda x: nn.functional.pad(x, (0, 0) * (x.dim() - 1 - dim) + (before, after))

    def _chosen(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del size
        if value.dim() < 3:
            return torch.cos
        name = self._random.choice(["max", "median", "mode"])
        output = self._random.choice([0, 0, 1])
        return lambda x: getattr(x, name)(dim - x.dim())[output].to(x.dtype)

    def _pooled(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del dim
        if value.dim() < 3:
            return torch.relu
        kernel = self._random.choice([1, size, value.shape[-1], 2])
        output = self._random.choice([0, 0, 1])
        last = value.shape[-1]

        def pooled(x: Tensor) -> Tensor:
            pairs = nn.functional.max_pool1d(x.flatten(1, -2), min(kernel, last), 1, return_indices=True)
            found: Tensor = pairs[output].to(x.dtype).unflatten(1, x.shape[1:-1])
            return found

        return pooled

    def _ordered(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value, size
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.sort(dim)[0],
            lambda x: x.argsort(dim - x.dim()).to(x.dtype),
            lambda x: x.topk(1, dim)[0] + x,
            lambda x: x.cumsum(dim),
            lambda x: x.flip(dim),
            lambda x: x.roll(1, dim - x.dim()),
        ]
        return self._random.choice(steps)

    def _looked_up(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        index = torch.tensor([self._random.randrange(size) for _ in range(self._random.choice([1, 2, size]))])
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.index_select(dim, index),
            lambda x: x[(slice(None),) * dim + (index,)],
            lambda x: x.take_along_dim(x.argsort(dim), dim),
            lambda x: x.gather(dim, x.argmax(dim, keepdim=True)),
        ]
        return self._random.choice(steps)

    def _written(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        order = torch.tensor(self._random.sample(range(size), size))
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.index_copy(dim, order, x),
            lambda x: x.index_add(dim, order, x.tanh()),
            lambda x: x.index_fill(dim, order[:1], 0.5),
            lambda x: x.scatter(dim, x.argsort(dim), x),
        ]
        return self._random.choice(steps)

    def _mixed(self, value: Tensor, dim: int, size: int) -> Callable[[Tensor], Tensor]:
        del value
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.diff(dim=dim - x.dim()) if size > 1 else x,
            lambda x: x.unfold(dim - x.dim(), max(1, size // 2), max(1, size // 2)),
            lambda x: x.unfold(dim, max(1, size - 1), 1),
            lambda x: (x.transpose(dim, -1) @ torch.eye(size)).transpose(dim, -1),
            lambda x: x.diag_embed(dim1=dim, dim2=-1),
            lambda x: x - x.quantile(0.5, dim, keepdim=True),
        ]
        return self._random.choice(steps)


def _cycle(size: int) -> list[Callable[[Tensor], Tensor]]:
    functions: list[Callable[[Tensor], Tensor]] = [torch.tanh, torch.sin, torch.sigmoid]
    return [functions[i % 3] for i in range(size)]
