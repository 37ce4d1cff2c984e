"""Runs job.py in Ray actors, one for each replica, in the cluster that the tests have."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from support import LIMIT, SOON, Result

_REST_SECONDS = 3.0
"""What the last replica gets when all others have ended."""


@ray.remote(num_cpus=1)
class _Actor:
    """A process that runs a script as one replica, and tells what became of it."""

    def __init__(self, environment: Mapping[str, str], file: Path) -> None:
        os.environ |= environment
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)

    def pid(self) -> int:
        return os.getpid()

    def run(self, index: int, count: int, name: str, command: Sequence[str]) -> str:
        """Return the traceback of what ended the script, or ""."""
        import distopt.ray
        from distopt.program.script import execute
        from distopt.testing.faults.injection import inject
        from distopt.testing.faults.script import split

        sentences, program = split(command) if "-i" in command else ([], command)
        try:
            with distopt.ray.init_group(index, count, name):
                if sentences:
                    inject(*sentences)
                execute(program)
        except BaseException:
            return traceback.format_exc()
        return ""


def ray_job(replicas: int, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Result:
    """Run a command, ``[-i SENTENCE] script arguments``, on so many replicas; what still runs in the end is killed."""
    began = time.monotonic()
    files = [folder / f"replica-{r}.txt" for r in range(replicas)]
    actors = [_Actor.remote(environment, file) for file in files]
    pids = ray.get([actor.pid.remote() for actor in actors])
    futures = [actor.run.remote(r, replicas, str(folder), command) for r, actor in enumerate(actors)]
    ray.wait(futures, num_returns=replicas - 1, timeout=LIMIT)
    done, _ = ray.wait(futures, num_returns=replicas, timeout=_REST_SECONDS)
    errors = "".join(_end_of(r, future, future in done) for r, future in enumerate(futures))
    for actor, pid in zip(actors, pids, strict=True):
        ray.kill(actor)
        _kill(pid)
    return Result(int(bool(errors)), "".join(f.read_text() for f in files), errors, time.monotonic() - began)


def _end_of(replica: int, future: ray.ObjectRef, is_done: bool) -> str:
    if not is_done:
        return f"replica {replica} does not end\n"
    try:
        text = ray.get(future)
    except ray.exceptions.ActorDiedError:
        return f"replica {replica} was killed (SIGKILL)\n"
    return text and f"Replica {replica} failed:\n{text}\n"


def _kill(pid: int) -> None:
    """End a process, also one that is stopped or hangs, and wait until it is gone."""
    end = time.monotonic() + SOON
    while os.path.exists(f"/proc/{pid}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < end, f"process {pid} does not end"
        time.sleep(0.02)
