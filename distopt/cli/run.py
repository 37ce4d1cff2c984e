"""``distopt run``: starts a script on N replicas, supervises them, and says at the end what failed first."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from distopt.cli import prefix
from distopt.cli.job import Job
from distopt.cli.leftovers import remove_topology_files
from distopt.cli.mpirun import find_mpirun, flags, mpi_library, replica_command
from distopt.cli.restarts import Outcome, repeat
from distopt.errors import DistoptError
from distopt.process.launcher import scrubbed_environment
from distopt.settings import RECEIPT
from distopt.speaking import say


@dataclass(frozen=True)
class _Request:
    """The wishes of the person who runs a job."""

    replicas: int
    command: list[str]
    """A script or ``-m`` and a module, then the arguments."""
    max_restarts: int
    faults: list[str]
    has_prefix: bool


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-n", "-np", "replicas", type=click.IntRange(min=1), required=True, help="Number of replicas.")
@click.option(
    "--backend",
    type=click.Choice(["mpi", "ray"]),
    default="mpi",
    help="What starts the replicas: mpirun, or Ray (RAY_ADDRESS, a cluster of this machine, or a fresh one).",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Start the job again when it has failed, at most N times; for scripts that restore their last checkpoint.",
)
@click.option("--receipt", type=click.Path(path_type=Path), metavar="DIR", help="Write a receipt of every step to DIR.")
@click.option(
    "--inject",
    "faults",
    multiple=True,
    metavar="SENTENCE",
    help="Make a fault happen, in the first attempt: 'kill replica 2 at step 5' (may be given several times).",
)
@click.option("--prefix", "has_prefix", is_flag=True, help="Head each line of output with its replica, as in [2].")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is the name of a module or a package, as in python -m.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(  # noqa: PLR0913 (the options of a command are its parameters)
    replicas: int,
    backend: str,
    max_restarts: int,
    receipt: Path | None,
    faults: tuple[str, ...],
    has_prefix: bool,
    is_module: bool,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT with its ARGUMENTS on N replicas: under the mpirun of the MPI library in use, or as a Ray job."""
    if not is_module and not os.path.isfile(script):
        hint = ": leave 'python' out, the script follows -n N" if script.startswith("python") else ""
        raise click.ClickException(f"there is no script {script!r} to run{hint}")
    start = _run_under_mpi if backend == "mpi" else _run_on_ray
    if receipt is not None:
        os.environ[RECEIPT.name] = str(receipt.absolute())
    command = [*(["-m"] if is_module else []), script, *arguments]
    try:
        _check(faults)
        sys.exit(start(_Request(replicas, command, max_restarts, list(faults), has_prefix)))
    except (DistoptError, OSError) as error:  # of the system: no temporary directory, arguments that are too long
        raise click.ClickException(str(error)) from None


def _check(faults: tuple[str, ...]) -> None:
    """Check each sentence before anything starts."""
    if faults:
        from distopt.testing.faults.sentences import parse

        for sentence in faults:
            parse(sentence)


def _run_under_mpi(request: _Request) -> int:
    launcher = find_mpirun(mpi_library())
    marks = prefix.options(launcher.family) if request.has_prefix else []
    count = ["-n", str(request.replicas)]
    mpirun = [str(launcher.path), *flags(launcher.family, request.replicas), *marks, *count]
    environment = scrubbed_environment()

    def attempt(number: int) -> Outcome:
        faults = [] if number else request.faults
        injection = [word for sentence in faults for word in ("-i", sentence)]
        runner = "distopt.testing.faults.script" if faults else "distopt.program.script"
        command = [*mpirun, *replica_command(runner, [*injection, *request.command])]
        with tempfile.TemporaryDirectory(prefix="distopt-run-") as folder:
            job = Job(
                command, environment, Path(folder), request.replicas, faults=faults, has_prefix=request.has_prefix
            )
            try:
                return job.report(job.wait())
            finally:
                remove_topology_files()

    return repeat(attempt, request.max_restarts)


def _run_on_ray(request: _Request) -> int:
    from distopt.ray.job import Script, run_job

    program, *arguments = request.command
    command = [program if program == "-m" else os.path.abspath(program), *arguments]
    script = Script(command, os.getcwd(), request.faults, request.has_prefix)
    status, failure = run_job(script, request.replicas, request.max_restarts)
    if failure:
        say(f"\n{failure}")
    return status
