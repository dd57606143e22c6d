"""The built-in source of models: any function or class that can be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import AfterValidator
from torch import nn
from typing_extensions import override

from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
from rebasin_core.errors import InvalidInputError
from rebasin_core.isolation import load_object
from rebasin_core.tensors.input_texts import parse_input, parse_named_inputs

if TYPE_CHECKING:
    from rebasin_core.checkpoints.checkpoint import Checkpoint


def _require_reference(reference: str) -> str:
    if not all(reference.partition(":")):
        message = f"expected package.module:factory, got {reference!r}"
        raise ValueError(message)
    return reference


@final
class FactoryModelSource(ModelSource):
    """Calls a function or class without arguments that returns the module.

    The module needs no configuration next to the weights, and has no memory for its parameters: they are put on the
    meta device while the factory runs.

    Examples:
        >>> FactoryModelSource(factory="torch.nn:Identity", inputs=("2,8",))
        FactoryModelSource(factory='torch.nn:Identity', inputs=('2,8',))
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {"recognition": "the factory is given by the user, not found"}

    name: Literal["factory"] = "factory"

    factory: Annotated[str, AfterValidator(_require_reference)]
    """The factory, as ``package.module:name``; the current folder is searched too. It may also be a module itself."""

    inputs: tuple[str, ...] = ()
    """Random positional inputs, each as a comma-separated shape, followed by ``:int<N`` for integers in [0, N), or by
    ``:bool``."""

    named_inputs: Mapping[str, str] = {}
    """Random keyword inputs by name, in the same form."""

    @override
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return False

    @override
    def _prepare(self) -> None:
        load_object(self.factory, "a model")

    @override
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        found = load_object(self.factory, "a model")
        module = found if isinstance(found, nn.Module) or not callable(found) else found()
        if not isinstance(module, nn.Module):
            message = f"expected {self.factory} to return a torch.nn.Module, got {type(module).__name__}"
            raise InvalidInputError(message)
        args = tuple(parse_input(text) for text in self.inputs)
        kwargs = parse_named_inputs(f"{name}={text}" for name, text in self.named_inputs.items())
        return SourcedModel(module, (args, kwargs) if args or kwargs else None)
