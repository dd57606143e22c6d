"""Two posteriors that are folded before they are aligned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.analysis.folding.plan import FoldingParts
from rebasin_core.analysis.folding.posteriors import FoldedPosterior, fold_posterior, num_networks, unfold_posterior
from rebasin_core.analysis.folding.report import FoldingReport
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian

if TYPE_CHECKING:
    from collections.abc import Collection

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.kind import Kind


@final
@dataclass(frozen=True, eq=False)
class FoldedPair:
    """A reference and a candidate whose scales are folded.

    Attributes:
        reference: The folded reference.
        candidate: The folded candidate.
    """

    reference: FoldedPosterior
    candidate: FoldedPosterior

    @classmethod
    def of(
        cls, spec: PermutationSpec, reference: Posterior, candidate: Posterior, kinds: Collection[Kind]
    ) -> FoldedPair | None:
        """Fold two posteriors, if that admits further maps of some kinds.

        Args:
            spec: Their specification.
            reference: The reference.
            candidate: The candidate.
            kinds: The kinds of maps that are of use.

        Returns:
            The pair; None if the maps of these kinds do not depend on scales, or both networks have scales of one.

        Raises:
            InvalidInputError: If a scale cannot be folded, or the reference consists of several networks.
        """
        posteriors = (reference, candidate)
        networks = [{**posterior.mean, **posterior.buffers} for posterior in posteriors]
        needed = any(linear.required and linear.kind in kinds for linear in spec.folded_symmetry.linear)
        closed = not any(isinstance(q, AbstractIndependentGaussian) and q.noisy_names for q in posteriors)
        if not needed or not closed or spec.symmetry_of(*networks) is spec.folded_symmetry:
            return None
        if num_networks(reference) > 1:
            message = (
                "each network of the reference has scales of its own, so there are no common coordinates for the "
                "aligned candidate; fold both posteriors with `fold`, and align the results"
            )
            raise InvalidInputError(message)
        first = fold_posterior(reference, spec, FoldingParts())
        second = fold_posterior(candidate, spec, FoldingParts())
        for folded in (first, second):
            FoldingReport.of(spec, folded.plans).require()
        return cls(first, second)

    def restored(self, aligned: Posterior) -> Posterior:
        """Return an aligned candidate in the coordinates of the reference before it was folded.

        Args:
            aligned: The folded candidate after an alignment with the folded reference.

        Returns:
            The aligned candidate. Paths between it and the reference have the losses of those between the folded
            networks.
        """
        return unfold_posterior(aligned, self.reference.foldings)
