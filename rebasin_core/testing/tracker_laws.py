"""The laws of trackers."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import TrackingWarning
from rebasin_core.testing.law import expect, law
from rebasin_core.tracking.events import Series, StageEvent, StageFailure, StudyInfo, StudySummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.tracking.base import Tracker

_STUDY = StudyInfo(
    id="3f" * 32,
    name="width and κ",
    settings={"base": {"architecture": {"name": "mlp", "hidden": [8, 8]}}, "seeds": [1, 2]},
    stages={"train": 2, "curve": 1},
    reused=1,
    address="runs/store",
    version="0.1.0",
)


@law("tracker")
def every_event(tracker: object, folder: Path) -> None:
    """Every event is accepted, and leaves the tracker open for the next one."""
    _send(cast("Tracker", tracker), _events(folder))


@law("tracker")
def resumption(tracker: object, folder: Path) -> None:
    """A second connection for the same study, and one for another study, succeed."""
    events = _events(folder)
    _send(cast("Tracker", tracker), events[:2])
    _send(cast("Tracker", tracker), events[2:])
    _send(cast("Tracker", tracker), events, StudyInfo(id="4e" * 32, name="another"))


@law("tracker")
def no_side_effects(tracker: object, folder: Path) -> None:
    """Events, PyTorch's random state, the default dtype and the working directory do not change."""
    events = _events(folder)
    copies = copy.deepcopy(events)
    state, dtype, directory = torch.get_rng_state(), torch.get_default_dtype(), Path.cwd()
    _send(cast("Tracker", tracker), events)
    for event, before in zip(events, copies, strict=True):
        expect(event.to_json() == before.to_json(), f"an event was changed: {event}")
    expect(torch.equal(torch.get_rng_state(), state), "PyTorch's random state was changed")
    expect(torch.get_default_dtype() == dtype, f"the default dtype was changed to {torch.get_default_dtype()}")
    expect(Path.cwd() == directory, f"the working directory was changed to {Path.cwd()}")


@law("tracker")
def canonical(tracker: object, folder: Path) -> None:
    """A tracker that is read back from its canonical JSON is equal."""
    del folder
    given = cast("Tracker", tracker)
    found = type(given).model_validate_json(given.canonical_json())
    expect(found == given, f"expected {given}, got {found}")


def _send(tracker: Tracker, events: Sequence[object], study: StudyInfo = _STUDY) -> None:
    """Send events; raise if the tracker fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        with tracker.open(study) as tracking:
            for event in events:
                match event:
                    case StageEvent():
                        tracking.stage_finished(event)
                    case StageFailure():
                        tracking.stage_failed(event)
                    case StudySummary():
                        tracking.study_finished(event)
    expect(not tracking.problems, "; ".join(tracking.problems))


def _events(folder: Path) -> Sequence[StageEvent | StageFailure | StudySummary]:
    figure = folder / "loss curve.svg"
    figure.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    trained = StageEvent(
        kind="train",
        label="wide, seed 1 " + "é" * 300,
        id="a1" * 32,
        factors={"width": "wide", "inference": {"kl_weight": 0.05, "hidden": [64, 64]}, "seed": 1, "none": None},
        seconds=1.5,
        device="cpu",
        threads=2,
        metrics={"final objective": math.nan, "largest": math.inf},
        series={"objective": Series([2.0, math.nan, -math.inf]), "empty": Series([]), "one": Series([1e300])},
    )
    measured = StageEvent(
        kind="curve",
        label="wide, 1-2, weight/test",
        id="b2" * 32,
        metrics={"height": 0.25, "height_stderr": 0.01},
        series={"loss": Series([0.1, 0.35, 0.1], steps=[0.0, 0.5, 1.0], axis="t")},
        files={"loss curve.svg": figure, "missing.svg": folder / "missing.svg"},
    )
    failed = StageFailure(kind="match", label="wide, 1-3", id="c3" * 32, error="ValueError: ü", attempts=3, log="x\n")
    files = {"barrier.svg": figure, "missing.png": folder / "missing.png"}
    summary = StudySummary(computed=2, reused=1, failed=1, blocked=3, seconds=2.0, files=files)
    return measured, trained, failed, summary
