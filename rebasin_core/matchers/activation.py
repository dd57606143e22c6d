"""Activation matching: units that respond alike to the same inputs."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.layers import Layer, layers_called_once
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.coordinate_descent import CoordinateDescent
from rebasin_core.matchers.descent import descended
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.symmetry.axis import Atom, Axis, is_fixed
from rebasin_core.symmetry.layout import Layout
from rebasin_core.tensors.modules import forward_hooks
from rebasin_core.tensors.precision import widened, working_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rebasin_core.matchers.result import MatchResult

ActivationMetric: TypeAlias = Literal["correlation", "covariance"]

_TRIAL_ROWS = 2
# A unit that does not vary is like no other.
_LEAST_VARIANCE = 1e-12
_MAX_SWEEPS = 100


@final
class ActivationMatcher(Matcher):
    r"""Aligns units by their responses to data: maximises the sum of their correlations.

    $$ \max_P \sum_l \sum_i C^l_{i, p_l(i)}, \qquad
       C^l_{ij} = \frac{\mathrm{cov}(z^0_{l,i}, z^1_{l,j})}{\sigma(z^0_{l,i})\, \sigma(z^1_{l,j})} $$

    with $z_l$ the outputs of every dense and convolutional layer that is called once and whose units a group permutes,
    over examples, positions and drawn networks. Where several layers write into one group (a residual stream), their
    matrices are added. Groups are independent of each other, so each is solved exactly; groups within groups (widths
    within heads) jointly. Groups that no such layer writes into stay as they are.

    Activations are not kept: both networks are run batch by batch, and the products added up.

    Args:
        metric: ``correlation``, or ``covariance``, in which units of large variance count for more.
        num_samples: Networks drawn from each posterior, with independent noise; points are run once.

    Raises:
        InvalidInputError: If an option is out of range; on matching, without a model and data, or if no layer fits.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, section 3.1; Y. Li et al.
        (2016), "Convergent learning", ICLR, arXiv 1511.07543.

    Example:
        >>> import torch
        >>> from rebasin_core.specs import table_spec
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> model, data = make(), [(torch.randn(50, 2), torch.zeros(50))]
        >>> rows = {"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}
        >>> spec = table_spec(rows, model)
        >>> planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
        >>> q = PointPosterior.from_module(model)
        >>> found = ActivationMatcher().match(q, planted.apply(q), spec, model=model, data=data)
        >>> found.permutation == planted.inverse()
        True
    """

    def __init__(self, *, metric: ActivationMetric = "correlation", num_samples: int = 4) -> None:
        if metric not in get_args(ActivationMetric) or num_samples < 1:
            message = (
                f"expected a metric among {get_args(ActivationMetric)} and `num_samples` of at least 1, got {metric!r} "
                f"and {num_samples!r}"
            )
            raise InvalidInputError(message)
        self._metric: ActivationMetric = metric
        self._num_samples = num_samples

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        products = self._products(problem)
        measured = perf_counter()
        # Matching activations is matching parameters [rows, units]: the identity against the matrix of products.
        layout = Layout(problem.layout.groups, {name: axes for name, (axes, _) in products.items()})
        reference = {
            n: torch.eye(len(c), dtype=c.dtype, device=c.device).unsqueeze(0) for n, (_, c) in products.items()
        }
        solver = CoordinateDescent(layout, reference, {n: c.unsqueeze(0) for n, (_, c) in products.items()})
        return descended(
            problem, solver, max_sweeps=_MAX_SWEEPS, start=start, seconds={"activations": measured - start}
        )

    def _products(self, problem: MatchProblem) -> dict[str, tuple[tuple[Axis, ...], Tensor]]:
        """Return for every layer the axes and values of its matrix, ``[units, units]``."""
        if problem.model is None or problem.data is None:
            message = (
                "activation matching runs the network on data: give `model` and `data`, batches (inputs, targets); "
                "`weight` needs neither"
            )
            raise InvalidInputError(message)
        pair = _Pair(problem.model, problem)
        points = isinstance(problem.reference, PointPosterior) and isinstance(problem.candidate, PointPosterior)
        for inputs, _ in tqdm(problem.data, desc="activations", leave=False, disable=not problem.progress):
            pair.add(inputs, 1 if points else self._num_samples)
        return pair.products(correlation=self._metric == "correlation")


@final
class _Pair:
    """Two networks run side by side, and the sums of products of their layers' outputs."""

    def __init__(self, model: nn.Module, problem: MatchProblem) -> None:
        self._problem, dtype = problem, working_dtype(problem.reference.dtype)
        self._sides = [FunctionalModel(model, device=problem.reference.device, dtype=dtype) for _ in range(2)]
        self._layers: list[list[Layer]] | None = None
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, inputs: Tensor, samples: int) -> None:
        """Run both networks on a batch."""
        inputs = self._sides[0].to_device(inputs)
        ends = self._problem.reference, self._problem.candidate
        for _ in range(samples):
            drawn = [widened(q.sample(generator=self._problem.generator)) for q in ends]
            if self._layers is None:
                self._layers = [
                    self._fitting(layers_called_once(side, inputs[:_TRIAL_ROWS], tensors))
                    for side, tensors in zip(self._sides, drawn, strict=True)
                ]
            outputs = [
                _outputs(side, layers, tensors, inputs)
                for side, layers, tensors in zip(self._sides, self._layers, drawn, strict=True)
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
        """Return the covariances or correlations, with their axes."""
        found: dict[str, tuple[tuple[Axis, ...], Tensor]] = {}
        for name, (cross, first, second, squares, other_squares, count) in self._sums.items():
            covariance = cross / count - torch.outer(first, second) / count**2
            if correlation:
                variances = [
                    (s / count - (m / count).square()).clamp_min(0)
                    for s, m in ((squares, first), (other_squares, second))
                ]
                scales = [torch.where(v > _LEAST_VARIANCE, v, torch.full_like(v, torch.inf)).rsqrt() for v in variances]
                covariance *= torch.outer(*scales)
            axis = self._problem.layout.axes[name][0]
            found[name] = ((Atom(axis.size), axis), covariance)
        if not found:
            message = (
                "no group permutes the outputs of a dense or convolutional layer that is called once and shares no "
                "parameter: there is nothing whose activations could be matched. Use `weight`"
            )
            raise InvalidInputError(message)
        return found

    def _fitting(self, layers: list[Layer]) -> list[Layer]:
        """Return the layers whose units are moved."""
        axes = self._problem.layout.axes
        return [layer for layer in layers if not is_fixed(axes[layer.name("weight")][0])]


def _outputs(
    model: FunctionalModel, layers: list[Layer], tensors: Mapping[str, Tensor], inputs: Tensor
) -> dict[str, Tensor]:
    """Return the outputs of layers, ``[units, rows]``, by the names of their weights."""
    found: dict[str, Tensor] = {}

    def keep(layer: Layer, output: Tensor) -> None:
        found[layer.name("weight")] = layer.by_unit(output)

    hooks = [(layer.module, lambda _, __, output, layer=layer: keep(layer, output)) for layer in layers]
    with forward_hooks(hooks):
        model(tensors, inputs)
    return found
