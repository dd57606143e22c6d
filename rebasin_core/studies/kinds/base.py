"""The interface of stages' computations: their options, inputs and results."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from rebasin_core.errors import ConfigError
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from rebasin_core.data.examples import Examples
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.studies.kinds.options import NetworkOptions
    from rebasin_core.studies.kinds.workspace import Workspace
    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact


@final
@dataclass(frozen=True, slots=True)
class Product:
    """Result of a stage, before it is stored.

    Attributes:
        documents: Small results by name, as plain JSON.
        files: Files by name, in the folder of the context.
    """

    documents: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Context:
    """The environment of a stage: the results of the stages that it reads, a device, and folders.

    Attributes:
        workspace: Store, device and caches of the worker.
        stage: The stage.
        sources: The stages of the datasets that it reads, by identity; they state where the data are.
        folder: Empty folder for the files of the product.
        scratch: Folder for unfinished work, which remains if the stage is interrupted.
    """

    workspace: Workspace
    stage: Stage
    sources: Mapping[str, Stage]
    folder: Path
    scratch: Path

    @property
    def device(self) -> torch.device:
        """The device of the computation."""
        return self.workspace.device

    @property
    def progress(self) -> bool:
        """Whether to show progress bars, which need a terminal."""
        return self.workspace.progress and sys.stderr.isatty()

    def reads(self, role: str) -> bool:
        """Return whether the stage reads a result in a role."""
        return any(name == role for name, _ in self.stage.reads)

    def artifact(self, role: str) -> Artifact:
        """Return the stored result that the stage reads in a role."""
        return self.workspace.artifact(self._read(role))

    def document(self, role: str, name: str) -> Any:  # ruff: ignore[any-type] - JSON
        """Return a document of the result that the stage reads in a role."""
        return self.artifact(role).documents[name]

    def file(self, role: str, name: str) -> Path:
        """Return the path of a verified file of the result that the stage reads in a role."""
        return self.workspace.store.fetch(self.artifact(role), name)

    def examples(self, role: str) -> Examples:
        """Return the examples that the stage reads in a role."""
        return self.workspace.examples(self.sources[self._read(role)])

    def posterior(self, role: str, options: NetworkOptions) -> Posterior:
        """Return the posterior that the stage reads in a role, on the device and in the dtype of the network."""
        return self.workspace.posterior(self.artifact(role), options)

    def model(self, options: NetworkOptions) -> nn.Module:
        """Return the network that defines names and shapes."""
        return self.workspace.model(options)

    def _read(self, role: str) -> str:
        return next(identity for name, identity in self.stage.reads if name == role)


class Work(Options, ABC):
    """Computation of one kind of stage: its options, and how its result is computed from the results that it reads.

    Laws:
        - *Determinism*: the product is determined by the identity of the stage, on one kind of device and with one
          number of threads. Options that do not determine it are named in ``located``.
    """

    located: ClassVar[frozenset[str]] = frozenset()
    """Options that are locations of data, not contents; they are not part of the identity."""

    kind: str
    """The kind of stage, fixed by every class."""

    @classmethod
    def kind_name(cls) -> str:
        """Return the kind.

        Raises:
            ConfigError: If the class declares none.
        """
        default = cls.model_fields["kind"].default
        if not isinstance(default, str):
            message = f"{cls.__name__} has no kind; add a line: kind: Literal['...'] = '...'"
            raise ConfigError(message)
        return default

    @abstractmethod
    def compute(self, context: Context) -> Product:
        """Compute the result.

        Args:
            context: Results that the stage reads, the device, and folders for files.

        Returns:
            The documents and files to be stored.

        Raises:
            RebasinError: If the result cannot be computed from these inputs.
        """
