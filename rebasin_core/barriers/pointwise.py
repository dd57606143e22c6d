"""The pointwise barrier: the loss of single networks along the path between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.path_barrier import AbstractNetworkBarrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.posteriors.base import Posterior


@final
class PointwiseBarrier(AbstractNetworkBarrier):
    r"""Loss barrier of Git Re-Basin between the means of two posteriors.

    $$ \max_t \; L(\theta_t) - \left[(1-t) L(\theta_0) + t L(\theta_1)\right],
       \qquad \theta_t = (1-t)\,\mathbb E_{q_0}\theta + t\,\mathbb E_{q_1}\theta $$

    The default path between single networks is this straight line; for another ``path``, $\theta_t$ is the mean of the
    path at $t$. The Monte Carlo standard errors are zero; only the standard errors from the finite dataset apply.

    Raises:
        ConfigError: If an option is invalid.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, definition 2.2.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a, b = (PointPosterior({"weight": torch.tensor([[v], [0.0]])}) for v in (-1.0, 1.0))
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> from rebasin_core.evaluation import Task
        >>> PointwiseBarrier(num_points=3).estimate(a, b, task=Task(model, data)).height
        0.0
    """

    name: Literal["pointwise"] = "pointwise"

    @property
    @override
    def uses_calibration(self) -> bool:
        return False

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        return self._networks(problem)
