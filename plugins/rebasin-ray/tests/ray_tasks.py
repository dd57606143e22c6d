"""Tasks of the tests; processes of Ray import them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray
import torch


def node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def announce_and_wait(folder: str, stop: str) -> str:
    """Write the node of this task to a file, and return it when the file ``stop`` exists."""
    node = node_id()
    (Path(folder) / f"{os.getpid()}.node").write_text(node)
    while not Path(stop).exists():
        time.sleep(0.05)
    return node


def threads() -> int:
    return torch.get_num_threads()
