"""``distopt run``: start a script on N replicas, supervise them, and say at the end what failed first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import IO

import click

from distopt.cli.deaths import Watch, killed
from distopt.cli.mpirun import find_mpirun, flags, mpi_library
from distopt.distribute.launcher import RUN_DIRECTORY, scrubbed_environment
from distopt.errors import DistoptError

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_TAIL = 1 << 16  # launchers report a killed process in their last words


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-n", "replicas", type=click.IntRange(min=1), required=True, help="Number of replicas.")
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(replicas: int, script: Path, arguments: tuple[str, ...]) -> None:
    """Run SCRIPT with its ARGUMENTS on N replicas under the mpirun of the MPI library in use."""
    if not script.is_file():
        hint = ": leave 'python' out, the script follows -n N" if script.name.startswith("python") else ""
        raise click.ClickException(f"there is no script {str(script)!r} to run{hint}")
    try:
        launcher = find_mpirun(mpi_library())
    except DistoptError as error:
        raise click.ClickException(str(error)) from None
    command = [str(launcher.path), *flags(launcher.family, replicas), "-n", str(replicas), sys.executable]
    with tempfile.TemporaryDirectory(prefix="distopt-run-") as folder:
        job = Job([*command, str(script), *arguments], Path(folder), replicas)
        status = job.wait()
        sys.exit(job.report(status))


class Job:
    """One ``mpirun`` under supervision.

    It has a process group of its own, so that a Ctrl-C reaches it once, through this process, and no
    terminal to read from: a background group that read one would be stopped.
    """

    def __init__(self, command: list[str], folder: Path, replicas: int) -> None:
        self.folder = folder
        self.signals: list[int] = []
        self._early: list[int] = []  # those that came before there was anybody to pass them to
        self.process: subprocess.Popen[bytes] | None = None
        for forwarded in _FORWARDED:
            signal.signal(forwarded, self._forward)
        self._watch = Watch(folder, replicas)
        self.process = subprocess.Popen(
            command,
            env=scrubbed_environment() | {RUN_DIRECTORY: str(folder)},
            stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        for number in self._early:
            self._pass_on(number)
        assert self.process.stdout
        assert self.process.stderr
        self._streams = (_Stream(self.process.stdout, 1), _Stream(self.process.stderr, 2))

    def wait(self) -> int:
        """Wait for the launcher and for its last output; return its status as a shell would."""
        assert self.process
        status = self.process.wait()
        for stream in self._streams:
            stream.join()
        self._watch.stop()
        return status if status >= 0 else 128 - status

    def report(self, status: int) -> int:
        """Print what failed first, last of all; return the status that this command ends with."""
        failures = sorted(self.folder.glob("failure-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        stops = [number for number in self.signals if number != signal.SIGUSR1]
        if status == 0 and not failures and len(stops) < 2:
            return 0
        if stops:
            text = f"distopt run: stopped by {signal.Signals(stops[0]).name}"
        elif failures:
            text = failures[0].read_text(encoding="utf-8", errors="replace").strip("\n")
        else:
            said = "\n".join(stream.tail.decode(errors="replace") for stream in self._streams)
            first = self._watch.first_name()
            ended = f"distopt run: the job ended with status {status}" + (f"; {first} ended first" if first else "")
            text = "\n".join(killed(said, self._watch)) or ended
        click.echo("\n" + text, err=True)
        return status or 1

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        if self.process is None:
            self._early.append(number)
        else:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


class _Stream(threading.Thread):
    """Passes one of the job's streams on, byte by byte as it comes, and keeps its end."""

    def __init__(self, source: IO[bytes], target: int) -> None:
        super().__init__(daemon=True)
        self.source, self.target, self.tail = source, target, b""
        self.start()

    def run(self) -> None:
        with self.source:
            while data := os.read(self.source.fileno(), 1 << 16):
                self.tail = (self.tail + data)[-_TAIL:]
                try:
                    while data:
                        data = data[os.write(self.target, data) :]
                except BrokenPipeError:  # nobody reads any more: the job learns it in the same way
                    return
