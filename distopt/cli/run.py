"""``distopt run``: starts a script on N replicas, supervises them, and says at the end what failed first."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

import click

from distopt.cli.deaths import ReplicaMonitor, killed
from distopt.cli.leftovers import remove_topology_files
from distopt.cli.mpirun import find_mpirun, flags, mpi_library
from distopt.cli.restarts import Outcome, repeat
from distopt.errors import DistoptError
from distopt.process.launcher import scrubbed_environment
from distopt.process.system import control_group
from distopt.settings import RECEIPT, RUN_DIR

GRACE_SECONDS = 30.0
"""The time in which replicas that were told to stop can save their state."""

REMINDER_SECONDS = 5.0
"""The time after which a person who has pressed Ctrl-C is told that another Ctrl-C kills the replicas."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_TAIL = 1 << 16  # launchers report a killed process in their last words
# What launchers say of a job that was stopped: noise, since who stopped it knows.
_LAUNCHER_LINE = re.compile(
    rb"\[(mpiexec|proxy:\d+)@|Abort\(\d+\) on node |Abort is in progress|=   |=+\s*$|-{20,}\s*$|\s*$"
    rb"|YOUR APPLICATION TERMINATED|This typically refers to|Please see the FAQ"
    rb"|prterun (noticed|detected) that |signal \d+ \([\w ]+\)\.\s*$|thus causing the job to be terminated"
    rb"|   (Process name: \[prterun|Exit code:)"
)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-n", "replicas", type=click.IntRange(min=1), required=True, help="Number of replicas.")
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
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(  # noqa: PLR0913 (the options of a command are its parameters)
    replicas: int,
    backend: str,
    max_restarts: int,
    receipt: Path | None,
    faults: tuple[str, ...],
    script: Path,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT with its ARGUMENTS on N replicas: under the mpirun of the MPI library in use, or as a Ray job."""
    if not script.is_file():
        hint = ": leave 'python' out, the script follows -n N" if script.name.startswith("python") else ""
        raise click.ClickException(f"there is no script {str(script)!r} to run{hint}")
    start = _run_under_mpi if backend == "mpi" else _run_on_ray
    if receipt is not None:
        os.environ[RECEIPT.name] = str(receipt.absolute())
    try:
        sys.exit(start([str(script), *arguments], replicas, max_restarts, _sentences(faults)))
    except DistoptError as error:
        raise click.ClickException(str(error)) from None


def _sentences(faults: tuple[str, ...]) -> list[str]:
    """Return the faults as arguments of the script of faults, after checking each sentence before anything starts."""
    if faults:
        from distopt.testing.faults.sentences import parse

        for sentence in faults:
            parse(sentence)
    return [word for sentence in faults for word in ("-i", sentence)]


def _run_under_mpi(program: list[str], replicas: int, max_restarts: int, faults: list[str]) -> int:
    launcher = find_mpirun(mpi_library())
    mpirun = [str(launcher.path), *flags(launcher.family, replicas), "-n", str(replicas), sys.executable]
    environment = scrubbed_environment()
    injection = ["-m", "distopt.testing.faults.script", *faults] if faults else []

    def attempt(number: int) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="distopt-run-") as folder:
            job = Job([*mpirun, *([] if number else injection), *program], environment, Path(folder), replicas)
            try:
                return job.report(job.wait())
            finally:
                remove_topology_files()

    return repeat(attempt, max_restarts)


def _run_on_ray(program: list[str], replicas: int, max_restarts: int, faults: list[str]) -> int:
    from distopt.ray.job import Script, run_job

    script = Script(str(Path(program[0]).absolute()), program[1:], os.getcwd(), faults)
    status, failure = run_job(script, replicas, max_restarts)
    if failure:
        click.echo(f"\n{failure}", err=True)
    return status


class Job:
    """One ``mpirun`` under supervision.

    The job has a process group of its own, so that a Ctrl-C reaches the job once, through this process. It has no
    terminal to read from: a process group in the background that read from one would be stopped.
    """

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, replicas: int) -> None:
        self.folder = folder
        self.signals: list[int] = []
        self._early: list[int] = []  # those that came before there was anybody to pass them to
        self.process: subprocess.Popen[bytes] | None = None
        self._streams: list[_Stream] = []
        for forwarded in _FORWARDED:
            signal.signal(forwarded, self._forward)
        self._monitor = ReplicaMonitor(folder, replicas)
        self._memory = control_group()
        self.process = subprocess.Popen(
            command,
            env=environment | {RUN_DIR.name: str(folder)},
            stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        assert self.process.stdout
        assert self.process.stderr
        self._streams = [_Stream(self.process.stdout, 1), _Stream(self.process.stderr, 2)]
        for number in self._early:
            self._pass_on(number)

    def wait(self) -> int:
        """Wait for the launcher and for its last output; return its status (negative: the signal that killed it)."""
        assert self.process
        status = self.process.wait()
        if status < 0:  # nobody else ends replicas that have not used MPI yet
            self._monitor.signal_replicas(signal.SIGKILL)
        for stream in self._streams:
            stream.join()
        self._monitor.stop()
        return status

    def report(self, status: int) -> Outcome:
        """Print, at the very end, what failed first; return the outcome, with the status that a shell would report."""
        code = status if status >= 0 else 128 - status
        failures = sorted(self.folder.glob("failure-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        stops = [number for number in self.signals if number != signal.SIGUSR1]
        for stream in self._streams:
            if stream.failure is not None:
                text = f"distopt run: the output of the job could not be written: {stream.failure.strerror}"
                with contextlib.suppress(OSError):
                    click.echo("\n" + text, err=True)
                return Outcome(code or 1, text.removeprefix("distopt run: "), is_stopped=bool(stops))
        if code == 0 and not failures and not stops:
            return Outcome(0, "", is_stopped=False)
        if stops:
            text = f"distopt run: stopped by {signal.Signals(stops[0]).name}"
        elif failures:
            text = failures[0].read_text(encoding="utf-8", errors="replace").strip("\n")
        else:
            text = self._explain(status, code)
        click.echo("\n" + text, err=True)
        has_ended_well = code == 0 and not failures and len(stops) < 2
        reason = text.splitlines()[-1].removeprefix("distopt run: ")
        return Outcome(0 if has_ended_well else code or 1, reason, is_stopped=bool(stops))

    def _explain(self, status: int, code: int) -> str:
        """Say why the job ended, where no replica has reported a failure."""
        assert self.process
        if status < 0:
            name = signal.Signals(-status).name
            return f"distopt run: the launcher (pid {self.process.pid}) was killed by signal {-status} ({name})"
        said = "\n".join(stream.tail.decode(errors="replace") for stream in self._streams)
        if sentences := killed(said, self._monitor, self._memory, control_group()):
            return "\n".join(sentences)
        first = self._monitor.first_name()
        return f"distopt run: the job ended with status {code}" + (f"; {first} ended first" if first else "")

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        if self._streams:
            self._pass_on(number)
        else:
            self._early.append(number)

    def _pass_on(self, number: int) -> None:
        assert self.process
        if number == signal.SIGUSR1:
            self.process.send_signal(number)
            return
        for stream in self._streams:
            stream.leaves_out = _LAUNCHER_LINE
        if number == signal.SIGINT:
            self.process.send_signal(number)
            self._after(REMINDER_SECONDS, self._remind)
        elif self.signals.count(number) < 2 and self._monitor.signal_replicas(signal.SIGTERM):
            # Not through the launcher: Open MPI's would end the job before anybody could save anything.
            self._after(GRACE_SECONDS, self._end)
        else:
            self._end()

    def _end(self) -> None:
        """End the job, even if replicas ignore SIGTERM: MPICH's launcher only passes that signal on, and waits."""
        assert self.process
        self._monitor.signal_replicas(signal.SIGKILL)
        self.process.terminate()

    def _remind(self) -> None:
        assert self.process
        if self.process.returncode is None:
            click.echo("\ndistopt run: the replicas have not ended yet; another Ctrl-C kills them", err=True)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()


class _Stream(threading.Thread):
    """Passes on one output stream of the job, each byte as it comes, and keeps the last part."""

    def __init__(self, source: IO[bytes], target: int) -> None:
        super().__init__(daemon=True)
        self.source, self.target, self.tail = source, target, b""
        self.failure: OSError | None = None
        """The reason why the output could not be written."""
        self.leaves_out: re.Pattern[bytes] | None = None
        """The lines that are not passed on; once this is set, the stream is passed on line by line."""
        self._line = b""
        self.start()

    def run(self) -> None:
        with self.source:
            try:
                while data := os.read(self.source.fileno(), 1 << 16):
                    self.tail = (self.tail + data)[-_TAIL:]
                    self._write(self._filtered(data))
                self._write(self._line)
            except BrokenPipeError:  # nobody reads any more: the job learns it in the same way
                return
            except OSError as error:  # a full disk, say: the job learns that nobody reads any more
                self.failure = error

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.target, data) :]

    def _filtered(self, data: bytes) -> bytes:
        if self.leaves_out is None:
            return data
        lines = (self._line + data).splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return b"".join(line for line in lines if not self.leaves_out.match(line))
