"""Stage of unit similarities before and after a match, for the figures of a run."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import override

from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import PERMUTATION
from rebasin_core.studies.kinds.network import spec_in
from rebasin_core.studies.kinds.options import NetworkOptions
from rebasin_core.studies.kinds.similarity_images import similarity_images
from rebasin_core.symmetry.symmetry_element import load_element


@final
class SimilaritiesWork(Work):
    """Computes cosine similarities between the units of the reference and of the candidate."""

    kind: Literal["similarities"] = "similarities"

    network: NetworkOptions
    """The network."""

    @override
    def compute(self, context: Context) -> Product:
        element = load_element(context.file("match", PERMUTATION), spec_in(context.artifact("network")).layout)
        images = similarity_images(
            context.posterior("reference", self.network), context.posterior("candidate", self.network), element
        )
        return Product({"similarities": images})
