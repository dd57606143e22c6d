"""Collect the docstring examples of this package only if laplace-torch is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("laplace") and find_spec("rebasin_laplace") else ["rebasin_laplace/*"]
