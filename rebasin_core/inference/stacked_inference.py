"""Options of methods that train networks under a zero-mean Gaussian prior, one alone or several in parallel."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from pydantic import model_validator

from rebasin_core.inference.gradient import AbstractOptimizedInference
from rebasin_core.inference.options import PriorScale
from rebasin_core.inference.stacked import require_entrywise


class AbstractGaussianPriorInference(AbstractOptimizedInference):
    """Method that trains networks under a zero-mean Gaussian prior.

    Raises:
        ConfigError: If an option is invalid.
    """

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive; a number, or a mapping from name patterns. Infinity is a
    flat prior (maximum likelihood)."""

    prior_fan_in: bool = False
    r"""Whether the prior scale of tensors with several dimensions is divided by the square root of their fan-in: with
    ``prior_scale`` $\sqrt 2$, a prior of the scale of He et al. (2015), under which networks of all widths have
    activations of the same scale."""


class AbstractParallelInference(AbstractGaussianPriorInference):
    """Method that trains several networks on the same batches, as one network with stacked parameters.

    Raises:
        ConfigError: If an option is invalid.
    """

    together: bool | None = None
    """Whether to run the networks in one batch (`torch.vmap`) if the model supports it; the result is the same up to
    rounding. If None, the faster way: one batch on a GPU, and for small networks on a CPU."""

    @property
    @abstractmethod
    def _num_networks(self) -> int:
        """The number of networks."""

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        require_entrywise(self.optimizer.name, self._num_networks)
        return self
