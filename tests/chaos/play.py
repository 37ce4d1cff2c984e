"""Runs a row of the matrix and checks what came of it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from chaos.matrix import STEPS, Case
from support import DISTOPT, SOON, Result, run

HERE = Path(__file__).parent
FAULTY = Path(__file__).parents[2] / "distopt/testing/faults/script.py"
ENVIRONMENT = {
    "DISTOPT_KERNELS": "reference",
    "OPENBLAS_NUM_THREADS": "1",
    "DISTOPT_DEADLINES": "warn=2,silent=5,end=5",
}


def play(case: Case, folder: Path) -> None:
    """Run a case and check it."""
    mark = uuid.uuid4().hex
    environment = {"DISTOPT_UPDATE": case.update, "DISTOPT_CHECKS": case.checks}
    if case.place == "in a checkpoint":
        environment["CHAOS_CHECKPOINTS"] = str(folder / "checkpoints")
    result = job(case.transport, case.replicas, ["-i", case.sentence], folder, mark, environment)
    ended = time.time()
    started = min(map(float, re.findall(r"trains since (\S+)", result.output)), default=ended)
    try:
        check(case, result)
        assert ended - started < SOON  # counted from the first step
        assert processes_left(mark) == []
        assert not list(Path("/dev/shm").glob("*distopt*"))
    except AssertionError as error:
        error.add_note(f"{case}: status {result.status} after {ended - started:.1f} s\n{result.text}")
        raise


def check(case: Case, result: Result) -> None:
    outcome, said = case.outcome, dict(re.findall(r"^replica (\d+) ((?:got|ended).*)", result.output, re.MULTILINE))
    if outcome.report is None:
        assert result.status == 0
        digest = undisturbed(outcome.bits, "threads" if case.transport == "ray" else case.transport, case.replicas)
        assert said == {str(r): f"ended with {digest}" for r in range(case.replicas)}
        return
    assert result.status != 0
    assert re.search(_filled(outcome.report, case), result.errors)
    assert not any(text.startswith("ended") for text in said.values()) or case.place == "at exit"
    for replica in range(case.replicas):
        expected = outcome.victim if replica == case.victim else outcome.others
        if expected:
            assert re.match(_filled(expected, case), said.get(str(replica), "nothing"))
    others = [text for replica, text in said.items() if replica != str(case.victim)]
    assert not outcome.someone or any(re.match(_filled(outcome.someone, case), text) for text in others)


def _filled(text: str, case: Case) -> str:
    return text.replace("{r}", str(case.victim)).replace("{n}", str(case.replicas))


@functools.cache
def undisturbed(steps: str, transport: str, replicas: int) -> str:
    """The digest of a run without a fault."""
    left_out = {} if steps == "all steps" else {"CHAOS_LEAVE_OUT": steps.removeprefix("without step ")}
    with tempfile.TemporaryDirectory() as folder:
        result = job(transport, replicas, [], Path(folder), "undisturbed", left_out)
    assert result.status == 0, result.text
    (digest,) = set(re.findall(r"ended with (\S+)", result.output))
    return digest


def job(
    transport: str, replicas: int, faults: list[str], folder: Path, mark: str, environment: dict[str, str]
) -> Result:
    """Run job.py."""
    if transport == "ray":
        from chaos.on_ray import ray_job  # only where Ray is installed

        return ray_job(replicas, [*faults, str(HERE / "job.py"), str(STEPS)], folder, ENVIRONMENT | environment)
    script = [*([FAULTY, *faults] if faults else []), HERE / "job.py", str(STEPS)]
    command = [DISTOPT, "run", "-n", str(replicas), *script]
    if transport == "threads":
        command = [sys.executable, *script, str(replicas)]
    return run(command, env=ENVIRONMENT | {"CHAOS_MARK": mark, "TMPDIR": str(folder)} | environment)


def killed_and_resumed(kills: int, replicas: int, update: str) -> None:
    """Go through so many kills of a job of one replica, or of simulated ones."""
    command = [sys.executable, "-W", "error", HERE / "cycles.py", str(kills), "1", str(replicas)]
    result = run(command, timeout=60 + 2 * kills, env=ENVIRONMENT | {"DISTOPT_UPDATE": update})
    assert result.status == 0, result.text
    assert f"{kills} kills" in result.output


def processes_left(mark: str) -> list[str]:
    """Processes of a job that are still there: a launcher does not wait for all that it has killed."""
    deadline = time.monotonic() + SOON
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _marked(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"CHAOS_MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@contextlib.contextmanager
def mpi_cleaned_up(folder: Path = Path("/dev/shm")) -> Iterator[None]:
    """At the end, remove what MPI libraries have left since the beginning: 4 to 16 MB for each killed process."""
    before = _of_mpi(folder)
    yield
    mapped = set()
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            mapped |= set(re.findall(rf"{re.escape(str(folder))}/\S+", (process / "maps").read_text()))
    for path in _of_mpi(folder) - before:
        if str(path) not in mapped:  # by nobody: its job has ended
            path.unlink(missing_ok=True)


def _of_mpi(folder: Path) -> set[Path]:
    """This user's files of MPI libraries: nobody sees here whether the jobs of others have ended."""
    found = set()
    for path in [*folder.glob("mpich_shm_*"), *folder.glob("sm_segment.*")]:
        with contextlib.suppress(FileNotFoundError):  # removed since
            if path.stat().st_uid == os.geteuid():
                found.add(path)
    return found
