"""What two networks' layers have in common on the same data: sums of products, streamed, nothing else kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from tqdm import tqdm

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.products import ProductWatch, WeightProduct, products_computed_once
from rebasin_core.symmetry.axis import Atom, Axis, is_fixed
from rebasin_core.tensors.precision import widened, working_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import MatchProblem

ResponseMetric: TypeAlias = Literal["correlation", "covariance"]

_TRIAL_ROWS = 2
# A unit that does not vary is like no other: by so many roundings of its mean square.
_ROUNDINGS = 10


@final
class ResponseProducts:
    """Two networks run side by side, and the sums of products of their layers' outputs, or of the gradients there.

    Args:
        models: The networks of the reference and the candidate.
        problem: Their posteriors, the layout of the reference, and the source of drawn networks.
        likelihood: Of the targets, if gradients are compared; activations if not given.
    """

    def __init__(
        self, models: tuple[nn.Module, nn.Module], problem: MatchProblem, likelihood: Likelihood | None = None
    ) -> None:
        self._likelihood = likelihood
        self._problem, self._dtype = problem, working_dtype(problem.reference.dtype)
        device = problem.reference.device
        self._sides = [FunctionalModel(model, device=device, dtype=self._dtype) for model in models]
        self._watched: list[dict[str, WeightProduct]] | None = None
        self._sums: dict[str, list[Tensor]] = {}

    @classmethod
    def of(
        cls,
        problem: MatchProblem,
        candidate_model: nn.Module | None,
        samples: int,
        likelihood: Likelihood | None = None,
    ) -> ResponseProducts:
        """Return the sums over all data.

        Args:
            problem: With a model and data.
            candidate_model: The network of the candidate.
            samples: Networks drawn from each posterior; points are run once.
            likelihood: Of the targets, if gradients are compared.

        Returns:
            The sums.

        Raises:
            InvalidInputError: If a model or the data are missing.
        """
        if problem.model is None or candidate_model is None or problem.data is None:
            message = (
                "matching by activations runs the network on data: give `task`, a model with batches (inputs, "
                "targets); `weight` needs none"
            )
            raise InvalidInputError(message)
        pair = cls((problem.model, candidate_model), problem, likelihood)
        points = problem.reference.is_point and problem.candidate.is_point
        for inputs, targets in tqdm(problem.data, desc="responses", leave=False, disable=not problem.progress):
            pair.add(inputs, targets, 1 if points else samples)
        return pair

    def add(self, inputs: Tensor, targets: Tensor, samples: int) -> None:
        """Run both networks on a batch.

        Args:
            inputs: The batch.
            targets: Its targets.
            samples: Networks drawn.
        """
        inputs, targets = self._sides[0].to_device(inputs), targets.to(self._problem.reference.device)
        ends = self._problem.reference, self._problem.candidate
        for _ in range(samples):
            drawn = [widened(q.sample(generator=self._problem.generator)) for q in ends]
            if self._watched is None:
                self._watched = [
                    self._fitting(products_computed_once(side, inputs[:_TRIAL_ROWS], tensors))
                    for side, tensors in zip(self._sides, drawn, strict=True)
                ]
            outputs = [
                self._responses(side, watched, tensors, inputs, targets)
                for side, watched, tensors in zip(self._sides, self._watched, drawn, strict=True)
            ]
            for name, first in outputs[0].items():
                second = outputs[1][name]
                parts = [
                    first @ second.T,
                    first.sum(1), second.sum(1), first.square().sum(1), second.square().sum(1),
                    torch.tensor(float(first.shape[1]), device=first.device),
                ]  # fmt: skip
                wide = [part.double() for part in parts]
                sums = self._sums.get(name)
                self._sums[name] = wide if sums is None else [a + b for a, b in zip(sums, wide, strict=True)]

    def products(self, *, correlation: bool) -> dict[str, tuple[tuple[Axis, ...], Tensor]]:
        """Return the covariances or correlations, with their axes.

        Args:
            correlation: Which of them.

        Returns:
            Axes and ``[units, units]`` in float64, by the names of the weights.

        Raises:
            InvalidInputError: If there is no layer whose units a group permutes.
        """
        self._require_products()
        found: dict[str, tuple[tuple[Axis, ...], Tensor]] = {}
        for name, (cross, first, second, squares, other_squares, count) in self._sums.items():
            covariance = cross / count - torch.outer(first, second) / count**2
            if correlation:
                scales = []
                for square, total in ((squares, first), (other_squares, second)):
                    variance = (square / count - (total / count).square()).clamp_min(0)
                    varies = variance > _ROUNDINGS * torch.finfo(self._dtype).eps * square / count
                    scales.append(torch.where(varies, variance, torch.full_like(variance, torch.inf)).rsqrt())
                covariance *= torch.outer(*scales)
            axis = self._axis(name)
            found[name] = ((Atom(axis.size), axis), covariance)
        return found

    def distances(self) -> dict[str, tuple[int, Tensor]]:
        """Return the mean squared distances between outputs.

        Returns:
            The number of the axis of the units and ``[units, units]`` in float64, by the names of the weights.

        Raises:
            InvalidInputError: If there is no layer whose units a group permutes.
        """
        self._require_products()
        watched = (self._watched or [{}])[0]
        return {
            name: (watched[name].axis, ((squares.unsqueeze(1) + other_squares - 2 * cross) / count).clamp_min(0))
            for name, (cross, _, _, squares, other_squares, count) in self._sums.items()
        }

    def _require_products(self) -> None:
        if not self._sums:
            message = (
                "no group permutes what a weight makes of its inputs in one dense or convolutional product: there is "
                "nothing whose activations could be matched. Use `weight`"
            )
            raise InvalidInputError(message)

    def _responses(
        self,
        model: FunctionalModel,
        watched: Mapping[str, WeightProduct],
        tensors: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> dict[str, Tensor]:
        """Return outputs of products or gradients there, ``[units, rows]``, by the names of their weights."""
        if not watched:
            return {}
        kept: dict[str, Tensor] = {}

        def keep(product: WeightProduct, output: Tensor) -> Tensor:
            if watched.get(product.name) != product:
                return output
            if self._likelihood is not None:
                output = output if output.requires_grad else output.requires_grad_()
                output.retain_grad()
            kept[product.name] = output
            return output.clone()  # what follows may write into its inputs

        with torch.set_grad_enabled(self._likelihood is not None):
            with ProductWatch(tensors, keep):
                outputs = model(tensors, inputs)
            if self._likelihood is not None:
                self._likelihood.check(outputs, targets)
                (-self._likelihood.log_prob(outputs, targets)).sum().backward()
                kept = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in kept.items()}
        return {name: watched[name].by_unit(output) for name, output in kept.items()}

    def _fitting(self, products: list[WeightProduct]) -> dict[str, WeightProduct]:
        """Return the products whose units are moved, by the names of their weights."""
        axes = self._problem.layout.axes
        return {p.name: p for p in products if p.name in axes and not is_fixed(axes[p.name][p.axis])}

    def _axis(self, name: str) -> Axis:
        """Return the axis along which the units of a product stand."""
        watched = (self._watched or [{}])[0]
        return self._problem.layout.axes[name][watched[name].axis]
