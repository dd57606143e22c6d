"""Write `reference.json`: results of mergekit and peft, with which `test_reference.py` compares the merge methods.

    PYTHON tests/merging/write_reference.py

in an environment with mergekit (0.1.5) and peft (0.21.2). Values are in float64, or float32 where a library needs it.
"""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

WEIGHTS = [0.5, 0.3, 0.2]


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    networks = [base + 0.5 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in WEIGHTS]
    document = {
        "versions": {name: version(name) for name in ("mergekit", "peft")},
        "weights": WEIGHTS,
        "base": base.tolist(),
        "networks": [network.tolist() for network in networks],
        "results": {name: tensor.tolist() for name, tensor in _results(base, networks).items()},
    }
    Path(__file__).with_name("reference.json").write_text(json.dumps(document, indent=1) + "\n")


def _results(base: torch.Tensor, networks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    peft: Any = importlib.import_module("peft.utils.merge_utils")
    slerp: Any = importlib.import_module("mergekit.merge_methods.slerp")
    karcher: Any = importlib.import_module("mergekit.merge_methods.karcher")
    differences = [network - base for network in networks]
    equal = torch.ones(3, dtype=torch.float64)
    t = torch.tensor([0.3])
    parallel = 1.5 * networks[0] + 0.001 * base
    return {
        "peft task_arithmetic": base + peft.task_arithmetic(differences, torch.tensor(WEIGHTS, dtype=torch.float64)),
        "peft ties, equal weights": base + peft.ties(differences, equal, density=0.5),
        "peft dare_ties, density 1": base + peft.dare_ties(differences, equal, density=1.0),
        "mergekit ties": base + _ties(differences),
        "mergekit slerp": slerp.slerp(t, networks[0][None], networks[1][None])[0],
        "mergekit slerp, nearly parallel": slerp.slerp(t, networks[0][None], parallel[None])[0],
        "mergekit karcher": karcher.karcher_merge_tensors(networks, WEIGHTS, max_iter=200, tol=1e-13),
        "mergekit model_stock": _model_stock(base, networks),
    }


def _ties(differences: list[torch.Tensor]) -> torch.Tensor:
    """Return the merged difference, as the method of mergekit computes it from two of its functions."""
    generalized: Any = importlib.import_module("mergekit.merge_methods.generalized_task_arithmetic")
    sparsify: Any = importlib.import_module("mergekit.sparsify")
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[:, None, None]
    weighted = torch.stack([sparsify.magnitude(difference, 0.5) for difference in differences]) * weights
    agreeing = generalized.get_mask(weighted, method="sum")
    share = (weights * agreeing).sum(0)
    merged: torch.Tensor = (weighted * agreeing).sum(0) / share.where(share != 0, torch.ones_like(share))
    return merged


def _model_stock(base: torch.Tensor, networks: list[torch.Tensor]) -> torch.Tensor:
    stock: Any = importlib.import_module("mergekit.merge_methods.model_stock")
    interface: Any = importlib.import_module("mergekit.merge_methods.base")
    group = interface.TensorGroup.from_tensors([base, *networks], base_index=0)
    merged: torch.Tensor = stock.model_stock_merge_method([group])[0]
    return merged


if __name__ == "__main__":
    main()
