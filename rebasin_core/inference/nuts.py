"""The no-U-turn sampler (NUTS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.inference.hamiltonian.base import AbstractHamiltonianInference
from rebasin_core.inference.hamiltonian.no_u_turn import no_u_turn_transition

if TYPE_CHECKING:
    from rebasin_core.inference.hamiltonian.dynamics import Dynamics, Phase, Transition


@final
class NUTS(AbstractHamiltonianInference):
    r"""No-U-turn sampler (NUTS): Hamiltonian Monte Carlo on all data, with trajectories that stop at a U-turn.

    A trajectory is doubled until it makes a U-turn, and the next state is drawn from it with multinomial
    weights. Chains run in step: a gradient is computed for all while any of them continues, so few chains waste fewer.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if the chains need more memory than there is, or the outputs of the network are
            random in evaluation mode.
        DivergenceError: In `fit`, if the log posterior at the initialization is not finite.

    References:
        M. D. Hoffman, A. Gelman (2014), "The No-U-Turn sampler", JMLR 15, arXiv 1111.4246; M. Betancourt (2017), "A
        conceptual introduction to Hamiltonian Monte Carlo", arXiv 1701.02434, appendix A.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = NUTS(chains=2, warmup=20, draws=5).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.num_samples, result.sampler.divergences
        (10, (0, 0))
    """

    name: Literal["nuts"] = "nuts"

    max_depth: Annotated[int, Field(ge=1, le=20)] = 10
    """Maximum number of doublings: a trajectory has at most ``2 ** max_depth - 1`` leapfrog steps."""

    @override
    def _transition(self, dynamics: Dynamics, phase: Phase) -> Transition:
        return no_u_turn_transition(dynamics.jittered(self.jitter), phase, max_depth=self.max_depth)

    @override
    def _held_states(self) -> int:
        # Six phases of three matrices, sums of momenta, two matrices for each level of subtrees, and adaptation.
        return 28 + 2 * self.max_depth
