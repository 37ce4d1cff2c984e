"""``distopt doctor``: prints the facts of this machine that matter for training, and its faults."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec

import click

from distopt.cli import machine
from distopt.cli.findings import Findings
from distopt.cli.mpirun import describe_launcher, find_mpirun, mpi_library
from distopt.errors import DistoptError, MissingExtraError
from distopt.process.launcher import Launch, launched


@click.command()
def doctor() -> None:
    """Print what matters for training here, and what is wrong; the status is 1 if something is."""
    launch = launched()
    findings = Findings()
    findings.note("distopt", metadata.version("distopt"))
    findings.note("python", f"{sys.version.split()[0]} ({sys.executable})")
    _launchers(findings)
    replicas = _replicas(findings, launch)
    machine.cores(findings, replicas)
    machine.threads(findings)
    machine.shared_memory(findings)
    machine.kernel_cache(findings)
    machine.packages(findings)
    if launch is None or launch.rank == 0:
        click.echo(str(findings))
    raise SystemExit(findings.status)


def _launchers(findings: Findings) -> None:
    """Find the MPI library, the launcher that belongs to it, and the launcher that plain ``mpirun`` would start."""
    try:
        library = mpi_library()
        findings.note("MPI library", f"{library} ({library.path})")
        mpirun = find_mpirun(library)
    except DistoptError as error:
        if isinstance(error, MissingExtraError) and find_spec("ray"):
            findings.note("MPI library", "none: replicas start with distopt run --backend ray")
        else:
            findings.problem(str(error))
        return
    findings.note("launcher", f"{mpirun} ({mpirun.path})")
    path = machine.on_path("mpirun")
    if path is None:
        findings.note("mpirun on PATH", f"none: use distopt run, or {mpirun.path}")
        return
    plain = describe_launcher(path)
    findings.note("mpirun on PATH", f"{plain} ({path})")
    if plain.family != library.family:
        findings.problem(
            f"plain mpirun is {plain}, but mpi4py loads {library}: it would start jobs of one replica; "
            f"use distopt run, or {mpirun.path}",
        )


def _replicas(findings: Findings, launch: Launch | None) -> list[machine.Seat]:
    """Note how this process was started; return where this replica and the others run."""
    seat = machine.this_seat()
    if launch is None:
        findings.note("started as", "one process")
        return [seat]
    from mpi4py import MPI

    size = MPI.COMM_WORLD.Get_size()
    findings.note("started as", f"replica {launch.rank} of {launch.size or size} by {launch.launcher}")
    if launch.may_be(size):
        return list(MPI.COMM_WORLD.allgather(seat))
    findings.problem(
        f"{launch.launcher} started {launch}, but MPI sees {size}: it belongs to another MPI; "
        "start with distopt run, or with the launcher named above",
    )
    return [seat]
