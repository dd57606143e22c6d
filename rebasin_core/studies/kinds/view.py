"""The files that people look at: results of stages under the names that they have in an output folder."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.studies.kinds.names import PERMUTATION, POSTERIOR
from rebasin_core.tensors.digests import digest_of_file
from rebasin_core.tensors.files import replacing, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rebasin_core.studies.store import Artifact, Store

# Larger files are linked, not copied. Files in a store are read-only, so a link cannot be edited by accident.
_MAX_COPIED = 2**20
_COLUMNS = ("t", "loss", "stderr", "data_stderr", "excess", "excess_stderr", "gibbs", "bias", "score")


def write_results(folder: Path, role: str, artifact: Artifact, store: Store) -> list[str]:
    """Write the results of one stage of a run to the run's output folder.

    Args:
        folder: The output folder.
        role: Role of the stage in the run, such as ``curve/test/weight``.
        artifact: The stored result.
        store: The store.

    Returns:
        Names of the files, relative to the folder. Files that already have this content are not written again.

    Raises:
        DamagedArtifactError: If a stored file is damaged.
        StorageError: If a file cannot be written.
    """
    files = _files(role, artifact)
    for name, content in files.items():
        if isinstance(content, bytes):
            _write(folder / name, content)
        else:
            _link(store.fetch(artifact, content.name), folder / name, artifact.files[content.name].sha256)
    return list(files)


class _Stored(NamedTuple):
    """A stored file, by its name in the artifact."""

    name: str


def _files(role: str, artifact: Artifact) -> dict[str, bytes | _Stored]:
    """Return the contents of a stage's files by their names in the output folder."""
    kind, _, rest = role.partition("/")
    documents = artifact.documents
    found: dict[str, bytes | _Stored] = {}
    match kind:
        case "posterior":
            found = {f"posteriors/{rest}.safetensors": _Stored(POSTERIOR)}
            if "training" in documents:
                found[f"training/{rest}.json"] = _json(documents["training"])
        case "match":
            found = {
                f"permutations/{rest}.safetensors": _Stored(PERMUTATION),
                f"permutations/{rest}.json": _json(documents["match"]),
            }
        case "similarities":
            found = {f"similarities/{rest}.json": _json(documents["similarities"])}
        case "curve" | "means":
            split, _, label = rest.partition("/")
            base = f"curves/{split}/{label}" if kind == "curve" else f"curves/{split}/means/{label}"
            found = {f"{base}.json": _json(documents["curve"]), f"{base}.csv": _csv(documents["curve"])}
        case "scores":
            found = {f"scores/{rest}.json": _json(documents["scores"])}
        case "summary":
            found = {"summary.json": _json(documents["summary"])}
        case "report":
            found = {name: _Stored(name) for name in artifact.files}
    return found


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _csv(document: Mapping[str, Any]) -> bytes:
    curve = LossCurve.from_json(dict(document))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_COLUMNS[:-1], curve.score_name])
    writer.writerows(zip(*(getattr(curve, column) for column in _COLUMNS), strict=True))
    return buffer.getvalue().encode()


def _write(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)


def _link(source: Path, target: Path, digest: str) -> None:
    """Link or copy a stored file, unless the target already has its content."""
    if target.is_file() and _same(source, target, digest):
        return
    with replacing(target) as temporary:
        if source.stat().st_size > _MAX_COPIED:
            temporary.unlink()
            try:
                os.link(source, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)
        else:
            shutil.copyfile(source, temporary)


def _same(source: Path, target: Path, digest: str) -> bool:
    if source.stat().st_size != target.stat().st_size:
        return False
    return source.samefile(target) or digest_of_file(target) == digest
