"""Stage of a match: aligns a candidate with a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.matchers.base import Matcher
from rebasin_core.posteriors.divergence import wasserstein_distance
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import PERMUTATION
from rebasin_core.studies.kinds.network import spec_in
from rebasin_core.studies.kinds.options import NetworkOptions

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


@final
class MatchWork(Work):
    """Matches two posteriors."""

    kind: Literal["match"] = "match"

    network: NetworkOptions
    """The network."""

    matcher: Matcher
    """The matcher."""

    seed: NonNegativeInt
    """Seed of the matcher."""

    likelihood: Likelihood | None = None
    """Likelihood for matchers that run the network; None for others."""

    batch_size: PositiveInt | None = None
    """Batch size for matchers that run the network; None for others."""

    @override
    def compute(self, context: Context) -> Product:
        reference = context.posterior("reference", self.network)
        candidate = context.posterior("candidate", self.network)
        task = None
        if self.batch_size is not None and self.likelihood is not None:
            batches = context.examples("train").batches(self.batch_size)
            task = Task(context.model(self.network), batches, self.likelihood)
        result = self.matcher.match(
            reference,
            candidate,
            spec_in(context.artifact("network")),
            task=task,
            generator=torch.Generator().manual_seed(self.seed),
            progress=context.progress,
        )
        path = context.folder / PERMUTATION
        result.group_element.save(path)
        entries = {
            "objective": result.objective,
            "identity_objective": result.identity_objective,
            "outcome": result.outcome.name.lower(),
            "sweeps": result.sweeps,
            "upper_bound": result.upper_bound,
            "trace": list(result.trace),
            "moved": dict(result.permutation.moved),
        }
        distances = {
            "unaligned": _distance(reference, candidate),
            "aligned": _distance(reference, result.apply(candidate)),
        }
        return Product({"match": entries, "distances": distances}, {PERMUTATION: path})


def _distance(reference: Posterior, candidate: Posterior) -> float | None:
    try:
        return wasserstein_distance(reference, candidate)
    except InvalidInputError:  # no closed form for these classes of posteriors
        return None
