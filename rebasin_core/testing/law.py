"""Laws: what every strategy of a family must do, as functions that raise when it does not."""

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
"""Takes an example (a configuration, posterior or adapter) and an empty folder; raises if the law is broken."""


@final
@dataclass(frozen=True, slots=True)
class Law:
    """One law of one family.

    Attributes:
        family: The family it belongs to.
        name: Its name.
        trial: The function that tries it.
    """

    family: str
    name: str
    trial: Trial

    @property
    def sentence(self) -> str:
        """What the law says, from the trial's docstring."""
        return (self.trial.__doc__ or "").strip().splitlines()[0]


LAWS: dict[str, list[Law]] = {}
"""All laws by family."""

_CPU = torch.device("cpu")
_DEVICE: ContextVar[torch.device] = ContextVar("device")


def device_under_test() -> torch.device:
    """Return where posteriors, networks and matrices of a law shall lie; data stay on the CPU, as loaders give them."""
    return _DEVICE.get(_CPU)


@contextmanager
def tried_on(device: torch.device) -> Generator[None]:
    """Try laws on a device while a block runs.

    Args:
        device: The device.
    """
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def law(family: str) -> Callable[[Trial], Trial]:
    """Return a decorator that adds a function to the laws of a family, under its own name.

    Args:
        family: The family.

    Returns:
        The decorator.
    """

    def add(trial: Trial) -> Trial:
        @functools.wraps(trial)
        def quiet(example: object, folder: Path) -> None:
            # Laws are tried on untrained networks with few samples.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MeasurementWarning)
                trial(example, folder)

        LAWS.setdefault(family, []).append(Law(family, trial.__name__, quiet))
        return trial

    return add


def expect(condition: object, message: str) -> None:
    """Raise if a condition does not hold.

    Args:
        condition: Anything with a truth value.
        message: What was expected and what came.

    Raises:
        LawViolationError: If the condition is false.
    """
    if not condition:
        raise LawViolationError(message)


def expect_equal(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, *, tolerance: float = 0.0
) -> None:
    """Raise if named tensors differ.

    Args:
        got: What came.
        expected: What should have come.
        what: What they are, for the message.
        tolerance: Largest difference of an entry that passes.

    Raises:
        LawViolationError: If names, shapes or entries differ; names the tensor.
    """
    expect(got.keys() == expected.keys(), f"{what}: names differ in {sorted(got.keys() ^ expected.keys())}")
    for name, tensor in expected.items():
        expect(
            got[name].shape == tensor.shape,
            f"{what}: `{name}` has shape {tuple(got[name].shape)}, not {tuple(tensor.shape)}",
        )
        sides = [side.to("cpu", torch.float64) for side in (got[name], tensor)]
        difference = (sides[0] - sides[1]).abs().max().item() if tensor.numel() else 0.0
        expect(difference <= tolerance, f"{what}: `{name}` differs by up to {difference:.2e} (allowed {tolerance:.0e})")


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed.

    Args:
        seed: The seed.

    Returns:
        A CPU generator.
    """
    return torch.Generator().manual_seed(seed)
