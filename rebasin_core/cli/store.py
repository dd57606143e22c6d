"""The command `rebasin store`: list, verify and clean up the results of runs and studies."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import click

from rebasin_core.cli.guard import ExitCode
from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.studies.store import Garbage, Store

_ADDRESS = click.argument("address", required=False)
_SECONDS_AN_HOUR = 3600
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DIGITS = 12  # of identities; unique in stores of a million artifacts with probability 0.998


@click.group()
def store() -> None:
    """Inspect and clean up stores of results.

    ADDRESS is a folder, or an address such as s3://bucket/folder. The default is the environment variable
    REBASIN_STORE, or the folder rebasin-store.
    """


@store.command("ls")
@_ADDRESS
@click.option("--kind", "-k", help="List stages of this kind only, such as train.")
def list_command(address: str | None, kind: str | None) -> None:
    """List artifacts, the oldest first.

    Prints the first digits of the identity, the kind of the stage, the size of the files, the time of writing, and the
    seconds that the computation took.
    """
    from rebasin_core.studies.store import list_artifacts

    for row in list_artifacts(_opened(address), kind=kind):
        written = datetime.fromtimestamp(row.written).astimezone().isoformat(" ", "seconds")
        seconds = "" if row.seconds is None else f"{row.seconds:.1f} s"
        click.echo(
            f"{row.id[:_DIGITS]}  {_printable(row.kind):<12}  {_size(row.size):>10}  {written}  {seconds:>10}".rstrip()
        )


@store.command()
@_ADDRESS
@click.option("--remove", is_flag=True, help="Remove damaged artifacts; their studies then compute them again.")
def verify(address: str | None, remove: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    """Compare all stored files with their checksums.

    Reads the whole store. Prints damaged artifacts, and the number of files that belong to no artifact. The exit code
    is 1 if there is damage. A study that reads a damaged artifact computes it again; with --remove, also the study that
    requests it as a result.
    \f

    Raises:
        SystemExit: If there is damage.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    from rebasin_core.studies.store import verify_store

    opened = _opened(address)
    found = verify_store(opened)
    for identity, why in sorted(found.damaged.items()):
        click.echo(f"DAMAGED {identity}: {why}")
        if remove:
            opened.remove(identity)
    for digest, why in sorted(found.damaged_files.items()):
        click.echo(f"DAMAGED file {digest}, of no artifact: {why}")
    if found.damaged_roots:
        click.echo(f"DAMAGED root: {found.damaged_roots}")
    contents = f"{found.artifacts} artifacts, {found.files} files ({_size(found.size)})"
    click.echo(f"{contents}, {len(found.damaged)} artifacts damaged, {len(found.unreferenced)} files of no artifact")
    if not found.passed:
        raise SystemExit(ExitCode.FAILED)


@store.command()
@_ADDRESS
@click.option("--dry-run", is_flag=True, help="Print the numbers of objects without removing them.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Keep everything written or used during the last hours; 0 only if no process uses the store.",
)
def gc(address: str | None, dry_run: bool, grace: float) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - click passes flags so
    """Remove artifacts that no run or study needs.

    Also removes files of no artifact, temporary files, unfinished work and leases of killed processes. Runs and studies
    record the artifacts that they need in the store, also after they are finished.
    """
    from rebasin_core.studies.store import collect_garbage

    found = collect_garbage(_opened(address), grace=grace * _SECONDS_AN_HOUR, dry_run=dry_run)
    counts = _counts(found)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no objects"
    click.echo(f"{'would remove' if dry_run else 'removed'} {listed} ({_size(found.size)})")


@store.command()
@_ADDRESS
def du(address: str | None) -> None:
    """Print the disk usage by kind of stage.

    Files that several artifacts share are stored once. They are counted once in each kind that uses them, and once in
    the total.
    """
    from rebasin_core.cli.output import terminal_width
    from rebasin_core.report.width import wrapped_table
    from rebasin_core.studies.store import disk_usage

    found = disk_usage(_opened(address))
    rows = [[_printable(kind), str(usage.artifacts), _size(usage.size)] for kind, usage in found.kinds.items()]
    rows += [
        ["all artifacts", str(found.total.artifacts), _size(found.total.size)],
        ["files of no artifact", "", _size(found.unreferenced)],
        ["logs, unfinished work, ...", "", _size(found.other)],
    ]
    click.echo(wrapped_table(rows, ["kind", "artifacts", "size"], width=terminal_width()))


@store.command()
@click.argument("identity", metavar="ID")
@_ADDRESS
def log(identity: str, address: str | None) -> None:
    """Print the log of the stage ID that failed.

    The first digits of ID are sufficient.
    \f

    Raises:
        InvalidInputError: If there is no such log, or the digits are ambiguous.
    """  # ruff: ignore[escape-sequence-in-docstring] - click shows only the text before the form feed
    opened = _opened(address)
    found = [failed for failed in opened.read_failures() if failed.startswith(identity)]
    if len(found) != 1:
        message = f"expected the first digits of one failed stage, got {identity!r}, which fits {len(found)}"
        raise InvalidInputError(message)
    for line in (opened.read_log(found[0]) or "no output").splitlines():
        click.echo(_printable(line))


def _opened(address: str | None) -> Store:
    """Return an existing store."""
    from rebasin_core.studies.store import Store
    from rebasin_core.studies.study import DEFAULT_STORE, STORE_VARIABLE

    if address is None:
        address = os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
    found = Store.open(address)
    if not found.exists():
        message = f"there is no store at {address!r}; give its ADDRESS, or set {STORE_VARIABLE}"
        raise InvalidInputError(message)
    return found


def _counts(found: Garbage) -> Mapping[str, int]:
    """Return the numbers of removed objects, without zeros."""
    counts = {
        "artifacts": len(found.artifacts),
        "files": len(found.files),
        "leases": len(found.leases),
        "sessions": len(found.sessions),
        "folders of unfinished work": len(found.unfinished),
        "temporary files and logs": len(found.leftovers),
    }
    return {name: count for name, count in counts.items() if count}


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _size(size: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
