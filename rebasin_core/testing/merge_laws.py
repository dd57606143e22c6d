"""The laws of merge methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.merging.base import MergeMethod

_SHAPES = {"matrix": (7, 5), "vector": (6,), "kernel": (4, 3, 2, 2), "number": (), "empty": (0, 3), "one": (1, 1)}
# Rounding to the dtype, relative to values of at most about 4.
_ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def _problems(
    method: MergeMethod, dtype: torch.dtype = torch.float64, *, seed: int = 0
) -> Iterator[tuple[str, list[Tensor], Tensor | None]]:
    """Yield names with the tensors of all networks, and the base if the method uses one."""
    generator = seeded(seed)
    count = 3 if method.max_networks is None else min(method.max_networks, 3)
    for name, shape in _SHAPES.items():
        base = torch.randn(shape, generator=generator, dtype=torch.float64)
        # Networks that are related, such as fine-tuned ones, and therefore not orthogonal.
        networks = [
            base + 0.5 + torch.randn(shape, generator=generator, dtype=torch.float64)
            for _ in range(max(count, method.min_networks))
        ]
        device = device_under_test()
        yield name, [n.to(device, dtype) for n in networks], base.to(device, dtype) if method.uses_base else None


def _weights(method: MergeMethod, count: int) -> list[float]:
    """Return weights that sum to 1: different ones, if the method allows it."""
    if method.weighting == "equal":
        return [1 / count] * count
    return [2 * (index + 1) / (count * (count + 1)) for index in range(count)]


@law("merge_method")
def equal_networks(example: object, folder: Path) -> None:
    """If all networks and the base are equal, they are the result."""
    del folder
    method = cast("MergeMethod", example)
    for dtype, rounding in _ROUNDING.items():
        for name, networks, base in _problems(method, dtype):
            same = [networks[0].clone() for _ in networks]
            merged = method.merge(
                name, same, _weights(method, len(same)), base=None if base is None else networks[0].clone()
            )
            expect_equal({name: merged}, {name: networks[0]}, f"equal networks in {dtype}", tolerance=rounding)


@law("merge_method")
def weight_zero(example: object, folder: Path) -> None:
    """A network of weight zero has no influence; without a base, a network with all the weight is the result."""
    del folder
    method = cast("MergeMethod", example)
    if method.weighting == "equal":
        return
    for (name, networks, base), (_, others, _) in zip(_problems(method), _problems(method, seed=1), strict=True):
        weights = [1.0] + [0.0] * (len(networks) - 1)
        merged = method.merge(name, networks, weights, base=base)
        replaced = method.merge(name, [networks[0], *others[1:]], weights, base=base)
        expect_equal({name: replaced}, {name: merged}, "with other networks of weight zero", tolerance=1e-13)
        if base is None:
            expect_equal({name: merged}, {name: networks[0]}, "one network with all the weight", tolerance=1e-13)


@law("merge_method")
def equivariance(example: object, folder: Path) -> None:
    """Permuting all networks and the base in the same way permutes the result."""
    del folder
    method = cast("MergeMethod", example)
    for name, networks, base in _problems(method):
        permute = _permutation(networks[0].shape)
        weights = _weights(method, len(networks))
        permuted_base = None if base is None else permute(base)
        permuted = method.merge(name, [permute(n) for n in networks], weights, base=permuted_base)
        wanted = permute(method.merge(name, networks, weights, base=base))
        expect_equal({name: permuted}, {name: wanted}, "permuted networks", tolerance=1e-12)


@law("merge_method")
def reproducibility(example: object, folder: Path) -> None:
    """The result depends on the name, the inputs and the seed only, and PyTorch's random state does not change."""
    del folder
    method = cast("MergeMethod", example)
    problems = list(_problems(method))
    state = torch.get_rng_state()

    def merged(name: str, networks: Sequence[Tensor], base: Tensor | None) -> Tensor:
        return method.merge(name, networks, _weights(method, len(networks)), base=base, seed=5)

    forward = {name: merged(name, networks, base) for name, networks, base in problems}
    expect(torch.equal(torch.get_rng_state(), state), "PyTorch's random state was changed")
    torch.rand(3)
    backward = {name: merged(name, networks, base) for name, networks, base in reversed(problems)}
    torch.set_rng_state(state)
    expect_equal(backward, forward, "merged in reverse order")


@law("merge_method")
def integers(example: object, folder: Path) -> None:
    """Integer tensors are those of the first network."""
    del folder
    method = cast("MergeMethod", example)
    _, networks, base = next(_problems(method))
    for dtype in (torch.int64, torch.uint8, torch.bool):
        given = [torch.full((2, 2), i % 2, dtype=dtype, device=device_under_test()) for i in range(len(networks))]
        merged = method.merge("count", given, _weights(method, len(given)), base=None if base is None else given[-1])
        expect(merged.dtype == dtype, f"expected {dtype}, got {merged.dtype}")
        expect_equal({"count": merged}, {"count": given[0]}, "integers")


@law("merge_method")
def shape_dtype_and_device(example: object, folder: Path) -> None:
    """Shape, dtype and device are those of the first network; the result is new, and inputs do not change."""
    del folder
    method = cast("MergeMethod", example)
    for dtype in _ROUNDING:
        for name, networks, base in _problems(method, dtype):
            given = [networks[0], *(n.float() for n in networks[1:])]
            inputs = given if base is None else [*given, base]
            before = [tensor.clone() for tensor in inputs]
            merged = method.merge(name, given, _weights(method, len(given)), base=base)
            got = merged.shape, merged.dtype, merged.device
            wanted = given[0].shape, dtype, given[0].device
            expect(got == wanted, f"`{name}`: expected {wanted}, got {got}")
            expect_equal(_numbered(inputs), _numbered(before), f"inputs of `{name}`")
            memory = {tensor.untyped_storage().data_ptr() for tensor in inputs if tensor.numel()}
            is_new = merged.untyped_storage().data_ptr() not in memory
            expect(is_new, f"`{name}`: the result shares the memory of an input")


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def _permutation(shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return a function that permutes tensors of a shape along every axis."""
    generator = seeded(7)
    indices = [torch.randperm(size, generator=generator).to(device_under_test()) for size in shape]

    def permute(tensor: Tensor) -> Tensor:
        for axis, index in enumerate(indices):
            tensor = tensor.index_select(axis, index)
        return tensor

    return permute
