"""Stage of a dataset: verifies that the examples are those that the other stages refer to."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.options import DataOptions


@final
class DataWork(Work):
    """Loads the examples of one split. Its identity is the digest of the examples, so folders do not matter."""

    located: ClassVar[frozenset[str]] = frozenset({"data"})

    kind: Literal["data"] = "data"

    data: DataOptions
    """Where the examples are."""

    @override
    def compute(self, context: Context) -> Product:
        # Only what the examples determine: several datasets can have equal examples.
        examples = context.workspace.examples(context.stage)
        entries = {"examples": len(examples), "input_shape": list(examples.inputs.shape[1:])}
        return Product({"data": entries})
