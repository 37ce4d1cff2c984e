"""``distopt diff``: names the point at which two runs part, from the receipts that they wrote."""

from __future__ import annotations

from pathlib import Path

import click

from distopt.errors import DistoptError
from distopt.telemetry.receipt_diff import replicas_that_part, runs_that_part
from distopt.telemetry.receipt_reader import read_run

_TROUBLE = 2  # as in diff(1): 1 says that they differ


@click.command(short_help="Say where two runs part, from their receipts.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
def diff(a: Path, b: Path | None) -> None:
    """Name the first step, variable and replica at which the runs with the receipts A and B part.

    With A alone, only the replicas of that run are compared with each other. The status is 0 if all is equal, 1 if
    something parts, 2 if a receipt can't be read.
    """
    try:
        runs = [read_run(directory) for directory in (a, b) if directory is not None]
    except (DistoptError, OSError) as error:
        click.echo(f"distopt diff: {error}", err=True)
        raise SystemExit(_TROUBLE) from None
    found = [*map(replicas_that_part, runs), runs_that_part(*runs) if len(runs) == 2 else ""]
    for sentence in filter(None, found):
        click.echo(sentence)
    if any(found):
        raise SystemExit(1)
    click.echo(f"equal: {len(list(runs[0].steps()))} steps")
