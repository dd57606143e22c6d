"""Gaussians with a dense covariance: exact posteriors of linear models, full Laplace."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import ConvergenceWarning, InvalidInputError
from rebasin_core.posteriors.attached import require_compatible
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.pairs import register_barycenter, register_geodesic
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.optimal_transport import orthogonal_procrustes, squared_distance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.averaging import TensorWeights
    from rebasin_core.posteriors.capabilities import PosteriorPath
    from rebasin_core.posteriors.prior import GaussianPrior

# Maximum number of fixed-point iterations for the barycenter, and the relative change at which they stop.
_ITERATIONS = 50
_TOLERANCE = 1e-7


@final
class FullGaussianPosterior(AbstractGaussianPosterior):
    r"""Gaussian $\mathcal N(m, A^\top A)$ with any covariance, stored as a root $A$.

    $$ \theta = m + A^\top z, \qquad z \sim \mathcal N(0, I_R) $$

    Every row of $A$ has the shape of the parameters: permuting $A$ permutes the rows and columns of the covariance.

    On the 2-Wasserstein (Bures-Wasserstein) geodesic, mean and root are linear in t: $m_t = (1-t) m_0 + t m_1$ and
    $A_t = (1-t) A_0 + t Q A_1$. $Q$ is the orthogonal Procrustes solution
    $\operatorname*{argmin}_Q \lVert A_0 - Q A_1 \rVert_F$.

    Args:
        mean: Mean $m$ by parameter name, each ``[*s]``.
        root: Root $A$ of the covariance by parameter name, each ``[R, *s]`` with the same R. A density requires R of at
            least the number of parameters.
        buffers: Buffers of the model by name; none if None.
        fixed: Parameters that are not random, by name; none if None.
        prior: Prior under which the posterior was fitted; None if unknown.

    Raises:
        InvalidInputError: If names or shapes differ, or an entry is not finite.

    References:
        M. Gelbrich (1990), "On a formula for the L2 Wasserstein metric", Math. Nachr. 147; R. Bhatia, T. Jain, Y. Lim
        (2019), "On the Bures-Wasserstein distance", Expo. Math. 37, arXiv 1712.01504, section 3.

    Examples:
        >>> import torch
        >>> q = FullGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.tensor([[1.0, 1.0], [0.0, 1.0]])})
        >>> q.covariance().tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """

    kind: ClassVar[str] = "full_gaussian"
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"root", "mean"})

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        root: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        super().__init__({"mean": mean, "root": root}, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior))
        rows = {name: len(tensor) if tensor.dim() else 0 for name, tensor in root.items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            message = f"expected a root with the same number of rows (at least 1) for every parameter, got {rows}"
            raise InvalidInputError(message)
        require_same_tensors(mean, {name: tensor[0] for name, tensor in root.items()}, "a row of the root")

    @classmethod
    def from_covariance(
        cls,
        mean: Mapping[str, Tensor],
        covariance: Tensor,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> FullGaussianPosterior:
        """Return the Gaussian with a given covariance matrix.

        Args:
            mean: Mean by parameter name, P entries in total.
            covariance: Covariance ``[P, P]``, symmetric and positive definite, in the order of ``mean``.
            buffers: Buffers of the model by name; none if None.
            fixed: Parameters that are not random, by name; none if None.
            prior: Prior under which the posterior was fitted; None if unknown.

        Returns:
            The posterior.

        Raises:
            InvalidInputError: If the matrix has another size, or is not symmetric and positive definite.
        """
        sizes = [tensor.numel() for tensor in mean.values()]
        if tuple(covariance.shape) != (sum(sizes), sum(sizes)):
            message = f"expected a covariance [{sum(sizes)}, {sum(sizes)}], got {list(covariance.shape)}"
            raise InvalidInputError(message)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        asymmetry = (covariance - covariance.T).abs().max().item()
        if int(failed) or asymmetry > 1e-4 * covariance.abs().max().item():
            reason = (
                f"a nonpositive leading minor of order {int(failed)}"
                if int(failed)
                else f"an asymmetry of {asymmetry:.2g}"
            )
            message = f"expected a symmetric, positive definite covariance, got {reason}"
            raise InvalidInputError(message)
        columns = factor.T.split(sizes, dim=1)
        root = {n: c.reshape(-1, *t.shape) for c, (n, t) in zip(columns, mean.items(), strict=True)}
        return cls(mean, root, buffers=buffers, fixed=fixed, prior=prior)

    @classmethod
    def from_gaussian(cls, posterior: AbstractGaussianPosterior) -> FullGaussianPosterior:
        """Return the same distribution as a dense Gaussian, which is closed under all linear maps.

        Args:
            posterior: A Gaussian with at most 10,000 random parameters.

        Returns:
            The posterior, with the same fixed parameters, buffers and prior.

        Raises:
            InvalidInputError: If there are more random parameters.
        """
        auxiliary = AuxiliaryTensors.of(posterior.buffers, posterior.fixed, posterior.prior)
        return cls(posterior.random_mean, posterior.root(), **auxiliary.options)

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {name: tensor.square().sum(0).sqrt() for name, tensor in self._fields["root"].items()}

    @property
    def rows(self) -> int:
        """Number R of rows of the root."""
        return len(next(iter(self._fields["root"].values())))

    @property
    def factor(self) -> dict[str, Tensor]:
        """Root $A$ of the covariance, each ``[R, *s]``."""
        return copied(self._fields["root"])

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        like = next(iter(self._fields["mean"].values()))
        return {"": standard_normal((*sample_shape, self.rows), like, generator)}

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: mean + torch.tensordot(noise[""], self._fields["root"][name], dims=1)
            for name, mean in self._fields["mean"].items()
        }

    @override
    def _root(self) -> dict[str, Tensor]:
        return dict(self._fields["root"])

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        return cls(fields["mean"], fields["root"], **auxiliary.options)


@register_geodesic(FullGaussianPosterior, FullGaussianPosterior)
def _geodesic(first: FullGaussianPosterior, second: FullGaussianPosterior) -> PosteriorPath:
    require_compatible(first, second)
    rows = max(first.rows, second.rows)
    root = _padded(first.factor, rows)
    rotated = orthogonal_procrustes(root, _padded(second.factor, rows))
    return _with_root(first, root).linear_path(_with_root(second, rotated))


@register_barycenter(FullGaussianPosterior)
def _barycenter(posteriors: Sequence[FullGaussianPosterior], weights: TensorWeights) -> FullGaussianPosterior:
    """Return the fixed point of Alvarez-Esteban et al.: rotate all roots to the current one, average, and repeat."""
    weights.require_uniform("dense Gaussians")
    rows = max(q.rows for q in posteriors)
    roots = [_padded(q.factor, rows) for q in posteriors]
    current = roots[0]
    for _ in range(_ITERATIONS):
        previous = current
        current = weights.mean([orthogonal_procrustes(previous, root) for root in roots])
        size = squared_distance(current, {name: torch.zeros_like(tensor) for name, tensor in current.items()})
        if squared_distance(current, previous) <= _TOLERANCE**2 * size:
            break
    else:
        message = (
            f"the barycenter of dense Gaussians did not converge in {_ITERATIONS} iterations; the result is approximate"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    mean = weights.mean([q.random_mean for q in posteriors])
    fixed = weights.mean([q.fixed for q in posteriors])
    return FullGaussianPosterior(mean, current, fixed=fixed, buffers=weights.mean([q.buffers for q in posteriors]))


def _with_root(posterior: FullGaussianPosterior, root: Mapping[str, Tensor]) -> FullGaussianPosterior:
    return FullGaussianPosterior(
        posterior.random_mean, root, fixed=posterior.fixed, buffers=posterior.buffers, prior=posterior.prior
    )


def _padded(root: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Return a root with zero rows appended, which leave the covariance unchanged."""
    return {name: torch.cat([t, t.new_zeros((rows - len(t), *t.shape[1:]))]) for name, t in root.items()}
