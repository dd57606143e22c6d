"""A point: all mass on one setting of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.posteriors.attached import AbstractAttachedPosterior, Fields
from rebasin_core.posteriors.base import AbstractGeodesic, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.posteriors.pairing import blend_buffers, require_pair
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor, nn

    from rebasin_core.posteriors.prior import GaussianPrior


@final
class PointPosterior(AbstractAttachedPosterior, AbstractGeodesic):
    r"""The point mass $\delta_{\theta}$: a trained network, a checkpoint, a MAP estimate.

    Args:
        mean: The parameters by name.
        buffers: The model's buffers by name.
        fixed: Further parameters; a point makes no difference between them and ``mean``.
        prior: The prior that it was fitted under, if known.

    Example:
        >>> import torch
        >>> point = PointPosterior({"w": torch.tensor([1.0, 2.0])})
        >>> other = PointPosterior({"w": torch.tensor([3.0, 2.0])})
        >>> point.geodesic(other, 0.5).mean["w"].tolist()
        [2.0, 2.0]
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
        super().__init__({"mean": {**mean, **(fixed or {})}}, companions=Companions.of(buffers, None, prior))

    @classmethod
    def from_module(cls, model: nn.Module) -> PointPosterior:
        """Return the point at which a model stands.

        Args:
            model: Any module.

        Returns:
            Its parameters and buffers, copied.
        """
        return cls(
            copied(dict(model.named_parameters())),
            buffers=copied(dict(model.named_buffers())),
        )

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

    @override
    def geodesic(self, other: Posterior, t: float) -> PointPosterior:
        end = require_pair(self, other, t)
        target = end.mean
        mean = {name: torch.lerp(tensor, target[name], t) for name, tensor in self.mean.items()}
        return PointPosterior(mean, buffers=blend_buffers(self.buffers, end.buffers, t))

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, free: Mapping[str, Tensor], companions: Companions) -> Self:
        return cls(fields["mean"], **companions.options)
