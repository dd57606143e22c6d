"""Run the laws of each family on the registered classes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core.errors import LawViolationError, PluginError
from rebasin_core.isolation import isolated
from rebasin_core.plugin.registry import Registered, Registry, default_registry
from rebasin_core.posteriors.base import Posterior
from rebasin_core.testing import (  # ruff: ignore[unused-import] - their import fills LAWS
    adapter_laws,
    assignment_laws,
    barrier_laws,
    checkpoint_laws,
    data_laws,
    executor_laws,
    flip_laws,
    inference_laws,
    likelihood_laws,
    linear_laws,
    matcher_laws,
    merge_laws,
    metric_laws,
    model_laws,
    model_source_laws,
    pair_laws,
    path_laws,
    posterior_laws,
    study_laws,
    tracker_laws,
)
from rebasin_core.testing.examples.registered import examples_of
from rebasin_core.testing.law import LAWS, Law, tried_on

if TYPE_CHECKING:
    from collections.abc import Sequence

_CPU = torch.device("cpu")
_ON_DEVICES = frozenset({
    "assignment",
    "barrier",
    "inference",
    "likelihood",
    "matcher",
    "merge_method",
    "metric",
    "path",
    "posterior",
})


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of one check.

    Attributes:
        outcome: Whether the law ``holds``, is ``broken``, or is ``exempt``.
        reason: Error message of a broken law, or reason of the exemption; empty if the law holds.
    """

    outcome: Literal["holds", "broken", "exempt"]
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Check:
    """The test of one law on one registered class.

    Attributes:
        entry: The class.
        law: The law.
        device: Device of posteriors, networks and matrices.
    """

    entry: Registered
    law: Law
    device: torch.device = _CPU

    @override
    def __str__(self) -> str:
        """Return ``family:name:law``, and the device if it is not the CPU."""
        suffix = "" if self.device == _CPU else f":{self.device}"
        return f"{self.entry.family}:{self.entry.name}:{self.law.name}{suffix}"

    def run(self) -> None:
        """Test the law on all examples of the class.

        Raises:
            LawViolationError: If the law is broken, or the class has no examples.
        """
        index, count = 0, 1
        while index < count:
            # Each example has a separate folder, so that files of one cannot affect the next.
            with tempfile.TemporaryDirectory() as name:
                examples = examples_of(self.entry, Path(name))
                if not examples:
                    message = (
                        f"{self.entry.kind.__name__} has no defaults, and {self.entry.status.label} provides no "
                        "examples of it; implement the hook `rebasin_examples`"
                    )
                    raise LawViolationError(message)
                example = examples[index]
                subject = (self.entry.kind(), example) if self.entry.family == "posterior_adapter" else example
                if isinstance(example, Posterior):
                    subject = example.to(device=self.device)
                with tried_on(self.device):
                    self.law.trial(subject, Path(name))
            index += 1
            count = len(examples)

    def verdict(self) -> Verdict:
        """Test the law and return the outcome; exceptions of the strategy are caught."""
        with isolated() as attempt:
            self.run()
        if isinstance(attempt.error, LawViolationError):
            return Verdict("broken", str(attempt.error))
        return Verdict("holds") if attempt.error is None else Verdict("broken", f"raised {attempt.problem}")


def conformance_checks(
    distribution: str | None = None, *, registry: Registry | None = None, device: torch.device | str = "cpu"
) -> Sequence[Check]:
    """Return the checks of all laws on all classes that a distribution registers.

    Args:
        distribution: Name of an installed distribution; None for all.
        registry: The registry; that of all installed plugins if None.
        device: Device of posteriors, networks and matrices. Families that only use the CPU (architectures,
            specifications, datasets, ...) are omitted on other devices.

    Returns:
        The checks, without exempt laws.

    Raises:
        PluginError: If the distribution registers nothing or could not be loaded.
    """
    registry = registry or default_registry()
    entries = registry.all(distribution=distribution)
    broken = [s for s in registry.plugins if s.error is not None and distribution in {None, s.distribution}]
    if distribution is not None and (broken or not entries):
        reason = "; ".join(str(status.error) for status in broken) or "no plugin of that name is installed"
        message = f"{distribution}: {reason}"
        raise PluginError(message)
    target = torch.device(device)
    return [
        Check(entry, law, target)
        for entry in entries
        if target == _CPU or entry.family in _ON_DEVICES
        for law in LAWS[entry.family]
        if law.name not in getattr(entry.kind, "exempt_laws", {})
    ]


def run_checks(
    distribution: str, *, registry: Registry | None = None, device: torch.device | str = "cpu"
) -> dict[str, Verdict]:
    """Run all checks on a distribution.

    Args:
        distribution: Name of an installed distribution.
        registry: The registry; that of all installed plugins if None.
        device: Device of the tests, as for `conformance_checks`.

    Returns:
        A verdict for each check, by its name, including exempt laws.

    Raises:
        PluginError: If the distribution registers nothing or could not be loaded.
    """
    registry = registry or default_registry()
    checks = conformance_checks(distribution, registry=registry, device=device)
    verdicts = {str(check): check.verdict() for check in checks}
    for entry in registry.all(distribution=distribution):
        for name, reason in getattr(entry.kind, "exempt_laws", {}).items():
            verdicts[f"{entry.family}:{entry.name}:{name}"] = Verdict("exempt", reason)
    return verdicts
