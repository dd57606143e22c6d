"""Subspace inference: Hamiltonian Monte Carlo in a low-dimensional affine subspace of weight space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast, final

import torch
from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.affine_subspace import AffineSubspace, SubspaceNetwork
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.gradient import on_model_device
from rebasin_core.inference.hmc import HMC
from rebasin_core.inference.nuts import NUTS
from rebasin_core.inference.swag import SWAG
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.memory import free_memory, total_memory

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior


@final
class SubspaceInference(Inference):
    r"""Subspace inference: sample the posterior of the coordinates in an affine subspace of weight space.

    $$ \theta(z) = m + \sum_{r=1}^R z_r P_r, \qquad
       p(z \mid D) \propto p(D \mid \theta(z))\, \mathcal N(z; 0, \sigma_z^2 I) $$

    A training run of SWAG gives the mean $m$ of its iterates. The directions $P_r$ are the largest principal components
    of their deviations, with the standard deviations of the components as their lengths, or random directions of unit
    length. Hamiltonian Monte Carlo on all data then samples the coordinates $z$. The prior of the coordinates is that
    of the sampler (``prior_scale`` is $\sigma_z$): the scale of $\theta - m$ along each direction in units of its
    length. The first chain starts at the mean, the others at draws from the prior.

    The posterior is a set of samples of the weights, which permutes like any other. All samples have the buffers of the
    mean.

    With a checkpoint, the state of the sampler is in a second file in the same folder, with the suffix
    ``-coordinates`` of its name. `FitResult.history` has the epochs of training, then the transitions of the sampler.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if the samples of the weights need more memory than there is.

    References:
        P. Izmailov et al. (2019), "Subspace inference for Bayesian deep learning", UAI, arXiv 1907.07504, sections 3
        and 4 (without its temperature: see the option of the sampler).

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> method = SubspaceInference(rank=2, trajectory=SWAG(epochs=6), sampler=NUTS(chains=2, warmup=20, draws=5))
        >>> method.fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        10
    """

    name: Literal["subspace"] = "subspace"

    directions: Literal["pca", "random"] = "pca"
    """``pca``: principal components of the iterates of training; ``random``: independent random directions."""

    rank: PositiveInt = 5
    """Number R of directions; with ``pca``, at most the number of deviations that ``trajectory`` collects."""

    trajectory: SWAG = Field(default_factory=SWAG)
    """Training whose iterates give the mean and the directions; of one network (``members: 1``)."""

    sampler: Annotated[NUTS | HMC, Field(discriminator="name")] = Field(default_factory=NUTS)
    r"""Sampler of the coordinates: ``nuts`` or ``hmc``, with its options. Its ``prior_scale`` is $\sigma_z$."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.trajectory.members != 1:
            message = f"expected a `trajectory` of one network, got members={self.trajectory.members}"
            raise ValueError(message)
        if self.sampler.warm_start:
            message = "expected a `sampler` without `warm_start`: its chains start in a subspace of trained networks"
            raise ValueError(message)
        if isinstance(self.sampler.prior_scale, tuple):
            message = (
                f"expected a number as `prior_scale` of the `sampler`, got {dict(self.sampler.prior_scale)}: its only "
                "parameter is the vector of coordinates"
            )
            raise ValueError(message)  # ruff: ignore[type-check-without-type-error] - pydantic reports only these
        deviations = min(self.trajectory.rank, self.trajectory.num_collected)
        if self.directions == "pca" and self.rank > deviations:
            message = (
                f"expected a `rank` of at most {deviations}, the number of deviations that `trajectory` collects, got "
                f"{self.rank}; lower it, or raise `rank` and `epochs` of `trajectory`"
            )
            raise ValueError(message)
        return self

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _check(self, problem: FitProblem) -> None:
        self._require_memory(problem)
        self.trajectory.check_problem(problem)
        local = on_model_device(problem)
        mean = {name: tensor.detach() for name, tensor in problem.model.named_parameters()}
        buffers = dict(problem.model.named_buffers())
        subspace = AffineSubspace.random(mean, self.rank, local.generator)
        self.sampler.check_problem(self._reduced(local, subspace, buffers))

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        local = on_model_device(problem)
        self._require_memory(problem)
        # Both are seeded before training: a resumed run does not repeat the random numbers of its epochs.
        first, second = (_seeded(local.generator), _seeded(local.generator))
        label = f"{problem.label}: trajectory"
        trained = self.trajectory.solve(replace(problem, generator=_seeded(local.generator), label=label))
        gaussian = cast("LowRankGaussianPosterior", trained.posterior)
        subspace = self._subspace(gaussian, first)
        reduced = replace(
            self._reduced(local, subspace, gaussian.buffers),
            generator=second,
            checkpoint=None if problem.checkpoint is None else _second_file(problem.checkpoint),
            label=f"{problem.label}: coordinates",
        )
        sampled = self.sampler.solve(reduced)
        draws = cast("SamplesPosterior", sampled.posterior)
        posterior = SamplesPosterior(
            subspace.at(draws.samples["coordinates"]), chains=draws.chains, buffers=gaussian.buffers
        )
        return FitResult(
            posterior,
            (*trained.history, *sampled.history),
            trained.resumed_at + sampled.resumed_at,
            validation=trained.validation,
            sampler=sampled.sampler,
        )

    def _require_memory(self, problem: FitProblem) -> None:
        """Raise if the samples of the weights do not fit into memory."""
        parameters = list(problem.model.parameters())
        count = self.sampler.chains * self.sampler.draws
        required = count * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        device = parameters[0].device
        given = free_memory(device) if device.type == "cuda" else total_memory(device)
        if required > given:
            message = (
                f"expected samples of the weights that fit into memory, got {count}, which need "
                f"{required / 2**30:.1f} GiB of {given / 2**30:.1f} GiB; use fewer `draws` of the `sampler`, with more "
                "`thinning`, or fewer `chains`"
            )
            raise InvalidInputError(message)

    def _subspace(self, gaussian: LowRankGaussianPosterior, generator: torch.Generator) -> AffineSubspace:
        """Return the subspace of a trajectory."""
        if self.directions == "random":
            return AffineSubspace.random(gaussian.mean, self.rank, generator)
        # The factor is scaled by the square root of `scale`, which belongs to the covariance of SWAG.
        factor = {name: tensor * self.trajectory.scale**-0.5 for name, tensor in gaussian.factor.items()}
        return AffineSubspace.principal(gaussian.mean, factor, min(self.rank, gaussian.rank))

    def _reduced(self, problem: FitProblem, subspace: AffineSubspace, buffers: dict[str, torch.Tensor]) -> FitProblem:
        """Return the problem of inferring the coordinates."""
        scale = cast("float", self.sampler.prior_scale)
        network = SubspaceNetwork(problem.model, subspace, buffers, scale=scale)
        return replace(problem, model=network, validation=None, layout=None)


def _seeded(generator: torch.Generator) -> torch.Generator:
    """Return a new generator with a seed drawn from another one."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    return torch.Generator(generator.device).manual_seed(seed)


def _second_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.stem}-coordinates{checkpoint.suffix}")
