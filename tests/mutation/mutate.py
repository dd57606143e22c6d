"""Mutation testing of the numerical code: change one operation at a time, and count the changes that no test detects.

Mutations are made by mutmut, with the options in `pyproject.toml` under `[tool.mutmut]`. It skips functions with
decorators. Most methods have the decorator `@override`, which has no effect at run time. Therefore the tree is copied
to another folder, and the decorator is removed there. Properties, validators and context managers are still skipped.

    pip install mutmut
    python tests/mutation/mutate.py            # all modules in MODULES: several hours on two cores
    python tests/mutation/mutate.py repair     # the modules whose path contains "repair"

It prints a table of modules with the numbers of mutants and of survivors, and writes every survivor as a diff to
`survivors.diff` in the folder named by `--keep` (a temporary one otherwise). Mutants that change only the words of a
message are listed as "wording", and are not part of the score.
"""

import argparse
import ast
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The modules whose computations affect results, with the tests that must detect a change in them.
MODULES = {
    "rebasin_core/posteriors/paths.py": ("tests/posteriors", "tests/barriers", "tests/test_conformance.py"),
    "rebasin_core/posteriors/interpolation.py": ("tests/posteriors", "tests/barriers"),
    "rebasin_core/barriers/paths/*.py": ("tests/barriers", "tests/test_conformance.py"),
    "rebasin_core/barriers/curve.py": ("tests/barriers",),
    "rebasin_core/barriers/chord.py": ("tests/barriers",),
    "rebasin_core/barriers/notes.py": ("tests/barriers",),
    "rebasin_core/barriers/refine.py": ("tests/barriers",),
    "rebasin_core/barriers/repaired.py": ("tests/barriers",),
    "rebasin_core/barriers/adjustment.py": ("tests/barriers",),
    "rebasin_core/evaluation/repair.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/loss.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/stratified.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/allocation.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/jackknife.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/trust.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/baseline.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/scores.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/metric.py": ("tests/evaluation", "tests/barriers"),
    "rebasin_core/evaluation/metrics/*.py": ("tests/evaluation",),
    "rebasin_core/bilinear/products.py": ("tests/bilinear", "tests/matchers"),
    "rebasin_core/bilinear/terms.py": ("tests/bilinear", "tests/matchers"),
    "rebasin_core/bilinear/similarity.py": ("tests/bilinear", "tests/matchers"),
    "rebasin_core/bilinear/unit_similarity.py": ("tests/bilinear", "tests/matchers"),
    "rebasin_core/bilinear/coordinate_descent.py": ("tests/bilinear", "tests/matchers"),
    "rebasin_core/tensors/files.py": ("tests/tensors", "tests/posteriors", "tests/symmetry"),
}
OVERRIDE = re.compile(r"^ *@override\n", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="parts of the paths of modules; default: all modules")
    parser.add_argument("--keep", type=Path, help="folder to work in, kept for a later run")
    parser.add_argument("--children", type=int, default=2, help="number of mutants that are tested in parallel")
    options = parser.parse_args()
    chosen = {
        module: tests
        for module, tests in MODULES.items()
        if not options.parts or any(part in module for part in options.parts)
    }
    if not chosen:
        parser.error(f"no module has one of {options.parts} in its path; modules: {', '.join(MODULES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        copy_tree(folder, chosen)
        run(folder, "run", f"--max-children={options.children}")
        report(folder)


def copy_tree(folder: Path, chosen: dict[str, tuple[str, ...]]) -> None:
    """Copy the tracked files, without `@override`, and restrict mutmut to the chosen modules and their tests."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listing.stdout.splitlines():
        source = ROOT / name
        if not source.is_file():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        # mutmut copies the tests while it runs; the folders must exist before, since Python caches folder listings.
        mutants = folder / "mutants" / name
        mutants.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("rebasin_core/") and name.endswith(".py"):
            target.write_text(OVERRIDE.sub("", source.read_text()))
    project = folder / "pyproject.toml"
    tests = sorted({test for group in chosen.values() for test in group})
    text = project.read_text()
    for option, values in (("only_mutate", sorted(chosen)), ("pytest_add_cli_args_test_selection", tests)):
        if f"{option} = []" not in text:
            sys.exit(f"expected `{option} = []` under [tool.mutmut] in pyproject.toml: nothing was measured")
        text = text.replace(f"{option} = []", f"{option} = {values}")
    project.write_text(text)


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "mutants"), "COLUMNS": "200"}
    print("mutmut", *arguments, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE if arguments[0] != "run" else None,
    )
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed with exit code {done.returncode}: nothing was measured")
    return done.stdout or ""


def report(folder: Path) -> None:
    """Print the table of modules, and write the survivors as diffs."""
    counts: dict[str, Counter[str]] = {}
    survivors = []
    for line in run(folder, "results", "--all=true").splitlines():
        name, _, verdict = line.strip().rpartition(": ")
        if not name:
            continue
        module = re.split(r"\.x(?:_|ǁ)", name)[0]
        if verdict not in {"killed", "timeout"}:
            before, after = variants(folder, module, name)
            if without_sentences(before) == without_sentences(after):
                verdict = "wording"
            else:
                survivors.append(f"# {name}: {verdict}\n{difference(before, after)}\n")
        counts.setdefault(module, Counter())[verdict] += 1
    print("| module | mutants | killed | score | others |\n|---|--:|--:|--:|---|")
    for module, verdicts in sorted(counts.items()):
        total = verdicts.total() - verdicts["wording"] - verdicts["not checked"]
        killed = verdicts["killed"] + verdicts["timeout"]
        others = ", ".join(f"{verdict} {number}" for verdict, number in verdicts.items() if verdict != "killed")
        print(f"| {module} | {total} | {killed} | {killed / max(total, 1):.1%} | {others} |")
    (folder / "survivors.diff").write_text("\n".join(survivors))


def variants(folder: Path, module: str, name: str) -> tuple[str, str]:
    """Return the source of the function that a mutant changes, without and with the change."""
    source = (folder / "mutants" / f"{module.replace('.', '/')}.py").read_text()
    mutant = name.removeprefix(f"{module}.")
    original = f"{mutant.rpartition('__mutmut_')[0]}__mutmut_orig"
    sources = {
        node.name: (ast.get_source_segment(source, node) or "").replace(node.name, "changed")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name in {mutant, original}
    }
    return sources[original], sources[mutant]


def without_sentences(source: str) -> str:
    """Return a source without the words of messages: string literals that contain a space."""
    return re.sub(r"""("|')(?:(?!\1)[^\n])* (?:(?!\1)[^\n])*\1""", "''", source)


def difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


if __name__ == "__main__":
    main()
