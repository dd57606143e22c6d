"""A run: train or load posteriors, match them, and estimate barriers, in resumable stages."""

from __future__ import annotations

import csv
import io
import platform
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.curve_json import KIND, VERSION
from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.run import RunConfig
from rebasin_core.errors import InvalidInputError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.posteriors.divergence import wasserstein_distance
from rebasin_core.studies.folder import CURVES, SUMMARY, RunFolder, RunIdentity
from rebasin_core.studies.setting import Setting
from rebasin_core.studies.similarity_images import similarity_images
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.arguments import raise_wrong_type, require_path
from rebasin_core.tensors.files import write_bytes, write_json
from rebasin_core.tensors.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rebasin_core.config.run import PosteriorSource, Split
    from rebasin_core.posteriors.base import Posterior

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
UNALIGNED = "unaligned"
"""Label of the unaligned curve in files and tables."""


@final
@dataclass(frozen=True, slots=True)
class RunResult:
    """Results of a run.

    Attributes:
        folder: The output folder.
        curves: Loss curves by split and label: ``unaligned``, and the name of each matcher.
        distances: 2-Wasserstein distance between reference and candidate by label; None if there is no closed form.
        matches: Results of each matcher by name: objective, outcome and more, as in its JSON file.
        device: Device of the computation.
        means: Loss curves between the means of the same posteriors (single networks), by split and label, for
            comparison. Empty in runs of single networks.
    """

    folder: Path
    curves: Mapping[Split, Mapping[str, LossCurve]]
    distances: Mapping[str, float | None]
    matches: Mapping[str, Mapping[str, Any]]
    device: str
    means: Mapping[Split, Mapping[str, LossCurve]] = field(default_factory=dict)


def load_run(path: Path | str, *, registry: Registry | None = None) -> RunConfig:
    """Read a run file.

    Args:
        path: A YAML or JSON file.
        registry: Registry of components; all installed plugins if None.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file is invalid; lists all problems with their lines and the nearest valid names.
    """
    return read_config(RunConfig, Document.read(path), (registry or default_registry()).strategy_class)


def run(
    config: RunConfig, output: Path | str, *, registry: Registry | None = None, progress: bool = False
) -> RunResult:
    """Train or load two posteriors, align them with every matcher, and estimate the barriers before and after.

    The output folder contains ``run.json`` (the configuration and the identity of the run), ``posteriors/``,
    ``permutations/``, ``similarities/``, ``curves/``, ``scores/``, ``stages/`` and ``summary.json``. Files are written
    atomically. Call `run` again with the same configuration to resume: finished stages are reused, training continues
    from its last checkpoint, and an interrupted match from its best permutation. A folder belongs to one run, which is
    identified by its configuration, digests of its inputs (data, loaded files, specification) and package versions.

    Args:
        config: The configuration.
        output: The output folder: new, empty, or of the same run.
        registry: Registry of posterior representations; all installed plugins if None.
        progress: Whether to show progress bars.

    Returns:
        The result.

    Raises:
        RebasinError: If the configuration, the data or a loaded file is invalid, or results cannot be written.
    """
    if not isinstance(config, RunConfig):
        raise_wrong_type(config, "a `RunConfig`", "`load_run` reads one from a file")
    require_path(output)
    setting = Setting(config, registry or default_registry())
    setting.check()
    identity = RunIdentity(config.model_dump(mode="json"), setting.inputs, setting.code)
    with RunFolder(output, identity, _about()) as folder:
        return _run(setting, _Stages(setting, folder, progress=progress), folder)


def _run(setting: Setting, stages: _Stages, folder: RunFolder) -> RunResult:
    config = setting.config
    reference = stages.posterior("reference", config.reference)
    candidate = stages.posterior("candidate", config.candidate)
    aligned: dict[str, Posterior] = {UNALIGNED: candidate}
    matches: dict[str, Mapping[str, Any]] = {}
    for matcher in config.matchers:
        permutation, matches[matcher.name] = stages.match(matcher.name, reference, candidate)
        aligned[matcher.name] = permutation.apply(candidate)
    curves: dict[Split, dict[str, LossCurve]] = {
        split: {label: stages.curve(split, label, reference, permuted) for label, permuted in aligned.items()}
        for split in config.splits
    }
    means: dict[Split, dict[str, LossCurve]] = {}
    if setting.has_means and not (reference.is_point and candidate.is_point):
        means = {
            split: {label: stages.means(split, label, reference, permuted) for label, permuted in aligned.items()}
            for split in config.splits
        }
    for split in config.splits:
        stages.scores(split, "reference", reference)
        stages.scores(split, "candidate", candidate)
    distances = {label: _distance(reference, permuted) for label, permuted in aligned.items()}
    result = RunResult(folder.root, curves, distances, matches, str(setting.device), means)
    write_json(folder.path(SUMMARY), _summary(result))
    return result


