"""Options of the inference methods of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core import InferenceConfig
from rebasin_posteriors.inference import PosteriorsChain, PosteriorsVI

if TYPE_CHECKING:
    from rebasin_core import Inference


class _ChainConfig(InferenceConfig):
    """Options of the samplers."""

    epochs: int = Field(100, ge=1, description="Passes over the data.")
    burn_in: int = Field(20, ge=0, description="Passes before the first sample.")
    learning_rate: float = Field(0.01, gt=0, description="The step of the library's sampler.")
    prior_scale: float = Field(1.0, gt=0, description="Standard deviation of the Gaussian prior.")


@final
class PosteriorsSGLDConfig(_ChainConfig):
    """Options of `PosteriorsChain` with SGLD."""

    name: Literal["posteriors_sgld"] = "posteriors_sgld"

    @override
    def build(self) -> Inference:
        return PosteriorsChain(sampler="sgld", **self.model_dump(exclude={"name"}))


@final
class PosteriorsSGHMCConfig(_ChainConfig):
    """Options of `PosteriorsChain` with SGHMC."""

    name: Literal["posteriors_sghmc"] = "posteriors_sghmc"
    friction: float = Field(0.01, gt=0, description="The friction of the library's sampler.")

    @override
    def build(self) -> Inference:
        return PosteriorsChain(sampler="sghmc", **self.model_dump(exclude={"name"}))


@final
class PosteriorsVIConfig(InferenceConfig):
    """Options of `PosteriorsVI`."""

    name: Literal["posteriors_vi"] = "posteriors_vi"
    epochs: int = Field(20, ge=1, description="Passes over the data.")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam.")
    initial_stddev: float = Field(0.01, gt=0, description="The standard deviation at the start.")
    prior_scale: float = Field(1.0, gt=0, description="Standard deviation of the Gaussian prior.")

    @override
    def build(self) -> Inference:
        return PosteriorsVI(**self.model_dump(exclude={"name"}))
