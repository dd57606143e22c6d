"""Tasks in the calling process."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from rebasin_core.executors import InProcessExecutor
from tests.executors import tasks


def test_tasks_run_while_they_are_submitted() -> None:
    with InProcessExecutor().open() as executor:
        future = executor.submit(tasks.process_id)
        assert future.done()
        assert future.result() == os.getpid()
        assert not future.cancel()


def test_interrupts_reach_the_caller() -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    with InProcessExecutor().open() as executor, pytest.raises(KeyboardInterrupt):
        executor.submit(interrupted)
