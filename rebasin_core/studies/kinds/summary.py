"""Stage of a run's summary: barriers, distances and matches in one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

from typing_extensions import override

from rebasin_core.config.study import UNALIGNED
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.curve import curve_in

if TYPE_CHECKING:
    from rebasin_core.barriers.curve import LossCurve

_SUMMARIZED = (
    "height",
    "height_stderr",
    "height_data_stderr",
    "height_bias",
    "location",
    "interior_excess",
    "interior_location",
    "baseline",
    "notes",
)


@final
class SummaryWork(Work):
    """Summarizes the curves and matches of a run."""

    kind: Literal["summary"] = "summary"

    splits: tuple[str, ...]
    """Splits of the dataset."""

    matchers: tuple[str, ...]
    """Names of the matchers."""

    means: bool
    """Whether there are curves between the means of the posteriors."""

    @override
    def compute(self, context: Context) -> Product:
        labels = (UNALIGNED, *self.matchers)
        barriers: dict[str, Any] = {}
        for split in self.splits:
            barriers[split] = {}
            for label in labels:
                means = _curve(context, f"means/{split}/{label}") if self.means else None
                barriers[split][label] = _barrier(_curve(context, f"curve/{split}/{label}"), means)
        distances = {name: context.document(f"match/{name}", "distances") for name in self.matchers}
        summary = {
            "barriers": barriers,
            "wasserstein_distances": {
                UNALIGNED: distances[self.matchers[0]][UNALIGNED],
                **{name: found["aligned"] for name, found in distances.items()},
            },
            "matches": {name: context.document(f"match/{name}", "match") for name in self.matchers},
        }
        return Product({"summary": summary})


def _curve(context: Context, role: str) -> LossCurve:
    return curve_in(context.artifact(role).documents)


def _barrier(curve: LossCurve, means: LossCurve | None) -> dict[str, Any]:
    document = curve.as_json()
    entry = {name: document[name] for name in _SUMMARIZED}
    entry["endpoint_losses"] = [curve.loss[0], curve.loss[-1]]
    entry[curve.score_name] = list(curve.score)
    if means is not None:
        other = means.as_json()
        entry["means"] = {name: other[name] for name in ("height", "height_data_stderr", "interior_excess", "location")}
    return entry
