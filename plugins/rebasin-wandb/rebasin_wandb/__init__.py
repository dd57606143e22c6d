"""Results of studies of rebasin_core in Weights & Biases."""

from rebasin_wandb.tracker import WandbTracker

__all__ = ["WandbTracker"]
