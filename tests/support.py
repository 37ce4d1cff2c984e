"""Jobs that tests start: with a time limit, a clean environment, and nothing left behind."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from distopt.cli.mpirun import Program, find_mpirun, flags, mpi_library
from distopt.process.launcher import scrubbed_environment

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs that are started here must heed it

ROOT = Path(__file__).parent.parent
DISTOPT = str(Path(sys.executable).with_name("distopt"))
SOON = 30.0
"""Within so many seconds happens what is promised for at once or for seconds later: machines that test are busy."""
LIMIT = 50.0
"""How long a job may take, in seconds: less than the time after which waiting ends of itself (``silent``, 60 s)."""
TESTS = ROOT / "tests"
PATH = [str(TESTS / "line_buffered"), str(TESTS), os.environ.get("PYTHONPATH")]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, PATH)), "PYTHONUNBUFFERED": ""}
"""What jobs are started with: they print whole lines, and may import the helpers of tests, as tests do."""


def load_example(path: Path) -> ModuleType:
    """Import an example by its file, as a notebook would."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Result:
    """How a job ended."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def text(self) -> str:
        """All that was printed: first the standard output, then the errors."""
        return self.output + self.errors


class Job:
    """A command that runs; ``stop`` ends it with all that it has started."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], cwd: Path) -> None:
        self._started = time.monotonic()
        self._changed = threading.Condition()
        self._texts = {"output": "", "errors": ""}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=scrubbed_environment() | ENVIRONMENT | dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = {"output": self.process.stdout, "errors": self.process.stderr}
        self._readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in pipes.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: object) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                with self._changed:
                    self._texts[name] += data.decode(errors="replace")
                    self._changed.notify_all()

    @property
    def output(self) -> str:
        """The standard output so far."""
        return self._texts["output"]

    def wait_for(self, text: str, times: int = 1, timeout: float = LIMIT) -> None:
        """Wait until the job has printed this text so many times."""

        def printed() -> bool:
            return sum(stream.count(text) for stream in self._texts.values()) >= times

        with self._changed:
            assert self._changed.wait_for(printed, timeout), f"{text!r} never came; so far: {self._texts}"

    def wait(self, timeout: float = LIMIT) -> Result:
        """Wait for the end; a job that takes longer is stopped, and the test fails with what it printed."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"the job took more than {timeout} s; it printed: {self._texts}") from None
        for reader in self._readers:
            reader.join(timeout=10)
        return Result(status, **self._texts, seconds=time.monotonic() - self._started)

    def stop(self) -> None:
        """End the launcher in the way that takes its replicas along, then whatever is left of them."""
        family = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        for pid in [self.process.pid, *family] if self.process.poll() is None else family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(5)


@contextlib.contextmanager
def started(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Job]:
    """Start a command; at the end of the ``with`` block nothing of it is left."""
    job = Job(command, env or {}, cwd)
    try:
        yield job
    finally:
        job.stop()


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = LIMIT,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Result:
    """Run a command to its end."""
    with started(command, env=env, cwd=cwd) as job:
        return job.wait(timeout)


def run_replicas(
    replicas: int,
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    timeout: float = LIMIT,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Result:
    """Run a script (a path, or its text) under plain mpirun."""
    with script_file(script) as path:
        return run([*mpirun_command(replicas), path, *arguments], timeout=timeout, env=env, cwd=cwd)


@contextlib.contextmanager
def script_file(script: str | Path) -> Iterator[Path]:
    """The path of a script; its text is written to a file first."""
    if isinstance(script, Path):
        yield script
        return
    folder = Path(tempfile.mkdtemp(prefix="distopt-test-"))
    try:
        path = folder / "script.py"
        path.write_text(script)
        yield path
    finally:
        shutil.rmtree(folder)


def mpirun_command(replicas: int) -> list[str]:
    """What starts Python on so many replicas: the mpirun of mpi4py's library, with its flags."""
    launcher = mpirun()
    return [str(launcher.path), *flags(launcher.family, replicas), "-n", str(replicas), sys.executable]


@functools.cache
def mpirun() -> Program:
    """The mpirun that belongs to the MPI library in use."""
    return find_mpirun(mpi_library())


def descendants(pid: int) -> list[int]:
    """Process ids of the children of a process, their children and so on."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family: list[int] = []
    level = [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        family += level
    return family


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
