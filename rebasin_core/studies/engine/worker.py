"""Computation of stages in one process: the driver, or a worker that gets its tasks as JSON text."""

from __future__ import annotations

import io
import json
import platform
import shutil
import socket
import tempfile
import traceback
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.errors import (
    ConfigError,
    DamagedArtifactError,
    MissingArtifactError,
    PluginError,
    RebasinError,
    StorageError,
)
from rebasin_core.studies.kinds.base import Context
from rebasin_core.studies.kinds.catalogue import KINDS
from rebasin_core.studies.kinds.options import ANY_DEVICE
from rebasin_core.studies.kinds.workspace import Workspace
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.stage import Stage
from rebasin_core.studies.store import Store
from rebasin_core.tensors.files import without_flushing
from rebasin_core.tensors.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from rebasin_core.studies.kinds.base import Work


def about_now(device: torch.device, seconds: float) -> dict[str, Any]:
    """Return facts about a computation that are stored together with its result, and are not part of it.

    Args:
        device: The device.
        seconds: Wall-clock time.

    Returns:
        Time, threads, device, host and versions, as plain JSON.
    """
    return {
        "seconds": round(seconds, 4),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "host": socket.gethostname(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def task_text(store: str, stages: list[Stage], sources: list[Stage], *, device: str) -> str:
    """Return a task: stages that a worker computes sequentially.

    Args:
        store: Address of the store.
        stages: The stages; none reads another one.
        sources: The stages of the datasets that they read.
        device: Device, as for `Workspace`.

    Returns:
        JSON, the argument of `run_task`.
    """
    listed = {"stages": [stage.as_json() for stage in stages], "sources": [stage.as_json() for stage in sources]}
    return json.dumps({"store": store, "device": device, **listed})


def run_task(text: str) -> str:
    """Compute the stages of a task. Errors of stages are part of the result, with a log.

    Args:
        text: The task, from `task_text`.

    Returns:
        JSON: for each stage its identity, and its error if there was one.
    """
    task = json.loads(text)
    return _run(task, _runner(task["store"], task["device"]).attempt)


@final
class Runner:
    """Computes stages with a workspace.

    Args:
        workspace: Store, device and caches.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._contents = Contents(workspace.registry)

    def __call__(self, text: str) -> str:
        """Compute the stages of a task in this process; errors of stages are raised, with their traceback.

        Args:
            text: The task, from `task_text`.

        Returns:
            JSON: for each stage its identity, and the result that it reads if that is missing or damaged.

        Raises:
            RebasinError: If a result cannot be computed from its inputs, or cannot be stored.
        """
        return _run(json.loads(text), self._computed_or_culprit)

    def attempt(self, stage: Stage, sources: Mapping[str, Stage]) -> dict[str, Any]:
        """Compute one stage, and return its identity with its error, if any.

        Args:
            stage: The stage; the results that it reads are stored.
            sources: The stages of the datasets that it reads, by identity.

        Returns:
            Plain JSON.
        """
        printed = io.StringIO()
        is_able = False
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                work = self._required_work(stage)
                is_able = True
                self._compute(stage, work, sources)
        except Exception as error:  # ruff: ignore[blind-except] - an error of one stage must not affect the others
            log = printed.getvalue() + traceback.format_exc()
            found = {"id": stage.id, **described(error), "log": log[-_MAX_LOG:]}
            # An error of this worker, such as another version of a package, is not a failure of the stage.
            return found if is_able else {**found, "permanent": False}
        return {"id": stage.id}

    def _computed_or_culprit(self, stage: Stage, sources: Mapping[str, Stage]) -> dict[str, Any]:
        try:
            self._compute(stage, self._required_work(stage), sources)
        except (MissingArtifactError, DamagedArtifactError) as error:
            return {"id": stage.id, **described(error)}
        return {"id": stage.id}

    def _compute(self, stage: Stage, work: Work, sources: Mapping[str, Stage]) -> None:
        """Compute a stage and store its result, unless it is stored and intact."""
        store = self._workspace.store
        if store.has(stage.id):
            store.read(stage.id)
            return
        scratch = store.scratch(stage.id)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="result-") as folder, _precision(work):
            start = perf_counter()
            with without_flushing(Path(folder)):  # the store flushes its copies
                product = work.compute(Context(self._workspace, stage, sources, Path(folder), scratch))
            about = about_now(self._workspace.device, perf_counter() - start)
            store.write(stage.document, product.documents, product.files, about)
        shutil.rmtree(scratch, ignore_errors=True)

    def _required_work(self, stage: Stage) -> Work:
        """Return the computation of a stage; raise if this process has another kind of device or other code."""
        work = KINDS[stage.kind].model_validate_json(stage.work)
        required = getattr(getattr(work, "network", None), "device", ANY_DEVICE)
        device = self._workspace.device
        if required not in {ANY_DEVICE, device.type}:
            message = f"expected a device of kind {required!r}, as the run requires, got {str(device)!r}"
            raise ConfigError(message)
        planned = dict(stage.code)
        found = self._contents.code(work, without=work.located)
        if any(planned.get(name) != number for name, number in found.items()):
            message = (
                f"the stage was planned with {_shown(planned)}, and this process has {_shown(found)}; install the same "
                "versions everywhere, and run the command again"
            )
            raise PluginError(message)
        return work


_MAX_LOG = 100_000


def described(error: BaseException) -> dict[str, Any]:
    """Return an error of a stage as plain JSON.

    Args:
        error: The error.

    Returns:
        Class, message, whether the same stage would fail again (``permanent``), and the stage whose stored result is
        missing or damaged (``culprit``), if that is the cause.
    """
    found: dict[str, Any] = {"error": type(error).__name__, "message": str(error) or repr(error)}
    if isinstance(error, MissingArtifactError | DamagedArtifactError):
        return {**found, "permanent": False, "culprit": error.id}
    passing = isinstance(error, OSError) or is_out_of_memory(error)
    own = isinstance(error, RebasinError) and not isinstance(error, StorageError)
    return {**found, "permanent": own or not passing}


def _run(task: Mapping[str, Any], compute: Callable[[Stage, Mapping[str, Stage]], dict[str, Any]]) -> str:
    """Compute the stages of a parsed task, and return the results as JSON."""
    sources = {stage.id: stage for stage in map(Stage.from_json, task["sources"])}
    return json.dumps([compute(Stage.from_json(value), sources) for value in task["stages"]])


def _shown(code: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in code.items())


@contextmanager
def _precision(work: Work) -> Generator[None]:
    """Use the precision of matrix products that the stage requires, and restore the previous one."""
    network = getattr(work, "network", None)
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        if network is not None and network.precision != before:
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision(network.precision)
        yield


@lru_cache(maxsize=2)
def _runner(address: str, device: str) -> Runner:
    return Runner(Workspace(Store.open(address), device=device))
