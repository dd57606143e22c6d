"""Frank-Wolfe matching: all groups at once, over doubly stochastic matrices."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import numpy as np
import torch
from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.assignment import solve_assignment
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.terms import inner_products, terms_of
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.channel import mean_channels, moment_channels
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.action import act_softly
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

ChannelNames: TypeAlias = Literal["mean", "moments"]


def _current(channels: object) -> object:
    """Return the present name of channels, as ``moments`` was written in earlier run files."""
    return "moments" if channels == "mean and standard deviation" else channels


# Roots of a polynomial are real up to rounding.
_REAL = 1e-9
_POLISH = 100


@final
class FrankWolfeMatcher(Matcher):
    r"""Maximises the sum of bilinear assignments over doubly stochastic matrices, then rounds and polishes.

    $$ \max_{X_1, \dots, X_G \,\in\, \mathcal B} \; \sum_l \langle \phi_l, X_l \psi_l X_{l-1}^\top \rangle $$

    Each step solves one assignment a group against the gradient, all groups at once, and goes along the line to the
    result to the maximum of the objective, which is a polynomial there and found exactly. The point that is reached is
    rounded by one more assignment a group, and coordinate descent goes on from it. Groups within groups stay in their
    present order until then.

    Raises:
        ConfigError: If an option is invalid.

    References:
        M. Frank, P. Wolfe (1956), "An algorithm for quadratic programming", Naval Research Logistics 3; D. Crisostomi
        et al. (2024), "C2M3: cycle-consistent multi-model merging", NeurIPS, arXiv 2405.17897, section 3.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> from rebasin_core.specs import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0], [3.0]]), "out": torch.tensor([[1.0, 2.0, 3.0]])}
        >>> b = {"in": a["in"][[2, 0, 1]], "out": a["out"][:, [2, 0, 1]]}
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a)
        >>> FrankWolfeMatcher().match(PointPosterior(a), PointPosterior(b), spec).apply(b)["out"].tolist()
        [[1.0, 2.0, 3.0]]
    """

    name: Literal["frank_wolfe"] = "frank_wolfe"

    channels: Annotated[ChannelNames, BeforeValidator(_current)] = "mean"
    """Tensors that are compared: ``mean``, or ``moments`` (mean and standard deviation)."""

    max_steps: NonNegativeInt = 100
    """Maximum number of steps."""

    start: Literal["identity", "uniform"] = "identity"
    """Starting point without an initial permutation: the identity, or ``uniform``, matrices with equal entries."""

    tolerance: NonNegativeFloat = 1e-5
    """Relative gain of the objective in one step below which the search stops."""

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        began = perf_counter()
        reference = self._channels_of(problem.reference)
        candidate = self._channels_of(problem.candidate)
        first = CoordinateDescent(problem.layout, reference, candidate).objective()
        uniform = self.start == "uniform" and problem.initial is None
        ascent = _Ascent(problem, reference, candidate, uniform=uniform)
        outcome = MatchOutcome.BUDGET
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.max_steps), desc="frank-wolfe", leave=False, disable=not problem.progress):
                gain = ascent.step()
                if gain <= self.tolerance * abs(ascent.value):
                    outcome = MatchOutcome.CONVERGED
                    break
        best = _polished(problem, reference, candidate, ascent.rounded())
        if best.objective() < first:  # a local optimum below the identity: coordinate descent from there instead
            best = _polished(problem, reference, candidate, None)
        return MatchResult(
            permutation=Permutation(problem.layout, best.indices),
            objective=best.objective(),
            identity_objective=first,
            outcome=interruption.outcome(outcome),
            trace=(first, best.objective()),
            seconds={"total": perf_counter() - began, "assignment": ascent.seconds},
        )

    def _channels_of(self, posterior: Posterior) -> dict[str, Tensor]:
        return mean_channels(posterior) if self.channels == "mean" else moment_channels(posterior)


def _polished(
    problem: MatchProblem,
    reference: Mapping[str, Tensor],
    candidate: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
) -> CoordinateDescent:
    """Return coordinate descent at its end."""
    solver = CoordinateDescent(problem.layout, dict(reference), dict(candidate), initial=initial)
    solver.run(problem.generator, _POLISH)
    return solver


@final
class _Ascent:
    """The state of Frank-Wolfe: one doubly stochastic matrix for every group that is not within another."""

    def __init__(
        self,
        problem: MatchProblem,
        reference: Mapping[str, Tensor],
        candidate: Mapping[str, Tensor],
        *,
        uniform: bool,
    ) -> None:
        layout = problem.layout
        self._initial = problem.initial or Permutation.identity(layout)
        self._free = [n for n, g in layout.groups.items() if g.within is None and g.size > 1]
        moved = self._initial.apply(dict(candidate))
        terms = [
            term for name, tensor in reference.items() for term in terms_of(layout.axes[name], tensor, moved[name])
        ]
        self._terms = [term for term in terms if any(group in self._free for group in term.groups)]
        like = self._terms[0].reference if self._terms else torch.zeros(())
        self._soft = {
            n: torch.full((layout.groups[n].size,) * 2, 1 / layout.groups[n].size, dtype=like.dtype, device=like.device)
            if uniform
            else torch.eye(layout.groups[n].size, dtype=like.dtype, device=like.device)
            for n in self._free
        }
        self._degree = max([sum(g in self._free for g in term.groups) for term in self._terms], default=1)
        self.seconds = 0.0
        self.value = self._objective(self._soft)

    def step(self) -> float:
        """Go one step; return what it gained."""
        if not self._terms:
            return 0.0
        corners: dict[str, Tensor] = {}
        for name in self._free:
            gradient = self._gradient(name)
            start = perf_counter()
            corners[name] = _matrix(solve_assignment(gradient), self._soft[name])
            self.seconds += perf_counter() - start
        # Along the line the objective is a polynomial of known degree: as many values fix it.
        places = np.linspace(0.0, 1.0, self._degree + 1)
        values = [self.value, *(self._objective(self._at(corners, place)) for place in places[1:].tolist())]
        polynomial = np.polynomial.Polynomial.fit(places, values, self._degree, domain=[0, 1], window=[0, 1])
        stationary = [
            r.real for r in np.atleast_1d(polynomial.deriv().roots()) if abs(r.imag) < _REAL and 0 < r.real < 1
        ]
        place = max([0.0, 1.0, *stationary], key=lambda p: float(polynomial(p)))
        before = self.value
        self._soft = self._at(corners, place)
        self.value = self._objective(self._soft)
        return self.value - before

    def rounded(self) -> Mapping[str, Tensor]:
        """Return the nearest permutations, after the initial ones; inner groups move with those around them."""
        then = dict(Permutation.identity(self._initial.layout).indices)
        for name, matrix in self._soft.items():
            then[name] = solve_assignment(matrix).cpu()
        return self._initial.to("cpu").compose(Permutation(self._initial.layout, then)).indices

    def _at(self, corners: Mapping[str, Tensor], place: float) -> dict[str, Tensor]:
        return {name: torch.lerp(matrix, corners[name], place) for name, matrix in self._soft.items()}

    def _objective(self, soft: Mapping[str, Tensor]) -> float:
        layout = self._initial.layout
        moved = (act_softly(layout, soft, term.candidate, term.atoms).double() for term in self._terms)
        return sum((term.reference.double() * t).sum().item() for term, t in zip(self._terms, moved, strict=True))

    def _gradient(self, name: str) -> Tensor:
        total: Tensor | float = 0.0
        for term in self._terms:
            for position in term.positions(name):
                moved = act_softly(self._initial.layout, self._soft, term.candidate, term.atoms, skip=position)
                total += inner_products(term.reference, moved, batch=[], compared=[position])
        return torch.as_tensor(total)


def _matrix(index: Tensor, like: Tensor) -> Tensor:
    """Return the permutation matrix with ones at ``[i, index[i]]``."""
    matrix = torch.zeros_like(like)
    matrix[torch.arange(len(index), device=like.device), index.to(like.device)] = 1.0
    return matrix
