"""Import timm without torchvision, and collect the docstring examples of this package only if timm is installed.

timm imports transforms of images and datasets from torchvision, which its models do not use. A build of torchvision
that fits that of PyTorch is not always at hand. Without it, empty modules replace it while timm is imported.
"""

from __future__ import annotations

import enum
import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "torchvision"


class _Interpolation(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Empty(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Interpolation if name == "InterpolationMode" else type(name, (), {})


class _Finder(MetaPathFinder, Loader):
    """Finds empty modules instead of those of torchvision."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == _NAME else None

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    @override
    def exec_module(self, module: ModuleType) -> None:
        del module


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
        del sys.modules[name]


def _import_timm() -> None:
    try:
        importlib.import_module(_NAME)
    except (ImportError, RuntimeError):  # missing, or built for another PyTorch
        _forget()
        finder = _Finder()
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module("timm")
        finally:
            sys.meta_path.remove(finder)
            _forget()


if find_spec("timm"):
    _import_timm()
collect_ignore_glob = [] if find_spec("timm") and find_spec("rebasin_timm") else ["rebasin_timm/*"]
