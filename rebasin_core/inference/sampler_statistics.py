"""Statistics of the chains of Hamiltonian Monte Carlo, and warnings where they cannot be trusted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.errors import SamplerWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

# Below this E-BFMI, chains explore the energy slowly (the value of Stan), if it is estimated from enough transitions.
_LOW_FRACTION, _ENOUGH = 0.3, 100


@final
@dataclass(frozen=True, slots=True)
class SamplerStatistics:
    """Statistics of chains after warm-up.

    Attributes:
        acceptance: Mean acceptance probability of each chain.
        step_size: Step size of each chain.
        divergences: Number of divergent transitions of each chain.
        energy_bfmi: Energy Bayesian fraction of missing information of each chain; below 0.3, the chain explores the
            tails slowly. NaN for fewer than three transitions.
        accepted: Fraction of the transitions of each chain that changed its position.
        saturated: Fraction of the transitions of each chain that ended at the maximum number of leapfrog steps.
        leapfrog_steps: Mean number of leapfrog steps per transition of each chain.
        gradients: Number of gradients on all data, of all chains together, with those of warm-up.
        energy: Total energy after each transition, ``[K, T]`` in nats, in float64 on the CPU.
    """

    acceptance: tuple[float, ...]
    step_size: tuple[float, ...]
    divergences: tuple[int, ...]
    energy_bfmi: tuple[float, ...]
    accepted: tuple[float, ...]
    saturated: tuple[float, ...]
    leapfrog_steps: tuple[float, ...]
    gradients: int
    energy: Tensor

    @classmethod
    def of(cls, trace: Mapping[str, Tensor], step_size: Tensor, gradients: int) -> SamplerStatistics:
        """Return the statistics of recorded transitions.

        Args:
            trace: ``energy``, ``acceptance``, ``divergent``, ``accepted``, ``saturated`` and ``steps`` of every
                transition, each ``[K, T]``.
            step_size: Step sizes, ``[K]``.
            gradients: Number of gradients on all data.

        Returns:
            The statistics.
        """

        def means(name: str) -> tuple[float, ...]:
            return tuple(trace[name].double().mean(1).tolist())

        return cls(
            acceptance=means("acceptance"),
            step_size=tuple(step_size.tolist()),
            divergences=tuple(int(count) for count in trace["divergent"].sum(1).tolist()),
            energy_bfmi=tuple(fraction_of_missing_information(trace["energy"])),
            accepted=means("accepted"),
            saturated=means("saturated"),
            leapfrog_steps=means("steps"),
            gradients=gradients,
            energy=trace["energy"].cpu().clone(),
        )

    def warn(self, stacklevel: int = 2) -> None:
        """Warn of divergences, of constant chains, and of low E-BFMI.

        Args:
            stacklevel: As in `warnings.warn`, from the caller.
        """
        for message in self._faults():
            warnings.warn(message, SamplerWarning, stacklevel=stacklevel + 1)

    def _faults(self) -> list[str]:
        """Return the messages of warnings."""
        draws = self.energy.shape[1]
        faults: list[str] = []
        if any(self.divergences):
            faults.append(
                f"{sum(self.divergences)} of {draws * len(self.divergences)} transitions diverged "
                f"({_listed(self.divergences)} by chain), so the draws are biased away from regions of high "
                "curvature; increase `target_acceptance` or decrease `step_size`, sample in float64, or use a smaller "
                "`prior_scale`"
            )
        constant = [index for index, fraction in enumerate(self.accepted) if not fraction]
        if constant:
            faults.append(
                f"no proposal of chains {_listed(constant)} was accepted in {draws} transitions: the draws are equal; "
                "decrease `step_size` or increase `warmup`"
            )
        low = [f"{fraction:.2f}" for fraction in self.energy_bfmi if fraction < _LOW_FRACTION]
        if low and draws >= _ENOUGH:
            faults.append(
                f"the energy Bayesian fraction of missing information is {_listed(low)} in {len(low)} of "
                f"{len(self.energy_bfmi)} chains, below {_LOW_FRACTION}: they explore the tails slowly. Increase "
                "`warmup` and `draws`, or use a prior with lighter tails"
            )
        return faults


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def fraction_of_missing_information(energy: Tensor) -> list[float]:
    r"""Return the energy Bayesian fraction of missing information (E-BFMI) of each chain.

    $$ \frac{\sum_t (E_t - E_{t-1})^2}{\sum_t (E_t - \bar E)^2} $$

    Args:
        energy: Total energies of successive draws, ``[K, T]``.

    Returns:
        One number a chain; NaN for fewer than three draws, or if the energies are equal.

    References:
        M. Betancourt (2016), "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo", arXiv
        1604.00695.
    """
    if energy.shape[1] < 3:
        return [math.nan] * len(energy)
    variance = (energy - energy.mean(1, keepdim=True)).square().sum(1)
    fractions: list[float] = (energy.diff(dim=1).square().sum(1) / variance).tolist()
    return fractions
