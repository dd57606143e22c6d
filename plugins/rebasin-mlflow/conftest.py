"""Collect the docstring examples of this package only if MLflow is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("mlflow") and find_spec("rebasin_mlflow") else ["rebasin_mlflow/*"]
