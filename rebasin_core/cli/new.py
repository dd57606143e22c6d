"""The command `rebasin new`: write a commented run file to start from."""

from __future__ import annotations

from pathlib import Path

import click

_TEMPLATE = "new.yaml"


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("run.yaml"))
@click.option("--force", is_flag=True, help="Replace an existing file.")
def new(file: Path, *, force: bool) -> None:
    """Write a run file with comments to FILE (default: run.yaml).

    It runs as written. Its comments state where your own data, network, checkpoints and methods go.
    """
    from rebasin_core.cli.targets import require_free
    from rebasin_core.tensors.files import write_bytes

    require_free(file, [], force=force)
    write_bytes(file, Path(__file__).with_name(_TEMPLATE).read_bytes())
    click.echo(f"written: {file}\nEdit it, then run it with: rebasin run {file}")
