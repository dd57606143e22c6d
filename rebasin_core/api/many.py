"""Many networks in one common order: permutations that compose to the identity around every cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import model_of
from rebasin_core.posteriors.barycenters import barycenter, barycenter_or_moments
from rebasin_core.posteriors.capabilities import AbstractMixture
from rebasin_core.posteriors.divergence import squared_moment_distance
from rebasin_core.specs.base import require_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation


@final
@dataclass(frozen=True, slots=True)
class ManyMatch:
    """Many networks or posteriors in one common order, the *universe*.

    Attributes:
        permutations: The permutation of each into it.
        posteriors: The permuted posteriors.
        trace: The mean squared distance to the barycenter (of means and standard deviations) before the first round and
            after each; it never rises.
    """

    permutations: tuple[Permutation, ...]
    posteriors: tuple[Posterior, ...]
    trace: tuple[float, ...]

    def between(self, source: int, target: int) -> Permutation:
        """Return the permutation that aligns `source` to `target`; around a cycle these compose to the identity.

        Args:
            source: The number of the candidate.
            target: The number of the reference.

        Returns:
            The permutation.
        """
        return self.permutations[source].compose(self.permutations[target].inverse())

    @property
    def center(self) -> Posterior:
        """The barycenter of the permuted posteriors: the merged network.

        Raises:
            NoClosedFormError: If no barycenter is registered for these kinds; see `moment_barycenter`.
        """
        return barycenter(self.posteriors)


def match_many(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike] | AbstractMixture,
    spec: PermutationSpec,
    *,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    max_rounds: int = 20,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> ManyMatch:
    r"""Permute many networks or posteriors into one common order.

    In every round each of them, in random order, is matched with the barycenter of all the others, and permuted if that
    brings it nearer: block coordinate ascent on $\sum_{i<j} \langle P_i \theta_i, P_j \theta_j \rangle$, until nothing
    changes. (The barycenter of all would contain the network itself, which favors its current order.) Where no
    barycenter is registered for these kinds of posteriors, their means and standard deviations are averaged
    (`moment_barycenter`).

    Args:
        networks: At least one posterior, or anything that `as_posterior` takes; or the samples of a chain or the
            components of a mixture, with their weights.
        spec: The symmetries of the network.
        matcher: A registered name (``frank_wolfe``, ...), a mapping with ``name`` and options, or an instance.
        max_rounds: The most rounds.
        task: Network module and data, for matchers that run the network, and for objects that do not know the names of
            their parameters.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The permutations, and the permuted posteriors.

    Raises:
        InvalidInputError: If there is no network, or they do not fit each other or the specification.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 2 (MergeMany);
        D. Crisostomi et al. (2024), "C2M3: cycle-consistent multi-model merging", NeurIPS, arXiv 2405.17897 (the
        objective, and the universe).

    Examples:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> found = match_many([a, b, a], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> found.trace[-1], found.between(0, 2).is_identity
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
        message = f"expected at least one network and rounds of at least 0, got {len(given)} and {max_rounds!r}"
        raise InvalidInputError(message)
    strategy = as_matcher(matcher)
    generator = generator or torch.Generator().manual_seed(0)
    held = None if task is None else task.held()
    order = _Order(given, weights.tolist(), spec)
    trace = [mean_squared_distance(order.permuted, weights.tolist())]
    for _ in tqdm(range(max_rounds), desc="match many", leave=False, disable=not progress):
        for k in torch.randperm(len(given), generator=generator, device=generator.device).tolist():
            middle = order.middle_of_others(k)
            if middle is not None:
                step = strategy.match(middle, order.permuted[k], spec, task=held, generator=generator)
                order.offer(k, step.permutation, middle)
        trace.append(mean_squared_distance(order.permuted, weights.tolist()))
        if trace[-1] >= trace[-2]:
            break
    return ManyMatch(tuple(order.permutations), tuple(order.permuted), tuple(trace))


def mean_squared_distance(posteriors: Sequence[Posterior], weights: Sequence[float]) -> float:
    """Return the weighted mean of the squared distances of posteriors to their barycenter.

    Args:
        posteriors: At least one.
        weights: One per posterior, summing to one.

    Returns:
        The mean of `squared_moment_distance` (of means and standard deviations).
    """
    center, _ = barycenter_or_moments(posteriors, weights)
    return sum(w * squared_moment_distance(center, q) for w, q in zip(weights, posteriors, strict=True))


@final
class _Order:
    """Networks in their current common order."""

    def __init__(self, given: Sequence[Posterior], weights: Sequence[float], spec: PermutationSpec) -> None:
        self._given = given
        self._weights = weights
        self.permutations = [spec.identity()] * len(given)
        self.permuted = list(given)

    def middle_of_others(self, number: int) -> Posterior | None:
        """Return the barycenter of all but one; None if these have no weight."""
        others = [k for k in range(len(self._given)) if k != number]
        weights = [self._weights[k] for k in others]
        if not sum(weights) > 0:
            return None
        return barycenter_or_moments([self.permuted[k] for k in others], weights)[0]

    def offer(self, number: int, step: Permutation, middle: Posterior) -> None:
        """Permute a network if that brings it nearer to the barycenter of the others."""
        permutation = self.permutations[number].compose(step.to("cpu"))
        candidate = permutation.apply(self._given[number])
        if squared_moment_distance(middle, candidate) < squared_moment_distance(middle, self.permuted[number]):
            self.permutations[number] = permutation
            self.permuted[number] = candidate
