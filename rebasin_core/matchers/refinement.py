"""Refinement of the linear maps of an alignment by the loss between the two networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchResult
from rebasin_core.matchers.midpoint import BY_LOSS, MidpointLoss
from rebasin_core.matchers.search import interruptible
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.linear_maps import LinearMaps
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.symmetry.unit_map import UnitMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.matchers.base import MatchProblem
    from rebasin_core.symmetry.linear import Symmetry

# Identities are omitted from elements, and would have no gradient.
_START = 1e-9


@final
class RefinedMatcher(Matcher):
    r"""Aligns by another matcher, then minimizes the loss between the networks over the linear maps, by gradients.

    $$ \min_{X} \; \mathbb{E}_t\, L\big((1 - t)\,\theta_0 + t\; g\, e^{X} \theta_1\big) $$

    where $g$ is the element that the matcher found, and $X$ an element of the Lie algebra for every group: a vector for
    scales, a skew-symmetric matrix for orthogonal maps, any matrix for invertible maps. Permutations, signs and flips
    are not changed; without other linear maps, the result is that of the matcher. The coefficient $t$ is uniformly
    distributed in an interval around 1/2. After each pass the loss at the midpoint is evaluated on all data; the best
    element is returned, which can be that of the matcher.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, without a model and data.

    References:
        A. Theus et al. (2025), "Generalized linear mode connectivity for transformers", arXiv 2506.22712 (learned
        alignment of transformers).

    Examples:
        >>> RefinedMatcher(epochs=2).matcher
        WeightMatcher(symmetry='full')
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": BY_LOSS, "device_and_dtype": BY_LOSS}

    name: Literal["refined"] = "refined"

    matcher: Matcher = WeightMatcher(symmetry="full")
    """The matcher that finds the initial element."""

    epochs: PositiveInt = 5
    """Number of passes over the data."""

    learning_rate: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1e-2
    """Learning rate of Adam, for elements of the Lie algebra."""

    interval: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Length of the interval of interpolation coefficients around 1/2."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return frozenset(Kind)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        loss = MidpointLoss(problem, self.likelihood)
        found = self.matcher.solve(problem)
        initial = found.element
        if initial is None:
            initial = SymmetryElement(problem.symmetry, found.permutation, [None] * len(problem.symmetry.linear))
        search = _Search(loss, initial)
        if not search.directions.values:
            return found
        optimizer = torch.optim.Adam(search.directions.values, lr=self.learning_rate)
        outcome = found.outcome
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.epochs), desc="refine", leave=False, disable=not problem.progress):
                outcome = MatchOutcome.BUDGET
                for inputs, targets in loss.batches:
                    t = 0.5 + self.interval * (torch.rand((), generator=problem.generator).item() - 0.5)
                    with torch.enable_grad():
                        current = search.current()
                        optimizer.zero_grad()
                        loss.at(current.apply(loss.candidate), current, inputs, targets, t=t).backward()
                    optimizer.step()
                search.evaluate(search.current(detached=True))
        identity_objective = -search.evaluate(SymmetryElement.identity(search.best.symmetry))
        return replace(
            found,
            permutation=search.best.permutation,
            element=search.best,
            objective=-search.lowest,
            identity_objective=identity_objective,
            outcome=interruption.outcome(outcome),
            trace=tuple(search.trace),
            seconds={"total": perf_counter() - start, "matcher": found.seconds.get("total", 0.0)},
            upper_bound=None,
        )


@final
class _Search:
    """The current and the best element of a refinement."""

    def __init__(self, loss: MidpointLoss, initial: SymmetryElement) -> None:
        self._loss = loss
        self._initial = initial
        self.directions = _Directions(initial.symmetry)
        self.best, self.lowest = initial, loss.of(initial)
        self.trace = [-self.lowest]

    def current(self, *, detached: bool = False) -> SymmetryElement:
        """Return the current element."""
        return self._initial.compose(self.directions.element(detached=detached))

    def evaluate(self, element: SymmetryElement) -> float:
        """Return the loss of an element at the midpoint, and keep the element if it is the best."""
        value = self._loss.of(element)
        if value < self.lowest:
            self.best, self.lowest = element, value
        self.trace.append(-self.lowest)
        return value


@final
class _Directions:
    """Trainable elements of the Lie algebra of a symmetry, initially almost zero."""

    def __init__(self, symmetry: Symmetry) -> None:
        self._symmetry = symmetry
        generator = torch.Generator().manual_seed(0)
        self._by_index = {
            index: (
                _START * torch.randn(symmetry.map_shape(linear), generator=generator, dtype=torch.float64)
            ).requires_grad_()
            for index, linear in enumerate(symmetry.linear)
            if not linear.kind.is_sign
        }

    @property
    def values(self) -> Sequence[Tensor]:
        """The trainable tensors."""
        return [*self._by_index.values()]

    def element(self, *, detached: bool = False) -> SymmetryElement:
        """Return the element: the exponential of each direction."""
        kinds = [linear.kind for linear in self._symmetry.linear]
        maps = {index: exponential(kinds[index], value) for index, value in self._by_index.items()}
        maps = {index: value.detach() for index, value in maps.items()} if detached else maps
        units = [UnitMap(kind, maps[index]) if index in maps else None for index, kind in enumerate(kinds)]
        identity = Permutation.identity(self._symmetry.permutations)
        return SymmetryElement.from_linear_maps(LinearMaps(self._symmetry, units), identity)


def exponential(kind: Kind, direction: Tensor) -> Tensor:
    """Return the map that an element of the Lie algebra generates.

    Args:
        kind: The kind of the map.
        direction: A tensor of the shape of the map; for orthogonal maps its skew-symmetric part is used.

    Returns:
        The map, close to the identity for small directions.
    """
    match kind:
        case Kind.ORTHOGONAL | Kind.ORTHOGONAL_FIXING_ONES:
            skew = direction - direction.mT
            if kind is Kind.ORTHOGONAL_FIXING_ONES:  # skew-symmetric matrices that map the ones to zero
                skew -= skew.mean(-1, keepdim=True)
                skew -= skew.mean(-2, keepdim=True)
            return _matrix_exponential(skew)
        case Kind.INVERTIBLE:
            return _matrix_exponential(direction)
        case Kind.ROTATION:
            size = direction[..., :1].exp()
            return torch.cat([size * direction[..., 1:].cos(), size * direction[..., 1:].sin()], -1)
        case _:
            return direction.exp()


def _matrix_exponential(matrix: Tensor) -> Tensor:
    found: Tensor = torch.linalg.matrix_exp(matrix)
    return found
