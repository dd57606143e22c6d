"""Checkpoints of training: tensors, optimizer, schedule and generator, without pickle."""

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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch.optim.lr_scheduler import LRScheduler

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.identity import ProblemIdentity

_KIND = "training"
_DIGEST = "digest"


@final
@dataclass(slots=True)
class TrainingState:
    """State of training that changes between epochs: the content of a checkpoint.

    Attributes:
        parameters: Leaf tensors that are optimized.
        buffers: Buffers of the model.
        memory: State of the objective that persists between epochs.
        optimizer: Optimizer of the parameters; None for methods without one.
        schedule: Learning-rate schedule, or None.
        generator: Random number generator.
        history: Mean objective of each completed epoch, in nats per example.
        validation: Validation loss after each completed epoch, in nats per example.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: dict[str, Tensor]
    optimizer: torch.optim.Optimizer | None
    schedule: LRScheduler | None
    generator: torch.Generator
    history: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    def save(self, path: Path, identity: ProblemIdentity) -> None:
        """Write the state to a file atomically.

        Args:
            path: The file.
            identity: Identity of the training problem.

        Raises:
            StorageError: If the file cannot be written.
        """
        tensors = {f"parameter/{name}": tensor for name, tensor in self.parameters.items()}
        tensors |= {f"buffer/{name}": tensor for name, tensor in self.buffers.items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        tensors |= identity.tensors()
        tensors["generator"] = self.generator.get_state()
        optimizer = {"state": {}, "param_groups": []} if self.optimizer is None else self.optimizer.state_dict()
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
            identity: Identity of the present training problem.
            problem: The present training problem, to run its network.

        Raises:
            FileFormatError: If the file is damaged, or belongs to another problem.
        """
        try:
            tensors, document = read_tensors(path, kind=_KIND)
        except FileFormatError as error:
            message = f"{error}. Expected a checkpoint of training: delete the file to train from the start"
            raise FileFormatError(message) from error
        document.pop("kind")
        written = document.pop(_DIGEST, None)
        if written is not None and written != _digest(tensors, document):
            message = f"{path} is damaged (its digest does not match its content); remove it or name another checkpoint"
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
        """Set the state to the content of a file."""
        with torch.no_grad():
            for prefix, current in (
                ("parameter", self.parameters),
                ("buffer", self.buffers),
                ("memory", self.memory),
            ):
                for name, tensor in current.items():
                    tensor.copy_(tensors[f"{prefix}/{name}"])
        if self.optimizer is not None:
            self._restore_optimizer(self.optimizer, {**tensors, **document["numbers"]}, document["param_groups"])
        if self.schedule is not None:
            self.schedule.load_state_dict(document["schedule"])
        self.generator.set_state(tensors["generator"])
        # In place: the training loop and early stopping hold references to these lists.
        self.history[:] = document["history"]
        self.validation[:] = document["validation"]

    @staticmethod
    def _restore_optimizer(
        optimizer: torch.optim.Optimizer, stored: Mapping[str, Any], param_groups: Sequence[Mapping[str, Any]]
    ) -> None:
        """Set the state of an optimizer to the content of a file."""
        entries: dict[int, dict[str, Any]] = {}
        for path_in_file, value in stored.items():
            if path_in_file.startswith("optimizer/"):
                _, number, key = path_in_file.split("/", 2)
                entries.setdefault(int(number), {})[key] = value
        groups = [{k: _tuple(v) if k != "params" else v for k, v in group.items()} for group in param_groups]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
        # `load_state_dict` casts some state to the parameters' dtype; restore the saved values exactly.
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            for key, value in entries.get(index, {}).items():
                if isinstance(value, Tensor):
                    optimizer.state[parameter][key] = value.to(optimizer.state[parameter][key].device)


def _digest(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Return a digest of tensors and document, which detects any damage of the file."""
    # The round trip through JSON turns tuples into lists and integer keys into strings, as reading the file does.
    text = json.dumps(json.loads(json.dumps(document)), sort_keys=True)
    return hashlib.sha256(f"{text}/{digest_of_tensors(tensors)}".encode()).hexdigest()


def _tuple(value: object) -> object:
    """Convert a list to a tuple, which JSON stores as a list."""
    return tuple(value) if isinstance(value, list) else value
