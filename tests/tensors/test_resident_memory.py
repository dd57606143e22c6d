"""Memory that the process occupies while large tensors in half precision are checked, measured and compared.

Allocators may keep freed memory. Therefore, the operating system is asked, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

_SETUP = """
import resource, sys
import torch
from torch import nn
from rebasin_core.bilinear.terms import Term
from rebasin_core.checkpoints import function_difference
from rebasin_core.symmetry.axis import Atom
from rebasin_core.tensors.checks import require_finite

def peak():
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / (1 if sys.platform == "darwin" else 1024)  # in MiB

torch.set_num_threads(1)
tensor = torch.empty(2**16, 2**10, dtype=torch.bfloat16).fill_(0.01)
small = {"weight": tensor[:8]}
run(small)
before = peak()
run({"weight": tensor})
print(peak() - before)
"""
_WIDE_MIB = 256
_RUNS = {
    "finite": "require_finite(tensors, 'the mean')",
    "norm": "Term(*[tensors['weight'].unsqueeze(0)] * 2, (Atom(len(tensors['weight']), 'out'), Atom(2**10))).bound",
    "function": (
        "function_difference(nn.Linear(2**10, len(tensors['weight']), bias=False, device='meta'), tensors, "
        "tensors.__getitem__, ((torch.ones(4, 2**10),), {}))"
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is read with the module `resource`")
@pytest.mark.parametrize("name", _RUNS)
def test_a_large_tensor_is_not_widened_as_a_whole(name: str) -> None:
    code = f"def run(tensors):\n    {_RUNS[name]}\n{_SETUP}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    # Parts of 16 MiB and their signs, and outputs of 1 MiB; in single precision, the tensor has 256 MiB.
    assert float(done.stdout) < _WIDE_MIB / 2
