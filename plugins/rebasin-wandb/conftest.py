"""Collect the docstring examples of this package only if wandb is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("wandb") and find_spec("rebasin_wandb") else ["rebasin_wandb/*"]
