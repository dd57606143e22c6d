"""Stage of a posterior with aligned samples: aligns the samples of one posterior with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import override

from rebasin_core.api.samples import align_samples
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.matchers.base import Matcher
from rebasin_core.posteriors.capabilities import AbstractMixture
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.kinds.network import spec_in
from rebasin_core.studies.kinds.options import NetworkOptions

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


@final
class AlignWork(Work):
    """Aligns the samples of a posterior with each other (`rebasin_core.align_samples`)."""

    kind: Literal["align"] = "align"

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
        task = None
        if self.batch_size is not None and self.likelihood is not None:
            batches = context.examples("train").batches(self.batch_size)
            task = Task(context.model(self.network), batches, self.likelihood)
        found = align_samples(
            _samples(context.posterior("posterior", self.network)),
            spec_in(context.artifact("network")),
            matcher=self.matcher,
            task=task,
            generator=torch.Generator().manual_seed(self.seed),
            progress=context.progress,
        )
        path = context.folder / POSTERIOR
        found.samples.save(path, meta={"aligned_from": context.artifact("posterior").id})
        return Product({"aligned": {"mean_squared_distances": list(found.mean_squared_distances)}}, {POSTERIOR: path})


def _samples(posterior: Posterior) -> AbstractMixture:
    if not isinstance(posterior, AbstractMixture):
        message = (
            "expected samples or a mixture for the option `align_samples`, got a posterior of the kind "
            f"`{posterior.kind}`; remove the option"
        )
        raise InvalidInputError(message)
    return posterior
