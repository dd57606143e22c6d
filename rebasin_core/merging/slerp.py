"""Spherical linear interpolation between two networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.merging.base import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem

# As in mergekit.
_PARALLEL = 0.9995


@final
class SLERPMerge(MergeMethod):
    r"""Spherical linear interpolation of two networks, separately for each tensor.

    With the angle $\Omega$ between the two tensors as vectors, and the interpolation coefficient $t$, which is the
    normalized weight of the second network:

    $$ \frac{\sin((1-t)\,\Omega)}{\sin \Omega}\, \theta_0 + \frac{\sin(t\,\Omega)}{\sin \Omega}\, \theta_1 $$

    Vectors that are nearly parallel or antiparallel ($|\cos \Omega| > 0.9995$) are interpolated linearly, as in
    mergekit. If a tensor is zero, there is no angle, and the interpolation is linear too; mergekit uses a right angle.

    References:
        K. Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH, section 3.3.

    Examples:
        >>> import torch
        >>> SLERPMerge().merge("w", [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], [0.5, 0.5])
        tensor([0.7071, 0.7071])
    """

    min_networks: ClassVar[int] = 2
    max_networks: ClassVar[int | None] = 2

    name: Literal["slerp"] = "slerp"

    @property
    @override
    def uses_base(self) -> bool:
        return False

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        weights = problem.weight_vector
        gram = problem.gram()
        cosine = gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt()
        if cosine.abs() <= _PARALLEL:  # false for NaN, if a tensor is zero
            angle = cosine.acos().to(weights.device)
            weights = (weights * angle).sin() / angle.sin()
        return problem.map_values(lambda values: weights @ values)
