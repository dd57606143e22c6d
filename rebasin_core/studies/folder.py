"""The folder of a run: what is in it, which stages are done, and that it belongs to one run only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import ValidationError

from rebasin_core.config.run import RunConfig
from rebasin_core.errors import ConfigError, FileFormatError, StorageError
from rebasin_core.tensors.files import PARTIAL, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG = "run.json"
CURVES = "curves"
SUMMARY = "summary.json"
# Where a run may be computed does not change what it computes.
_FREE_KEYS = ("device",)


@final
class RunFolder:
    """The output folder of one run, and the record of its finished stages.

    A stage is done when its record exists and every file in it has the recorded checksum. Records are written after the
    files, so that a run killed at any moment finds its finished stages whole, and does the others again.

    Args:
        root: The folder; made if it does not exist.
        config: The run's configuration as plain JSON.
        about: Versions and the like, written beside the configuration.

    Raises:
        StorageError: If the folder holds another run or other files, or cannot be written.
    """

    def __init__(self, root: Path | str, config: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.root = Path(root)
        stored = self._stored()
        # What a killed run was writing at that moment.
        for left_over in self.root.rglob(f".*{PARTIAL}*"):
            left_over.unlink(missing_ok=True)
        if stored is None:
            write_json(self.root / CONFIG, {"config": dict(config), "about": dict(about)})
        else:
            self._require_same(stored, config)

    def path(self, *parts: str) -> Path:
        """Return a path in the folder.

        Args:
            *parts: Folder and file names.

        Returns:
            The path.
        """
        return self.root.joinpath(*parts)

    def is_done(self, stage: str) -> bool:
        """Return whether a stage is finished and its files are as it left them.

        Args:
            stage: Its name.

        Returns:
            True if nothing has to be done again.
        """
        record = self._record(stage)
        if not record.is_file():
            return False
        try:
            files = read_json(record)["files"]
            return all(_checksum(self.root / name) == checksum for name, checksum in files.items())
        except (FileFormatError, KeyError, OSError, AttributeError):
            return False

    def finish(self, stage: str, files: Sequence[Path], *, seconds: float) -> None:
        """Record that a stage is finished.

        Args:
            stage: Its name.
            files: What it wrote.
            seconds: How long it took.

        Raises:
            StorageError: If the record cannot be written.
        """
        checksums = {str(path.relative_to(self.root)): _checksum(path) for path in files}
        write_json(self._record(stage), {"stage": stage, "files": checksums, "seconds": round(seconds, 3)})

    def _record(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"

    def _stored(self) -> Mapping[str, Any] | None:
        """Return the configuration in the folder, or None if it is new."""
        try:
            there = sorted(p.name for p in self.root.iterdir()) if self.root.exists() else []
        except OSError as error:
            message = f"cannot use {self.root} as an output folder: {error.strerror or error}"
            raise StorageError(message) from error
        if CONFIG in there:
            try:
                stored: Mapping[str, Any] = read_json(self.root / CONFIG)["config"]
            except (KeyError, TypeError) as error:
                message = f"{self.root / CONFIG} is not the record of a run; choose another output folder"
                raise StorageError(message) from error
            return stored
        # A run killed before its first file was in place leaves at most a temporary file behind.
        if [name for name in there if not name.startswith(".")]:
            message = f"{self.root} holds other files ({', '.join(there[:4])}); choose a new or empty output folder"
            raise StorageError(message)
        return None

    def _require_same(self, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        stored = _in_present_form(stored)
        keys = [k for k in {**stored, **config} if k not in _FREE_KEYS and stored.get(k) != config.get(k)]
        if keys:
            message = (
                f"{self.root} holds a run with other settings (they differ in {', '.join(f'`{k}`' for k in keys)}); "
                "choose another output folder, or remove this one"
            )
            raise StorageError(message)


def _in_present_form(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a stored configuration as it would be written now: options may have got other names since."""
    try:
        return RunConfig.model_validate(stored).model_dump(mode="json")
    except (ConfigError, ValidationError):
        # Not readable any more, so that it differs from every configuration that is: this is said by option.
        return stored


def _checksum(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
