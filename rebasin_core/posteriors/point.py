"""Point masses: single networks as posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.posteriors.attached import AbstractAttachedPosterior, Fields
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, PosteriorPath
from rebasin_core.posteriors.pairs import register_barycenter, register_geodesic
from rebasin_core.tensors.checks import require_tensors
from rebasin_core.tensors.modules import copied, unwrapped
from rebasin_core.tensors.names import buffers_among

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor, nn

    from rebasin_core.posteriors.averaging import TensorWeights
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.tensors.names import TensorNames


@final
class PointPosterior(AbstractIndependentGaussian, AbstractAttachedPosterior):
    r"""Point mass $\delta_{\theta}$ at a single network: a checkpoint, or a point estimate such as MAP.

    Args:
        mean: Parameters $\theta$ by name, each ``[*s]``.
        buffers: Buffers of the model by name; none if None.
        fixed: Further parameters by name, added to ``mean``.
        prior: Prior under which it was fitted; None if unknown.

    Examples:
        >>> import torch
        >>> point = PointPosterior({"w": torch.tensor([1.0, 2.0])})
        >>> point.mean["w"].tolist(), point.stddev["w"].tolist()
        ([1.0, 2.0], [0.0, 0.0])
    """

    kind: ClassVar[str] = "point"
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"mean"})

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        super().__init__({"mean": {**mean, **(fixed or {})}}, auxiliary=AuxiliaryTensors.of(buffers, None, prior))

    @classmethod
    def from_module(cls, model: nn.Module) -> PointPosterior:
        """Return the point mass at the current parameters of a model.

        Args:
            model: Any module.

        Returns:
            The point mass, with copies of the parameters and buffers.
        """
        inner = unwrapped(model)
        return cls(
            copied(dict(inner.named_parameters())),
            buffers=copied(dict(inner.named_buffers())),
        )

    @classmethod
    def from_tensors_by_name(cls, tensors: Mapping[str, Tensor], names: TensorNames | None = None) -> PointPosterior:
        """Return the point mass at a state dict.

        Args:
            tensors: Parameters and buffers by name.
            names: Names of the network's tensors. If None or without buffer names, integer tensors and normalization
                statistics (such as ``running_mean``) are buffers.

        Returns:
            The point mass, with copies of the tensors.

        Raises:
            InvalidInputError: If a value is not a tensor, a parameter has an integer dtype, or two names of one tensor
                have different values.
        """
        label = "the state dict"
        require_tensors(tensors, label)
        # Copies do not share memory, by which second names of tied weights are found.
        named = copied(tensors if names is None else names.renamed(tensors, label))
        buffers = buffers_among(named)
        if names is not None:
            named, buffers = names.divide({n: t for n, t in named.items() if n not in buffers}, buffers, label)
        return cls({name: tensor for name, tensor in named.items() if name not in buffers}, buffers=buffers)

    @override
    def _named_as(self, names: TensorNames) -> PointPosterior:
        mean = self._fields["mean"]
        if self._is_named_as(names) and all(t.is_floating_point() or t.is_complex() for t in mean.values()):
            return self
        parameters, buffers = names.divide(mean, self._auxiliary.buffers, "the point")
        prior = self._auxiliary.named_as(names, "the point").prior
        return PointPosterior(parameters, buffers=buffers, prior=prior)

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(tensor) for name, tensor in self._fields["mean"].items()}

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        # There is no noise; the empty tensor has the sample shape.
        return {"": torch.zeros((*sample_shape, 0))}

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shape = tuple(noise[""].shape[:-1])
        return {name: t.expand((*shape, *t.shape)).clone() for name, t in self._fields["mean"].items()}

    @property
    @override
    def is_point(self) -> bool:
        return True

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        return cls(fields["mean"], **auxiliary.options)


@register_geodesic(PointPosterior, PointPosterior)
def _straight_line(first: PointPosterior, second: PointPosterior) -> PosteriorPath:
    return first.linear_path(second)


@register_barycenter(PointPosterior)
def weighted_mean(points: Sequence[PointPosterior], weights: TensorWeights) -> PointPosterior:
    """Return the weighted mean of single networks, their 2-Wasserstein barycenter.

    Args:
        points: Single networks over the same tensors, at least one.
        weights: Their weights for each tensor.

    Returns:
        The mean of parameters and of floating-point buffers.
    """
    buffers = weights.mean([q.buffers for q in points])
    return PointPosterior(weights.mean([q.mean for q in points]), buffers=buffers)
