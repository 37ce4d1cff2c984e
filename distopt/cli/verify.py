"""``distopt verify``: checks that the first step has the same gradients on one replica and on N."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from distopt.cli.mpirun import find_mpirun, flags, mpi_library, replica_command
from distopt.errors import DistoptError
from distopt.process.launcher import scrubbed_environment
from distopt.settings import RECEIPT
from distopt.verify.comparison import TOLERANCE, Row, compare, table
from distopt.verify.first_step import Recording
from distopt.verify.loss_advice import about_gradients, before_gradients

_LINES = 15


@click.command(
    short_help="Compare the gradients of the first step on one and on N replicas.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("-n", "-np", "replicas", type=click.IntRange(min=2), required=True, help="Number of replicas.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=TOLERANCE,
    show_default=True,
    help="Relative difference of gradients that rounding explains; 16-bit variables are allowed more.",
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def verify(replicas: int, tolerance: float, script: Path, arguments: tuple[str, ...]) -> None:
    """Run SCRIPT up to its first step on one and on N replicas, and compare the aggregated gradients.

    The status is 0 if they are equal up to rounding; else it is 1, and sentences say what is wrong with the loss or
    the data. The script is run as it is, with its ARGUMENTS, and ended after the first step.
    """
    if not script.is_file():
        raise click.ClickException(f"there is no script {str(script)!r} to verify")
    signal.signal(signal.SIGTERM, _stop)
    try:
        launcher = find_mpirun(mpi_library())
        mpirun = [str(launcher.path), *flags(launcher.family, replicas), "-n", str(replicas)]
    except DistoptError as error:
        raise click.ClickException(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="distopt-verify-") as folder:
        runs = _Runs(Path(folder), [str(script), *arguments])
        one, many = runs.record([], "one process"), runs.record(mpirun, f"{replicas} replicas")
        if many.replicas != replicas:
            raise click.ClickException(
                f"the first step was one of {many.replicas} replicas, not of the {replicas} that were started: verify "
                "is for scripts whose replicas are those of the launcher"
            )
        said, rows = _compare(one, many, tolerance)
        if any(row.is_strange for row in rows) and _compare(one, runs.record([], "one process"), tolerance)[0]:
            said = [
                "two runs in one process have different gradients: the script draws random numbers (dropout, "
                "augmentation, a shuffle) without a seed; seed them, and verify again"
            ]
    if rows:
        click.echo(table(rows, _LINES))
    for sentence in said:
        click.echo(sentence)
    if said:
        raise SystemExit(1)
    click.echo(
        f"equal: the gradients on {replicas} replicas are those of one process (relative tolerance {tolerance:g})"
    )


def _compare(one: Recording, many: Recording, tolerance: float) -> tuple[list[str], list[Row]]:
    """Return sentences on what differs, empty if nothing does, and how each variable's gradients compare."""
    reason = before_gradients(one, many)
    if reason:
        return [reason], []
    rows = compare(one, many, tolerance)
    return about_gradients(one, many, rows), rows


class _Runs:
    """Runs of one script, each up to its first step."""

    def __init__(self, folder: Path, script: list[str]) -> None:
        self._folder, self._script = folder, script

    def record(self, launcher: list[str], where: str) -> Recording:
        """Run the script and return its first step."""
        output, log = self._folder / "step.npz", self._folder / "log.txt"
        output.unlink(missing_ok=True)
        command = [*launcher, *replica_command("distopt.verify.first_step", [str(output), *self._script])]
        environment = scrubbed_environment()
        environment.pop(RECEIPT.name, None)  # these runs are no continuation of the one that wrote it
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                status = process.wait()
            finally:
                process.terminate()  # of a job: its launcher, which takes the replicas along
                process.wait()
        if status == 0 and output.exists():
            return Recording.load(output)
        click.echo(log.read_text(encoding="utf-8", errors="replace"), err=True, nl=False)
        if status == 0:
            raise click.ClickException(
                f"on {where} the script ended without a step that aggregates: there is nothing to compare. Does it "
                "train with these arguments, and with apply_gradients or a DistributedOptimizer of distopt?"
            )
        raise click.ClickException(f"on {where} the script failed (status {status}); what it said is above")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Exit with the status that a shell reports for this signal; the exception lets ``finally`` blocks clean up."""
    sys.exit(128 + number)
