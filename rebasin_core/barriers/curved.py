"""Curved paths: a trained bend between two networks, where a straight line has a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.measured import AbstractPathBarrier
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.pairing import blend_buffers
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.networks import EvaluationOptions
    from rebasin_core.posteriors.base import Posterior

CurveKind: TypeAlias = Literal["bezier", "polygon"]


@final
class CurvedBarrier(AbstractPathBarrier):
    r"""Trains a curve between the means of two posteriors, and measures the loss along it.

    With one bend $\theta_b$, that starts half-way between the ends,

    $$ \text{bezier: } (1-t)^2 \theta_0 + 2 t (1-t)\, \theta_b + t^2 \theta_1, \qquad
       \text{polygon: } \theta_0 \to \theta_b \to \theta_1 \text{ on two straight lines,} $$

    the bend minimises the expected loss at a uniform $t$, on the calibration data (give training data). A low barrier
    here says that two networks are connected, not that they are the same up to symmetries.

    Args:
        kind: ``bezier`` or ``polygon``.
        epochs: Passes over the calibration data.
        learning_rate: Of Adam, positive.
        num_points: Number of places, ends included: odd, at least 3.
        tolerance: As for `PointwiseBarrier`.
        metric: As for `PointwiseBarrier`.
        evaluation: How networks are run.

    Raises:
        InvalidInputError: If an option is out of range, or training diverges.

    References:
        T. Garipov et al. (2018), "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS, arXiv
        1802.10026, equations 1 to 4.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a, b = (PointPosterior({"weight": torch.tensor([[v], [0.0]])}) for v in (-1.0, 1.0))
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> CurvedBarrier(epochs=1, num_points=3).estimate(a, b, model=model, data=data).height
        0.0
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        kind: CurveKind = "bezier",
        epochs: int = 10,
        learning_rate: float = 1e-3,
        num_points: int = 25,
        tolerance: float | None = None,
        metric: Metric | str = "nll",
        evaluation: EvaluationOptions | None = None,
    ) -> None:
        super().__init__(
            num_points=num_points, num_samples=1, tolerance=tolerance, metric=metric, evaluation=evaluation
        )
        if kind not in get_args(CurveKind) or epochs < 0 or not learning_rate > 0:
            message = (
                f"expected a kind among {get_args(CurveKind)}, epochs of at least 0 and a positive learning rate, got "
                f"{kind!r}, {epochs!r} and {learning_rate!r}"
            )
            raise InvalidInputError(message)
        self._kind: CurveKind = kind
        self._epochs, self._learning_rate = epochs, learning_rate

    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        ends = problem.reference, problem.candidate
        bend = self._trained(problem)

        def point(t: float) -> Posterior:
            here = _at(self._kind, t, ends[0].mean, bend, ends[1].mean)
            return PointPosterior(here, buffers=blend_buffers(ends[0].buffers, ends[1].buffers, t))

        return point

    def _trained(self, problem: BarrierProblem) -> dict[str, Tensor]:
        """Return the bend."""
        first, last = problem.reference.mean, problem.candidate.mean
        bend = {name: torch.lerp(tensor, last[name], 0.5).requires_grad_() for name, tensor in first.items()}
        optimizer = torch.optim.Adam(list(bend.values()), lr=self._learning_rate)
        generator = torch.Generator().manual_seed(problem.seed)
        ends = problem.reference.buffers, problem.candidate.buffers
        for _ in tqdm(range(self._epochs), desc="bend", unit="epoch", leave=False, disable=not problem.progress):
            for inputs, targets in problem.calibration:
                t = torch.rand((), generator=generator).item()
                with torch.enable_grad():
                    tensors = {**_at(self._kind, t, first, bend, last), **blend_buffers(*ends, t)}
                    outputs = problem.model(tensors, inputs)
                    problem.likelihood.check(outputs, targets)
                    loss = -problem.likelihood.log_prob(outputs, targets).mean()
                    optimizer.zero_grad()
                    loss.backward()
                if not bool(torch.isfinite(loss)):
                    message = f"training the bend diverged (loss {loss.item()}); lower the learning rate"
                    raise InvalidInputError(message)
                optimizer.step()
        return {name: tensor.detach() for name, tensor in bend.items()}


def _at(
    kind: CurveKind, t: float, first: Mapping[str, Tensor], bend: Mapping[str, Tensor], last: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the parameters at a place of a curve."""
    if kind == "bezier":
        shares = (1 - t) ** 2, 2 * t * (1 - t), t**2
    else:
        shares = max(1 - 2 * t, 0.0), 1 - abs(2 * t - 1), max(2 * t - 1, 0.0)
    return {
        name: shares[0] * tensor + shares[1] * bend[name] + shares[2] * last[name] for name, tensor in first.items()
    }
