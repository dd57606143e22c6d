"""Stein variational gradient descent, with the option to permute the particles to a shared ordering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.options import PositiveFinite
from rebasin_core.inference.ordering import StackedOrdering, optimizer_states, permute_member
from rebasin_core.inference.prior import scales_of
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.inference.stacked_inference import AbstractParallelInference
from rebasin_core.inference.stein import stein_direction
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.layout import Layout


@final
class SVGD(AbstractParallelInference):
    r"""Stein variational gradient descent (SVGD): K particles that follow the posterior and repel each other.

    The steps of the optimizer use the following direction instead of the gradient of
    $\tilde U = -\tfrac1N \log p(\theta, D)$, computed on a minibatch:

    $$ d_i = \frac1K \sum_{j=1}^K \Big( k(\theta_j, \theta_i) \nabla \tilde U(\theta_j)
       - \frac{T}{N} \nabla_{\theta_j} k(\theta_j, \theta_i) \Big), \qquad
       k(\theta, \theta') = \exp\!\big(-\lVert \theta - \theta' \rVert^2 / h\big) $$

    with N examples, the temperature $T$ and the bandwidth $h = \mathrm{med}^2 / \log K$, where $\mathrm{med}$ is the
    median distance between particles. With one particle this is the MAP estimate. For particles at large distances the
    direction is $1 / K$ of the gradient, which matters for the learning rate of SGD but not for that of Adam. The first
    particle is initialized at the parameters of the model, the others by ``reset_parameters``.

    *Alignment.* Particles in two equivalent modes, which differ by a permutation of hidden units, are the same network,
    but far apart for the kernel. With ``align_every``, all particles are permuted to a shared ordering of their units
    at intervals. This replaces each particle by one of the same function and the same posterior density. Between these
    intervals the steps are those of SVGD with the same positive definite kernel, and the same target. The kernel then
    compares networks at a local minimum of their sum of squared distances over permutations. Its alternative, the
    kernel of the distance minimized for each pair, is symmetric but in general not positive definite.

    With few particles and many parameters, the variances are too small: the repulsion of the RBF kernel becomes weak in
    high dimension (Ba et al. 2022).

    Raises:
        ConfigError: If an option is invalid.

    References:
        Q. Liu, D. Wang (2016), "Stein variational gradient descent: a general purpose Bayesian inference algorithm",
        NeurIPS, arXiv 1608.04471, algorithm 1 and section 3.2 (bandwidth); J. Ba et al. (2022), "Understanding the
        variance collapse of SVGD in high dimensions", ICLR.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SVGD(particles=3, epochs=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        3
    """

    name: Literal["svgd"] = "svgd"

    particles: PositiveInt = 10
    """Number K of particles; with one, the MAP estimate."""

    bandwidth: PositiveFinite | None = None
    r"""Bandwidth of the kernel as a length $\sqrt h$ in weight space, positive. If None, computed at every step from
    the median distance between particles."""

    align_every: NonNegativeInt = 0
    """Number of epochs between two alignments of the particles, starting before the first epoch; 0 for SVGD without
    alignment. Needs the symmetries of the network (``spec``)."""

    temperature: NonNegativeFloat = 1.0
    r"""Temperature $T$, at least 0; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and
    prior are tempered. With 0 there is no repulsion, and particles only share their gradients."""

    @property
    @override
    def _num_networks(self) -> int:
        return self.particles

    @property
    @override
    def uses_spec(self) -> bool:
        return self.align_every > 0

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self)


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: SVGD) -> None:
        super().__init__(
            problem,
            model,
            members=method.particles,
            prior_scale=method.prior_scale,
            prior_fan_in=method.prior_fan_in,
            together=method.together,
        )
        self._method = method
        self._ordering: StackedOrdering | None = None
        if method.align_every:
            self._ordering = StackedOrdering(self._checked_layout(), problem.generator)

    def _checked_layout(self) -> Layout:
        """Return the symmetries; raise if there are none, or the prior is not invariant under them."""
        layout = self.problem.layout
        if layout is None:
            message = (
                f"`align_every={self._method.align_every}` requires the symmetries of the network; pass `spec` to "
                "`fit`, or omit it"
            )
            raise InvalidInputError(message)
        first, _ = self.copies(0)
        layout.check({**first, **dict(self.model.module.named_buffers())}, "the model")
        scales = scales_of(first, self._method.prior_scale, by_fan_in=self._method.prior_fan_in)
        # Flat priors have no density; their precision is zero, which here only needs to differ from all others.
        tensors = {name: torch.tensor(1 / scale**2 + 1, dtype=torch.float64) for name, scale in scales.items()}
        if not GaussianPrior({n: t.new_zeros(()) for n, t in tensors.items()}, tensors).is_exchangeable(layout):
            message = (
                "expected a `prior_scale` that is the same for all units which the symmetries exchange, got different "
                "scales in a stack of layers: the posterior density would change with the order of the units. Use one "
                "scale for these layers, or omit `align_every`"
            )
            raise InvalidInputError(message)
        return layout

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        if self._ordering is None or step % (self._method.align_every * self.problem.num_batches):
            return
        tensors = [{**self.parameters, **self.buffers}, *optimizer_states(optimizer, self.parameters)]
        for member, permutation in enumerate(self._ordering.find(self.parameters)):
            for stacked in tensors if not permutation.is_identity else []:
                permute_member(permutation, member, stacked)

    @override
    def adjust_gradients(self, *, weight: float) -> None:
        gradients = {name: tensor.grad for name, tensor in self.parameters.items() if tensor.grad is not None}
        if not gradients or self.members == 1:
            return
        # The training loop weights the gradients of the batch; the repulsion has the same weight.
        repulsion = weight * self._method.temperature / self.problem.num_examples
        directions = stein_direction(self.parameters, gradients, repulsion=repulsion, bandwidth=self._method.bandwidth)
        for name, direction in directions.items():
            self.parameters[name].grad = direction

    @override
    def posterior(self) -> Posterior:
        return SamplesPosterior(copied(self.parameters), sample_buffers=copied(self.buffers), prior=self.prior)
