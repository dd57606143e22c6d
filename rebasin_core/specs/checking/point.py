"""A model at one set of random parameters, with its outputs and their gradients."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.draws import is_number
from rebasin_core.specs.checking.measure import OutputScales
from rebasin_core.specs.checking.runs import FAILURES, jittered
from rebasin_core.specs.checking.statistics import DifferentiableStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.specs.checking.runs import Runner


@final
class Point:
    """A model at one set of parameters.

    Args:
        runner: The model.
        tensors: The parameters and buffers.
        scales: The outputs, with their scales.
        gradients: By tensor, the gradient of a sum of all outputs with random signs, each divided by its scale; tensors
            on which the sum does not depend are omitted. None if gradients could not be computed.
    """

    def __init__(
        self,
        runner: Runner,
        tensors: Mapping[str, Tensor],
        scales: OutputScales,
        gradients: Mapping[str, Tensor] | None,
    ) -> None:
        self.runner = runner
        self.tensors = tensors
        self.scales = scales
        self.gradients = gradients
        self.precision = runner.precision

    @classmethod
    def of(
        cls, runner: Runner, tensors: Mapping[str, Tensor], generator: torch.Generator, *, gradients: bool
    ) -> Point | str:
        """Run a model at some parameters, or return why its outputs cannot be compared there.

        Args:
            runner: The model.
            tensors: The parameters and buffers.
            generator: Source of randomness.
            gradients: Whether to compute gradients.

        Returns:
            The point, or a sentence with the reason.

        Raises:
            SpecError: If the model returns no tensor.
        """
        leaves = {name: tensor.clone() for name, tensor in tensors.items()}
        try:
            outputs, inner = _with_gradients(runner, leaves) if gradients else (_plain(runner, leaves), {})
            precision = runner.precision
            other = {name: jittered(tensor, precision, generator) for name, tensor in tensors.items()}
            with torch.no_grad():
                perturbed = runner(other, inputs=runner.inputs.jittered(precision, generator))
        except SpecError:
            raise
        except FAILURES as error:
            return f"the model raises {type(error).__name__} ({_first_line(error)})"
        scales = OutputScales.of([output.detach() for output in outputs], perturbed, precision)
        if scales is None:
            return "rounding errors change the shapes of the outputs, or integers in them"
        if scales.lacks_finite_entries:
            return "no entry of the outputs is finite"
        found = _gradients(runner, scales, outputs, inner, generator) if gradients else None
        return cls(runner, tensors, scales, found)

    def error(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the largest relative change of an output entry.

        Args:
            tensors: Other parameters and buffers.

        Returns:
            The change; infinite if the model cannot be run with these tensors.
        """
        outputs = self._outputs(tensors)
        return math.inf if outputs is None else self.scales.error(outputs)

    def _outputs(self, tensors: Mapping[str, Tensor]) -> list[Tensor] | None:
        try:
            with torch.no_grad():
                return self.runner(tensors)
        except FAILURES:
            return None


def _plain(runner: Runner, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return runner(tensors)


def _with_gradients(runner: Runner, tensors: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the outputs with gradients, and the leaves; without both if the model cannot be differentiated."""
    leaves = {n: t.detach().clone().requires_grad_() for n, t in tensors.items() if is_number(t)}
    # Copies of the leaves, because a model may modify its buffers in place.
    copies = {name: leaves[name].clone() if name in leaves else tensor for name, tensor in tensors.items()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about gradients that are lost when Python reads a number
            return runner(copies, within=DifferentiableStatistics()), leaves
    except FAILURES:
        return _plain(runner, tensors), {}


def _gradients(
    runner: Runner,
    scales: OutputScales,
    outputs: list[Tensor],
    leaves: Mapping[str, Tensor],
    generator: torch.Generator,
) -> dict[str, Tensor] | None:
    try:
        with torch.enable_grad():
            total = scales.random_sum(outputs, generator)
        if total is None or not leaves:
            return None
        with runner.wide_backward():
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except FAILURES:
        return None
    pairs: list[tuple[str, Tensor | None]] = list(zip(leaves, found, strict=True))  # None if there is no path
    return {name: gradient for name, gradient in pairs if gradient is not None}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
