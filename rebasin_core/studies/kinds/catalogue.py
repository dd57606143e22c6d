"""All kinds of stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.studies.kinds.align import AlignWork
from rebasin_core.studies.kinds.curve import CurveWork
from rebasin_core.studies.kinds.data import DataWork
from rebasin_core.studies.kinds.load import LoadWork
from rebasin_core.studies.kinds.match import MatchWork
from rebasin_core.studies.kinds.network import NetworkWork
from rebasin_core.studies.kinds.report import ReportWork
from rebasin_core.studies.kinds.scores import ScoresWork
from rebasin_core.studies.kinds.similarities import SimilaritiesWork
from rebasin_core.studies.kinds.summary import SummaryWork
from rebasin_core.studies.kinds.train import TrainWork

if TYPE_CHECKING:
    from rebasin_core.studies.kinds.base import Work

KINDS: dict[str, type[Work]] = {
    kind.kind_name(): kind
    for kind in (
        DataWork,
        NetworkWork,
        TrainWork,
        LoadWork,
        AlignWork,
        MatchWork,
        CurveWork,
        ScoresWork,
        SimilaritiesWork,
        SummaryWork,
        ReportWork,
    )
}
"""The classes by kind."""
