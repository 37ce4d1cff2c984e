"""Runs a row of the table of endings and checks what came of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from chaos.endings.table import ASCII, EXIT, FIRST, FULL, STEP, Ending
from chaos.play import ENVIRONMENT, processes_left
from failing.processes import that_do_not_end
from support import DISTOPT, LIMIT, SOON, Result, mpirun_command, run

SCRIPT = Path(__file__).with_name("job.py")
PATIENT = {"DISTOPT_DEADLINES": ""}
"""Where no clock is needed, none may end the job."""
IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
REPORT = re.compile(r"^(?:Replica \d+ failed|distopt run: )", re.MULTILINE)
"""The beginning of what is said of a job that failed."""
NO_REPORT = r"distopt run: (?:the job ended with status \d+; )?replica \d \(.*"
"""What ``distopt run`` says where a replica can't leave a report; the replica has printed it before."""
ON_RAY_LIMIT = 150.0
"""How long a job on Ray may take, in seconds: it starts slowly, and what counts is the time since the failure."""
COMMANDS = {
    "distopt run": lambda: [DISTOPT, "run", "-n", "2"],
    "mpirun": lambda: mpirun_command(2),
    "ray": lambda: [DISTOPT, "run", "--backend", "ray", "-n", "2"],
}


def play(row: Ending, folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    """Run a job and check how it ends; what is left of it is killed."""
    mark = uuid.uuid4().hex
    settings = ENVIRONMENT | {"CHAOS_MARK": mark} | dict(environment)
    settings |= {} if row.has_deadlines else PATIENT
    settings |= IN_ASCII if row.surrounding == ASCII else {}
    arguments = [row.kind, row.place, row.surrounding, str(row.victim), str(folder)]
    try:
        limit = ON_RAY_LIMIT if row.launcher == "ray" else LIMIT
        result = run([*COMMANDS[row.launcher](), SCRIPT, *arguments], env=settings, timeout=limit)
        ended = time.time()
        try:
            check(row, result)
            assert ended - _told(folder)["fails"][1] < SOON
            assert not that_do_not_end(_pids(folder))
            assert processes_left(mark) == []
            assert not list(Path("/dev/shm").glob("*distopt*"))
        except AssertionError as error:
            error.add_note(f"{row}: status {result.status} after {result.seconds:.1f} s\n{result.text}")
            raise
    finally:
        for pid in _pids(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def check(row: Ending, result: Result) -> None:
    """Check that the job has failed, and that the first failure is reported last."""
    assert result.status != 0
    if row.kind == "SystemExit" and row.place in (FIRST, STEP, EXIT):
        assert result.status == 3
    *_, begin = [0, *(found.start() for found in REPORT.finditer(result.text))]
    last = result.text[begin:].rstrip()
    if row.surrounding == FULL and re.fullmatch(NO_REPORT, last):
        assert re.search(row.pattern, result.text)
    elif row.launcher == "mpirun":  # the launcher has its say after it
        assert re.match(row.pattern, last)
    else:
        assert re.fullmatch(row.pattern, last)


def _told(folder: Path) -> dict[str, tuple[int, float]]:
    """Return which process has told what, and when."""
    told = {}
    for path in folder.iterdir():
        if path.is_symlink():
            pid, when = os.readlink(path).split()
            told[path.name.rpartition("-")[0]] = int(pid), float(when)
    return told


def _pids(folder: Path) -> set[int]:
    return {pid for pid, _ in _told(folder).values()}
