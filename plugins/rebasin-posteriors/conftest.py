"""The package is only looked into for examples where the library that it is for is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("posteriors") and find_spec("rebasin_posteriors") else ["rebasin_posteriors/*"]
