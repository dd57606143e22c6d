"""Executor of rebasin_core for Ray clusters."""

from rebasin_ray.executor import RayExecutor

__all__ = ["RayExecutor"]
