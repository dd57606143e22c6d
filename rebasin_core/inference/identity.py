"""What a training problem is, in a checkpoint: so that training is resumed on the same problem only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.tensors.digests import digest_of_tensors
from rebasin_core.tensors.modules import copied, named_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.strategy import Strategy

# Normalization layers need more than one example.
_PROBE_ROWS = 2
# In the text of a function or an object without one of its own; another one in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Marks values that say nothing in a message.
_DIGEST = "digest:"
_PROBE = "probe/"
_WAYS = {"evaluation": False, "training": True}


@final
@dataclass(frozen=True, slots=True)
class ProblemIdentity:
    """A training problem: method, likelihood, data, network with its initial values, precision and seed.

    A network is known by its modules, its tensors, and its outputs on a few examples, in evaluation and in training
    mode: the outputs show what no module does, such as an activation that is called as a function.

    Attributes:
        parts: Everything but the outputs, as plain JSON by part; contents as digests.
        probe: A few inputs, and the network's outputs on them.
    """

    parts: Mapping[str, Any]
    probe: Mapping[str, Tensor]

    @classmethod
    def of(cls, method: Strategy, problem: FitProblem) -> ProblemIdentity:
        """Return the identity of a problem, before anything is drawn from its generator.

        Args:
            method: The inference method.
            problem: The problem, with the identity of its data.

        Returns:
            The identity.
        """
        tensors = named_tensors(problem.model)
        first = next(iter(tensors.values()))
        parts = {
            "method": json.loads(method.canonical_json()),
            "likelihood": json.loads(problem.likelihood.canonical_json()),
            "data": dict(problem.identity),
            "tensors": {name: [list(t.shape), str(t.dtype)] for name, t in tensors.items()},
            "modules": _DIGEST + hashlib.sha256(_ADDRESS.sub("", repr(problem.model)).encode()).hexdigest(),
            "initial values": _DIGEST + digest_of_tensors(tensors),
            "symmetries": None if problem.layout is None else problem.layout.fingerprint,
            "device": first.device.type,
            "seed": problem.generator.initial_seed(),
            "state of the generator": _DIGEST + digest_of_tensors({"state": problem.generator.get_state()}),
        }
        inputs = next(checked_batches(problem.data))[0][:_PROBE_ROWS]
        return cls(parts, {"inputs": inputs, **_outputs(problem, inputs)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to be stored in a file.

        Returns:
            By their names there.
        """
        return {f"{_PROBE}{name}": tensor for name, tensor in self.probe.items()}

    def require_same(
        self, path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor], problem: FitProblem
    ) -> None:
        """Raise if a checkpoint is of another problem.

        Args:
            path: The file, for messages.
            document: Its JSON document.
            tensors: Its tensors.
            problem: The problem here.

        Raises:
            FileFormatError: If it is of another problem; names every difference.
        """
        stored = document.get("identity")
        probe = {name.removeprefix(_PROBE): t for name, t in tensors.items() if name.startswith(_PROBE)}
        if not isinstance(stored, Mapping) or "inputs" not in probe:
            message = (
                f"{path} was written by an earlier version, and does not say which data and network it is of; remove "
                "it or name another checkpoint"
            )
            raise FileFormatError(message)
        found = _differences(stored, self.parts)
        if not found and not _equal_outputs(probe, _outputs(problem, probe["inputs"])):
            found = ["the network's outputs (an activation, for example)"]
        if found:
            message = (
                f"{path} belongs to another training problem, it differs in {', '.join(found)}; train on the same "
                "problem, remove the file, or name another checkpoint"
            )
            raise FileFormatError(message)


def _outputs(problem: FitProblem, inputs: Tensor) -> dict[str, Tensor]:
    """Return a network's outputs in both modes, each under one seed; without those that it cannot compute."""
    first = next(problem.model.parameters())
    devices = [first.device] if first.device.type == "cuda" else []
    found: dict[str, Tensor] = {}
    for way, training in _WAYS.items():
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=training)
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(0)
            try:
                found[way] = model(copied(named_tensors(model.module)), model.to_device(inputs)).cpu()
            except InvalidInputError:  # a batch of two may be too small for a network, or inputs be another one's
                continue
    return found


def _equal_outputs(stored: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> bool:
    """Return whether outputs are the same up to rounding."""
    for way in _WAYS:
        first = stored.get(way)
        second = here.get(way)
        if first is None or second is None:
            if first is not second:
                return False
            continue
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        # Other numbers of threads sum in another order; the exponent leaves room for a few layers of that.
        tolerance = torch.finfo(first.dtype).eps ** 0.7
        largest = first.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if first.numel() else 0.0
        if not torch.allclose(first, second, rtol=tolerance, atol=tolerance * largest, equal_nan=True):
            return False
    return True


def _differences(stored: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the parts in which two identities differ, with their values where these are short."""
    found: list[str] = []
    for name in [*here, *(name for name in stored if name not in here)]:
        first = stored.get(name)
        second = here.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += _differences(first, second, f"{prefix}{name}: ")
        elif first != second:
            values = json.dumps([first, second])
            shown = "" if _DIGEST in values else f" ({json.dumps(first)} in the file, {json.dumps(second)} here)"
            found.append(f"{prefix}{name}{shown}")
    return found
