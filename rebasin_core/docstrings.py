"""Strings that stand under the annotated attributes of a class: what is said of an option, where it is declared."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings of the annotated attributes of a class and those above it.

    An attribute that is declared again has the docstring of the lowest declaration, or none.

    Args:
        kind: The class.

    Returns:
        Docstrings by attribute; empty where the source cannot be read.
    """
    found: dict[str, str] = {}
    for parent in kind.__mro__:
        if parent is not object:
            found = {**_declared(parent), **found}
    return {name: text for name, text in found.items() if text}


@functools.cache
def _declared(kind: type) -> dict[str, str]:
    """Return the docstring, perhaps empty, of every attribute that the class itself declares."""
    names = inspect.get_annotations(kind)
    try:
        (declaration,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # made by a program, or without its source
        return dict.fromkeys(names, "")
    body = declaration.body if isinstance(declaration, ast.ClassDef) else []
    found = dict.fromkeys(names, "")
    for attribute, below in itertools.pairwise(body):
        match attribute, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    return found
