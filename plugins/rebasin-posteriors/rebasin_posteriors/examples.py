"""Small states of the library posteriors."""

from __future__ import annotations

from typing import Any

import posteriors
import torch
import torchopt


def states() -> list[Any]:
    """Return a state of diagonal variational inference, one of SGLD and one of SGHMC, over two parameters."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 2), "bias": (3,)}
    params = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}

    def log_posterior(p: dict[str, torch.Tensor], batch: object) -> tuple[torch.Tensor, torch.Tensor]:
        del batch
        return torch.stack([-t.square().sum() for t in p.values()]).sum(), torch.empty(0)

    transforms = [
        posteriors.vi.diag.build(log_posterior, torchopt.adam(lr=0.01)),
        posteriors.sgmcmc.sgld.build(log_posterior, lr=0.01),
        posteriors.sgmcmc.sghmc.build(log_posterior, lr=0.01),
    ]
    return [transform.init({n: t.clone() for n, t in params.items()}) for transform in transforms]
