"""The directory of checkpoints: finds complete ones, completes a new one by renaming it, removes old ones.

One job at a time writes there: two would replace each other's checkpoints. The lock is the kernel's, on the directory
itself: it leaves no file, and ends with its process, however that ends. A file system without locks has none.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from distopt.checkpoint.files import sync_directory
from distopt.errors import CheckpointError

_COMPLETE = re.compile(r"step-([0-9]{8,18})")
_ASIDE = re.compile(r"\.step-([0-9]{8,18})-[0-9a-f]+\.(tmp|old)")


_locks: dict[Path, int] = {}
"""The directories that this process has locked, with their descriptors."""


def lock(directory: Path) -> None:
    """Lock the directory for this process, unless it has done so. What can't be opened, the writer will speak of.

    Raises:
        CheckpointError: another process has locked it.
    """
    if directory in _locks:
        return
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if not _try_to_lock(directory):
        raise CheckpointError(
            f"another job writes its checkpoints into {directory}, and the two would replace each other's: end that "
            "job first, or give this one a directory of its own"
        )


def unlock(directory: Path) -> None:
    """Let other processes write into the directory."""
    descriptor = _locks.pop(directory, None)
    if descriptor is not None:
        os.close(descriptor)


def _try_to_lock(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # no locks here, as on some NFS
        os.close(descriptor)
        return True
    _locks[directory] = descriptor
    return True


def _forget_locks() -> None:
    """Give up, in a forked child, the parent's locks: they would outlive the parent."""
    for descriptor in _locks.values():
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_forget_locks)


def complete(directory: Path, step: int) -> Path:
    """Return the path of the complete checkpoint of a step."""
    return directory / f"step-{step:08}"


def aside(directory: Path, step: int, token: str, kind: str = "tmp") -> Path:
    """Return the path of a checkpoint before it is complete (``tmp``) or after it was replaced (``old``)."""
    return directory / f".step-{step:08}-{token}.{kind}"


def steps_in(directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(found[1]) for path in directory.iterdir() if (found := _COMPLETE.fullmatch(path.name)))


def publish(directory: Path, step: int, token: str) -> None:
    """Rename the written files to the checkpoint of their step; an older checkpoint of this step is replaced."""
    written, final, old = aside(directory, step, token), complete(directory, step), aside(directory, step, token, "old")
    sync_directory(written)
    if final.exists():
        final.rename(old)
    written.rename(final)
    sync_directory(directory)
    shutil.rmtree(old, ignore_errors=True)


def remove(directory: Path, steps: Iterable[int], token: str) -> None:
    """Remove the checkpoints of these steps."""
    for outdated in steps:
        # Renamed first: what is removed in part must not look like a checkpoint.
        gone = aside(directory, outdated, token)
        complete(directory, outdated).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def give_up(directory: Path, step: int, token: str) -> None:
    """Remove an incomplete checkpoint, though other replicas may still write to it."""
    path = aside(directory, step, token)
    gone = path.with_name(f".step-{step:08}-{token}f.tmp")  # another token: what others add is in nobody's way
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def put_back(directory: Path) -> None:
    """Put an old checkpoint back if its replacement was not completed; not while another job may be at it."""
    is_mine = directory in _locks
    if is_mine or _try_to_lock(directory):
        for path, step, kind in _asides(directory):
            if kind == "old" and not complete(directory, step).exists():
                path.rename(complete(directory, step))
    if not is_mine:
        unlock(directory)


def remove_leftovers(directory: Path, token: str) -> None:
    """Remove the incomplete checkpoints that earlier runs have left, but none with this token."""
    put_back(directory)
    for path, _, _ in _asides(directory):
        if not path.name.endswith(f"-{token}.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def _asides(directory: Path) -> Iterator[tuple[Path, int, str]]:
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        if found := _ASIDE.fullmatch(path.name):
            yield path, int(found[1]), found[2]
