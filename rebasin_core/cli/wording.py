"""Messages of the library in the words of the command line: options instead of arguments of Python."""

from __future__ import annotations

import re

_INPUTS = "--input (once for each positional input, such as --input 8,3,32,32) and --kwarg NAME=SHAPE"
_DATA = "give the data with --data"
# Advice of the library, and the same advice for a command with options.
_ADVICE = (
    (
        r"Pass several positional inputs as a tuple, and keyword inputs as `kwargs`",
        f"Give the shapes of the inputs with {_INPUTS}",
    ),
    (
        r"Pass inputs of the shapes that the model expects; several inputs as a tuple, keyword inputs as `kwargs`",
        f"Give the shapes that the model expects with {_INPUTS}",
    ),
    (
        r"(expected example inputs of .*), which are needed to trace it",
        rf"\1, to trace it; give their shapes with {_INPUTS}",
    ),
    (r"give a factory of the model, `package\.module:name`", "give --model package.module:name, with --input"),
    (r"`method='(\w+)'`", r"--method \1"),
    (r"pass `task` \(a model and batches of inputs and targets\)", _DATA),
    (r"pass `task`", _DATA),
    (r"`repair` '(\w+)'", r"--repair \1"),
    (r"needs data, `task` \(--data\)", f"needs data; {_DATA}"),
    (r"give `model` as a factory \(package\.module:name\)", "give --model package.module:name"),
    (r"and the shapes of its inputs, or skip the check", "and --input, or skip the check with --no-check"),
    (r"skip the check$", "skip the check with --no-check"),
    (r"(Please )?set `root` to the folder that contains it", "Give its folder with --root"),
    (r"Please set `root`", "Give its folder with --root"),
    (r"or `download: true`", "or download it with --data-option download=true"),
)


def as_options(message: str) -> str:
    """Return a message with advice in terms of options.

    Args:
        message: A message of the library, with advice in terms of arguments.

    Returns:
        The message for the command line; other text is unchanged.
    """
    for pattern, replacement in _ADVICE:
        message = re.sub(pattern, replacement, message)
    return message
