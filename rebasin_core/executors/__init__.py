"""Executors: run the tasks of a study in this process, in other processes, or on a cluster."""

from rebasin_core.executors.base import Executor
from rebasin_core.executors.in_process import InProcessExecutor
from rebasin_core.executors.processes import ProcessesExecutor
from rebasin_core.executors.task_future import TaskFuture
from rebasin_core.executors.task_pool import AbstractTaskPool, Call

__all__ = ["AbstractTaskPool", "Call", "Executor", "InProcessExecutor", "ProcessesExecutor", "TaskFuture"]
