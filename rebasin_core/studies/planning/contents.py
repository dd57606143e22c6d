"""Digests of the inputs of stages: files, datasets, and the source code of packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

from rebasin_core.api.opening import digest_of_checkpoint, reader_of
from rebasin_core.checkpoints.safetensors_reader import SAFETENSORS
from rebasin_core.errors import FileFormatError, InvalidInputError, PluginError, UnknownNameError
from rebasin_core.plugin.code import code_of_package
from rebasin_core.plugin.discovery import CORE
from rebasin_core.strategy import Options, Strategy, strategies_in
from rebasin_core.studies.kinds.network import digest_of_inputs
from rebasin_core.studies.kinds.workspace import digest_of_examples
from rebasin_core.tensors.digests import digest_of_file, digest_of_json
from rebasin_core.tensors.files import document_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rebasin_core.data.base import DataSource, DataSplits, Target
    from rebasin_core.plugin.registry import Registered, Registry


class DataFacts(NamedTuple):
    """Digests and shapes of a dataset, for plans.

    Attributes:
        inputs: Digest of the inputs on which symmetries are checked.
        input_shape: Shape of one input.
        target: Prediction target.
    """

    inputs: str
    input_shape: tuple[int, ...]
    target: Target


@final
class Contents:
    """Digests of contents, each computed once.

    A file is read again if its size or modification time changes.

    Args:
        registry: Registry, which knows the packages of strategies.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._files: dict[Path, tuple[tuple[int, int], str]] = {}
        self._splits: dict[str, DataSplits] = {}
        self._data: dict[tuple[str, int | None, int | None], DataFacts] = {}
        self._examples: dict[tuple[str, str, int], str] = {}

    def file(self, path: Path) -> str:
        """Return the digest of a file.

        Args:
            path: The file.

        Returns:
            SHA-256 of its content.

        Raises:
            FileFormatError: If it cannot be read.
        """
        known = self._files.get(path)
        try:
            status = path.stat()
        except (OSError, ValueError):
            return digest_of_file(path)  # which states the problem
        state = (status.st_mtime_ns, status.st_size)
        if known is not None and known[0] == state:
            return known[1]
        digest = digest_of_file(path)
        self._files[path] = (state, digest)
        return digest

    def checkpoint(self, path: Path) -> str:
        """Return the digest of a posterior or checkpoint: of the files that hold its tensors.

        Args:
            path: A file or folder.

        Returns:
            The digest.

        Raises:
            FileFormatError: If it cannot be read.
        """
        try:
            return digest_of_checkpoint(path, registry=self._registry)
        except (FileFormatError, InvalidInputError):  # reported when it is loaded, unless it is missing
            return self.file(path)

    def path(self, path: Path) -> str:
        """Return the digest of a file, or of all files in a folder.

        Args:
            path: A file or folder.

        Returns:
            The digest, with its kind as prefix; the absolute path if there is no file or folder.

        Raises:
            FileFormatError: If a file cannot be read.
        """
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listed = {file.relative_to(path).as_posix(): self.file(file) for file in files}
            return f"folder-sha256:{digest_of_json(listed)}"
        return f"sha256:{self.file(path)}" if path.is_file() else str(path.absolute())

    def data(self, source: DataSource, num_train: int | None, num_test: int | None) -> DataFacts:
        """Return the digests of a dataset; it is loaded on the first call.

        Args:
            source: The dataset.
            num_train: Number of training examples; all if None.
            num_test: Number of test examples; all if None.

        Returns:
            Digests, shape and target.

        Raises:
            DataError: If the dataset is missing or damaged.
        """
        name = source.canonical_json()
        key = (name, num_train, num_test)
        if key not in self._data:
            if name not in self._splits:
                self._splits[name] = source.load()
            splits = self._splits[name]
            inputs = digest_of_inputs(splits.test.first(num_test))
            self._data[key] = DataFacts(inputs, splits.input_shape, splits.target)
        return self._data[key]

    def examples(self, source: DataSource, split: Literal["train", "test"], count: int | None) -> str:
        """Return the digest of the examples of a split.

        Args:
            source: The dataset.
            split: The split.
            count: Number of examples, from the first; all if None.

        Returns:
            The digest.
        """
        splits = self.splits(source, None, None)
        examples = splits.train if split == "train" else splits.test
        key = (source.canonical_json(), split, len(examples) if count is None else min(count, len(examples)))
        if key not in self._examples:
            self._examples[key] = digest_of_examples(examples.first(count))
        return self._examples[key]

    def splits(self, source: DataSource, num_train: int | None, num_test: int | None) -> DataSplits:
        """Return the examples of a dataset.

        Args:
            source: The dataset.
            num_train: Number of training examples; all if None.
            num_test: Number of test examples; all if None.

        Returns:
            The examples.
        """
        self.data(source, num_train, num_test)
        splits = self._splits[source.canonical_json()]
        return replace(splits, train=splits.train.first(num_train), test=splits.test.first(num_test))

    def code(self, options: Options, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
        """Return the versions of the packages whose strategies are used.

        Args:
            options: Options that contain strategies.
            without: Names of options to skip.

        Returns:
            For each distribution, its version and the digest of its source code.
        """
        found = {CORE: {self._core}}
        used = [getattr(options, name) for name in type(options).model_fields if name not in without]
        for strategy in strategies_in(used):
            name, number = self._distribution(strategy)
            if name != CORE:
                module = type(strategy).__module__.partition(".")[0]
                found.setdefault(name, set()).add(code_of_package(module, number))
        return {name: " ".join(sorted(codes)) for name, codes in found.items()}

    def code_of_file(self, path: Path) -> dict[str, str]:
        """Return the versions of the packages that read a posterior or checkpoint.

        Args:
            path: File of a posterior, or plain checkpoint.

        Returns:
            Version and digest of the distributions of its reader and representation; empty for those of this package.
        """
        entries: list[Registered] = []
        try:
            reader = reader_of(path, registry=self._registry)
            entries.append(self._registry.get(reader.family, reader.name))
            if reader.name == SAFETENSORS:
                entries.append(self._registry.get("posterior", document_of(path).get("representation", "point")))
        except (FileFormatError, UnknownNameError, PluginError):  # reported when the file is loaded
            pass
        return self._code_of(entries)

    def code_of_rules(self) -> dict[str, str]:
        """Return the versions of the packages with rules for operators, which traced specifications depend on.

        Returns:
            Version and digest of each distribution other than this package.
        """
        return self._code_of([entry for entry in self._registry.all() if entry.family == "operator_rules"])

    @staticmethod
    def _code_of(registered: Sequence[Registered]) -> dict[str, str]:
        found = {
            entry.status.distribution: code_of_package(entry.kind.__module__.partition(".")[0], entry.status.version)
            for entry in registered
        }
        found.pop(CORE, None)
        return found

    @cached_property
    def _core(self) -> str:
        return code_of_package("rebasin_core", version(CORE))

    def _distribution(self, strategy: Strategy) -> tuple[str, str]:
        """Return the name and version of the distribution of a strategy; its module if it is not registered."""
        try:
            entry = self._registry.get(strategy.family, strategy.registered_name())
        except UnknownNameError:
            entry = None
        # A class that is not registered can have the name of one that is.
        if entry is None or entry.kind is not type(strategy):
            return type(strategy).__module__, "0"
        return entry.status.distribution, entry.status.version


def is_point_file(path: Path) -> bool:
    """Return whether a file contains a single network.

    Args:
        path: A posterior, or plain checkpoint.

    Returns:
        True also for damaged files, whose errors are reported where they are loaded.
    """
    try:
        return bool(document_of(path).get("representation", "point") == "point")
    except FileFormatError:
        return True


def with_paths(options: Options, document: dict[str, Any], text: Callable[[Path], str]) -> dict[str, Any]:
    """Return options as JSON in which each path is replaced.

    Args:
        options: Any options.
        document: The options as plain JSON; names that are missing are skipped.
        text: The text that replaces a path.

    Returns:
        The new JSON.
    """
    return {name: _replaced(getattr(options, name, None), value, text) for name, value in document.items()}


def _replaced(value: object, part: Any, text: Callable[[Path], str]) -> Any:  # ruff: ignore[any-type] - JSON
    if isinstance(value, Path):
        return text(value)
    if isinstance(value, Options) and isinstance(part, dict):
        return with_paths(value, part, text)
    if isinstance(value, Mapping) and isinstance(part, dict):
        return {name: _replaced(value.get(name), item, text) for name, item in part.items()}
    if isinstance(value, tuple | list) and isinstance(part, list) and len(value) == len(part):
        return [_replaced(item, inner, text) for item, inner in zip(value, part, strict=True)]
    return part
