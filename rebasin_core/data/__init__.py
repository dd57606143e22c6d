"""Datasets by name, read from local files in their published format, or downloaded and verified."""

from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.cifar10 import CIFAR10Source
from rebasin_core.data.digits import DigitsSource
from rebasin_core.data.examples import Examples, TensorBatches
from rebasin_core.data.mnist import AbstractIdxSource, FashionMNISTSource, MNISTSource, Publication
from rebasin_core.data.uci import UCISource
from rebasin_core.data.unpacked import UnpackedBatches

__all__ = [
    "AbstractIdxSource",
    "CIFAR10Source",
    "DataSource",
    "DataSplits",
    "DigitsSource",
    "Examples",
    "FashionMNISTSource",
    "MNISTSource",
    "Publication",
    "Target",
    "TensorBatches",
    "UCISource",
    "UnpackedBatches",
]
