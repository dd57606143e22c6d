"""The output folder of a run: its identity, its lock, and the records of its finished stages."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self, final

from pydantic import BaseModel, ValidationError

from rebasin_core.config.run import RunConfig
from rebasin_core.errors import ConfigError, FileFormatError, StorageError
from rebasin_core.problems import messages
from rebasin_core.studies.lock import LOCK, FolderLock
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.files import is_unfinished, write_json
from rebasin_core.tensors.reading import read_record, reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

CONFIG = "run.json"
CURVES = "curves"
SUMMARY = "summary.json"
RUN_KIND, RUN_VERSION = "run", 1
_STAGE_KIND, _STAGE_VERSION = "stage", 1
# A run can be resumed on another device.
_IGNORED_KEYS = ("device",)


@final
@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that determines the results of a run.

    Attributes:
        config: The configuration as plain JSON.
        inputs: Digests of the inputs by name: the dataset, the network, the specification, loaded files.
        code: Versions of the packages whose components are used.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: Mapping[str, str]


@final
class RunFolder:
    """The output folder of one run and the records of its finished stages, used by one command at a time.

    On entering, the folder is validated before anything is changed: it must be new, empty, or of the same run, and not
    in use. A stage is finished if its record exists and all files that it wrote and read have the recorded checksums.
    Records are written after the files, so a run that is killed reuses its finished stages and repeats the others.

    Args:
        root: The folder; created if it does not exist.
        identity: Identity of the run.
        about: Further information for the record, such as versions; not part of the identity.

    Raises:
        StorageError: On entering, if the folder holds another run or other files, is in use, or cannot be written.
    """

    def __init__(self, root: Path | str, identity: RunIdentity, about: Mapping[str, str]) -> None:
        self.root = Path(root)
        self._identity = identity
        self._about = about
        self._held = ExitStack()
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}

    def __enter__(self) -> Self:
        """Validate and lock the folder, remove temporary files of a killed run, and write the run's record."""
        # Validated before locking, which writes a file, and again under the lock.
        self._is_new()
        with ExitStack() as held:
            held.enter_context(FolderLock(self.root))
            is_new = self._is_new()
            self._remove_unfinished()
            if is_new:
                self._write_record()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._held.close()

    def path(self, *parts: str) -> Path:
        """Return a path in the folder.

        Args:
            *parts: Folder and file names.

        Returns:
            The path.
        """
        return self.root.joinpath(*parts)

    def is_done(self, stage: str, reads: Sequence[Path]) -> bool:
        """Return whether a stage is finished and the files that it wrote and read are unchanged.

        Args:
            stage: Name of the stage.
            reads: Files of other stages that it reads.

        Returns:
            True if its files can be reused.
        """
        try:
            record = read_record(self._record(stage), _STAGE_KIND, _STAGE_VERSION)
            files = dict(record["files"])
            return dict(record["reads"]) == self._checksums(reads) and all(
                self._checksum(self.root / str(name)) == checksum for name, checksum in files.items()
            )
        except (FileFormatError, KeyError, TypeError, ValueError):
            return False

    def finish(self, stage: str, files: Sequence[Path], *, reads: Sequence[Path], about: Mapping[str, object]) -> None:
        """Record that a stage is finished.

        Args:
            stage: Name of the stage.
            files: Files that it wrote.
            reads: Files of other stages that it read.
            about: Run time in seconds and number of threads.

        Raises:
            StorageError: If the record cannot be written.
        """
        entries = {"files": self._checksums(files), "reads": self._checksums(reads), **about}
        write_json(self._record(stage), {"kind": _STAGE_KIND, "version": _STAGE_VERSION, "stage": stage, **entries})

    def _write_record(self) -> None:
        identity = self._identity
        entries = {"config": identity.config, "inputs": identity.inputs, "code": identity.code}
        record = {"kind": RUN_KIND, "version": RUN_VERSION, **entries, "about": self._about}
        write_json(self.root / CONFIG, record)

    def _record(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"

    def _checksums(self, paths: Sequence[Path]) -> dict[str, str]:
        return {path.relative_to(self.root).as_posix(): self._checksum(path) for path in paths}

    def _checksum(self, path: Path) -> str:
        """Return the digest of a file; cached while its size and modification time are unchanged."""
        try:
            status = path.stat()
        except OSError as error:
            message = f"cannot read {path}: {reason(error)}"
            raise FileFormatError(message) from error
        state = (status.st_mtime_ns, status.st_size)
        cached = self._digests.get(path)
        if cached is None or cached[0] != state:
            cached = self._digests[path] = (state, digest_of_file(path))
        return cached[1]

    def _is_new(self) -> bool:
        """Return whether the folder holds no run; raise if it holds another run, or other files."""
        try:
            names = sorted(p.name for p in self.root.iterdir()) if self.root.exists() else []
        except (OSError, ValueError) as error:
            message = f"cannot use {self.root} as an output folder: {reason(error)}"
            raise StorageError(message) from error
        if CONFIG in names:
            self._require_same()
            return False
        # A run that was killed before it wrote its record leaves a lock file and at most one temporary file.
        others = [name for name in names if name != LOCK and not is_unfinished(name)]
        if others:
            message = f"{self.root} contains other files ({', '.join(others[:4])}); choose a new or empty output folder"
            raise StorageError(message)
        return True

    def _require_same(self) -> None:
        stored = _stored_identity(self.root / CONFIG)
        old, new = stored.config, self._identity.config
        keys = [f"`{k}`" for k in {**old, **new} if k not in _IGNORED_KEYS and old.get(k) != new.get(k)]
        if keys:
            raise StorageError(self._mismatch(f"with different settings: {', '.join(keys)}"))
        changed = _differing(stored.inputs, self._identity.inputs)
        if changed:
            raise StorageError(self._mismatch(f"whose inputs have changed since: {', '.join(changed)}"))
        versions = _differing(stored.code, self._identity.code)
        if versions:
            pairs = [f"{k} {stored.code.get(k, 'none')}, now {self._identity.code.get(k, 'none')}" for k in versions]
            raise StorageError(self._mismatch(f"of another version: {'; '.join(pairs)}"))

    def _mismatch(self, difference: str) -> str:
        return f"{self.root} contains a run {difference}; choose another output folder, or remove this one"

    def _remove_unfinished(self) -> None:
        """Remove temporary files of a killed run, recognized by folder and name, and older than the lock."""
        before = time()
        folders = [self.root / name for name in _FOLDERS]
        subfolders = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()]
        for folder in (self.root, *folders, *subfolders):
            if folder.is_dir():
                _remove_unfinished_in(folder, before)


