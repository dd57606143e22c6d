"""Curved paths between two networks, with one trained bend (mode connectivity)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, final

import torch
from pydantic import NonNegativeInt, PositiveFloat
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.path_barrier import AbstractNetworkBarrier
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.predictive import batch_weights
from rebasin_core.posteriors.interpolation import interpolate_buffers
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.posteriors.base import Posterior

CurveKind: TypeAlias = Literal["bezier", "polygon"]


@final
class CurvedBarrier(AbstractNetworkBarrier):
    r"""Loss along a trained curve between the means of two posteriors.

    The curve has one bend $\theta_b$, initialized at the midpoint of ``path``:

    $$ \text{bezier: } (1-t)^2 \theta_0 + 2 t (1-t)\, \theta_b + t^2 \theta_1, \qquad
       \text{polygon: } \theta_0 \to \theta_b \to \theta_1 \text{ on two straight lines,} $$

    The bend minimizes the expected loss at uniform $t$ on the calibration data, which should be training data. A low
    barrier along the curve shows that the networks are connected, not that they are equivalent up to symmetries.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On estimation, if training diverges.

    References:
        T. Garipov et al. (2018), "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS, arXiv
        1802.10026, equations 1 to 4.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a, b = (PointPosterior({"weight": torch.tensor([[v], [0.0]])}) for v in (-1.0, 1.0))
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> from rebasin_core.evaluation import Task
        >>> CurvedBarrier(epochs=1, num_points=3).estimate(a, b, task=Task(model, data)).height
        0.0
    """

    exempt_laws: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("equal_endpoints", "closed_form_on_a_quadratic", "reversal"), "the curve is trained and not a straight line"
    )

    name: Literal["curved"] = "curved"

    kind: CurveKind = "bezier"
    """Form of the curve: ``bezier`` or ``polygon``, each with one trained bend."""

    epochs: NonNegativeInt = 10
    """Number of passes over the calibration data."""

    learning_rate: PositiveFloat = 1e-3
    """Learning rate of Adam."""

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        reference = problem.reference
        candidate = problem.candidate
        bend = self._trained(problem)

        def point(t: float) -> Posterior:
            mean = _at(self.kind, t, reference.mean, bend, candidate.mean)
            return PointPosterior(mean, buffers=interpolate_buffers(reference.buffers, candidate.buffers, t))

        return point

    def _trained(self, problem: BarrierProblem) -> dict[str, Tensor]:
        """Return the parameters of the trained bend."""
        first = problem.reference.mean
        last = problem.candidate.mean
        bend = {name: tensor.requires_grad_() for name, tensor in self._networks(problem)(0.5).mean.items()}
        optimizer = torch.optim.Adam(list(bend.values()), lr=self.learning_rate)
        generator = torch.Generator().manual_seed(problem.seed)
        weights = batch_weights(problem.calibration)
        for _ in tqdm(range(self.epochs), desc="bend", unit="epoch", leave=False, disable=not problem.progress):
            for (inputs, targets), weight in zip(problem.calibration, weights, strict=True):
                t = torch.rand((), generator=generator).item()
                with torch.enable_grad():
                    buffers = interpolate_buffers(problem.reference.buffers, problem.candidate.buffers, t)
                    outputs = problem.task.model({**_at(self.kind, t, first, bend, last), **buffers}, inputs)
                    problem.task.likelihood.check(outputs, targets)
                    loss = -problem.task.likelihood.log_prob(outputs, targets).mean()
                    optimizer.zero_grad()
                    (weight * loss).backward()
                if not bool(torch.isfinite(loss)):
                    message = f"training the bend diverged (loss {loss.item()}); lower the learning rate"
                    raise InvalidInputError(message)
                optimizer.step()
        return {name: tensor.detach() for name, tensor in bend.items()}


def _at(
    kind: CurveKind, t: float, first: Mapping[str, Tensor], bend: Mapping[str, Tensor], last: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the parameters at t of a curve."""
    if kind == "bezier":
        coefficients = (1 - t) ** 2, 2 * t * (1 - t), t**2
    else:
        coefficients = max(1 - 2 * t, 0.0), 1 - abs(2 * t - 1), max(2 * t - 1, 0.0)
    return {
        name: coefficients[0] * tensor + coefficients[1] * bend[name] + coefficients[2] * last[name]
        for name, tensor in first.items()
    }
