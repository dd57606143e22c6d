"""The state of training in a file: tensors, optimizer, schedule, generator. Never pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.digests import digest_of_tensors
from rebasin_core.tensors.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.optim.lr_scheduler import LRScheduler

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.identity import ProblemIdentity

_KIND = "training"
_DIGEST = "digest"


@final
@dataclass(slots=True)
class TrainingState:
    """Everything that changes during training: the content of a checkpoint.

    Attributes:
        parameters: Leaf tensors that are optimized.
        buffers: Buffers of the model.
        memory: Tensors that the method keeps from epoch to epoch.
        optimizer: Optimizer of the parameters.
        schedule: Learning-rate schedule, or None.
        generator: Source of randomness.
        history: Objective of each finished epoch.
        validation: Loss on validation data after each finished epoch.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None
    generator: torch.Generator
    history: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    def save(self, path: Path, identity: ProblemIdentity) -> None:
        """Write the state, atomically.

        Args:
            path: The file.
            identity: The training problem.

        Raises:
            StorageError: If it cannot be written.
        """
        tensors = {f"parameter/{name}": tensor for name, tensor in self.parameters.items()}
        tensors |= {f"buffer/{name}": tensor for name, tensor in self.buffers.items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        tensors |= identity.tensors()
        tensors["generator"] = self.generator.get_state()
        optimizer = self.optimizer.state_dict()
        numbers: dict[str, Any] = {}
        for index, entries in optimizer["state"].items():
            for key, value in entries.items():
                path_in_file = f"optimizer/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[path_in_file] = value
                else:
                    numbers[path_in_file] = value
        document = {
            "identity": dict(identity.parts),
            "history": self.history,
            "validation": self.validation,
            "param_groups": optimizer["param_groups"],
            "numbers": numbers,
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }
        write_tensors(path, tensors, kind=_KIND, document={**document, _DIGEST: _digest(tensors, document)})

    def load(self, path: Path, identity: ProblemIdentity, problem: FitProblem) -> None:
        """Read the state from a file.

        Args:
            path: A file written by `save`.
            identity: The training problem.
            problem: The same, to run its network.

        Raises:
            FileFormatError: If the file is damaged, or belongs to another problem.
        """
        try:
            tensors, document = read_tensors(path, kind=_KIND)
        except FileFormatError as error:
            message = f"{error}. The state of training should be in this file: delete it to begin the training again"
            raise FileFormatError(message) from error
        document.pop("kind")
        written = document.pop(_DIGEST, None)
        if written is not None and written != _digest(tensors, document):
            message = f"{path} is damaged (its content is not what was written); remove it or name another checkpoint"
            raise FileFormatError(message)
        try:
            identity.require_same(path, document, tensors, problem)
            self._restore(tensors, document)
        except FileFormatError:  # a ValueError, too
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            message = f"{path} is damaged ({type(error).__name__}: {error}); remove it or name another checkpoint"
            raise FileFormatError(message) from error

    def _restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Take the state that a file holds."""
        with torch.no_grad():
            for prefix, mine in (
                ("parameter", self.parameters),
                ("buffer", self.buffers),
                ("memory", self.memory),
            ):
                for name, tensor in mine.items():
                    tensor.copy_(tensors[f"{prefix}/{name}"])
        entries: dict[int, dict[str, Any]] = {}
        stored = {**tensors, **document["numbers"]}
        for path_in_file, value in stored.items():
            if path_in_file.startswith("optimizer/"):
                _, index, key = path_in_file.split("/", 2)
                entries.setdefault(int(index), {})[key] = value
        groups = [
            {k: _tuple(v) if k != "params" else v for k, v in group.items()} for group in document["param_groups"]
        ]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        # Torch casts some of its state to the parameters' dtype on loading; the saved values are restored exactly.
        for index, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            for key, value in entries.get(index, {}).items():
                if isinstance(value, Tensor):
                    self.optimizer.state[parameter][key] = value.to(self.optimizer.state[parameter][key].device)
        if self.schedule is not None:
            self.schedule.load_state_dict(document["schedule"])
        self.generator.set_state(tensors["generator"])
        # In place: others hold these lists.
        self.history[:] = document["history"]
        self.validation[:] = document["validation"]


def _digest(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Return a digest of everything in a file: a damaged state must not be trained on, whatever the damage."""
    # As it is after reading: a tuple is a list then, and a number as a key is a text.
    text = json.dumps(json.loads(json.dumps(document)), sort_keys=True)
    return hashlib.sha256(f"{text}/{digest_of_tensors(tensors)}".encode()).hexdigest()


def _tuple(value: object) -> object:
    """Return a list, as which JSON returns a tuple, as a tuple."""
    return tuple(value) if isinstance(value, list) else value
