"""A point: all mass on one setting of the parameters."""

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
    r"""The point mass $\delta_{\theta}$: a trained network, a checkpoint, a MAP estimate.

    Args:
        mean: The parameters by name.
        buffers: The model's buffers by name.
        fixed: Further parameters, added to ``mean``.
        prior: The prior that it was fitted under, if known.

    Examples:
        >>> import torch
        >>> point = PointPosterior({"w": torch.tensor([1.0, 2.0])})
        >>> point.mean["w"].tolist(), point.stddev["w"].tolist()
        ([1.0, 2.0], [0.0, 0.0])
    """

    kind: ClassVar[str] = "point"

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
        """Return the current parameters and buffers of a model as a point.

        Args:
            model: Any module.

        Returns:
            Its parameters and buffers, copied.
        """
        inner = unwrapped(model)
        return cls(
            copied(dict(inner.named_parameters())),
            buffers=copied(dict(inner.named_buffers())),
        )

    @classmethod
    def from_tensors_by_name(cls, tensors: Mapping[str, Tensor], names: TensorNames | None = None) -> PointPosterior:
        """Return a state dict as a point.

        Args:
            tensors: Parameters and buffers by name.
            names: The names of the network's tensors. Where these do not tell which tensors are buffers, integers and
                the statistics of normalizations (``running_mean`` and the like) are.

        Returns:
            The point; its tensors are copies.

        Raises:
            InvalidInputError: If a value is no tensor, a parameter holds integers, or two names of one tensor have
                different values.
        """
        what = "the state dict"
        require_tensors(tensors, what)
        given = copied(tensors)
        named = given if names is None else names.renamed(given, what)
        buffers = buffers_among(named)
        if names is not None:
            named, buffers = names.divide({n: t for n, t in named.items() if n not in buffers}, buffers, what)
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
        # A point needs no noise; the empty tensor carries the sample shape.
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
def _weighted_mean(points: Sequence[PointPosterior], weights: TensorWeights) -> PointPosterior:
    buffers = weights.mean([q.buffers for q in points])
    return PointPosterior(weights.mean([q.mean for q in points]), buffers=buffers)
