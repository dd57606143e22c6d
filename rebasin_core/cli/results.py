"""The command `rebasin results`: tables, files and figures of the results of a study."""

from __future__ import annotations

from pathlib import Path

import click

from rebasin_core.cli.study import STORE


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@STORE
@click.option("--only", multiple=True, metavar="PATTERN", help="Only cells whose label matches, as `*width=64*`.")
@click.option("--group-by", metavar="NAMES", default="", help="Columns to group by, such as width,matcher.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write all curves to a CSV file.")
@click.option("--parquet", type=click.Path(path_type=Path), help="Write all curves to a Parquet file.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write the scores of all posteriors to a CSV file.")
@click.option("--figures", type=click.Path(path_type=Path), help="Draw the barriers into this folder.")
def results(  # ruff: ignore[too-many-arguments, too-many-positional-arguments] - one for each option
    file: Path,
    store: str | None,
    only: tuple[str, ...],
    group_by: str,
    csv_path: Path | None,
    parquet: Path | None,
    scores: Path | None,
    figures: Path | None,
) -> None:
    """Print the results of the study described in FILE.

    The table has the mean barriers over pairs of posteriors, and over the cells that differ in other factors only.
    Errors account for networks that several pairs share. Names of factors can be shortened to their last part. Without
    --group-by, rows are grouped by all factors. Figures show the barrier against the first name of --group-by, in one
    figure for each combination of levels of the others. For a study without pairs, the table has the mean scores of the
    posteriors. The command also works while the study is computed.
    """
    from rebasin_core.cli.output import terminal_width
    from rebasin_core.studies.results import read_results, write_figures
    from rebasin_core.studies.study import Study, load_study

    study = Study(load_study(file), store, name=str(file.absolute()), only=only)
    found = read_results(study)
    names = [name.strip() for name in group_by.split(",") if name.strip()]
    table = found.group_by(*names) if study.plan.curves else found.scores_by(*names)
    click.echo(table.text(width=terminal_width()))
    for note in found.notes:
        click.echo(f"\nNote: {note}")
    if found.missing:
        missing = len(study.plan.curves) - len(found.rows)
        stages = ", ".join(f"{count} {kind}" for kind, count in found.missing.items())
        curves = f"{missing} of {len(study.plan.curves)} curves are missing; " if missing else ""
        click.echo(f"\n{curves}`rebasin study {file}` computes the remaining stages: {stages}.")
    if csv_path is not None:
        found.to_csv(csv_path)
        click.echo(f"\n{len(found.rows)} rows are in {csv_path}")
    if parquet is not None:
        found.to_parquet(parquet)
        click.echo(f"\n{len(found.rows)} rows are in {parquet}")
    if scores is not None:
        found.scores_to_csv(scores)
        click.echo(f"\n{len(found.scores)} rows are in {scores}")
    if figures is not None and found.rows:
        for path in write_figures(found, figures, *names):
            click.echo(path)
