"""Checkpoints: files of any format with the tensors of one network."""

from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader

__all__ = ["Checkpoint", "CheckpointReader", "SafetensorsReader"]