_FOLDERS = ("posteriors", "permutations", "similarities", CURVES, "scores", "stages", "figures")


def _remove_unfinished_in(folder: Path, before: float) -> None:
    try:
        for path in folder.iterdir():
            if is_unfinished(path.name) and not path.is_symlink() and path.is_file() and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot use {folder}: {reason(error)}"
        raise StorageError(message) from error


def _differing(stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [key for key in {**stored, **now} if stored.get(key) != now.get(key)]


class _StoredRun(BaseModel):
    """Required keys of the record of a run."""

    config: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]


def _stored_identity(path: Path) -> RunIdentity:
    """Return the identity in the record of a run."""
    try:
        stored = _StoredRun.model_validate(read_record(path, RUN_KIND, RUN_VERSION), strict=True)
    except (FileFormatError, ValidationError) as error:
        why = str(error) if isinstance(error, FileFormatError) else "; ".join(messages(error.errors()))
        message = (
            f"{path} is not the record of a run that this version can resume ({why}); choose another output folder, or "
            "remove this one"
        )
        raise StorageError(message) from error
    return RunIdentity(_normalized(stored.config), stored.inputs, stored.code)


def _normalized(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored configuration in the current format; options may have been renamed since it was written."""
    try:
        return RunConfig.model_validate(stored).model_dump(mode="json")
    except (ConfigError, ValidationError):
        # No longer valid, so it differs from every valid configuration; the caller reports the differing keys.
        return stored
