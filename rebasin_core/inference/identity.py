"""Identity of a training problem, stored in checkpoints to resume only the same problem."""

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
    from rebasin_core.tensors.inputs import AnyInputs

# Normalization layers need more than one example.
_PROBE_ROWS = 2
# Memory addresses in the default representation of functions and objects differ between processes.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Prefix of values that messages omit.
_DIGEST = "digest:"
_PROBE = "probe/"
_INPUTS = "inputs"
_MODES = {"evaluation": False, "training": True}


@final
@dataclass(frozen=True, slots=True)
class ProblemIdentity:
    """Identity of a training problem: method, likelihood, data, network with its initial values, device and seed.

    A network is identified by its modules, its tensors, and its outputs on two examples in evaluation and training
    mode. The outputs depend on operations that are not modules, such as functional activations.

    Attributes:
        parts: Everything except the outputs, as plain JSON; contents of tensors as digests.
        probe: The inputs of two examples, and the network's outputs in each mode.
    """

    parts: Mapping[str, Any]
    probe: Mapping[str, Tensor]

    @classmethod
    def of(cls, method: Strategy, problem: FitProblem) -> ProblemIdentity:
        """Return the identity of a problem whose generator has not been used yet.

        Args:
            method: The inference method.
            problem: The problem, including the identity of its data.

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
            # A generator that was used before gives other initializations than its seed.
            "state of the generator": _DIGEST + digest_of_tensors({"state": problem.generator.get_state()}),
        }
        inputs = next(checked_batches(problem.data))[0][:_PROBE_ROWS]
        return cls(parts, {**_named(inputs), **_outputs(problem, inputs)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store in a checkpoint.

        Returns:
            Tensors by their names in the file.
        """
        return {f"{_PROBE}{name}": tensor for name, tensor in self.probe.items()}

    def require_same(
        self, path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor], problem: FitProblem
    ) -> None:
        """Raise if a checkpoint belongs to another problem.

        Args:
            path: The file, for messages.
            document: JSON document of the file.
            tensors: Tensors of the file.
            problem: The present problem.

        Raises:
            FileFormatError: If the problems differ; the message lists all differences.
        """
        stored = document.get("identity")
        probe = {name.removeprefix(_PROBE): t for name, t in tensors.items() if name.startswith(_PROBE)}
        given = next(checked_batches(problem.data))[0][:_PROBE_ROWS]
        inputs = _with_tensors(given, probe)
        if not isinstance(stored, Mapping) or not any(name.startswith(_INPUTS) for name in probe):
            message = (
                f"{path} was written by an earlier version and does not identify its data and network; remove it or "
                "name another checkpoint"
            )
            raise FileFormatError(message)
        differences = _differences(stored, self.parts)
        if not differences and (inputs is None or not _equal_outputs(probe, _outputs(problem, inputs))):
            differences = ["the outputs of the network (for example, by another activation)"]
        if differences:
            message = (
                f"{path} belongs to another training problem, which differs in {', '.join(differences)}; train on the "
                "same problem, remove the file, or name another checkpoint"
            )
            raise FileFormatError(message)


def _named(inputs: AnyInputs) -> dict[str, Tensor]:
    """Return the tensors of inputs by the names under which a checkpoint stores them."""
    if isinstance(inputs, Tensor):
        return {_INPUTS: inputs}
    return {f"{_INPUTS}/{index}": tensor for index, tensor in enumerate(inputs.tensors())}


def _with_tensors(like: AnyInputs, stored: Mapping[str, Tensor]) -> AnyInputs | None:
    """Return inputs with stored tensors instead of their own; None if others are stored."""
    names = list(_named(like))
    if set(names) != {name for name in stored if name.startswith(_INPUTS)}:
        return None
    if isinstance(like, Tensor):
        return stored[_INPUTS]
    tensors = iter([stored[name] for name in names])
    return like.mapped(lambda _: next(tensors))


def _outputs(problem: FitProblem, inputs: AnyInputs) -> dict[str, Tensor]:
    """Return a network's outputs in both modes, under a fixed seed; omit a mode in which it cannot run the inputs."""
    first = next(problem.model.parameters())
    devices = [first.device] if first.device.type == "cuda" else []
    outputs: dict[str, Tensor] = {}
    for mode, training in _MODES.items():
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=training)
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(0)
            try:
                outputs[mode] = model(copied(named_tensors(model.module)), model.to_device(inputs)).cpu()
            except InvalidInputError:  # the batch may be too small, or the inputs may belong to another network
                continue
    return outputs


def _equal_outputs(stored: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> bool:
    """Return whether outputs are equal up to rounding."""
    for mode in _MODES:
        first = stored.get(mode)
        second = current.get(mode)
        if first is None or second is None:
            if first is not second:
                return False
            continue
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        # The order of summation depends on the number of threads; the exponent allows for several layers of rounding.
        tolerance = torch.finfo(first.dtype).eps ** 0.7
        largest = first.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if first.numel() else 0.0
        if not torch.allclose(first, second, rtol=tolerance, atol=tolerance * largest, equal_nan=True):
            return False
    return True


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the parts in which two identities differ, with their values unless these are digests."""
    differences: list[str] = []
    for name in [*current, *(name for name in stored if name not in current)]:
        first = stored.get(name)
        second = current.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            differences += _differences(first, second, f"{prefix}{name}: ")
        elif first != second:
            values = json.dumps([first, second])
            shown = "" if _DIGEST in values else f" ({json.dumps(first)} in the file, {json.dumps(second)} here)"
            differences.append(f"{prefix}{name}{shown}")
    return differences
