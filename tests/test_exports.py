"""Names of the package are imported at their first use, and type checkers see the same names."""

from __future__ import annotations

import ast
import copy
import importlib
import os
import pickle
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_core
from rebasin_core.exports import NAMES

HEAVY = {"torch", "numpy", "scipy", "pydantic", "pluggy", "yaml", "click", "importlib.metadata"}
SUBMODULES = {module.name for module in pkgutil.iter_modules(rebasin_core.__path__)}


def fresh(code: str, *arguments: str) -> str:
    """Return the output of a program in a new process; warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=110).stdout


def static_imports() -> dict[str, set[str]]:
    """Return the names that type checkers see, by the module they come from."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(Path(str(rebasin_core.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module not in {"typing", "rebasin_core.exports"}:
            assert all(alias.asname is None for alias in node.names)
            found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    return found


def test_the_table_and_the_static_imports_agree() -> None:
    static = static_imports()
    modules = static.pop("rebasin_core")
    assert static == {module: set(names) for module, names in NAMES.items()}
    names = [name for group in NAMES.values() for name in group]
    assert len(set(names)) == len(names)
    assert sorted([*names, *modules]) == sorted(rebasin_core.__all__)
    assert modules <= SUBMODULES
    assert not SUBMODULES & set(names)  # the import of such a module would replace the name


@pytest.mark.parametrize("name", rebasin_core.__all__)
def test_names_are_those_of_their_modules(name: str) -> None:
    sources = {exported: module for module, group in NAMES.items() for exported in group}
    value = getattr(rebasin_core, name)
    if name in sources:
        assert value is getattr(importlib.import_module(sources[name]), name)
    else:
        assert value is sys.modules[f"rebasin_core.{name}"]
    assert vars(rebasin_core)[name] is value  # the next use is an ordinary attribute


EACH_ALONE = """
import os, sys
import torch, pydantic, pluggy  # once: this is most of the time
assert not any(name.startswith("rebasin_core") for name in sys.modules)
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            exec(f"from rebasin_core import {name}")
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes that have imported PyTorch")
def test_names_can_be_imported_in_any_order() -> None:
    """The contract of imports excludes cycles. Therefore some modules of several layers are enough."""
    fresh(EACH_ALONE, "Strategy", "Permutation", "specs", "Metric", "matchers", "RunConfig", "Registry", "testing")


def test_the_import_is_light() -> None:
    imported = set(fresh("import sys, rebasin_core; rebasin_core.RebasinError; print(*sys.modules)").split())
    assert not imported & HEAVY
    assert "rebasin_core.strategy" not in imported


def test_import_star_imports_all_names() -> None:
    output = fresh("from rebasin_core import *\nprint(*sorted(set(dir()) - set(__builtins__.__dict__)))")
    assert set(rebasin_core.__all__) <= set(output.split())


def test_unknown_names_raise_and_list_similar_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'rebasin_core' has no attribute 'algin'; did you mean 'align'"):
        rebasin_core.algin  # type: ignore[attr-defined] # ruff: ignore[useless-expression] - unknown to type checkers, too
    with pytest.raises(ImportError, match="cannot import name 'algin'"):
        from rebasin_core import algin  # type: ignore[attr-defined] # ruff: ignore[import-outside-top-level, unused-import]
    for name in ("__wrapped__", "__warningregistry__", "_private", "not.an identifier", ""):
        assert not hasattr(rebasin_core, name)


NO_TORCH = """
import sys
sys.modules["torch"] = None
import rebasin_core
try:
    rebasin_core.matchers
except ModuleNotFoundError as error:
    print(error.name)
"""


def test_an_import_error_of_a_dependency_is_not_hidden() -> None:
    assert fresh(NO_TORCH) == "torch\n"


def test_submodules_and_the_version_are_attributes() -> None:
    code = """
import rebasin_core as rc
print(rc.matchers.__name__, rc.evaluation.__name__, rc.tensors.files.__name__ if rc.api else "", rc.__version__)
"""
    matchers, evaluation, files, version = fresh(code).split()
    assert (matchers, evaluation) == ("rebasin_core.matchers", "rebasin_core.evaluation")
    assert files == "rebasin_core.tensors.files"
    assert version == rebasin_core.__version__


def test_dir_and_help_list_names_that_are_not_imported() -> None:
    code = "import sys, rebasin_core; print(*dir(rebasin_core)); assert 'torch' not in sys.modules"
    assert {*rebasin_core.__all__, "__version__", "__doc__"} <= set(fresh(code).split())
    text = pydoc.plain(pydoc.render_doc(rebasin_core))
    assert "align(reference" in text
    assert "class TableSpec" in text


@pytest.mark.nightly
def test_classes_are_pickled_and_copied_by_their_own_modules() -> None:
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])))"
    for kind in (rebasin_core.TableSpec, rebasin_core.MatchResult, rebasin_core.Permutation):
        assert copy.deepcopy(kind) is kind
        assert fresh(code, pickle.dumps(kind).hex()) == f"{kind!r}\n"
    matcher = rebasin_core.matchers.WeightMatcher(max_sweeps=3)
    assert fresh(code, pickle.dumps(matcher).hex()) == "WeightMatcher(max_sweeps=3)\n"


REGISTERED = """
import sys
from rebasin_core.matchers import RestartsMatcher
assert "rebasin_core.plugin" not in sys.modules
print(RestartsMatcher(matcher="weight", restarts=2))
assert "rebasin_core.plugin" in sys.modules
from rebasin_core.barriers import Path
print(Path.of("wasserstein"))
from rebasin_core.errors import ConfigError
try:
    RestartsMatcher(matcher="wieght")
except ConfigError as error:
    print("did you mean 'weight'" in str(error))
"""


def test_names_are_found_whichever_module_is_imported() -> None:
    lines = fresh(REGISTERED).splitlines()
    assert lines == ["RestartsMatcher(matcher=WeightMatcher(), restarts=2)", "WassersteinPath()", "True"]


LOWER_LAYERS = """
import sys
import torch
from rebasin_core.specs.operators.default import default_rules
from rebasin_core.symmetry import Atom, Group, Layout, Permutation
assert "rebasin_core.api" not in sys.modules
layout = Layout({"hidden": Group("hidden", 3)}, {"weight": (Atom(3, "hidden"), Atom(1))})
permuted = Permutation(layout, {"hidden": torch.tensor([2, 0, 1])}).apply(torch.nn.Linear(1, 3, bias=False))
print(type(permuted).__name__, len(default_rules()) > 100)
"""


def test_group_elements_and_rules_are_complete_if_only_lower_layers_are_imported() -> None:
    assert fresh(LOWER_LAYERS) == "Linear True\n"


THREADS = """
import sys, threading
import rebasin_core as rc
names, failures = sys.argv[1:], []
barrier = threading.Barrier(len(names))
sys.setswitchinterval(1e-5)

def use(name):
    barrier.wait()
    try:
        exec(f"from rebasin_core import {name}")
        value = getattr(rc, name)
        for other in names:
            getattr(rc, other)
        assert value is getattr(rc, name)
    except BaseException as error:
        failures.append((name, repr(error)))

threads = [threading.Thread(target=use, args=(name,), daemon=True) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(100)
assert not any(thread.is_alive() for thread in threads), "deadlock"
print(failures)
"""


def test_threads_can_use_names_for_the_first_time_simultaneously() -> None:
    names = ("align", "matchers", "Registry", "posteriors", "Task", "symmetry", "run", "specs", "analysis", "metrics")
    assert fresh(THREADS, *names) == "[]\n"
