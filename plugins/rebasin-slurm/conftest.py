"""Collect the docstring examples of this package only if submitit is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("submitit") and find_spec("rebasin_slurm") else ["rebasin_slurm/*"]
