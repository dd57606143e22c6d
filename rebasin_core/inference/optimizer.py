"""Optimizers and learning-rate schedules of torch by name."""

from __future__ import annotations

import functools
import inspect
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, final

import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import Tensor
from torch.optim import lr_scheduler
from typing_extensions import override

from rebasin_core.errors import InvalidInputError, nearest
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydantic_core import InitErrorDetails

Interval: TypeAlias = Literal["epoch", "step"]


def _subclasses(module: object, base: type, unsupported: set[str]) -> dict[str, type[Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and name not in unsupported and not name.startswith("_")
    }


# LBFGS needs a closure, and SparseAdam sparse gradients; the training loop provides neither.
_OPTIMIZERS = _subclasses(torch.optim, torch.optim.Optimizer, {"Optimizer", "LBFGS", "SparseAdam"})
# Omitted schedules take functions, other schedules or a validation loss, which a run file cannot specify.
_SCHEDULES = _subclasses(
    lr_scheduler,
    lr_scheduler.LRScheduler,
    {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"},
)


def _plain(value: object) -> object:
    """Return a JSON value with lists as tuples, which torch expects for pairs such as ``betas``; raise for others."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    message = f"expected a finite number, a string, true, false, null, or a list of these, got {value!r}"
    raise ValueError(message)


# Options by which a torch optimizer's implementation is chosen.
_IMPLEMENTATIONS = {"foreach", "fused", "capturable", "differentiable"}


@functools.cache
def _signature(kind: Callable[..., object]) -> tuple[inspect.Parameter, ...]:
    """Return the arguments of a torch class, without the first: the parameters or the optimizer."""
    return tuple(inspect.signature(kind).parameters.values())[1:]


class AbstractTorchOptions(Options, ABC):
    """Name and options of a torch class.

    Option names are checked against the signature of the class. The class itself validates their values.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]]

    name: str
    """Name of the class."""

    # Compared as JSON: in Python 1 == 1.0 == True, but the hash is that of the JSON text, which differs.
    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AbstractTorchOptions):
            return NotImplemented
        return type(self) is type(other) and self.canonical_json() == other.canonical_json()

    @override
    def __hash__(self) -> int:
        return super().__hash__()

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        yield "name", self.name
        yield from super().__repr_args__()

    @abstractmethod
    def _class(self) -> type[Any]:
        """Return the torch class."""

    @abstractmethod
    def _arguments(self) -> Mapping[str, object]:
        """Return the keyword arguments of the class."""

    @abstractmethod
    def _try(self) -> None:
        """Build an instance for a dummy parameter, for which torch validates the values."""

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        make: Callable[..., object] = self._class()
        signature = _signature(make)
        given = self._arguments()
        known = {parameter.name for parameter in signature}
        problems = [
            _problem(option, value, f"`{self.name}` has no option {option!r}; {nearest(option, known)}")
            for option, value in given.items()
            if option not in known
        ]
        problems += [
            _problem(parameter.name, None, f"is missing; `{self.name}` requires it")
            for parameter in signature
            if parameter.default is inspect.Parameter.empty and parameter.name not in given
        ]
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        self._try()
        return self

    @final
    def _built(self, target: object, **implementation: bool) -> Any:  # ruff: ignore[any-type] - instance of a class found by name
        arguments = {**self._arguments(), **implementation}
        try:
            return self._class()(target, **arguments)
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            message = f"`{self.name}` rejects the options {dict(arguments)}: {error}"
            raise InvalidInputError(message) from error


