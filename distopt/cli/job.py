"""One job of ``mpirun`` under supervision."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from distopt.cli.deaths import ReplicaMonitor, cause_of_sigkill, killed
from distopt.cli.joining import Joining
from distopt.cli.prefix import Lines
from distopt.cli.records import Records
from distopt.cli.restarts import Outcome
from distopt.cli.streams import Stream
from distopt.distribute.agreement.checks import Deadlines
from distopt.process.system import control_group
from distopt.settings import DEADLINES, RUN_DIR
from distopt.speaking import say

GRACE_SECONDS = 30.0
"""The time in which replicas that were told to stop can save their state."""

REMINDER_SECONDS = 5.0
"""The time after which a person who has pressed Ctrl-C is told that another Ctrl-C kills the replicas."""

LAUNCHER_SECONDS = 10.0
"""The time after which a launcher is killed that has not ended with its replicas."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# What launchers say of a job that was stopped: noise, since who stopped it knows.
_LAUNCHER_LINE = re.compile(
    rb"\[(mpiexec|proxy:\d+)@|Abort\(\d+\) on node |Abort is in progress|=   |=+\s*$|-{20,}\s*$|\s*$"
    rb"|YOUR APPLICATION TERMINATED|This typically refers to|Please see the FAQ"
    rb"|prterun (noticed|detected) that |signal \d+ \([\w ]+\)\.\s*$|thus causing the job to be terminated"
    rb"|   (Process name: \[prterun|Exit code:)"
)


class Job:
    """One ``mpirun`` under supervision.

    The job has a process group of its own, so that a Ctrl-C reaches the job once, through this process. It has no
    terminal to read from: a process group in the background that read from one would be stopped.

    Args:
        command: the launcher's.
        environment: what it is started with.
        folder: where replicas leave what is reported.
        replicas: how many it starts.
        faults: the faults that are injected.
        has_prefix: whether the launcher marks what replicas print.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        folder: Path,
        replicas: int,
        *,
        faults: Sequence[str] = (),
        has_prefix: bool = False,
    ) -> None:
        self.folder, self._faults = folder, faults
        self._stalled = ""
        self.signals: list[int] = []
        self._early: list[int] = []  # those that came before there was anybody to pass them to
        self.process: subprocess.Popen[bytes] | None = None
        self._streams: list[Stream] = []
        for forwarded in _FORWARDED:
            signal.signal(forwarded, self._forward)
        deadlines = Deadlines.from_environment(DEADLINES)
        self._monitor = ReplicaMonitor(
            folder, replicas, Joining(Records(folder), replicas, deadlines, _say, self._end_stalled)
        )
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
        pipes = ((self.process.stdout, 1), (self.process.stderr, 2))
        self._streams = [Stream(pipe, target, Lines() if has_prefix else None) for pipe, target in pipes]
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
        failures = self._failures()
        stops = [number for number in self.signals if number != signal.SIGUSR1]
        for stream in self._streams:
            if stream.failure is not None:
                text = f"distopt run: the output of the job could not be written: {stream.failure.strerror}"
                _say(text)
                return Outcome(code or 1, text.removeprefix("distopt run: "), is_stopped=bool(stops))
        if code == 0 and not failures and not stops and not self._stalled:
            return Outcome(0, "", is_stopped=False)
        if stops:
            text = f"distopt run: stopped by {signal.Signals(stops[0]).name}"
        elif failures:
            text = failures[0]
        elif self._stalled:
            text = self._stalled
        else:
            text = self._explain(status, code)
        _say(text)
        has_ended_well = code == 0 and not failures and not self._stalled and len(stops) < 2
        reason = text.splitlines()[-1].removeprefix("distopt run: ")
        return Outcome(0 if has_ended_well else code or 1, reason, is_stopped=bool(stops))

    def _failures(self) -> list[str]:
        """Return what replicas have left of their failures, the first one first."""
        paths = sorted(self.folder.glob("failure-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        texts = [path.read_text(encoding="utf-8", errors="replace").strip("\n") for path in paths]
        return [text for text in texts if text.strip()]  # a full disk may have left nothing

    def _explain(self, status: int, code: int) -> str:
        """Say why the job ended, where no replica has reported a failure."""
        assert self.process
        if status < 0:
            name = signal.Signals(-status).name
            return f"distopt run: the launcher (pid {self.process.pid}) was killed by signal {-status} ({name})"
        said = "\n".join(stream.tail.decode(errors="replace") for stream in self._streams)
        cause = cause_of_sigkill(self._faults, self._memory, control_group())
        first = self._monitor.first_name()
        if sentences := killed(said, self._monitor.records, first, cause):
            return "\n".join(sentences)
        if first and code == 128 + signal.SIGKILL:  # Open MPI says no more of one that was killed in MPI_Init
            return f"distopt run: {first} {cause}"
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
        self._leave_launcher_out()
        if number == signal.SIGINT:
            self.process.send_signal(number)
            self._after(REMINDER_SECONDS, self._remind)
        elif self.signals.count(number) < 2 and self._monitor.signal_replicas(signal.SIGTERM):
            # Not through the launcher: Open MPI's would end the job before anybody could save anything.
            self._after(GRACE_SECONDS, self._end)
        else:
            self._end()

    def _leave_launcher_out(self) -> None:
        for stream in self._streams:
            stream.leaves_out = _LAUNCHER_LINE

    def _end_stalled(self, text: str) -> None:
        """End the job because replicas wait in vain."""
        self._stalled = text
        self._leave_launcher_out()
        self._end()

    def _end(self) -> None:
        """End the job, even if replicas ignore SIGTERM: MPICH's launcher only passes that signal on, and waits."""
        assert self.process
        self._monitor.signal_replicas(signal.SIGKILL)
        self.process.terminate()
        self._after(LAUNCHER_SECONDS, self.process.kill)

    def _remind(self) -> None:
        assert self.process
        if self.process.returncode is None:
            _say("distopt run: the replicas have not ended yet; another Ctrl-C kills them")

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()


def _say(text: str) -> None:
    """Print a text after an empty line."""
    say(f"\n{text}")
