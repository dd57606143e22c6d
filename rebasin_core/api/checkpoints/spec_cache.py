"""Cache of traced specifications in the user's cache folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.assignment.kernel_cache import user_folder
from rebasin_core.errors import RebasinError
from rebasin_core.plugin.code import code_of_package
from rebasin_core.specs.files import load_spec, save_spec
from rebasin_core.tensors.digests import digest_of_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core.plugin.registry import Registry
    from rebasin_core.specs.base import PermutationSpec

_CORE = "rebasin_core"


@final
@dataclass(frozen=True, slots=True)
class SpecCache:
    """The file in which a specification is cached.

    Attributes:
        path: The file, a JSON file as `save_spec` writes it; its name is a digest of everything that determines the
            specification.
    """

    path: Path

    @classmethod
    def of(cls, identity: str, freeze: Sequence[str], registry: Registry) -> SpecCache | None:
        """Return the cache file of a specification.

        Args:
            identity: Text that determines the model.
            freeze: Patterns of tensors that are kept fixed.
            registry: Registry, which knows the packages with rules for operators.

        Returns:
            The file; None if the identity is empty, or there is no cache folder.
        """
        folder = user_folder() if identity else None
        if folder is None:
            return None
        rules = [entry for entry in registry.all() if entry.family == "operator_rules"]
        code = {e.kind.__module__.partition(".")[0]: e.status.version for e in rules} | {_CORE: version("rebasin-core")}
        document = {
            "identity": identity,
            "freeze": sorted(freeze),
            "torch": torch.__version__,
            "code": {package: code_of_package(package, number) for package, number in code.items()},
        }
        return cls(folder / "specs" / f"{digest_of_json(document)}.json")

    def read(self) -> PermutationSpec | None:
        """Return the cached specification; None if there is none, or the file is damaged."""
        try:
            return load_spec(self.path)
        except RebasinError:
            return None

    def write(self, spec: PermutationSpec) -> None:
        """Cache a specification; if the folder cannot be written, it is not cached.

        Args:
            spec: The specification.
        """
        with suppress(RebasinError):
            save_spec(spec, self.path)
