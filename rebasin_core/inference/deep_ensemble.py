"""Deep ensembles: networks trained from different initializations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.inference.stacked_inference import AbstractParallelInference
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior


@final
class DeepEnsemble(AbstractParallelInference):
    r"""Deep ensemble: M MAP estimates from different initializations, as equally weighted posterior samples.

    The first network is initialized at the parameters of the model, the others by ``reset_parameters``. All are
    trained in parallel on the same batches, as one network with stacked parameters. The optimizer must be
    coordinate-wise, such as SGD or Adam.

    Raises:
        ConfigError: If an option is invalid.

    References:
        B. Lakshminarayanan, A. Pritzel, C. Blundell (2017), "Simple and scalable predictive uncertainty estimation
        using deep ensembles", NeurIPS, arXiv 1612.01474.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> DeepEnsemble(members=3, epochs=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        3
    """

    name: Literal["deep_ensemble"] = "deep_ensemble"

    members: Annotated[int, Field(ge=2)] = 5
    """Number M of networks, at least 2; for one network use `map`."""

    @property
    @override
    def _num_networks(self) -> int:
        return self.members

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(
            problem,
            model,
            members=self.members,
            prior_scale=self.prior_scale,
            prior_fan_in=self.prior_fan_in,
            together=self.together,
        )


@final
class _Objective(AbstractStackedObjective):
    @override
    def posterior(self) -> Posterior:
        return SamplesPosterior(copied(self.parameters), sample_buffers=copied(self.buffers), prior=self.prior)
