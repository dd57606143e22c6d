"""Docstrings of annotated attributes: the string literals that follow their declarations in a class body."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings of the annotated attributes of a class and its bases.

    If a subclass declares an attribute again, only the docstring of that declaration counts.

    Args:
        kind: The class.

    Returns:
        Docstrings by attribute; empty if the source is not available.
    """
    found: dict[str, str] = {}
    for parent in kind.__mro__:
        if parent is not object:
            found = {**_declared(parent), **found}
    return {name: text for name, text in found.items() if text}


@functools.cache
def _declared(kind: type) -> dict[str, str]:
    """Return the docstring of every attribute that the class itself declares; empty if it has none."""
    names = inspect.get_annotations(kind)
    try:
        (declaration,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # created dynamically, or source not available
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
