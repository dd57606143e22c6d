"""Options of the data sets."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.data.cifar10 import CIFAR10Source
from rebasin_core.data.digits import DigitsSource
from rebasin_core.data.mnist import FashionMNISTSource, MNISTSource
from rebasin_core.data.uci import UCISource

if TYPE_CHECKING:
    from rebasin_core.data.base import DataSource


class DatasetConfig(StrategyConfig):
    """Base of the options of every data set."""

    family: ClassVar[str] = "dataset"

    @override
    @abstractmethod
    def build(self) -> DataSource: ...


@final
class DigitsConfig(DatasetConfig):
    """Options of `DigitsSource`: none."""

    name: Literal["digits"] = "digits"

    @override
    def build(self) -> DataSource:
        return DigitsSource()


@final
class MNISTConfig(DatasetConfig):
    """Options of `MNISTSource`."""

    name: Literal["mnist"] = "mnist"
    root: Path = Field(Path("data"), description="The folder that holds the files.")
    download: bool = Field(default=False, description="Whether missing files may be downloaded and verified.")

    @override
    def build(self) -> DataSource:
        return MNISTSource(root=self.root, download=self.download)


@final
class FashionMNISTConfig(DatasetConfig):
    """Options of `FashionMNISTSource`."""

    name: Literal["fashion_mnist"] = "fashion_mnist"
    root: Path = Field(Path("data"), description="The folder that holds the files.")
    download: bool = Field(default=False, description="Whether missing files may be downloaded and verified.")

    @override
    def build(self) -> DataSource:
        return FashionMNISTSource(root=self.root, download=self.download)


@final
class CIFAR10Config(DatasetConfig):
    """Options of `CIFAR10Source`."""

    name: Literal["cifar10"] = "cifar10"
    root: Path = Field(Path("data"), description="The folder that holds the files.")
    download: bool = Field(default=False, description="Whether the archive may be downloaded and verified.")

    @override
    def build(self) -> DataSource:
        return CIFAR10Source(root=self.root, download=self.download)


@final
class UCIConfig(DatasetConfig):
    """Options of `UCISource`."""

    name: Literal["uci"] = "uci"
    dataset: str = Field(description="The name of the set, such as `concrete`.")
    root: Path = Field(Path("data"), description="The folder that holds the files.")
    split: int = Field(0, ge=0, description="The number of the standard split, from 0.")

    @override
    def build(self) -> DataSource:
        return UCISource(dataset=self.dataset, root=self.root, split=self.split)
