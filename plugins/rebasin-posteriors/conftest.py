"""Collect the docstring examples of this package only if posteriors is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("posteriors") and find_spec("rebasin_posteriors") else ["rebasin_posteriors/*"]
