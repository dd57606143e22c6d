"""Style rules that linters do not cover: sizes, final classes, and side effects of the import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_core
from rebasin_core import Registry

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "rebasin_core").rglob("*.py"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    # The top-level module is a list of names.
    assert len(source.splitlines()) <= 400 or path == ROOT / "rebasin_core" / "__init__.py"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


def test_no_tuple_is_unpacked_from_a_generator_expression() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SHIPPED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        for value in ([node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value])
        if isinstance(value, ast.GeneratorExp)
        if any(isinstance(target, ast.Tuple) for target in node.targets)
    ]
    assert not found


CONCRETE_POSTERIORS = {e.kind.__name__ for e in Registry(external=False).all() if e.family == "posterior"}


def test_only_posteriors_check_concrete_posterior_classes() -> None:
    """Other code uses interfaces and registered functions, which also support third-party posteriors."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in SHIPPED
        if "posteriors" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"isinstance", "issubclass"}
        if CONCRETE_POSTERIORS & {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
    ]
    assert not found


def test_registered_strategies_are_final() -> None:
    for entry in Registry(external=False).all():
        kinds = [entry.kind]
        assert all(getattr(kind, "__final__", False) for kind in kinds), f"{entry.kind.__name__} is not @final"


def test_public_names_exist_and_are_documented() -> None:
    for name in rebasin_core.__all__:
        assert inspect.getdoc(getattr(rebasin_core, name)), f"{name} has no docstring"


def test_import_has_no_side_effects_and_needs_no_extras() -> None:
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"matplotlib", "sklearn", "pooch", "torchvision", "ot"}:
            raise ImportError(f"{name} is an extra")
sys.meta_path.insert(0, Blocker())
import torch
state = torch.get_rng_state()
import rebasin_core
assert torch.equal(state, torch.get_rng_state())
assert torch.get_default_dtype() == torch.float32
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
