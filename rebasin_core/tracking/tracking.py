"""Delivery of events to trackers, in the background and isolated from the study."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias, final

from rebasin_core.errors import TrackingWarning
from rebasin_core.tracking.events import StageEvent, StageFailure, StudySummary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

Event: TypeAlias = StageEvent | StageFailure | StudySummary

_MAX_MESSAGE = 2000


class AbstractRecorder(ABC):
    """Sends the events of one study to one destination.

    All methods, and the function that creates the recorder, are called in one thread, which is not the main thread. If
    one of them raises an error, none is called again, except `close`.
    """

    @abstractmethod
    def stage_finished(self, event: StageEvent) -> None:
        """Record a computed stage.

        Args:
            event: The stage with its results.
        """

    @abstractmethod
    def stage_failed(self, event: StageFailure) -> None:
        """Record a stage that failed.

        Args:
            event: The stage with its error.
        """

    @abstractmethod
    def study_finished(self, summary: StudySummary) -> None:
        """Record that the study finished, or was interrupted. Not called if the process is killed.

        Args:
            summary: Counts and durations.
        """

    @abstractmethod
    def close(self) -> None:
        """Write everything and release the destination. Called last, also after an error."""


@final
class Tracking:
    """An open connection of one study to trackers; a context manager.

    Every method returns immediately: a background thread for each tracker delivers the events in their sequence. An
    error of a tracker stops the delivery to this tracker, with one `TrackingWarning`; it is never raised. On exit, the
    connection waits until all events are delivered, unless a tracker needs more than its `close_seconds` for one event.

    Args:
        deliveries: The delivery to each tracker.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = tuple(deliveries)

    def __enter__(self) -> Self:
        """Start the delivery.

        Returns:
            The connection.
        """
        for delivery in self._deliveries:
            delivery.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until all events are delivered, and stop the delivery."""
        # All threads finish at the same time: first state to each that no event follows.
        for delivery in self._deliveries:
            delivery.finish()
        for delivery in self._deliveries:
            delivery.wait()
            delivery.warn()

    def stage_finished(self, event: StageEvent) -> None:
        """Deliver a computed stage.

        Args:
            event: The stage with its results.
        """
        self._deliver(event)

    def stage_failed(self, event: StageFailure) -> None:
        """Deliver a stage that failed.

        Args:
            event: The stage with its error.
        """
        self._deliver(event)

    def study_finished(self, summary: StudySummary) -> None:
        """Deliver the summary of the study.

        Args:
            summary: Counts and durations.
        """
        self._deliver(summary)

    @property
    def problems(self) -> tuple[str, ...]:
        """The warnings about trackers that failed so far."""
        return tuple(delivery.problem for delivery in self._deliveries if delivery.problem is not None)

    def _deliver(self, event: Event) -> None:
        for delivery in self._deliveries:
            delivery.put(event)
            delivery.warn()


@final
class Delivery:
    """Delivery of events to one tracker, by one background thread.

    Args:
        name: Name of the tracker, for warnings.
        create: Creates the recorder; called in the background thread.
        close_seconds: Longest duration of one call of the recorder after the study finished.
    """

    def __init__(self, name: str, create: Callable[[], AbstractRecorder], *, close_seconds: float) -> None:
        self._name = name
        self._create = create
        self._close_seconds = close_seconds
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._calls = 0  # of the recorder that returned, to see progress
        self._is_complete = False
        self._is_given_up = False
        self._is_warned = False
        self._problem: str | None = None
        # A daemon: a tracker that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)

    @property
    def problem(self) -> str | None:
        """The warning about the error of the tracker; None if there is none."""
        return self._problem

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Add an event to the queue.

        Args:
            event: The event; ignored if the tracker failed.
        """
        with self._changed:
            if self._problem is None:
                self._waiting.append(event)
                self._changed.notify_all()

    def finish(self) -> None:
        """State that no event follows."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all events are delivered; give up if one call lasts longer than `close_seconds`."""
        before = -1
        while self._thread.is_alive() and before != self._calls:  # as long as calls return
            before = self._calls
            self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            with self._changed:
                self._is_given_up = True
                self._fail(f"it did not answer within {self._close_seconds:g} seconds")

    def warn(self) -> None:
        """Warn once if the tracker failed; called in the thread of the study, whose warning filters apply."""
        if self._problem is not None and not self._is_warned:
            self._is_warned = True
            warnings.warn(self._problem, TrackingWarning, stacklevel=4)

    def _run(self) -> None:
        """Deliver all events: the target of the thread."""
        recorder: list[AbstractRecorder] = []
        self._attempt(lambda: recorder.append(self._create()))
        while recorder and (event := self._next()) is not None:
            self._attempt(partial(_record, recorder[0], event))
        if recorder and not self._is_given_up:
            self._attempt(recorder[0].close)

    def _next(self) -> Event | None:
        """Return the next event, when there is one; None if no event follows, or after an error."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_complete or self._problem is not None)
            return self._waiting.popleft() if self._waiting and self._problem is None else None

    def _attempt(self, call: Callable[[], None]) -> None:
        """Call the recorder; an error stops the delivery."""
        try:
            call()
        except BaseException as error:  # ruff: ignore[blind-except] - no error of a tracker may stop the study
            with self._changed:
                self._fail(f"{type(error).__name__}: {error}"[:_MAX_MESSAGE])
        self._calls += 1

    def _fail(self, reason: str) -> None:
        lost = f", and {len(self._waiting)} more events are not sent" if self._waiting else ""
        self._waiting.clear()
        if self._problem is None:
            self._problem = (
                f"the tracker {self._name!r} failed and receives no more events{lost}: {reason}. "
                "The study and its results are not affected"
            )


def _record(recorder: AbstractRecorder, event: Event) -> None:
    match event:
        case StageEvent():
            recorder.stage_finished(event)
        case StageFailure():
            recorder.stage_failed(event)
        case StudySummary():
            recorder.study_finished(event)
