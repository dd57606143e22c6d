"""The methods of the library posteriors in rebasin_core."""

from rebasin_posteriors.adapter import StateAdapter, permute_state, samples_of
from rebasin_posteriors.inference import PosteriorsChain, PosteriorsVI

__all__ = ["PosteriorsChain", "PosteriorsVI", "StateAdapter", "permute_state", "samples_of"]
