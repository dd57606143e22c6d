"""Inference methods and states of the library posteriors in rebasin_core."""

from rebasin_posteriors.adapter import StateAdapter, permute_state, samples_of
from rebasin_posteriors.inference import (
    AbstractPosteriorsChain,
    AbstractPosteriorsInference,
    PosteriorsSGHMC,
    PosteriorsSGLD,
    PosteriorsVI,
)

__all__ = [
    "AbstractPosteriorsChain",
    "AbstractPosteriorsInference",
    "PosteriorsSGHMC",
    "PosteriorsSGLD",
    "PosteriorsVI",
    "StateAdapter",
    "permute_state",
    "samples_of",
]
