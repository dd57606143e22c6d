"""Gaussians with any covariance: exact posteriors of small models, full Laplace, the oracle of the other forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import AbstractGeodesic, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.pairing import blend, blend_buffers, require_pair, require_same_tensors
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.optimal_transport import orthogonal_procrustes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.prior import GaussianPrior


@final
class FullGaussianPosterior(AbstractGaussianPosterior, AbstractGeodesic):
    r"""The Gaussian $\mathcal N(m, A^\top A)$ with any covariance, kept as a root $A$.

    $$ \theta = m + A^\top z, \qquad z \sim \mathcal N(0, I_R) $$

    Every row of $A$ has the shape of the parameters, so that a permutation moves the covariance by moving $A$: both
    sides at once, exactly. 2-Wasserstein geodesics are those of Bures: with the root of the other end turned as near as
    it comes ($Q$, by Procrustes), $m_t$ and $A_t = (1-t) A_0 + t Q A_1$ are linear.

    Args:
        mean: $m$ by parameter name.
        root: $A$: ``[R, *s]`` by parameter name, the same R for all; for a density, R at least the number of
            parameters.
        buffers: The model's buffers by name.
        fixed: Parameters that are not random, by name.
        prior: The prior that it was fitted under, if known.

    Raises:
        InvalidInputError: If names or shapes differ, or an entry is not finite.

    References:
        M. Gelbrich (1990), "On a formula for the L2 Wasserstein metric", Math. Nachr. 147; R. Bhatia, T. Jain, Y. Lim
        (2019), "On the Bures-Wasserstein distance", Expo. Math. 37, arXiv 1712.01504, section 3.

    Example:
        >>> import torch
        >>> q = FullGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.tensor([[1.0, 1.0], [0.0, 1.0]])})
        >>> q.covariance().tolist()
        [[1.0, 1.0], [1.0, 2.0]]
    """

    kind: ClassVar[str] = "full_gaussian"

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        root: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        super().__init__({"mean": mean, "root": root}, companions=Companions.of(buffers, fixed, prior))
        rows = {name: len(tensor) if tensor.dim() else 0 for name, tensor in root.items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            message = f"expected a root with as many rows (at least 1) for every parameter, got {rows}"
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
        """Return the Gaussian with a covariance matrix.

        Args:
            mean: By parameter name.
            covariance: ``[P, P]``, symmetric and positive definite, in the order of ``mean``.
            buffers: The model's buffers by name.
            fixed: Parameters that are not random, by name.
            prior: The prior that it was fitted under, if known.

        Returns:
            The posterior.

        Raises:
            InvalidInputError: If the matrix has another size, or is not positive definite.
        """
        sizes = [tensor.numel() for tensor in mean.values()]
        if tuple(covariance.shape) != (sum(sizes), sum(sizes)):
            message = f"expected a covariance [{sum(sizes)}, {sum(sizes)}], got {list(covariance.shape)}"
            raise InvalidInputError(message)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        asymmetry = (covariance - covariance.T).abs().max().item()
        if int(failed) or asymmetry > 1e-4 * covariance.abs().max().item():
            why = (
                f"its leading minor {int(failed)} is not positive" if int(failed) else f"asymmetric by {asymmetry:.2g}"
            )
            message = f"expected a symmetric, positive definite covariance, got one that is not: {why}"
            raise InvalidInputError(message)
        columns = factor.T.split(sizes, dim=1)
        root = {n: c.reshape(-1, *t.shape) for c, (n, t) in zip(columns, mean.items(), strict=True)}
        return cls(mean, root, buffers=buffers, fixed=fixed, prior=prior)

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {name: tensor.square().sum(0).sqrt() for name, tensor in self._fields["root"].items()}

    @property
    def rows(self) -> int:
        """The number R of rows of the root."""
        return len(next(iter(self._fields["root"].values())))

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
    def geodesic(self, other: Posterior, t: float) -> FullGaussianPosterior:
        end = require_pair(self, other, t)
        rows = max(self.rows, end.rows)
        start, target = (_padded(q._fields["root"], rows) for q in (self, end))
        return FullGaussianPosterior(
            blend(self._fields["mean"], end._mean(), t),  # ruff: ignore[private-member-access] - same class
            blend(start, orthogonal_procrustes(start, target), t),
            fixed=blend(self._fixed, end._fixed, t),  # ruff: ignore[private-member-access]
            buffers=blend_buffers(self.buffers, end.buffers, t),
        )

    @override
    def _root(self) -> dict[str, Tensor]:
        return dict(self._fields["root"])

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, free: Mapping[str, Tensor], companions: Companions) -> Self:
        return cls(fields["mean"], fields["root"], **companions.options)


def _padded(root: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Return a root with rows of zeros added, which change nothing."""
    return {name: torch.cat([t, t.new_zeros((rows - len(t), *t.shape[1:]))]) for name, t in root.items()}
