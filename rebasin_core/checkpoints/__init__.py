"""Checkpoints: files of any format with the tensors of one network."""

from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.folder_reader import FolderReader
from rebasin_core.checkpoints.npz_reader import NpzReader
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader
from rebasin_core.checkpoints.torch_reader import TorchReader

__all__ = ["Checkpoint", "CheckpointReader", "FolderReader", "NpzReader", "SafetensorsReader", "TorchReader"]
