"""The output folder of a run: its lock, its record, and the results of the run's stages."""

from __future__ import annotations

import shlex
import socket
import sys
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self, final

from pydantic import BaseModel, ValidationError

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.problems import messages
from rebasin_core.studies.kinds.view import write_results
from rebasin_core.tensors.files import is_unfinished, write_json
from rebasin_core.tensors.lock import LOCK, FolderLock
from rebasin_core.tensors.reading import read_json, read_record, reason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rebasin_core.studies.store import Artifact, Store

RECORD = "run.json"
COMMANDS = "stages/commands.json"
"""Commands that computed or read the run, the last 100."""

STORE = "store"
"""Name of the store in the output folder, unless another one is chosen."""

_KIND, _VERSION = "run", 2
_MAX_COMMANDS = 100
_MAX_COMMAND = 1000  # characters
_FOLDERS = ("posteriors", "training", "permutations", "similarities", "curves", "scores", "stages", "figures")


class _Record(BaseModel):
    """Keys of the record of a run that are read again."""

    stages: dict[str, str]
    results: dict[str, str]


@final
class RunFolder:
    """The output folder of a run, used by one command at a time.

    On entering, the folder is validated before anything is changed: it must be new, empty, or the output folder of a
    run, and not in use. If a run with other settings or inputs was written to it before, the files of stages that are
    not part of the new run are removed; their results remain in the store.

    Args:
        root: The folder; created if it does not exist.
        stages: Identity of the run's stage of each role.
        record: Further entries of the record: configuration, inputs, versions.

    Raises:
        StorageError: On entering, if the folder contains other files, is in use, or cannot be written.
    """

    def __init__(self, root: Path | str, stages: Mapping[str, str], record: Mapping[str, Any]) -> None:
        self.root = Path(root)
        self._stages = stages
        self._entries = record
        self._held = ExitStack()
        # Files in the folder, with the stage of each.
        self._results: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Validate and lock the folder, and remove files of other stages and temporary files of a killed run."""
        # Validated before locking, which writes a file, and again under the lock.
        self._read()
        with ExitStack() as held:
            held.enter_context(FolderLock(self.root))
            self._results = self._read()
            self._remove_unfinished()
            self._remove_outdated()
            self._write_record()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._held.close()

    def write(self, artifacts: Mapping[str, Artifact], store: Store) -> None:
        """Write the results of stages, and the record of each stage.

        Args:
            artifacts: Stored results by role.
            store: The store.

        Raises:
            DamagedArtifactError: If a stored file is damaged.
            StorageError: If a file cannot be written.
        """
        for role, artifact in artifacts.items():
            names = write_results(self.root, role, artifact, store)
            name = f"stages/{role.replace('/', '-')}.json"
            about = {"kind": "stage", "version": 2, "id": artifact.id, "digest": artifact.digest, **artifact.about}
            write_json(self.root / name, about)
            self._results |= dict.fromkeys((*names, name), artifact.id)
        self._write_record()

    def add_command(self) -> None:
        """Append the date and the command of this process to ``stages/commands.json``.

        Raises:
            StorageError: If the file cannot be written.
        """
        path = self.root / COMMANDS
        try:
            before = read_json(path)["commands"]
        except (FileFormatError, KeyError, TypeError):  # missing, or not written by a run
            before = []
        name = Path(sys.argv[0]).name
        program = "rebasin" if name == "__main__.py" else name
        command = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join([program, *sys.argv[1:]])[:_MAX_COMMAND],
            "host": socket.gethostname(),
        }
        write_json(path, {"commands": [*list(before)[1 - _MAX_COMMANDS :], command]})

    def _write_record(self) -> None:
        record = {"kind": _KIND, "version": _VERSION, **self._entries, "stages": dict(self._stages)}
        write_json(self.root / RECORD, {**record, "results": self._results})

    def _read(self) -> dict[str, str]:
        """Return the files of the run in the folder; raise if it contains other files."""
        try:
            names = sorted(p.name for p in self.root.iterdir()) if self.root.exists() else []
        except (OSError, ValueError) as error:
            message = f"cannot use {self.root} as an output folder: {reason(error)}"
            raise StorageError(message) from error
        if RECORD in names:
            return _stored(self.root / RECORD).results
        # A run that was killed before it wrote its record leaves a lock file and at most one temporary file.
        others = [name for name in names if name not in {LOCK, STORE} and not is_unfinished(name)]
        if others:
            message = f"{self.root} contains other files ({', '.join(others[:4])}); choose a new or empty output folder"
            raise StorageError(message)
        return {}

    def _remove_outdated(self) -> None:
        """Remove the files of stages that are not part of this run."""
        current = set(self._stages.values())
        for name, identity in list(self._results.items()):
            path = self.root / name
            if identity in current:
                continue
            # The record may have been edited: only files that a run writes are removed, and only in this folder.
            is_result = name.partition("/")[0] in {*_FOLDERS, "summary.json", "report.html"}
            if is_result and path.resolve().is_relative_to(self.root.resolve()) and not path.is_symlink():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            del self._results[name]

    def _remove_unfinished(self) -> None:
        """Remove temporary files of a killed run, recognized by folder and name, and older than the lock."""
        before = time()
        folders = [self.root / name for name in _FOLDERS]
        subfolders = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()]
        for folder in (self.root, *folders, *subfolders):
            if folder.is_dir():
                _remove_unfinished_in(folder, before)


def _remove_unfinished_in(folder: Path, before: float) -> None:
    try:
        for path in folder.iterdir():
            if is_unfinished(path.name) and not path.is_symlink() and path.is_file() and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot use {folder}: {reason(error)}"
        raise StorageError(message) from error


def _stored(path: Path) -> _Record:
    """Return the record of the run in a folder."""
    try:
        return _Record.model_validate(read_record(path, _KIND, _VERSION), strict=True)
    except (FileFormatError, ValidationError) as error:
        why = str(error) if isinstance(error, FileFormatError) else "; ".join(messages(error.errors()))
        message = (
            f"{path} is not the record of a run of this version ({why}); choose another output folder, or remove this "
            "one. Posteriors in it can be loaded with `reference: {path: ...}`"
        )
        raise StorageError(message) from error
