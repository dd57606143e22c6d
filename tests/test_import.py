"""The import of the package: each command and each worker process waits for it."""

from __future__ import annotations

import subprocess
import sys


def test_the_package_is_imported_without_slow_libraries_and_clients_of_trackers() -> None:
    code = "import sys, rebasin_core as rc\nfrom rebasin_core import *\nrc.default_registry().names('tracker')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert {"torch", "rebasin_core.studies.study"} <= imported
    slow = {"scipy.optimize", "scipy.special", "scipy.stats", "ot", "torch._dynamo", "torch.export._trace"}
    clients = {"tensorboard", "mlflow", "wandb"}
    files = {"fsspec.core", "matplotlib", "pandas", "pyarrow"}
    assert not imported & (slow | clients | files)
