"""Joint alignment of many networks, with cycle-consistent permutations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import model_of
from rebasin_core.posteriors.barycenters import barycenter, barycenter_or_moments
from rebasin_core.posteriors.capabilities import AbstractMixture
from rebasin_core.posteriors.divergence import squared_moment_distance
from rebasin_core.posteriors.running import LeaveOneOut
from rebasin_core.specs.base import require_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement

ManyStart: TypeAlias = Literal["identity", "first", "best"]
"""Initial permutations of a joint alignment."""


@final
@dataclass(frozen=True, slots=True)
class ManyMatch:
    r"""Jointly aligned networks or posteriors, permuted to a shared ordering of their units (the *universe* of C2M3).

    Attributes:
        permutations: $P_k$, the permutation of network $k$ to the shared ordering. With a matcher that also finds
            linear maps, it is a `SymmetryElement`.
        posteriors: The permuted posteriors.
        trace: Mean squared distance to the barycenter (over means and standard deviations), before the alignment, after
            matching with the first network if this is the start, and after each round; no round increases it.
        losses: For `match_many_on_data`, the loss of the mean of the permuted networks at the start and after each
            epoch, in nats per example; otherwise empty.
    """

    permutations: tuple[GroupElement, ...]
    posteriors: tuple[Posterior, ...]
    trace: tuple[float, ...]
    losses: tuple[float, ...] = ()

    def between(self, source: int, target: int) -> GroupElement:
        r"""Return the permutation that aligns network `source` with network `target`, $P_{target}^{-1} P_{source}$.

        These permutations are cycle-consistent: along any cycle of networks they compose to the identity.

        Args:
            source: Index of the network to permute.
            target: Index of the network to align to.

        Returns:
            The permutation, or another group element.
        """
        return self.permutations[source].compose(self.permutations[target].inverse())

    @property
    def center(self) -> Posterior:
        """The 2-Wasserstein barycenter of the permuted posteriors: the merged network.

        Raises:
            NoClosedFormError: If none is registered for these classes of posteriors; see `moment_barycenter`.
        """
        return barycenter(self.posteriors)


def match_many(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike] | AbstractMixture,
    spec: PermutationSpec,
    *,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    symmetry: SymmetryOption | None = None,
    start: ManyStart = "identity",
    max_rounds: int = 20,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> ManyMatch:
    r"""Jointly align many networks or posteriors, with cycle-consistent permutations.

    Block coordinate ascent on $\sum_{i<j} \langle P_i \theta_i, P_j \theta_j \rangle$. Each round visits the networks
    in random order. A network is matched with the barycenter of all others, and its permutation is updated if that
    decreases its distance to this barycenter. (The barycenter of all networks would include the network itself, which
    favors its current permutation.) The search ends after a round that does not decrease the mean squared distance. If
    no barycenter is registered for these classes of posteriors, their `moment_barycenter` is used.

    Args:
        networks: Sequence of at least one network or posterior (anything that `as_posterior` accepts), a set of samples
            or a mixture, with its weights.
        spec: Permutation symmetries of the network.
        matcher: A registered name (``frank_wolfe``, ...), a mapping with ``name`` and options, or an instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. The matcher's own option if None.
        start: Initial permutations: ``identity``; ``first``, for which each network is matched with the first one; or
            ``best``, both, of which the result with the smaller mean squared distance is returned. Networks in several
            clusters, such as the samples of several chains, can remain unaligned from ``identity``: the barycenter of
            the others is then dominated by the network's own cluster.
        max_rounds: Maximum number of rounds, at least 0.
        task: Network module and data, for matchers that run the network, and for inputs that need the module in
            `as_posterior`.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The permutations, and the permuted posteriors.

    Raises:
        InvalidInputError: If there is no network, the networks do not fit each other or the specification, or the start
            is unknown.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 2 (MergeMany).
        D. Crisostomi et al. (2024), "C2M3: cycle-consistent multi-model merging", NeurIPS, arXiv 2405.17897 (objective
        and universe).

    Examples:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> result = match_many([a, b, a], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> result.trace[-1], result.between(0, 2).is_identity
        (0.0, True)
    """
    require_spec(spec)
    if isinstance(networks, AbstractMixture):
        given = list(networks.components)
        weights = networks.weights.double()
    else:
        model = model_of(task)
        given = as_posteriors(networks, model=model, spec=spec)
        weights = torch.full((len(given),), 1 / max(1, len(given)), dtype=torch.float64)
    if not given or max_rounds < 0:
        message = f"expected at least one network and `max_rounds` of at least 0, got {len(given)} and {max_rounds!r}"
        raise InvalidInputError(message)
    if start not in get_args(ManyStart):
        message = f"expected `start` among {get_args(ManyStart)}, got {start!r}"
        raise InvalidInputError(message)
    strategy = as_matcher(matcher, symmetry)
    generator = generator or torch.Generator().manual_seed(0)
    held = None if task is None else task.held()

    def element(reference: Posterior, candidate: Posterior) -> GroupElement:
        return strategy.match(reference, candidate, spec, task=held, generator=generator).group_element.to("cpu")

    found: list[ManyMatch] = []
    for name in ("identity", "first") if start == "best" else (start,):
        joint = _JointAlignment(given, weights.tolist(), spec, element)
        if name == "first":
            joint.match_with_first()
        for _ in tqdm(range(max_rounds), desc="match many", leave=False, disable=not progress):
            joint.match_with_others(torch.randperm(len(given), generator=generator, device=generator.device).tolist())
            if joint.trace[-1] >= joint.trace[-2]:
                break
        found.append(ManyMatch(tuple(joint.permutations), joint.permuted, tuple(joint.trace)))
    return min(found, key=lambda match: match.trace[-1])


def mean_squared_distance(posteriors: Sequence[Posterior], weights: Sequence[float]) -> float:
    """Return the weighted mean of the squared distances of posteriors to their barycenter.

    Args:
        posteriors: At least one posterior.
        weights: Weight of each posterior; they sum to 1.

    Returns:
        The mean of `squared_moment_distance`, the squared distance of means and standard deviations.
    """
    center, _ = barycenter_or_moments(posteriors, weights)
    return sum(w * squared_moment_distance(center, q) for w, q in zip(weights, posteriors, strict=True))


@final
class _JointAlignment:
    """Networks, their current permutations to the shared ordering, and the permuted networks."""

    def __init__(
        self,
        given: Sequence[Posterior],
        weights: Sequence[float],
        spec: PermutationSpec,
        match: Callable[[Posterior, Posterior], GroupElement],
    ) -> None:
        self._given = given
        self._weights = weights
        self._match = match
        self.permutations: list[GroupElement] = [spec.identity()] * len(given)
        self._current = LeaveOneOut(given, weights)
        self.trace = [mean_squared_distance(given, weights)]

    @property
    def permuted(self) -> tuple[Posterior, ...]:
        """The permuted networks."""
        return self._current.posteriors

    def match_with_first(self) -> None:
        """Match every network with the first one."""
        for k in range(1, len(self._given)):
            self.permutations[k] = self._match(self._given[0], self._given[k])
            self._current.replace(k, self.permutations[k].apply(self._given[k]))
        self._finish_round()

    def match_with_others(self, order: Sequence[int]) -> None:
        """Match every network with the barycenter of the others, in an order."""
        for k in order:
            center = self._current.without(k)
            if center is not None:
                self._update_if_closer(k, self._match(center, self._current[k]), center)
        self._finish_round()

    def _finish_round(self) -> None:
        self._current.refresh()
        self.trace.append(mean_squared_distance(self.permuted, self._weights))

    def _update_if_closer(self, index: int, step: GroupElement, center: Posterior) -> None:
        """Permute a network if that decreases its distance to the barycenter of the others."""
        permutation = self.permutations[index].compose(step)
        candidate = permutation.apply(self._given[index])
        if squared_moment_distance(center, candidate) < squared_moment_distance(center, self._current[index]):
            self.permutations[index] = permutation
            self._current.replace(index, candidate)
