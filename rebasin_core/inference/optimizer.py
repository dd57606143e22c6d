"""Any optimiser and learning-rate schedule of torch, by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from rebasin_core.errors import InvalidInputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OptionValue: TypeAlias = bool | int | float | str | list[float] | None


@final
@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimiser of ``torch.optim`` and its options.

    Attributes:
        name: The class name, such as ``Adam``.
        options: Its keyword arguments.

    Raises:
        UnknownNameError: On construction, if torch has no such optimiser.
        InvalidInputError: On construction, if it has no such option.
    """

    name: str = "Adam"
    options: Mapping[str, OptionValue] = field(default_factory=lambda: {"lr": 1e-3})

    def __post_init__(self) -> None:
        """Check the name and the options."""
        _check_options(self._find(), self.options, skip={"params"})

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters.

        Args:
            parameters: Leaf tensors.

        Returns:
            The optimiser.

        Raises:
            InvalidInputError: If an option has a value that the optimiser refuses.
        """
        try:
            optimizer: torch.optim.Optimizer = self._find()(parameters, **_tuples(self.options))
        except (TypeError, ValueError) as error:
            message = f"{self.name} refuses its options {dict(self.options)}: {error}"
            raise InvalidInputError(message) from error
        return optimizer

    def _find(self) -> Any:  # ruff: ignore[any-type] - a class whose arguments differ from those of its base
        known = _subclasses(torch.optim, torch.optim.Optimizer)
        # These need a closure, or sparse gradients only: they cannot take the plain step that training makes.
        for unfit in ("Optimizer", "LBFGS", "SparseAdam"):
            known.pop(unfit, None)
        if self.name not in known:
            message = f"torch.optim has no optimiser {self.name!r} for minibatches; {nearest(self.name, known)}"
            raise UnknownNameError(message)
        return known[self.name]


@final
@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A learning-rate schedule of ``torch.optim.lr_scheduler`` and its options.

    Attributes:
        name: The class name, such as ``CosineAnnealingLR``.
        options: Its keyword arguments.
        interval: Whether it advances every epoch or every step (minibatch).

    Raises:
        UnknownNameError: On construction, if torch has no such schedule.
        InvalidInputError: On construction, if it has no such option.
    """

    name: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    interval: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        """Check the name and the options."""
        _check_options(self._find(), self.options, skip={"optimizer"})

    def build(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        """Return the schedule of an optimiser.

        Args:
            optimizer: The optimiser whose rate it sets.

        Returns:
            The schedule.

        Raises:
            InvalidInputError: If an option has a value that the schedule refuses.
        """
        try:
            schedule: lr_scheduler.LRScheduler = self._find()(optimizer, **_tuples(self.options))
        except (TypeError, ValueError) as error:
            message = f"{self.name} refuses its options {dict(self.options)}: {error}"
            raise InvalidInputError(message) from error
        return schedule

    def _find(self) -> Any:  # ruff: ignore[any-type] - as above
        known = _subclasses(lr_scheduler, lr_scheduler.LRScheduler)
        # These need functions, other schedules or a validation loss, which a run file does not hold.
        for unfit in (
            "LRScheduler",
            "LambdaLR",
            "MultiplicativeLR",
            "SequentialLR",
            "ChainedScheduler",
            "ReduceLROnPlateau",
        ):
            known.pop(unfit, None)
        if self.name not in known:
            message = f"torch.optim.lr_scheduler has no schedule {self.name!r} to use here; {nearest(self.name, known)}"
            raise UnknownNameError(message)
        return known[self.name]


def _subclasses(module: object, base: type) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and not name.startswith("_")
    }


def _check_options(found: type, options: Mapping[str, object], *, skip: set[str]) -> None:
    known = set(inspect.signature(found).parameters) - skip
    for option in options:
        if option not in known:
            message = f"{found.__name__} has no option {option!r}; {nearest(option, known)}"
            raise InvalidInputError(message)


def _tuples(options: Mapping[str, OptionValue]) -> dict[str, Any]:
    """Return the options with lists as tuples, as torch expects pairs (betas) to be."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
