"""Collect the docstring examples of this package only if ivon-opt is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ivon") and find_spec("rebasin_ivon") else ["rebasin_ivon/*"]
