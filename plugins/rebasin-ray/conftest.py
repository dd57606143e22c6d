"""Collect the docstring examples of this package only if Ray is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") and find_spec("rebasin_ray") else ["rebasin_ray/*", "tests/ray_tasks.py"]
