"""Gaussians with Kronecker-factored covariances: KFAC and EKFAC Laplace."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.checks import require_nonnegative
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior, require_same_random, unit_rows
from rebasin_core.posteriors.pairs import register_kl
from rebasin_core.posteriors.transformation import acting_on, raise_not_closed, require_unshifted
from rebasin_core.symmetry.stack_action import applied_to_axes
from rebasin_core.tensors.eigenbasis import orthogonalized
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.statistics import normal_log_density

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation
    from rebasin_core.symmetry.symmetry_element import SymmetryElement

# Tolerance for the orthonormality of a basis.
_ORTHONORMAL = 1e-3


@final
class KroneckerGaussianPosterior(AbstractGaussianPosterior):
    r"""Gaussian with independent parameters, each with a covariance that is diagonal in a Kronecker product of bases.

    A weight $W$ of shape ``[n, ...]`` is viewed as a matrix with $n$ rows. With orthonormal bases $U$ (of the first
    axis) and $V$ (of all other axes jointly) and standard deviations $S$ in that basis,

    $$ W = M + U^\top (S \odot Z)\, V, \qquad Z_{ab} \sim \mathcal N(0, 1). $$

    The KFAC precision $N B \otimes A + \delta I$ has this form: the rows of $U$ and $V$ are the eigenvectors of $B$ and
    $A$, with eigenvalues $\beta_a$ and $\alpha_b$, and $S_{ab} = (N \beta_a \alpha_b + \delta)^{-1/2}$. So do its
    eigenvalue-corrected (EKFAC) and tempered variants. A parameter with one axis (a bias) has no $V$; a scalar has
    neither $U$ nor $V$. Permutations act on the columns of $U$ and $V$ and leave $S$ unchanged.

    Signs, rotations and orthogonal maps of an axis act on the columns of its basis, too. Factors and invertible maps
    are represented if the transformed rows of the basis are still orthogonal, if the parameter has only one axis, or if
    $S$ is an outer product; in the last two cases the bases are recomputed, and the samples for given noise differ.

    No 2-Wasserstein geodesic is registered, since it is in general not Kronecker-factored; use the path `moments` or
    `samples`.

    Args:
        mean: Mean $M$ by parameter name, each ``[*s]``.
        left: Basis $U$ by parameter name, ``[n, n]`` with orthonormal rows; for parameters with at least one axis.
        right: Basis $V$ by parameter name, ``[m, *s[1:]]`` with $m$ the product of ``s[1:]``; for parameters with at
            least two axes.
        scale: Standard deviations $S$ in the bases: ``[n, m]``, ``[n]`` or a scalar; nonnegative.
        buffers: Buffers of the model by name; none if None.
        fixed: Parameters that are not random, by name; none if None.
        prior: Prior under which the posterior was fitted; None if unknown.

    Raises:
        InvalidInputError: If names or shapes do not fit, a basis is not orthonormal, or a standard deviation is
            negative.

    References:
        J. Martens, R. Grosse (2015), "Optimizing neural networks with Kronecker-factored approximate curvature", ICML,
        arXiv 1503.05671; H. Ritter, A. Botev, D. Barber (2018), "A scalable Laplace approximation for neural
        networks", ICLR; T. George et al. (2018), arXiv 1806.03884 (the eigenvalue-corrected form).

    Examples:
        >>> import torch
        >>> factors = {"w": (torch.diag(torch.tensor([3.0, 8.0])), torch.eye(2))}
        >>> q = KroneckerGaussianPosterior.from_precision_factors({"w": torch.zeros(2, 2)}, factors)
        >>> q.stddev["w"].tolist()  # 1 / sqrt(1 + 3), 1 / sqrt(1 + 8)
        [[0.5, 0.5], [0.3333333432674408, 0.3333333432674408]]
    """

    kind: ClassVar[str] = "kronecker_gaussian"

    def __init__(  # ruff: ignore[too-many-arguments] - the parts of one distribution
        self,
        mean: Mapping[str, Tensor],
        left: Mapping[str, Tensor],
        right: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        fields = {"mean": mean, "left": left, "right": right, "scale": scale}
        super().__init__(fields, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior))
        for name, tensor in mean.items():
            expected = _expected_shapes(tuple(tensor.shape))
            for field, shape in expected.items():
                given = tuple(fields[field][name].shape) if name in fields[field] else None
                if given != shape:
                    message = f"`{field}` of `{name}` has shape {given}, expected {shape}"
                    raise InvalidInputError(message)
        require_nonnegative(scale, "the standard deviation in the eigenbasis")
        for field in ("left", "right"):
            for name, basis in fields[field].items():
                _require_orthonormal(basis.flatten(1), f"`{field}` of `{name}`")

    @classmethod
    def from_precision_factors(
        cls,
        mean: Mapping[str, Tensor],
        factors: Mapping[str, Sequence[Tensor]],
        *,
        prior_precision: Mapping[str, float] | float = 1.0,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
    ) -> KroneckerGaussianPosterior:
        r"""Return the Gaussian with precision $B \otimes A + \delta I$ for each parameter.

        Args:
            mean: Mean by parameter name.
            factors: For each parameter, $B$ ``[n, n]`` and, if it has more than one axis, $A$ ``[m, m]``: symmetric,
                positive semidefinite, and summed (not averaged) over the data.
            prior_precision: Prior precision $\delta$, positive; a number, or a mapping from parameter names. Default
                1.
            buffers: Buffers of the model by name; none if None.
            fixed: Parameters that are not random, by name; none if None.

        Returns:
            The posterior.

        Raises:
            InvalidInputError: If factors do not fit the parameters, or a precision is not positive.
        """
        left: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        scale: dict[str, Tensor] = {}
        for name, tensor in mean.items():
            added = prior_precision if isinstance(prior_precision, int | float) else prior_precision[name]
            decomposed = [torch.linalg.eigh(factor) for factor in factors[name]]
            values = torch.ones((), dtype=tensor.dtype, device=tensor.device)
            # Rounding can make eigenvalues of semidefinite factors slightly negative.
            for eigenvalues, _ in decomposed:
                values = values[..., None] * eigenvalues.clamp_min(0)
            precision = values + added
            if not bool((precision > 0).all()):
                message = f"expected a positive precision of `{name}`, got a minimum of {precision.min().item():.3g}"
                raise InvalidInputError(message)
            scale[name] = precision.rsqrt()
            if decomposed:
                left[name] = decomposed[0].eigenvectors.T
            if len(decomposed) > 1:
                right[name] = decomposed[1].eigenvectors.T.reshape(-1, *tensor.shape[1:])
        return cls(mean, left, right, scale, buffers=buffers, fixed=fixed)

    @property
    def left(self) -> dict[str, Tensor]:
        """Bases $U$ of the first axes, each ``[n, n]``."""
        return copied(self._fields["left"])

    @property
    def right(self) -> dict[str, Tensor]:
        """Bases $V$ of the other axes, each ``[m, *s[1:]]``."""
        return copied(self._fields["right"])

    @property
    def scale(self) -> dict[str, Tensor]:
        """Standard deviations $S$ in the bases, each ``[n, m]``, ``[n]`` or a scalar."""
        return copied(self._fields["scale"])

    @override
    def _stddev(self) -> dict[str, Tensor]:
        # Var(W_ij) = sum_ab U_ai^2 S_ab^2 V_bj^2.
        return {
            name: self._rotated(name, scale.square(), power=2).sqrt() for name, scale in self._fields["scale"].items()
        }

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        # Noise in the eigenbasis does not change under permutations; its name is not that of a parameter.
        return {
            f"{name}/eigenbasis": standard_normal((*sample_shape, *scale.shape), scale, generator)
            for name, scale in self._fields["scale"].items()
        }

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: mean + self._rotated(name, self._fields["scale"][name] * noise[f"{name}/eigenbasis"])
            for name, mean in self._fields["mean"].items()
        }

    @override
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | float = 0.0
        for name, mean in self._fields["mean"].items():
            scale = self._positive(name)
            total += normal_log_density(self.in_eigenbasis(name, parameters[name] - mean) / scale, scale)
        return torch.as_tensor(total)

    @override
    def entropy(self) -> Tensor:
        constant = 0.5 * (1 + math.log(2 * math.pi))
        return torch.stack([(self._positive(name).log() + constant).sum() for name in self.random_names]).sum()

    def in_eigenbasis(self, name: str, tensor: Tensor) -> Tensor:
        r"""Return the coordinates $U T V^\top$ of a tensor $T$ in the eigenbasis of a parameter's covariance.

        Args:
            name: Name of the parameter.
            tensor: Tensor ``[*lead, *s]``.

        Returns:
            Coordinates ``[*lead, n, m]``, ``[*lead, n]`` or ``[*lead]``.
        """
        lead = tensor.dim() - self._dimensions(name)
        if name not in self._fields["left"]:
            return tensor
        left = self._fields["left"][name]
        if name not in self._fields["right"]:
            return tensor @ left.T
        matrix = tensor.flatten(lead + 1)
        return left @ matrix @ self._fields["right"][name].flatten(1).T

    def _rotated(self, name: str, tensor: Tensor, *, power: int = 1) -> Tensor:
        """Return U^T T V for coordinates T in the eigenbasis, with the entries of U and V raised to a power."""
        if name not in self._fields["left"]:
            return tensor
        left = self._fields["left"][name] ** power
        if name not in self._fields["right"]:
            return tensor @ left
        right = self._fields["right"][name]
        matrix = left.T @ tensor @ right.flatten(1) ** power
        return matrix.reshape(*matrix.shape[:-1], *right.shape[1:])

    @override
    def _root(self) -> dict[str, Tensor]:
        scales = self._fields["scale"]
        return {name: self._rotated(name, scales[name] * unit) for name, unit in unit_rows(scales).items()}

    def _positive(self, name: str) -> Tensor:
        scale = self._fields["scale"][name]
        if not bool((scale > 0).all()):
            message = f"expected positive standard deviations for a density, got a zero one in the bases of `{name}`"
            raise InvalidInputError(message)
        return scale

    @override
    def _permuted_field(self, permutation: Permutation, field: str) -> dict[str, Tensor]:
        tensors = self._fields[field]
        if field == "mean":
            return permutation.apply(tensors)
        return applied_to_axes(permutation, tensors, lambda name: self._dims(name, field))

    def _dims(self, name: str, field: str) -> range:
        """Return the axes of a parameter that the tensors of a field have."""
        if field == "scale":
            return range(0)
        return range(1) if field == "left" else range(1, self._dimensions(name))

    @override
    def permute_noise(self, permutation: Permutation, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Only exchanges of whole parameters change it.
        own = {name: noise[f"{name}/eigenbasis"] for name in self._fields["scale"]}
        moved = applied_to_axes(permutation, own, lambda _: range(0))
        return {**noise, **{f"{name}/eigenbasis": tensor for name, tensor in moved.items()}}

    @override
    def _transformed_fields(self, element: SymmetryElement) -> Fields:
        require_unshifted(self.kind, element, (n for n, t in self._fields["scale"].items() if bool(t.any())))
        permuted = {field: self._permuted_field(element.permutation, field) for field in ("left", "right", "scale")}
        for name, tensor in self._fields["mean"].items():
            acting = acting_on(element, name)
            scale = self._fields["scale"][name]
            for axis, field in enumerate(("left", "right")):
                if not acting or name not in self._fields[field]:
                    continue
                dims = range(1) if field == "left" else range(1, tensor.dim())
                mapped = element.apply_to_axes(name, self._fields[field][name], dims)
                found = orthogonalized(mapped.flatten(1), scale, axis)
                if found is None:
                    raise_not_closed(self.kind, acting[0][1], f"it leaves no Kronecker product for `{name}`")
                permuted[field][name], scale = found[0].reshape(mapped.shape), found[1]
            permuted["scale"][name] = scale
        return {"mean": element.apply_to_deviations(self._fields["mean"]), **permuted}

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        # Files have no empty fields: `right` is missing if only biases are random.
        left = fields.get("left", {})
        right = fields.get("right", {})
        return cls(fields["mean"], left, right, fields["scale"], **auxiliary.options)


@register_kl(KroneckerGaussianPosterior, KroneckerGaussianPosterior)
def _divergence(first: KroneckerGaussianPosterior, second: KroneckerGaussianPosterior) -> float:
    r"""Return the divergence, computed for each parameter in the eigenbasis of $q_1$.

    The variances of $q_0$ in this basis are $(U_1 U_0^\top)^{\circ 2} S_0^{\circ 2} (V_0 V_1^\top)^{\circ 2}$.
    """
    require_same_random(first, second)
    left, other_left = first.left, second.left
    right, other_right = first.right, second.right
    scale, other_scale = first.scale, second.scale
    mean, other_mean = first.mean, second.mean
    total = 0.0
    for name in first.random_names:
        own = scale[name].square()
        other = other_scale[name].square()
        variance = own
        if name in left:
            mixed = (other_left[name] @ left[name].T).square()
            variance = mixed @ variance if name in right else variance @ mixed.T
        if name in right:
            variance @= (right[name].flatten(1) @ other_right[name].flatten(1).T).square()
        shift = second.in_eigenbasis(name, mean[name] - other_mean[name]).square()
        total += 0.5 * ((variance + shift) / other - 1 + other.log() - own.log()).sum().item()
    return total


def _expected_shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if not shape:
        return {"scale": ()}
    rest = math.prod(shape[1:])
    if len(shape) == 1:
        return {"left": (shape[0], shape[0]), "scale": (shape[0],)}
    return {"left": (shape[0], shape[0]), "right": (rest, *shape[1:]), "scale": (shape[0], rest)}


def _require_orthonormal(basis: Tensor, label: str) -> None:
    # A test vector costs two matrix-vector products instead of a matrix product.
    probe = torch.linspace(-1, 2, len(basis), dtype=basis.dtype, device=basis.device)
    error = (basis @ (basis.T @ probe) - probe).abs().max().item()
    if not error <= _ORTHONORMAL * max(1.0, 2.0 * math.sqrt(len(basis)) * torch.finfo(basis.dtype).eps / 1e-7):
        message = f"expected orthonormal rows (eigenvectors) in {label}, got an error of {error:.2g}"
        raise InvalidInputError(message)