@final
class OptimizerSpec(AbstractTorchOptions):
    """Optimizer of ``torch.optim``; further keyword arguments are its options (``weight_decay``, ...).

    Raises:
        ConfigError: If torch has no such optimizer, the optimizer has no such option, or it rejects a value.

    Examples:
        >>> OptimizerSpec(name="SGD", lr=0.1, momentum=0.9)
        OptimizerSpec(name='SGD', lr=0.1, momentum=0.9)
    """

    name: str = "Adam"
    """Name of the class in ``torch.optim``, such as ``Adam``."""

    lr: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)] = 1e-3
    """Learning rate, at least 0."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in _OPTIMIZERS:
            message = f"`torch.optim` has no optimizer {name!r} for minibatches; {nearest(name, _OPTIMIZERS)}"
            raise ValueError(message)
        return name

    def build(self, parameters: Iterable[Tensor | dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            parameters: Leaf tensors to optimize, or groups of them: ``params``, and options that differ from those
                of this optimizer (``lr``).

        Returns:
            The optimizer.

        Raises:
            InvalidInputError: If the optimizer rejects these parameters.
        """
        given = list(parameters)
        tensors = [t for each in given for t in (each["params"] if isinstance(each, dict) else [each])]
        optimizer: torch.optim.Optimizer = self._built(given, **self._implementation(tensors))
        return optimizer

    def _implementation(self, parameters: Sequence[Tensor]) -> dict[str, bool]:
        """Return the options of the fastest implementation, unless one is given: on CPUs one loop over all entries."""
        make: Callable[..., object] = self._class()
        names = {parameter.name for parameter in _signature(make)}
        chosen = _IMPLEMENTATIONS & (self.model_extra or {}).keys()
        on_cpu = all(tensor.device.type == "cpu" and tensor.is_floating_point() for tensor in parameters)
        return {"fused": True} if "fused" in names and not chosen and on_cpu else {}

    @override
    def _class(self) -> type[Any]:
        return _OPTIMIZERS[self.name]

    @override
    def _arguments(self) -> Mapping[str, object]:
        return {"lr": self.lr, **(self.model_extra or {})}

    @override
    def _try(self) -> None:
        # Not for the defaults: torch imports its compiler when it builds the first optimizer, which takes one second.
        if self.model_extra:
            self.build([torch.zeros(1, 1, requires_grad=True)])


@final
class ScheduleSpec(AbstractTorchOptions):
    """Learning-rate schedule of ``torch.optim.lr_scheduler``; further keyword arguments are its options (``T_max``).

    Raises:
        ConfigError: If torch has no such schedule, the schedule has no such option, or it rejects a value.

    Examples:
        >>> ScheduleSpec(name="CosineAnnealingLR", T_max=20)
        ScheduleSpec(name='CosineAnnealingLR', T_max=20)
    """

    name: str
    """Name of the class in ``torch.optim.lr_scheduler``, such as ``CosineAnnealingLR``."""

    interval: Interval = "epoch"
    """Whether the schedule advances every epoch or every step (minibatch)."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in _SCHEDULES:
            message = f"expected a schedule of `torch.optim.lr_scheduler`, got {name!r}; {nearest(name, _SCHEDULES)}"
            raise ValueError(message)
        return name

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Build the schedule of an optimizer.

        Args:
            optimizer: The optimizer whose learning rate the schedule sets.

        Returns:
            The schedule.

        Raises:
            InvalidInputError: If the schedule rejects this optimizer.
        """
        schedule: lr_scheduler.LRScheduler = self._built(optimizer)
        return schedule

    def require_steps(self, optimizer: OptimizerSpec, steps: int) -> None:
        """Raise if the schedule has fewer steps than training, as `OneCycleLR` may; checked on a dummy parameter.

        Args:
            optimizer: The optimizer.
            steps: Number of times the schedule advances in training.

        Raises:
            InvalidInputError: If the schedule raises at the last step.
        """
        dummy = optimizer.build([torch.zeros(1, 1, requires_grad=True)])
        schedule = self.build(dummy)
        dummy.step()
        schedule.last_epoch = steps - 1
        try:
            schedule.step()
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
            message = (
                f"expected a schedule of at least {steps} steps (one per {self.interval}), got `{self.name}` with the "
                f"options {dict(self._arguments())}: {error}"
            )
            raise InvalidInputError(message) from error

    @override
    def _class(self) -> type[Any]:
        return _SCHEDULES[self.name]

    @override
    def _arguments(self) -> Mapping[str, object]:
        return self.model_extra or {}

    @override
    def _try(self) -> None:
        # Adam has the options that schedules change: a learning rate, and the momentum that some cycle.
        self.build(torch.optim.Adam([torch.zeros(1, 1, requires_grad=True)]))


def _problem(option: str, value: object, sentence: str) -> InitErrorDetails:
    return {"type": "value_error", "loc": (option,), "input": value, "ctx": {"error": ValueError(sentence)}}
