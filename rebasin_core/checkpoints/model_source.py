"""The interface of sources of models: from a checkpoint to the module that it belongs to."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import nn

from rebasin_core.checkpoints.construction import parameters_on_meta, put_on_meta, without_initialization
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.errors import FileFormatError, InvalidInputError, RebasinError
from rebasin_core.isolation import isolated
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.reading import read_json, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.stored import StoredTensor
    from rebasin_core.specs.base import ExampleInputs


@final
@dataclass(frozen=True, eq=False)
class SourcedModel:
    """The model of a checkpoint, without memory for its parameters.

    Attributes:
        module: The module in evaluation mode. Its parameters are on the meta device; buffers have their values.
        example_inputs: Small positional and keyword inputs on the CPU, for tracing and for the function check; None if
            unknown.
        identity: Text that determines the structure of the module: configuration, class, and version of the library.
            Specifications of equal identities are equal, so they are cached. Empty if unknown; then there is no cache.
        stored: Tensors in the files by name, as parts of tensors of the module. Empty if the files contain the
            parameters and saved buffers of the module under their names.
    """

    module: nn.Module
    example_inputs: ExampleInputs | None
    identity: str = ""
    stored: Mapping[str, StoredTensor] = field(default_factory=dict)

    @cached_property
    def form(self) -> StoredForm:
        """How the files store the parameters and saved buffers of the module."""
        unsaved = unsaved_buffers(self.module)
        tensors = {name: tensor for name, tensor in named_tensors(self.module).items() if name not in unsaved}
        return StoredForm({name: tuple(tensor.shape) for name, tensor in tensors.items()}, self.stored)

    @cached_property
    def names(self) -> TensorNames:
        """Names and shapes of the tensors in files, for `match_names`."""
        own = TensorNames.of_module(self.module)
        if not self.stored:
            return own
        parts = self.form.stored
        whole = {part.tensor: name for name, part in parts.items() if len(self.form.parts[part.tensor]) == 1}
        unsaved = {name: name for name in own.known if name not in self.form.shapes}
        tensors = {name: part.tensor for name, part in parts.items()} | unsaved
        aliases = {alias: first for alias, first in own.aliases.items() if first in whole and alias not in parts}
        return TensorNames(
            known=tuple(tensors),
            buffers=frozenset(name for name, tensor in tensors.items() if tensor in (own.buffers or ())),
            aliases={alias: whole[first] for alias, first in aliases.items()},
            shapes={name: parts[name].shape if name in parts else own.shapes[name] for name in tensors},
            optional=frozenset(name for name, tensor in tensors.items() if tensor in own.optional),
        )


def configuration_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the configuration of the model of a checkpoint.

    Args:
        checkpoint: The checkpoint of a folder, or of a file in a folder.

    Returns:
        Content of ``config.json`` in that folder; empty if there is none, or if it is not a JSON object.
    """
    if checkpoint.config is not None:
        return checkpoint.config
    try:
        found = read_json(checkpoint.path.parent / "config.json") if checkpoint.path.is_file() else {}
    except FileFormatError:
        return {}
    return found if isinstance(found, dict) else {}


class ModelSource(Strategy):
    """A method to make the model of a checkpoint, usually from a configuration next to the weights.

    A source executes no code from the folder of the checkpoint, and accesses no network.

    Laws:
        - *Recognition*: the examples are recognized; checkpoints without a configuration, or with one of other
          programs, are not, and no configuration raises an error.
        - *No allocation*: parameters are on the meta device, and all buffers have values.
        - *Complete*: the checkpoints of the examples contain all parameters and saved buffers of the model, and the
          parts of tensors that files store in another form are disjoint.
        - *Function*: with the tensors of the checkpoint, the model runs on its example inputs, and random group
          elements of the traced specification preserve the outputs.
        - *Deterministic*: two models of one checkpoint have equal tensors, inputs and identities.
        - *No side effects*: PyTorch's random state, the default dtype and the working directory do not change.
        - *Canonical*: equal sources have equal JSON.
    """

    family: ClassVar[str] = "model_source"

    @abstractmethod
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Return whether this source knows the model of a checkpoint, without building it.

        Args:
            checkpoint: Any checkpoint.

        Returns:
            Whether it does.
        """

    @final
    def build(self, checkpoint: Checkpoint) -> SourcedModel:
        """Make the model of a checkpoint; no memory is allocated for its parameters.

        Args:
            checkpoint: The checkpoint.

        Returns:
            The model, in evaluation mode.

        Raises:
            InvalidInputError: If the model cannot be made; contains the error of the library.
        """
        made: list[object] = []
        with isolated() as attempt, torch.random.fork_rng(devices=[]):
            self._prepare()
            with parameters_on_meta():
                made.append(self._build(checkpoint))
            if _lacks_buffers(made[-1]):
                with without_initialization():
                    made.append(self._build(checkpoint))
        if isinstance(attempt.error, RebasinError):
            raise attempt.error
        if attempt.error is not None:
            message = f"cannot make the model of {shown(checkpoint.path)} by {self!r}: {attempt.problem}"
            raise InvalidInputError(message) from attempt.error
        model = made[-1]
        if not (isinstance(model, SourcedModel) and isinstance(model.module, nn.Module)):
            message = f"expected {self!r} to return a SourcedModel with a torch.nn.Module, got {type(model).__name__}"
            raise InvalidInputError(message)
        if len(made) > 1:
            put_on_meta(model.module)
        model.module.eval()
        return model

    def _prepare(self) -> None:
        """Import the libraries that `_build` needs: modules that they construct on import keep their memory."""

    @abstractmethod
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        """Make the model. Parameters of modules that are constructed meanwhile have no memory.

        Modules can compute buffers on the device of their parameters. If buffers are on the meta device, the method is
        called again with parameters on the CPU, which are not initialized.

        Args:
            checkpoint: The checkpoint.

        Returns:
            The model.
        """


def _lacks_buffers(made: object) -> bool:
    """Return whether buffers of a model have no values, because they were computed on the device of parameters."""
    if not (isinstance(made, SourcedModel) and isinstance(made.module, nn.Module)):
        return False
    return any(buffer.device.type == "meta" for buffer in made.module.buffers())
