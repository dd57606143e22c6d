"""Interruptible matching: the state of a search is kept in a file, from which the same search resumes."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, final

from rebasin_core.errors import FileFormatError
from rebasin_core.matchers.base import MatchOutcome
from rebasin_core.symmetry.symmetry_element import load_element
from rebasin_core.tensors.files import read_tensors, require_writable
from rebasin_core.tensors.reading import exists

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.matchers.base import MatchResult, OnInterrupt, SearchRecord
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import GroupElement, Permutation

_PROBLEM = "problem"
_STATE = "search"
_RESTART = "delete the file to restart the match"
# Seconds between two writes of the state.
_INTERVAL = 10.0


class Search(Protocol):
    """`Matcher.match` with all arguments bound except those for interruptions."""

    def __call__(
        self, *, initial: GroupElement | None, on_interrupt: OnInterrupt, record: SearchRecord | None = None
    ) -> MatchResult:
        """Run the search and return its result."""


@final
class FileRecord:
    """State of a search in a file, written atomically at most every ten seconds: the file of a group element.

    Args:
        path: The file.
        layout: Layout of the permutations.
        problem: Digest of the matcher and the networks.

    Attributes:
        element: The group element in the file at the start; None if there was no file.

    Raises:
        FileFormatError: If the file is damaged, or belongs to another specification or problem.
    """

    def __init__(self, path: Path, layout: Layout, problem: str) -> None:
        self._path = path
        self._problem = problem
        self._state: Callable[[], tuple[Permutation, Mapping[str, Any]]] | None = None
        self._written = monotonic()
        self.element: GroupElement | None = None
        self._document: Mapping[str, Any] | None = None
        if exists(path):
            self.element, self._document = _read(path, layout, problem)

    def saved(self) -> tuple[Permutation, Mapping[str, Any]] | None:
        """Return the state in the file; None if there is no file, or it has only a permutation."""
        if self.element is None or self._document is None:
            return None
        return self.element.permutation, self._document

    def save(self, state: Callable[[], tuple[Permutation, Mapping[str, Any]]]) -> None:
        """Write a state, unless the last one was written less than ten seconds ago.

        Args:
            state: Returns the state.

        Raises:
            StorageError: If the file cannot be written.
        """
        self._state = state
        if monotonic() - self._written >= _INTERVAL:
            self.flush()

    def flush(self) -> bool:
        """Write the last state.

        Returns:
            Whether the search has a state; if not, no file is written.

        Raises:
            StorageError: If the file cannot be written.
        """
        if self._state is None:
            return False
        permutation, document = self._state()
        permutation.save(self._path, meta={_PROBLEM: self._problem, _STATE: dict(document)})
        self._written = monotonic()
        return True


def search_with_checkpoint(
    search: Search,
    layout: Layout,
    checkpoint: Path | str,
    *,
    problem: str,
    initial: GroupElement | None = None,
    on_interrupt: OnInterrupt = "raise",
) -> MatchResult:
    """Run a search that resumes from a checkpoint, and writes one if it is interrupted.

    Args:
        search: The search to run.
        layout: Layout of the permutations.
        checkpoint: Safetensors file for the best group element, and for the state of the search if the matcher keeps
            one. If the file exists, the search resumes from it. It is written atomically when the search is
            interrupted, and every ten seconds if the matcher keeps a state. It is deleted when the search completes.
        problem: Digest of the matcher and the networks; a checkpoint with another digest raises an error.
        initial: Initial group element if there is no checkpoint.
        on_interrupt: ``raise`` KeyboardInterrupt or ``return`` the best result so far, after writing the checkpoint.

    Returns:
        The result.

    Raises:
        KeyboardInterrupt: If the search was interrupted and ``on_interrupt`` is ``raise``.
        FileFormatError: If the checkpoint is damaged, or belongs to another specification or problem.
        StorageError: If the checkpoint cannot be written.
    """
    path = Path(checkpoint)
    require_writable(path)
    record = FileRecord(path, layout, problem)
    try:
        # A matcher with a state continues from it; from the element alone, it would omit its initialization.
        start = initial if record.saved() is not None else record.element or initial
        result = search(initial=start, on_interrupt="return", record=record)
    except FileFormatError as error:
        message = f"{path}: {error}; {_RESTART}"
        raise FileFormatError(message) from error
    if result.outcome is not MatchOutcome.INTERRUPTED:
        path.unlink(missing_ok=True)
        return result
    if not record.flush():
        result.group_element.save(path, meta={_PROBLEM: problem})
    if on_interrupt == "raise":
        raise KeyboardInterrupt
    return result


def _read(path: Path, layout: Layout, problem: str) -> tuple[GroupElement, Mapping[str, Any] | None]:
    """Return the group element in a checkpoint, and the state of the search if the matcher keeps one."""
    try:
        element = load_element(path, layout)
        _, document = read_tensors(path)
    except FileFormatError as error:
        message = f"{error}. Expected the checkpoint of an interrupted match; {_RESTART}"
        raise FileFormatError(message) from error
    # A file written by `GroupElement.save` has no digest. It is accepted as an initial element.
    if document.get(_PROBLEM, problem) != problem:
        message = (
            f"{path} is the checkpoint of an interrupted match of other networks or with another matcher; use another "
            "file, or delete it to restart"
        )
        raise FileFormatError(message)
    state = document.get(_STATE)
    if state is not None and not isinstance(state, dict):
        message = f"{path}: the state of the search is damaged; {_RESTART}"
        raise FileFormatError(message)
    return element, state
