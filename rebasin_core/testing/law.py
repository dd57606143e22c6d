"""Laws: properties that every implementation of an interface must satisfy, as functions that raise if violated."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import LawViolationError, MeasurementWarning

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

Trial: TypeAlias = Callable[[object, Path], None]
"""Function of an example (a strategy, posterior or adapter) and an empty folder; raises if the law is broken."""


@final
@dataclass(frozen=True, slots=True)
class Law:
    """A law of a family.

    Attributes:
        family: Name of the family.
        name: Name of the law.
        trial: The function that tests it.
    """

    family: str
    name: str
    trial: Trial

    @property
    def sentence(self) -> str:
        """The statement of the law: the first line of the docstring of its function."""
        return (self.trial.__doc__ or "").strip().splitlines()[0]


LAWS: dict[str, list[Law]] = {}
"""All laws by family."""

_CPU = torch.device("cpu")
_DEVICE: ContextVar[torch.device] = ContextVar("device")


def device_under_test() -> torch.device:
    """Return the device for posteriors, networks and matrices; data are on the CPU, as from a data loader."""
    return _DEVICE.get(_CPU)


@contextmanager
def tried_on(device: torch.device) -> Generator[None]:
    """Test laws on a device inside a block.

    Args:
        device: The device.
    """
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def law(family: str) -> Callable[[Trial], Trial]:
    """Return a decorator that registers a function as a law of a family, under the name of the function.

    Args:
        family: The family.

    Returns:
        The decorator.
    """

    def add(trial: Trial) -> Trial:
        @functools.wraps(trial)
        def quiet(example: object, folder: Path) -> None:
            # Examples are untrained networks with few samples, which cause these warnings.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MeasurementWarning)
                trial(example, folder)

        LAWS.setdefault(family, []).append(Law(family, trial.__name__, quiet))
        return trial

    return add


def expect(condition: object, message: str) -> None:
    """Raise if a condition does not hold.

    Args:
        condition: The condition, any object with a truth value.
        message: Error message.

    Raises:
        LawViolationError: If the condition is false.
    """
    if not condition:
        raise LawViolationError(message)


def expect_equal(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], description: str, *, tolerance: float = 0.0
) -> None:
    """Raise if named tensors differ.

    Args:
        got: Tensors by name.
        expected: The expected tensors.
        description: Description of the tensors, for the message.
        tolerance: Largest allowed absolute difference of an entry.

    Raises:
        LawViolationError: If names, shapes or entries differ; states the tensor.
    """
    expect(got.keys() == expected.keys(), f"{description}: names differ in {sorted(got.keys() ^ expected.keys())}")
    for name, tensor in expected.items():
        expect(
            got[name].shape == tensor.shape,
            f"{description}: `{name}` has shape {tuple(got[name].shape)}, expected {tuple(tensor.shape)}",
        )
        sides = [side.to("cpu", torch.float64) for side in (got[name], tensor)]
        difference = (sides[0] - sides[1]).abs().max().item() if tensor.numel() else 0.0
        expect(
            difference <= tolerance, f"{description}: `{name}` differs by {difference:.1e} (tolerance {tolerance:.0e})"
        )


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed.

    Args:
        seed: The seed.

    Returns:
        A CPU generator.
    """
    return torch.Generator().manual_seed(seed)
