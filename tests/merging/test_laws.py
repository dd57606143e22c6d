"""The laws of merge methods detect faulty methods."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import pytest
import torch
from torch import Tensor
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import LawViolationError
from rebasin_core.merging import MergeProblem
from rebasin_core.testing import LAWS


class WithoutBase(rc.MergeMethod):
    @property
    @override
    def uses_base(self) -> bool:
        return False


@final
class Sum(WithoutBase):
    name: Literal["sum"] = "sum"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return torch.stack([t.double() for t in problem.tensors]).sum(0).to(problem.tensors[0].dtype)


@final
class Unweighted(WithoutBase):
    name: Literal["unweighted"] = "unweighted"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return torch.stack([t.double() for t in problem.tensors]).mean(0).to(problem.tensors[0].dtype)


@final
class Positional(WithoutBase):
    """The first half of the entries is that of the first network, the second half the mean."""

    name: Literal["positional"] = "positional"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        merged = rc.merging.MeanMerge().merge("", problem.tensors, problem.weights)
        half = merged.numel() // 2
        merged.view(-1)[:half] = problem.tensors[0].reshape(-1)[:half]
        return merged


@final
class GlobalNoise(WithoutBase):
    name: Literal["global_noise"] = "global_noise"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return problem.tensors[0] + torch.rand(problem.tensors[0].shape).to(problem.tensors[0])


@final
class Overwriting(WithoutBase):
    name: Literal["overwriting"] = "overwriting"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return problem.tensors[0].mul_(problem.weights[0])


@final
class Alias(WithoutBase):
    name: Literal["alias"] = "alias"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return problem.tensors[0]


@final
class Widened(WithoutBase):
    name: Literal["widened"] = "widened"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        return problem.tensors[0].double().clone()


FAULTS: list[tuple[rc.MergeMethod, str, str]] = [
    (Sum(), "equal_networks", "equal networks in torch.float64: `matrix` differs"),
    (Unweighted(), "weight_zero", "with other networks of weight zero: `matrix` differs"),
    (Positional(), "equivariance", "permuted networks: `matrix` differs"),
    (GlobalNoise(), "reproducibility", "PyTorch's random state was changed"),
    (Overwriting(), "shape_dtype_and_device", "inputs of `matrix`: `0` differs"),
    (Alias(), "shape_dtype_and_device", "`matrix`: the result shares the memory of an input"),
    (Widened(), "shape_dtype_and_device", "`matrix`: expected .*float32.*, got .*float64"),
]


@pytest.mark.parametrize(("method", "law", "message"), FAULTS, ids=lambda value: getattr(value, "name", None))
def test_law_detects_a_fault(method: rc.MergeMethod, law: str, message: str, tmp_path: Path) -> None:
    trial = next(own.trial for own in LAWS["merge_method"] if own.name == law)
    with pytest.raises(LawViolationError, match=message):
        trial(method, tmp_path)


def test_laws_hold_for_a_correct_method(tmp_path: Path) -> None:
    for own in LAWS["merge_method"]:
        own.trial(rc.merging.MeanMerge(), tmp_path)
