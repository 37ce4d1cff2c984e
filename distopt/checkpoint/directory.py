"""The directory of checkpoints: finds complete ones, completes a new one by renaming it, removes old ones."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from distopt.checkpoint.files import sync_directory

_COMPLETE = re.compile(r"step-([0-9]{8,18})")
_ASIDE = re.compile(r"\.step-([0-9]{8,18})-[0-9a-f]+\.(tmp|old)")


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


def keep_newest(directory: Path, step: int, token: str, keep: int) -> None:
    """Remove all checkpoints up to this step but the newest ``keep``, once the one of this step is complete."""
    for outdated in [each for each in steps_in(directory) if each <= step][:-keep]:
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
    """Put an old checkpoint back if its replacement was not completed."""
    for path, step, kind in _asides(directory):
        if kind == "old" and not complete(directory, step).exists():
            path.rename(complete(directory, step))


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
