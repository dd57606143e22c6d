"""Folding of networks and posteriors: every sample by its own map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import starmap
from typing import TYPE_CHECKING, final

from rebasin_core.analysis.folding.folding import Folding
from rebasin_core.analysis.folding.plan import FoldingParts, FoldingPlan, scale_values
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.capabilities import AbstractEmpirical, AbstractMixture
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.networks import networks_of, with_networks
from rebasin_core.specs.folding import Obstacle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


@final
@dataclass(frozen=True, slots=True)
class FoldedPosterior:
    """A posterior after folding.

    Attributes:
        posterior: The posterior.
        foldings: The map of every network in it: one for a single network or a Gaussian, one per sample otherwise.
        plans: The parts that each of them folds.
    """

    posterior: Posterior
    foldings: tuple[Folding, ...]
    plans: tuple[FoldingPlan, ...]


def fold_posterior(posterior: Posterior, spec: PermutationSpec, parts: FoldingParts) -> FoldedPosterior:
    """Fold the normalizations of all networks of a posterior.

    Args:
        posterior: The posterior, with the names of the specification.
        spec: The specification.
        parts: The parts to fold.

    Returns:
        The folded posterior, of the same kind.
    """
    networks = networks_of(posterior)
    if networks is not None:
        plans = tuple(FoldingPlan.of(spec, tensors, parts) for tensors in networks)
        foldings = tuple(starmap(Folding.of, zip(networks, plans, strict=True)))
        if not any(folding.changed for folding in foldings):
            return FoldedPosterior(posterior, foldings, plans)
        pairs = zip(networks, foldings, strict=True)
        folded = [mapped_tensors(tensors, folding, folding.folded) for tensors, folding in pairs]
        return FoldedPosterior(with_networks(posterior, folded), foldings, plans)
    if not isinstance(posterior, AbstractMixture):
        return _fold_distribution(posterior, spec, parts)
    components = [fold_posterior(component, spec, parts) for component in posterior.components]
    mixture = MixturePosterior([one.posterior for one in components], weights=posterior.weights)
    all_foldings = tuple(folding for one in components for folding in one.foldings)
    return FoldedPosterior(mixture, all_foldings, tuple(plan for one in components for plan in one.plans))


def unfold_posterior(posterior: Posterior, foldings: Sequence[Folding]) -> Posterior:
    """Reverse the folding of all networks of a posterior.

    Args:
        posterior: A posterior whose scales are one.
        foldings: One map, or one for each of its networks.

    Returns:
        The posterior, of the same kind.

    Raises:
        InvalidInputError: If the number of maps is neither one nor that of the networks, or a network is not folded.
    """
    count = num_networks(posterior)
    if len(foldings) not in {1, count}:
        message = f"expected one folding, or one for each of the {count} networks, got {len(foldings)}"
        raise InvalidInputError(message)
    own = [*foldings] * (count if len(foldings) == 1 else 1)
    networks = networks_of(posterior)
    if networks is not None:
        for tensors, folding in zip(networks, own, strict=True):
            folding.require_folded(tensors)
        pairs = zip(networks, own, strict=True)
        unfolded = [mapped_tensors(tensors, folding, folding.unfolded) for tensors, folding in pairs]
        return with_networks(posterior, unfolded)
    if isinstance(posterior, AbstractMixture):
        components: list[Posterior] = []
        for component in posterior.components:
            start = sum(map(num_networks, components))
            components.append(unfold_posterior(component, own[start : start + num_networks(component)]))
        return MixturePosterior(components, weights=posterior.weights)
    if own[0].shifts or own[0].means:
        raise InvalidInputError(_only_scales(posterior))
    tensors = {**posterior.mean, **posterior.buffers}
    own[0].require_folded(tensors)
    restored = {name: own[0].unfolded(name, tensors) for name in own[0].zeros}
    return _with_values(posterior.transform(own[0].element.inverse()), restored)


def num_networks(posterior: Posterior) -> int:
    """Return the number of maps that fold a posterior.

    Args:
        posterior: The posterior.

    Returns:
        One for a single network or a Gaussian, else the number of samples, or the sum over the components of a mixture.
    """
    if isinstance(posterior, AbstractEmpirical):
        return posterior.num_samples
    if isinstance(posterior, AbstractMixture):
        return sum(map(num_networks, posterior.components))
    return 1


def _only_scales(posterior: Posterior) -> str:
    return f"in a posterior of kind {posterior.kind!r} only scales can be folded, not shifts and means"


def mapped_tensors(
    tensors: Mapping[str, Tensor], folding: Folding, function: Callable[[str, Mapping[str, Tensor]], Tensor]
) -> dict[str, Tensor]:
    """Return all tensors of a network after a folding or its inverse.

    Args:
        tensors: The tensors by name.
        folding: The folding.
        function: `Folding.folded` or `Folding.unfolded` of it.

    Returns:
        New tensors of the same dtypes.
    """
    changed = folding.changed
    mapped = {name: function(name, tensors).to(tensors[name].dtype) for name in tensors if name in changed}
    return {name: mapped[name] if name in mapped else tensor.detach().clone() for name, tensor in tensors.items()}


def _fold_distribution(posterior: Posterior, spec: PermutationSpec, parts: FoldingParts) -> FoldedPosterior:
    """Fold the scales of a posterior of another kind, such as a Gaussian, if they are not random."""
    tensors = {**posterior.mean, **posterior.buffers}
    stddev = posterior.stddev
    plan = FoldingPlan.of(spec, tensors, replace(parts, shifts=False, center=False))
    kept = dict(plan.kept)
    for name in scale_values(spec) if parts.scales else ():
        if name in stddev and bool(stddev[name].any()):
            size = stddev[name].max().item()
            kept[name] = Obstacle(
                f"it is random (standard deviation up to {size:.2g}), and products of random parameters are not of "
                f"kind {posterior.kind!r}; convert the posterior with `SamplesPosterior.from_posterior`"
            )
    shifts = {**spec.foldable.shifts, **spec.foldable.obstacles} if parts.shifts else {}
    for name in shifts.keys() - scale_values(spec).keys():
        if bool(tensors[name].any()):
            kept[name] = Obstacle(_only_scales(posterior))
    scales = {name: family for name, family in plan.scales.items() if name not in kept}
    is_complete = plan.is_complete and scales == plan.scales
    plan = replace(plan, scales=scales, zeros=plan.zeros & scales.keys(), kept=kept, is_complete=is_complete)
    folding = Folding.of(tensors, plan)
    values = {name: folding.folded(name, tensors) for name in plan.scales}
    return FoldedPosterior(_with_values(posterior.transform(folding.element), values), (folding,), (plan,))


def _with_values(posterior: Posterior, values: Mapping[str, Tensor]) -> Posterior:
    """Return a posterior in which scales have given values, as a group element gives them up to an offset only."""
    if not values or not isinstance(posterior, AbstractAttachedPosterior):
        return posterior
    given = {f"{field}/{name}": value for name, value in values.items() for field in ("mean", "fixed")}
    return posterior.from_tensors({
        key: given[key].to(tensor) if key in given else tensor for key, tensor in posterior.as_tensors().items()
    })
