"""Second moments between the activations of two networks on the same data, accumulated batch by batch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from tqdm import tqdm

from rebasin_core.errors import InvalidInputError, UnreadWeightWarning
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.reading import Interception, ModelReading, WeightUse
from rebasin_core.symmetry.axis import Atom, Axis, atoms_of, is_fixed, product
from rebasin_core.tensors.precision import widened, working_dtype

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.tensors.inputs import AnyInputs

ResponseMetric: TypeAlias = Literal["correlation", "covariance"]

# Number of examples of the trial run that determines how the networks use their weights.
_TRIAL_ROWS = 2
# A unit is constant if its variance is at most this number of machine epsilons times its mean square.
_ROUNDINGS = 10


@final
class CrossMoments:
    r"""Second moments between the activations of two networks on the same data, or between the loss gradients there.

    Activations are the outputs of dense and convolutional products whose weight is used only once. They are not stored:
    for every such weight, sums of $z^0_i z^1_j$, $z_i$ and $z_i^2$ are accumulated batch by batch.

    Args:
        models: The networks of the reference and of the candidate.
        problem: The matching problem: both posteriors, the layout of the reference, and the random number generator.
        likelihood: If given, gradients of the negative log-likelihood are compared; activations if None.
    """

    def __init__(
        self, models: tuple[nn.Module, nn.Module], problem: MatchProblem, likelihood: Likelihood | None = None
    ) -> None:
        self._likelihood = likelihood
        self._problem = problem
        self._dtype = working_dtype(problem.reference.dtype)
        device = problem.reference.device
        self._sides = [FunctionalModel(model, device=device, dtype=self._dtype) for model in models]
        self._uses: list[dict[str, WeightUse]] | None = None
        self._readings: list[ModelReading] = []
        self._sums: dict[str, list[Tensor]] = {}

    @classmethod
    def of(
        cls,
        problem: MatchProblem,
        candidate_model: nn.Module | None,
        samples: int,
        likelihood: Likelihood | None = None,
    ) -> CrossMoments:
        """Return the moments over all data.

        Args:
            problem: The matching problem, with a model and data.
            candidate_model: The network of the candidate.
            samples: Number of samples of each posterior; single networks are run once.
            likelihood: Likelihood of the targets, to compare gradients; activations are compared if None.

        Returns:
            The moments.

        Raises:
            InvalidInputError: If a model or the data are missing.
        """
        if problem.model is None or candidate_model is None or problem.data is None:
            message = (
                "matching by activations runs the network on data; pass `task` (a model and batches of inputs and "
                "targets), or use `weight`, which needs no data"
            )
            raise InvalidInputError(message)
        pair = cls((problem.model, candidate_model), problem, likelihood)
        deterministic = problem.reference.is_point and problem.candidate.is_point
        for inputs, targets in tqdm(
            checked_batches(problem.data), desc="activations", leave=False, disable=not problem.progress
        ):
            pair.add(inputs, targets, 1 if deterministic else samples)
        pair.warn_of_unread_groups()
        return pair

    def add(self, inputs: AnyInputs, targets: Tensor, samples: int) -> None:
        """Run both networks on a batch and add to the sums.

        Args:
            inputs: Inputs of the batch.
            targets: Targets of the batch.
            samples: Number of posterior samples.
        """
        inputs = self._sides[0].to_device(inputs)
        targets = targets.to(self._problem.reference.device)
        posteriors = self._problem.reference, self._problem.candidate
        for _ in range(samples):
            sampled = [widened(q.sample(generator=self._problem.generator)) for q in posteriors]
            if self._uses is None:
                sides = zip(self._sides, sampled, strict=True)
                self._readings = [side.reading(inputs[:_TRIAL_ROWS], tensors) for side, tensors in sides]
                self._uses = [self._fitting(reading) for reading in self._readings]
            outputs = [
                self._activations(side, uses, tensors, inputs, targets)
                for side, uses, tensors in zip(self._sides, self._uses, sampled, strict=True)
            ]
            for name in outputs[0].keys() & outputs[1].keys() if self._problem.layout.stacks else outputs[0]:
                first, second = outputs[0][name], outputs[1][name]
                parts = [
                    first @ second.T,
                    first.sum(1), second.sum(1), first.square().sum(1), second.square().sum(1),
                    torch.tensor(float(first.shape[1]), device=first.device),
                ]  # fmt: skip
                wide = [part.double() for part in parts]
                sums = self._sums.get(name)
                self._sums[name] = wide if sums is None else [a + b for a, b in zip(sums, wide, strict=True)]

    @property
    def reading(self) -> ModelReading | None:
        """How the reference's network uses its weights; None before the first batch."""
        return self._readings[0] if self._readings else None

    def unit_dims(self) -> dict[str, int]:
        """Return, for every compared weight, the dimension of the units that it computes."""
        return {name: self._axis(name) for name in self._sums}

    def similarities(
        self, *, correlation: bool, pooled: Collection[str] = ()
    ) -> dict[str, tuple[tuple[Axis, ...], Tensor]]:
        """Return the covariances or correlations between units, with their axes.

        Args:
            correlation: Whether to return correlations instead of covariances.
            pooled: Names of weights for whose units covariances are returned, divided by the square roots of the mean
                variances of the units of each network.

        Returns:
            For every weight, the axes of the matrix and the matrix ``[units, units]`` in float64. Correlations with a
            constant unit are 0.

        Raises:
            InvalidInputError: If no layer computes the units of a group.
        """
        self._require_products()
        found: dict[str, tuple[tuple[Axis, ...], Tensor]] = {}
        for name, (cross, first, second, squares, other_squares, count) in self._sums.items():
            covariance = cross / count - torch.outer(first, second) / count**2
            if correlation or name in pooled:
                scales = []
                for square, total in ((squares, first), (other_squares, second)):
                    variance = (square / count - (total / count).square()).clamp_min(0)
                    variance = variance.mean().expand_as(variance) if name in pooled else variance
                    varies = variance > _ROUNDINGS * torch.finfo(self._dtype).eps * square / count
                    scales.append(torch.where(varies, variance, torch.full_like(variance, torch.inf)).rsqrt())
                covariance *= torch.outer(*scales)
            axis = axis_of_units(self._problem.layout, name, self._axis(name))
            found[name] = ((Atom(axis.size), axis), covariance)
        return found

    def distances(self) -> dict[str, tuple[int, Tensor]]:
        """Return the mean squared distances between activations.

        Returns:
            For every weight, the index of the axis of its units and the matrix ``[units, units]`` in float64.

        Raises:
            InvalidInputError: If no layer computes the units of a group.
        """
        self._require_products()
        return {
            name: (self._axis(name), ((squares.unsqueeze(1) + other_squares - 2 * cross) / count).clamp_min(0))
            for name, (cross, _, _, squares, other_squares, count) in self._sums.items()
        }

    def warn_of_unread_groups(self) -> None:
        """Warn about groups that are not compared because no product of the network computes their units."""
        layout = self._problem.layout
        axes = [axis_of_units(layout, name, self._axis(name)) for name in self._sums]
        compared = {atom.group for axis in axes for atom in atoms_of(axis)}
        missing = sorted(layout.groups.keys() - compared)
        if missing and self._sums:
            why = "".join(f"; `{name}`: {reason}" for name, reason in self._readings[0].excluded.items())
            message = f"no product with a weight computes the units of {missing}, so they are not compared{why}"
            warnings.warn(message, UnreadWeightWarning, stacklevel=2)

    def _require_products(self) -> None:
        # If there is only one permutation, the identity, there is nothing to compare and no error.
        if not self._sums and self._problem.layout.log10_order > 0:
            message = (
                "no activations to match: no group permutes the output of a dense or convolutional product whose "
                "weight is used only once; use `weight`"
            )
            raise InvalidInputError(message)

    def _activations(
        self,
        model: FunctionalModel,
        uses: Mapping[str, WeightUse],
        tensors: Mapping[str, Tensor],
        inputs: AnyInputs,
        targets: Tensor,
    ) -> dict[str, Tensor]:
        """Return the activations, or the gradients with respect to them, ``[units, rows]`` for every weight."""
        if not uses:
            return {}
        kept: dict[str, Tensor] = {}

        def keep(use: WeightUse, output: Tensor) -> Tensor:
            if self._likelihood is not None:
                output = output if output.requires_grad else output.requires_grad_()
                output.retain_grad()
            kept[use.name] = output
            return output.clone()  # the next function may write into its inputs

        with torch.set_grad_enabled(self._likelihood is not None):
            with Interception(list(uses.values()), tensors, on_output=keep):
                outputs = model(tensors, inputs)
            if self._likelihood is not None:
                self._likelihood.check(outputs, targets)
                (-self._likelihood.log_prob(outputs, targets)).sum().backward()
                kept = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in kept.items()}
        return self._joined({name: uses[name].by_unit(output) for name, output in kept.items()})

    def _joined(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return activations ``[units, rows]`` with those of a stack concatenated, under the name of its first tensor.

        They are comparable if all members are computed from the same rows: if each expert sees all tokens.
        """
        layout = self._problem.layout
        found: dict[str, Tensor] = {}
        for name, output in outputs.items():
            stack = layout.stacks.get(layout.key(name))
            members = [name] if stack is None else [member for member in stack.members if member in outputs]
            if stack is None:
                found[name] = output
            elif members == [*stack.members] and name == members[0]:
                parts = [outputs[member] for member in members]
                if len({part.shape for part in parts}) == 1:
                    found[name] = torch.cat(parts)
        return found

    def _fitting(self, reading: ModelReading) -> dict[str, WeightUse]:
        """Return the products whose units a group permutes, by the name of their weight."""
        layout = self._problem.layout
        return {
            use.name: use
            for use in reading.products
            if layout.key(use.name) in layout.axes
            and not is_fixed(axis_of_units(layout, use.name, use.output_axis or 0))
        }

    def _axis(self, name: str) -> int:
        """Return the index of the axis of a weight along which its output units lie."""
        uses = (self._uses or [{}])[0]
        return uses[name].output_axis or 0


def axis_of_units(layout: Layout, name: str, index: int) -> Axis:
    """Return the axis of the units that a weight computes.

    Args:
        layout: The groups.
        name: Name of the weight.
        index: Index of its axis.

    Returns:
        The axis; for a weight in a stack, the product of the groups of the stack and the axis.
    """
    key = layout.key(name)
    if key not in layout.stacks:
        return layout.axes[key][index]
    count = len(layout.stacks[key].sizes)
    return product(*layout.axes[key][:count], layout.axes[key][count + index])
