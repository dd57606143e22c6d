"""Digests of the inputs of stages: files, datasets, and the source code of packages."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from rebasin_core.errors import FileFormatError, UnknownNameError
from rebasin_core.plugin.discovery import CORE
from rebasin_core.strategy import Options, Strategy, strategies_in
from rebasin_core.studies.kinds.network import digest_of_inputs
from rebasin_core.studies.kinds.workspace import digest_of_examples
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.files import document_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rebasin_core.data.base import DataSource, DataSplits, Target
    from rebasin_core.plugin.registry import Registry


class DataFacts(NamedTuple):
    """Digests and shapes of a dataset, for plans.

    Attributes:
        train: Digest of the training examples.
        test: Digest of the test examples.
        inputs: Digest of the inputs on which symmetries are checked.
        input_shape: Shape of one input.
        target: Prediction target.
    """

    train: str
    test: str
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

    def file(self, path: Path) -> str:
        """Return the digest of a file.

        Args:
            path: The file.

        Returns:
            SHA-256 of its content.

        Raises:
            FileFormatError: If it cannot be read.
        """
        digest = None
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
            train = splits.train.first(num_train)
            test = splits.test.first(num_test)
            self._data[key] = DataFacts(
                digest_of_examples(train),
                digest_of_examples(test),
                digest_of_inputs(test),
                splits.input_shape,
                splits.target,
            )
        return self._data[key]

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

    def code(self, options: Options) -> dict[str, str]:
        """Return the versions of the packages whose strategies are used.

        Args:
            options: Options that contain strategies.

        Returns:
            For each distribution, its version and the digest of its source code.
        """
        found = {CORE: self._core}
        for strategy in strategies_in(options):
            name, number = self._distribution(strategy)
            if name != CORE:
                module = type(strategy).__module__.partition(".")[0]
                found[name] = code_of_package(module, number)
        return found

    @cached_property
    def _core(self) -> str:
        return code_of_package("rebasin_core", version(CORE))

    def _distribution(self, strategy: Strategy) -> tuple[str, str]:
        """Return the name and version of the distribution of a strategy; its module if it is not registered."""
        try:
            status = self._registry.get(strategy.family, strategy.registered_name()).status
        except UnknownNameError:
            return type(strategy).__module__, "0"
        return status.distribution, status.version


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


@cache
def code_of_package(package: str, number: str) -> str:
    """Return the version of a package and a digest of its source files, which detects changes between versions.

    Args:
        package: Name of a top-level module.
        number: Version of the distribution.

    Returns:
        Text of the form ``1.2.3+0123456789ab``; only the version if there are no source files.
    """
    found = hashlib.sha256()
    count = 0
    for name, path in _sources(package):
        found.update(repr((name, hashlib.sha256(path.read_bytes()).hexdigest())).encode())
        count += 1
    return f"{number}+{found.hexdigest()[:12]}" if count else number


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the source files of a package in a fixed order, with their names relative to it."""
    module = sys.modules.get(package)
    try:
        path = Path(inspect.getsourcefile(module) or "") if module is not None else Path()
    except TypeError:  # a built-in module, or the module of an interactive session
        return
    if path.name == "__init__.py":
        for file in sorted(path.parent.rglob("*.py")):
            yield file.relative_to(path.parent).as_posix(), file
    elif path.is_file():
        yield path.name, path


def paths_in(options: Options, *, without: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the paths among options, recursively.

    Args:
        options: Any options.
        without: Names of options to skip.

    Yields:
        Each path.
    """
    for name in type(options).model_fields:
        if name not in without:
            yield from _paths(getattr(options, name))


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Options):
        yield from paths_in(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _paths(item)
