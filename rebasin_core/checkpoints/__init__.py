"""Checkpoints: files of any format with the tensors of one network, and the models that they belong to."""

from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.construction import parameters_on_meta, with_reserved_memory
from rebasin_core.checkpoints.factory_source import FactoryModelSource
from rebasin_core.checkpoints.folder_reader import FolderReader
from rebasin_core.checkpoints.function_check import FunctionDifference, function_difference
from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel, configuration_of
from rebasin_core.checkpoints.npz_reader import NpzReader
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader
from rebasin_core.checkpoints.stored import StoredForm, StoredTensor
from rebasin_core.checkpoints.torch_reader import TorchReader

__all__ = [
    "Checkpoint",
    "CheckpointReader",
    "FactoryModelSource",
    "FolderReader",
    "FunctionDifference",
    "ModelSource",
    "NpzReader",
    "SafetensorsReader",
    "SourcedModel",
    "StoredForm",
    "StoredTensor",
    "TorchReader",
    "configuration_of",
    "function_difference",
    "parameters_on_meta",
    "with_reserved_memory",
]
