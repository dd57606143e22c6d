"""Errors and warnings of the project: one hierarchy; each error also derives from the matching builtin exception."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RebasinError(Exception):
    """Base class of the errors that this package raises."""


class InvalidInputError(RebasinError, ValueError):
    """An argument has a wrong shape, range, dtype or content."""


class NoClosedFormError(InvalidInputError):
    """No closed form of this distance, divergence, path or barycenter is registered for these posteriors."""


class NotClosedError(InvalidInputError):
    """A posterior has no representation of the same kind after a linear map of units, such as a rotation."""


class DivergenceError(RebasinError, ArithmeticError):
    """Training diverged: a loss or a parameter became NaN or infinite."""


class SpecError(RebasinError, ValueError):
    """A permutation specification is inconsistent, or does not match the tensors of the model."""


class ConfigError(RebasinError, ValueError):
    """A run file, or an option of a strategy, is invalid."""


class UnknownNameError(RebasinError, LookupError):
    """A name is not registered or does not exist."""


class PluginError(RebasinError, RuntimeError):
    """A plugin cannot be loaded, or two plugins conflict."""


class DataError(RebasinError, ValueError):
    """A data file does not follow its format."""


class MissingDataError(DataError, FileNotFoundError):
    """A dataset was not found, and downloading it is not allowed."""


class FileFormatError(RebasinError, ValueError):
    """A file is damaged or has another format than expected."""


class StorageError(RebasinError, OSError):
    """A result cannot be written (no space, no permission, the path already exists), or a store is not accessible."""


class MissingArtifactError(StorageError, LookupError):
    """A store has no artifact of this identity.

    Args:
        message: Description of the missing artifact and its store.
        identity: The identity.

    Attributes:
        id: The identity.
    """

    def __init__(self, message: str, identity: str = "") -> None:
        super().__init__(message)
        self.id = identity


class DamagedArtifactError(FileFormatError):
    """The record or a file of a stored artifact is damaged or missing; the stage must be computed again.

    Args:
        message: Description of the damage and its location.
        identity: Identity of the artifact.

    Attributes:
        id: Identity of the artifact.
    """

    def __init__(self, message: str, identity: str = "") -> None:
        super().__init__(message)
        self.id = identity


class WorkerLostError(RebasinError, RuntimeError):
    """The process or machine of a task ended before the task was finished."""


class LawViolationError(RebasinError, AssertionError):
    """A registered strategy violates a law of its interface (raised by the conformance kit)."""


class RebasinWarning(UserWarning):
    """Base class of the warnings of this package."""


class PriorWarning(RebasinWarning):
    """The prior of a posterior differs between units of a group, so permuting the posterior also permutes its prior."""


class AlignmentWarning(RebasinWarning):
    """The loss at the midpoint is higher with the alignment than without it."""


class UnreadWeightWarning(RebasinWarning):
    """A network uses weights in an unsupported operation; these weights are ignored."""


class MeasurementWarning(RebasinWarning):
    """An estimated loss or barrier is less informative than it appears."""


class StatedErrorWarning(MeasurementWarning):
    """A Monte Carlo standard error is unreliable: too few samples for the variance of the log likelihoods."""


class EndpointWarning(MeasurementWarning):
    """The losses at the endpoints make a barrier uninformative about the alignment.

    For example, an endpoint is no better than a constant prediction, or both are worse than the midpoint.
    """


class NothingMovesWarning(RebasinWarning):
    """A traced specification fixes all axes, although the model has axes between its inputs and outputs."""


class ConvergenceWarning(RebasinWarning):
    """An iterative solver reached its iteration limit before it converged; the message states the remaining error."""


class SamplerWarning(RebasinWarning):
    """Chains of a sampler have divergent transitions, are constant, or explored the energy slowly."""


class SlowSolverWarning(RebasinWarning):
    """The compiled assignment kernel is not available; SciPy is used instead, which is exact but slower."""


class TrackingWarning(RebasinWarning):
    """A tracker failed and receives no more events; the study and its results are not affected."""


class BrokenPluginWarning(RebasinWarning):
    """A plugin could not be loaded, or one of its hooks failed; its components are ignored."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that lists the names close to ``name``, or all names if none is close.

    Args:
        name: The name that was not found.
        known: The names that exist.

    Returns:
        ``did you mean ...?`` if a name is close, else ``known: ...``.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(repr(n) for n in names) or 'none'}"
