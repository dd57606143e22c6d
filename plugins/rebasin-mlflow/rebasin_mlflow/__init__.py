"""Results of studies of rebasin_core in MLflow."""

from rebasin_mlflow.tracker import MLflowTracker

__all__ = ["MLflowTracker"]
