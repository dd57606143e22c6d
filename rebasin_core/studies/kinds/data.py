"""Stage of a dataset: verifies that the examples are those that the other stages refer to."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.data.base import DataSource
from rebasin_core.studies.kinds.base import Context, Product, Work


@final
class DataWork(Work):
    """Loads the examples of one split. Its identity is the digest of the examples, so folders do not matter."""

    located: ClassVar[frozenset[str]] = frozenset({"source", "split", "count"})

    kind: Literal["data"] = "data"

    source: DataSource
    """The dataset."""

    split: Literal["train", "test"]
    """Split of the dataset."""

    count: PositiveInt | None = None
    """Number of examples, from the first; all if None."""

    @override
    def compute(self, context: Context) -> Product:
        stage = context.stage
        examples = context.workspace.examples(stage)
        target = context.workspace.target(stage)
        entries = {
            "source": self.source.name,
            "split": self.split,
            "examples": len(examples),
            "input_shape": list(examples.inputs.shape[1:]),
            "target": {"kind": target.kind, "output_size": target.output_size},
        }
        return Product({"data": entries})