class _Stages:
    """The stages of a run. Each stage computes and saves its results, or loads them if it is finished."""

    def __init__(self, setting: Setting, folder: RunFolder, *, progress: bool) -> None:
        self._setting = setting
        self._folder = folder
        self._progress = progress

    def posterior(self, role: str, source: PosteriorSource) -> Posterior:
        """Return the reference or the candidate, trained or loaded."""
        path = self._posterior_path(role)
        checkpoint = path.with_suffix(".training.safetensors")

        def make() -> list[Path]:
            posterior, meta = self._setting.obtain(source, checkpoint, label=f"train {role}", progress=self._progress)
            posterior.save(path, meta=meta)
            return [path]

        self._once(f"posterior-{role}", make, reads=())
        checkpoint.unlink(missing_ok=True)
        return self._setting.load(path)

    def match(self, name: str, reference: Posterior, candidate: Posterior) -> tuple[Permutation, Mapping[str, Any]]:
        """Return a matcher's permutation and the record of its result."""
        path = self._permutation_path(name)
        record = path.with_suffix(".json")

        def make() -> list[Path]:
            unfinished = path.with_suffix(".unfinished")
            result = self._setting.match(name, reference, candidate, unfinished, progress=self._progress)
            result.permutation.save(path)
            entries = {
                "objective": result.objective,
                "identity_objective": result.identity_objective,
                "outcome": result.outcome.name.lower(),
                "sweeps": result.sweeps,
                "upper_bound": result.upper_bound,
                "trace": list(result.trace),
                "moved": result.permutation.moved,
            }
            write_json(record, entries)
            similarities = self._folder.path("similarities", f"{name}.json")
            write_json(similarities, similarity_images(reference, candidate, result.permutation))
            return [path, record, similarities]

        self._once(f"match-{name}", make, reads=self._posterior_paths)
        return Permutation.load(path, self._setting.spec.layout), read_json(record)

    def curve(self, split: Split, label: str, reference: Posterior, candidate: Posterior) -> LossCurve:
        """Return the loss curve of one alignment on one split."""
        path = self._folder.path(CURVES, split, f"{label}.json")

        def measure() -> LossCurve:
            return self._setting.curve(split, reference, candidate, progress=self._progress)

        return self._curve(f"curve-{split}-{label}", path, label, measure)

    def means(self, split: Split, label: str, reference: Posterior, candidate: Posterior) -> LossCurve:
        """Return the loss curve between the means of the same posteriors."""
        path = self._folder.path(CURVES, split, "means", f"{label}.json")

        def measure() -> LossCurve:
            return self._setting.means_curve(split, reference, candidate, progress=self._progress)

        return self._curve(f"means-{split}-{label}", path, label, measure)

    def _curve(self, stage: str, path: Path, label: str, measure: Callable[[], LossCurve]) -> LossCurve:
        def make() -> list[Path]:
            curve = measure()
            write_json(path, {"kind": KIND, "version": VERSION, **curve.as_json()})
            table = path.with_suffix(".csv")
            write_bytes(table, _csv(curve).encode())
            return [path, table]

        reads = [] if label == UNALIGNED else [self._permutation_path(label)]
        self._once(stage, make, reads=[*self._posterior_paths, *reads])
        return LossCurve.from_json(read_json(path))

    def scores(self, split: Split, role: str, posterior: Posterior) -> None:
        """Evaluate the predictive scores of a posterior."""
        path = self._folder.path("scores", split, f"{role}.json")

        def make() -> list[Path]:
            scores = self._setting.scores(split, posterior)
            write_json(path, {"scores": scores.as_json(), "bins": scores.bins, "notes": list(scores.notes)})
            return [path]

        self._once(f"scores-{split}-{role}", make, reads=[self._posterior_path(role)])

    def _posterior_path(self, role: str) -> Path:
        return self._folder.path("posteriors", f"{role}.safetensors")

    @property
    def _posterior_paths(self) -> tuple[Path, Path]:
        return self._posterior_path("reference"), self._posterior_path("candidate")

    def _permutation_path(self, matcher: str) -> Path:
        return self._folder.path("permutations", f"{matcher}.safetensors")

    def _once(self, stage: str, make: Callable[[], list[Path]], *, reads: Sequence[Path]) -> None:
        """Run a stage, unless it is finished and its files and inputs are unchanged."""
        if not self._folder.is_done(stage, reads):
            start = perf_counter()
            files = make()
            about = {"seconds": round(perf_counter() - start, 3), "threads": torch.get_num_threads()}
            self._folder.finish(stage, files, reads=reads, about=about)


def _distance(reference: Posterior, candidate: Posterior) -> float | None:
    try:
        return wasserstein_distance(reference, candidate)
    except InvalidInputError:  # no closed form for these classes of posteriors
        return None


def _csv(curve: LossCurve) -> str:
    columns = ("t", "loss", "stderr", "data_stderr", "excess", "excess_stderr", "gibbs", "bias", "score")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*columns[:-1], curve.score_name])
    writer.writerows(zip(*(getattr(curve, column) for column in columns), strict=True))
    return buffer.getvalue()


def _summary(result: RunResult) -> dict[str, Any]:
    return {
        "barriers": {
            split: {label: _barrier(curve, result.means.get(split, {}).get(label)) for label, curve in curves.items()}
            for split, curves in result.curves.items()
        },
        "wasserstein_distances": dict(result.distances),
        "matches": dict(result.matches),
    }


def _barrier(curve: LossCurve, means: LossCurve | None) -> dict[str, Any]:
    document = curve.as_json()
    entry = {name: document[name] for name in _SUMMARIZED}
    entry["endpoint_losses"] = [curve.loss[0], curve.loss[-1]]
    entry[curve.score_name] = list(curve.score)
    if means is not None:
        other = means.as_json()
        entry["means"] = {name: other[name] for name in ("height", "height_data_stderr", "interior_excess", "location")}
    return entry


def _about() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        # Sums are split among threads, so their number changes the last digits of results.
        "threads": str(torch.get_num_threads()),
    }
