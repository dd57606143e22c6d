"""The errors and warnings of the project: one tree, each also the builtin one would expect."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RebasinError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidInputError(RebasinError, ValueError):
    """A value given by the caller cannot be used: wrong shape, range, dtype or content."""


class NoClosedFormError(InvalidInputError):
    """No distance, divergence, path or barycenter of these posteriors is known."""


class DivergenceError(RebasinError, ArithmeticError):
    """Training diverged: a loss or a parameter became NaN or infinite."""


class SpecError(RebasinError, ValueError):
    """A permutation specification is inconsistent, or does not fit the tensors it is given."""


class ConfigError(RebasinError, ValueError):
    """A run file or a strategy's options are not valid."""


class UnknownNameError(RebasinError, LookupError):
    """A name is not registered, or does not exist where it is looked up."""


class PluginError(RebasinError, RuntimeError):
    """A plugin cannot be loaded, or two plugins disagree."""


class DataError(RebasinError, ValueError):
    """A data file is not what its format says it should be."""


class MissingDataError(DataError, FileNotFoundError):
    """A data set is not where it was looked for, and may not be downloaded."""


class FileFormatError(RebasinError, ValueError):
    """A file is damaged, or is not of the kind that was asked for."""


class StorageError(RebasinError, OSError):
    """A result cannot be written: no space, no permission, or the place is taken."""


class LawViolationError(RebasinError, AssertionError):
    """A registered strategy breaks a law of its interface (raised by the conformance kit)."""


class RebasinWarning(UserWarning):
    """Base of every warning that this package gives."""


class PriorWarning(RebasinWarning):
    """A posterior's prior is not the same for all units of a layer: permuting moves it, too."""


class AlignmentWarning(RebasinWarning):
    """An alignment made the loss at the midpoint worse than no alignment does."""


class UnreadWeightWarning(RebasinWarning):
    """A network uses weights in a way that is not understood, or not supported here: they are left out."""


class MeasurementWarning(RebasinWarning):
    """A measured loss or barrier says less than it seems to."""


class StatedErrorWarning(MeasurementWarning):
    """A stated Monte Carlo error cannot be trusted: too few samples for the spread of the log likelihoods."""


class EndpointWarning(MeasurementWarning):
    """The endpoints of a path are such that its barrier says little about the alignment."""


class NothingMovesWarning(RebasinWarning):
    """A traced specification moves nothing, although the model has axes between its inputs and outputs."""


class ConvergenceWarning(RebasinWarning):
    """An iterative solver ended at its limit before it converged: its result is approximate; says by how much."""


class SlowSolverWarning(RebasinWarning):
    """The compiled assignment kernel cannot be used on this machine: SciPy solves instead, exactly but more slowly."""


class BrokenPluginWarning(RebasinWarning):
    """An installed plugin could not be loaded and is left out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that lists the names close to ``name``, or all of them.

    Args:
        name: The name that was not found.
        known: The names that exist.

    Returns:
        ``did you mean ...?`` where something is close, else ``known: ...``.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(repr(n) for n in names) or 'none'}"
