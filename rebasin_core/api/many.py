"""Many networks in one common order: maps that compose to the identity around every circle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.barycenter import barycenter
from rebasin_core.posteriors.divergence import squared_moment_distance
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from rebasin_core.evaluation.predictive import Batches
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation


@final
@dataclass(frozen=True, slots=True)
class ManyMatch:
    """Many networks or posteriors in one common order, the *universe*.

    Attributes:
        permutations: How each is moved into it.
        posteriors: The moved posteriors.
        trace: The mean squared distance from the barycentre (means and standard deviations) before the first round and
            after each; it never rises.
    """

    permutations: tuple[Permutation, ...]
    posteriors: tuple[Posterior, ...]
    trace: tuple[float, ...]

    def between(self, source: int, target: int) -> Permutation:
        """Return what moves one onto another: into the universe, and out again. Circles compose to the identity.

        Args:
            source: The number of the one that is moved.
            target: The number of the other.

        Returns:
            The permutation.
        """
        return self.permutations[source].compose(self.permutations[target].inverse())

    @property
    def center(self) -> Posterior:
        """The barycentre of the moved posteriors: the merged network."""
        return barycenter(self.posteriors)


def match_many(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike] | SamplesPosterior,
    spec: PermutationSpec,
    *,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    max_rounds: int = 20,
    model: nn.Module | None = None,
    data: Batches | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> ManyMatch:
    r"""Move many networks or posteriors into one common order.

    In every round each of them, in random order, is matched with the barycentre of all the others, and moved if that
    brings it nearer: block coordinate ascent on $\sum_{i<j} \langle P_i \theta_i, P_j \theta_j \rangle$, until nothing
    moves. (In the barycentre of all, a network would also be compared with itself as it stands, and stay there.)

    Args:
        networks: At least one posterior, or anything that `as_posterior` takes; or the samples of a chain, with their
            weights.
        spec: The symmetries of the network.
        matcher: A registered name (``frank_wolfe``, ...), a mapping with ``name`` and options, or an instance.
        max_rounds: The most rounds.
        model: The network, for matchers that run it.
        data: Batches ``(inputs, targets)``, for matchers that need data.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The permutations, and the moved posteriors.

    Raises:
        InvalidInputError: If there is no network, or they do not fit each other or the specification.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 2 (MergeMany);
        D. Crisostomi et al. (2024), "C2M3: cycle-consistent multi-model merging", NeurIPS, arXiv 2405.17897 (the
        objective, and the universe).

    Example:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> found = match_many([a, b, a], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> found.trace[-1], found.between(0, 2).is_identity
        (0.0, True)
    """
    if isinstance(networks, SamplesPosterior):
        given: list[Posterior] = [networks.member(k) for k in range(networks.num_samples)]
        weights = networks.weights.double()
    else:
        given = [as_posterior(network, model=model) for network in networks]
        weights = torch.full((len(given),), 1 / max(1, len(given)), dtype=torch.float64)
    if not given or max_rounds < 0:
        message = f"expected at least one network and rounds of at least 0, got {len(given)} and {max_rounds!r}"
        raise InvalidInputError(message)
    strategy = as_matcher(matcher)
    generator = generator or torch.Generator().manual_seed(0)
    held = None if data is None else list(data)
    order = _Order(given, weights.tolist(), spec)
    trace = [order.spread()]
    for _ in tqdm(range(max_rounds), desc="match many", leave=False, disable=not progress):
        for k in torch.randperm(len(given), generator=generator, device=generator.device).tolist():
            middle = order.middle_of_others(k)
            if middle is not None:
                step = strategy.match(middle, order.moved[k], spec, model=model, data=held, generator=generator)
                order.offer(k, step.permutation, middle)
        trace.append(order.spread())
        if trace[-1] >= trace[-2]:
            break
    return ManyMatch(tuple(order.permutations), tuple(order.moved), tuple(trace))


@final
class _Order:
    """Networks as they stand in the common order."""

    def __init__(self, given: Sequence[Posterior], weights: Sequence[float], spec: PermutationSpec) -> None:
        self._given, self._weights = given, weights
        self.permutations = [spec.identity()] * len(given)
        self.moved = list(given)

    def middle_of_others(self, number: int) -> Posterior | None:
        """Return the barycentre of all but one; None if these have no weight."""
        others = [k for k in range(len(self._given)) if k != number]
        weights = [self._weights[k] for k in others]
        return barycenter([self.moved[k] for k in others], weights) if sum(weights) > 0 else None

    def offer(self, number: int, step: Permutation, middle: Posterior) -> None:
        """Move a network if that brings it nearer to the middle of the others."""
        permutation = self.permutations[number].compose(step.to("cpu"))
        candidate = permutation.apply(self._given[number])
        if squared_moment_distance(middle, candidate) < squared_moment_distance(middle, self.moved[number]):
            self.permutations[number], self.moved[number] = permutation, candidate

    def spread(self) -> float:
        """Return the mean squared distance from the barycentre."""
        middle = barycenter(self.moved, self._weights)
        return sum(w * squared_moment_distance(middle, q) for w, q in zip(self._weights, self.moved, strict=True))
