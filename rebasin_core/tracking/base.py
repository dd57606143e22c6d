"""The interface of trackers: they send the results of a study to a tracking tool."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

from rebasin_core.strategy import Strategy
from rebasin_core.tracking.tracking import AbstractRecorder, Delivery, Tracking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.tracking.events import StudyInfo


class Tracker(Strategy):
    """Destination for the results of a study while it runs, such as a TensorBoard folder or an MLflow server.

    Results are sent only if a study names a tracker. Trackers do not belong to the identity of a stage: they change no
    result, and no stage is recomputed if one is added. Options are stored in files;
    credentials must not be options, but come from the environment or the configuration of the client.

    Laws:
        - *Every event*: any event is accepted, with NaN and infinite values, empty series, long or non-ASCII names,
          nested factors, and files that no longer exist.
        - *Isolation*: an error stops the tracking with one warning, never the study (guaranteed by `open`).
        - *No side effects*: events, PyTorch's random state, default dtype and the working directory do not change.
        - *Resumption*: a second connection for the same study succeeds and continues the record of the first. A
          tracker only receives stages that were computed now; results that were sent before are not sent again.
        - *Canonical*: equal trackers have equal JSON.
    """

    family: ClassVar[str] = "tracker"

    close_seconds: ClassVar[float] = 60.0
    """Longest time, in seconds, that a finished study waits for one call of the recorder."""

    @property
    def uses_files(self) -> bool:
        """Whether the recorder uses attached files. Figures are drawn only if a tracker of the study uses them."""
        return False

    @final
    def open(self, study: StudyInfo) -> Tracking:
        """Open a connection for one study.

        Args:
            study: The study.

        Returns:
            The connection, a context manager that receives the events. Errors of the tracker become warnings.
        """
        return open_trackers([self], study)

    @abstractmethod
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        """Return a recorder for a study. Called in the background thread of the tracker.

        Args:
            study: The study.

        Returns:
            The recorder. Import the client of the tracking tool here, not at the top of the module.
        """


def open_trackers(trackers: Sequence[Tracker], study: StudyInfo) -> Tracking:
    """Open one connection of a study to several trackers.

    Args:
        trackers: The trackers; if there are none, events are ignored.
        study: The study.

    Returns:
        The connection, a context manager that receives the events.
    """
    return Tracking([_delivery(tracker, study) for tracker in trackers])


def _delivery(tracker: Tracker, study: StudyInfo) -> Delivery:
    # `_open` belongs to the interface that this function completes.
    create = tracker._open  # ruff: ignore[private-member-access]
    return Delivery(tracker.name, lambda: create(study), close_seconds=tracker.close_seconds)
