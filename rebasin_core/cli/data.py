"""Datasets given on the command line: a registered dataset with options, or the result of a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rebasin_core.config.document import Document
from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.examples import Examples
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.isolation import isolated, load_object
from rebasin_core.tensors.inputs import concatenated

if TYPE_CHECKING:
    from pathlib import Path

_FORMS = (
    "`DataSplits`; a pair or mapping (train, test) of `Examples`, datasets, data loaders, or pairs of tensors "
    "(inputs, targets); or one of these, for both"
)


def load_data(given: str, options: tuple[str, ...], root: Path | None) -> DataSplits:
    """Load the dataset given on the command line.

    Args:
        given: The name of a registered dataset; a mapping with ``name`` and options, as in a run file; or
            ``package.module:function``, called with the options.
        options: Options of the form ``key=value``; values are parsed as in a run file.
        root: The folder of the dataset; None for its default.

    Returns:
        The data, split for training and testing.

    Raises:
        ConfigError: If the text has none of these forms, or options are invalid.
        InvalidInputError: If the function fails, or does not return data.
    """
    values = dict(_option(text) for text in options)
    if root is not None:
        values["root"] = str(root)
    if given.lstrip().startswith("{"):
        content = Document.parse(given, "--data").content
        if not isinstance(content, Mapping):
            message = f"expected a mapping such as {{name: mnist, root: data}} for --data, got {given!r}"
            raise ConfigError(message)
        return DataSource.of({**content, **values}).load()
    if ":" not in given:
        return DataSource.of({"name": given, **values}).load()
    function = load_object(given, "data")
    found: object = None
    with isolated() as attempt:
        found = function(**values) if callable(function) else function
    if attempt.error is not None:
        message = f"cannot load data from {given} with the options {values}: {attempt.problem}"
        raise InvalidInputError(message) from attempt.error
    return _splits(found, given)


def _option(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        message = f"expected key=value for --data-option, such as mean=0.5, got {text!r}"
        raise ConfigError(message)
    return key, Document.parse(value, f"--data-option {key}").content


def _splits(found: object, source: str) -> DataSplits:
    if isinstance(found, DataSplits):
        return found
    if isinstance(found, Mapping) and found.keys() == {"train", "test"}:
        found = (found["train"], found["test"])
    if isinstance(found, tuple | list) and len(found) == 2 and not _is_pair(found):
        train, test = _examples(found[0], source), _examples(found[1], source)
    else:
        train = test = _examples(found, source)
    classes = not train.targets.is_floating_point()
    size = int(train.targets.max()) + 1 if classes else train.targets[:1].numel()
    return DataSplits(train, test, Target("classification" if classes else "regression", size))


def _is_pair(found: object) -> TypeGuard[tuple[Tensor, Tensor]]:
    return isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found)


def _examples(found: object, source: str) -> Examples:
    """Convert an object to examples."""
    if isinstance(found, Examples):
        return found
    if _is_pair(found):
        return Examples(found[0], found[1])
    if isinstance(found, Dataset):
        found = DataLoader(found, batch_size=1000)
    try:
        pairs = list(checked_batches(found, "data"))
    except InvalidInputError as error:
        message = f"expected {source} to return {_FORMS}; {error}"
        raise InvalidInputError(message) from error
    if not pairs:
        message = f"expected {source} to return {_FORMS}; got no examples"
        raise InvalidInputError(message)
    inputs = concatenated([inputs for inputs, _ in pairs])
    if not isinstance(inputs, Tensor):
        message = f"expected {source} to return {_FORMS}, with one input tensor; got batches with inputs {inputs}"
        raise InvalidInputError(message)
    return Examples(inputs, torch.cat([targets for _, targets in pairs]))
