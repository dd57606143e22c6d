"""Reference networks, each with its permutation specification."""

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.cifar_resnet import CifarResNetArchitecture, CifarResNetSpec
from rebasin_core.architectures.mlp import ActivationName, MLPArchitecture, MLPSpec
from rebasin_core.architectures.resnet import ResNetArchitecture, ResNetSpec
from rebasin_core.architectures.transformer import (
    AbstractTransformer,
    GPTArchitecture,
    TransformerSpec,
    ViTArchitecture,
)
from rebasin_core.architectures.vgg import VGGArchitecture, VGGSpec

__all__ = [
    "AbstractTransformer",
    "ActivationName",
    "Architecture",
    "CifarResNetArchitecture",
    "CifarResNetSpec",
    "GPTArchitecture",
    "MLPArchitecture",
    "MLPSpec",
    "ResNetArchitecture",
    "ResNetSpec",
    "TransformerSpec",
    "VGGArchitecture",
    "VGGSpec",
    "ViTArchitecture",
]
