"""Checkpoints: files of any format with the tensors of one network, and the models that they belong to."""

from rebasin_core.checkpoints.base import CheckpointReader
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.construction import parameters_on_meta, with_reserved_memory
from rebasin_core.checkpoints.factory_source import FactoryModelSource
from rebasin_core.checkpoints.function_check import FunctionDifference, function_difference
from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader
from rebasin_core.checkpoints.stored import StoredForm, StoredTensor

__all__ = [
    "Checkpoint",
    "CheckpointReader",
    "FactoryModelSource",
    "FunctionDifference",
    "ModelSource",
    "SafetensorsReader",
    "SourcedModel",
    "StoredForm",
    "StoredTensor",
    "function_difference",
    "parameters_on_meta",
    "with_reserved_memory",
]
