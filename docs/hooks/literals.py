"""Shows literal types in signatures by their values: ``Literal['raise', 'return']`` instead of ``OnInterrupt``.

An extension of griffe, which reads the sources for the API pages. All other types keep their names, which link to
the page that explains them.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, Final, final

from griffe import (
    Alias,
    Attribute,
    Class,
    Expr,
    ExprCall,
    ExprKeyword,
    ExprName,
    ExprSubscript,
    ExprTuple,
    Extension,
    Function,
    Module,
    safe_get_expression,
)
from typing_extensions import override

_PROJECT: Final = "rebasin_core."


@final
class Literals(Extension):
    """Expands the names of literals, of bounded type variables, and of types with constraints."""

    @override
    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        _expand_members(pkg)


def _expand_members(parent: Module | Class) -> None:
    """Expand the annotations in a module or class."""
    for member in parent.members.values():
        if isinstance(member, Module | Class):
            _expand_members(member)
        elif isinstance(member, Attribute):
            if str(member.annotation) == "TypeAlias":
                member.value = _unquoted(member)
            member.annotation = _expanded(member.annotation)
        elif isinstance(member, Function):
            member.returns = _expanded(member.returns)
            for parameter in member.parameters:
                parameter.annotation = _expanded(parameter.annotation)


def _unquoted(alias: Attribute) -> str | Expr | None:
    """Return the type of an alias, parsed if it is written as a string."""
    value = ast.parse(str(alias.value), mode="eval").body
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return safe_get_expression(ast.parse(value.value, mode="eval").body, parent=alias.parent)
    return alias.value


def _expanded(part: Any) -> Any:
    """Return an expression in which the names of literals, bounded type variables and constraints are expanded."""
    if isinstance(part, list):
        return [_expanded(each) for each in part]
    if isinstance(part, ExprName):
        return _meaning(part) or part
    if isinstance(part, Expr):
        children = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
        return dataclasses.replace(part, **{name: _expanded(child) for name, child in children.items()})
    return part


def _meaning(name: ExprName) -> Expr | None:
    """Return the expansion of the name of a type of this project; None if the name itself should be shown."""
    value = _value(name) if name.canonical_path.startswith(_PROJECT) else None
    if isinstance(value, ExprCall) and str(value.function) == "TypeVar":
        bounds = [part.value for part in value.arguments if isinstance(part, ExprKeyword) and part.name == "bound"]
        return _expanded(bounds[0]) if bounds else None
    if isinstance(value, ExprSubscript) and str(value.left) == "Literal":
        return value
    if isinstance(value, ExprSubscript) and str(value.left) == "Annotated" and isinstance(value.slice, ExprTuple):
        first = value.slice.elements[0]
        return None if "Annotated" in str(first) else _expanded(first)
    return None


def _value(name: ExprName) -> str | Expr | None:
    """Return the value that is assigned to a name at the top of a module, if there is one."""
    try:
        found = name.resolved
    except KeyError:  # a part of a parameter specification, such as `P.args`
        return None
    target = found.final_target if isinstance(found, Alias) else found
    return target.value if isinstance(target, Attribute) else None
