"""Collect the docstring examples of this package only if transformers is installed."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if find_spec("transformers") and find_spec("rebasin_transformers") else ["rebasin_transformers/*"]
)
