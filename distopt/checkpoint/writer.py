"""Writes a checkpoint: each replica's thread writes its part, and replica 0's thread joins the parts.

The threads use no communicator. A replica that has its part on the disk says so in a small file beside the part;
replica 0 waits for all these files, writes the manifest and renames the directory. A replica that can't write its part
leaves another small file, which says why.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distopt.arrays import Array
from distopt.checkpoint import directory as names
from distopt.checkpoint.best import Best
from distopt.checkpoint.files import write_tensors, write_text
from distopt.checkpoint.manifest import Described, FilePart, Kind, Manifest
from distopt.checkpoint.pieces import Piece
from distopt.process.exiting import is_exiting

PATIENCE = 600.0
"""Seconds that replica 0, after writing its own part, waits for the parts of the others."""

_NAPS = (0.002, 0.1)

_LAST_SECONDS = 30.0


@dataclass(frozen=True)
class Whole:
    """A checkpoint to be written, described in the same way on all replicas.

    Args:
        directory: the directory of all checkpoints.
        step: the step of this checkpoint.
        token: random characters that tell this attempt from earlier ones.
        replicas: the number of replicas that write.
        variables: shape and dtype of every variable, for the manifest.
        trained: the names of the variables that the optimizer updates, for the manifest.
        optimizer: which optimizer that is, for the manifest.
        keep: number of checkpoints to keep.
        best: what makes a checkpoint the best, which is kept too; or None.
    """

    directory: Path
    step: int
    token: str
    replicas: int
    variables: dict[str, Described]
    trained: Sequence[str]
    optimizer: Kind | None
    keep: int
    best: Best | None

    @property
    def aside(self) -> Path:
        """Return the directory in which the files are written, before it is renamed."""
        return names.aside(self.directory, self.step, self.token)

    def note(self, replica: int) -> Path:
        """Return the path of the file in which a replica says that its part is on the disk."""
        return self.aside / f"part-{replica:05}.json"

    def failure(self, replica: int) -> Path:
        """Return the path of the file in which a replica says why it can't write its part."""
        return self.aside / f"failed-{replica:05}.txt"


@dataclass(frozen=True)
class Write:
    """One replica's part of a checkpoint.

    Args:
        whole: the checkpoint.
        index: the replica's index.
        pieces: the pieces in this part, each with its dtype, in the order of the buffer.
        buffer: the bytes of the pieces.
        own: the replica's own state, as JSON.
    """

    whole: Whole
    index: int
    pieces: Sequence[tuple[Piece, str]]
    buffer: Array
    own: dict[str, Any]

    @property
    def path(self) -> Path:
        """Return the path of the part's file."""
        return self.whole.aside / f"part-{self.index:05}.safetensors"


class Note(msgspec.Struct, frozen=True):
    """The note that a replica writes when its part is on the disk."""

    file: FilePart
    own: dict[str, Any]


class Writer:
    """This replica's thread, which writes one checkpoint at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def begin(self, write: Write) -> None:
        """Write in a thread, or at once if the program is ending. The last write must have been joined."""
        if is_exiting():
            self._run(write)
            if self._failure is not None:
                _warn_of(self._failure)
            return
        self._thread = threading.Thread(target=self._run, args=(write,), name="distopt-checkpoint", daemon=True)
        self._thread.start()
        atexit.register(self._finish_at_exit)

    def join(self) -> str | None:
        """Wait for the write that was begun; return, once, why it failed, or None."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            atexit.unregister(self._finish_at_exit)
        failure, self._failure = self._failure, None
        return failure

    def give_up(self) -> None:
        """Wait at most half a minute for the write: the job is ending, and other replicas may have ended already."""
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS)
            atexit.unregister(self._finish_at_exit)

    def _run(self, write: Write) -> None:
        try:
            _write(write)
        except Exception as error:
            self._failure = _clean_up(write, error)

    def _finish_at_exit(self) -> None:
        failure = self.join()
        if failure is not None:
            _warn_of(failure)


def _warn_of(failure: str) -> None:
    """Warn that the last checkpoint is missing, at the end of the program, when no call can raise an error any more."""
    warnings.warn(f"the last checkpoint could not be written: {failure}", stacklevel=1)


def _write(write: Write) -> None:
    whole = write.whole
    if write.index == 0:
        names.remove_leftovers(whole.directory, whole.token)
    whole.aside.mkdir(parents=True, exist_ok=True)
    size, digest = write_tensors(write.path, write.pieces, write.buffer)
    part = FilePart(write.path.name, size, digest, [piece for piece, _ in write.pieces])
    write_text(whole.note(write.index), json.dumps(msgspec.to_builtins(Note(part, write.own))))
    if write.index == 0:
        _wait_for_parts(whole)
        _complete(whole)


def _complete(whole: Whole) -> None:
    """Join the parts of all replicas to a checkpoint: write the manifest and rename the directory."""
    notes = [msgspec.convert(json.loads(whole.note(r).read_bytes()), Note) for r in range(whole.replicas)]
    manifest = Manifest(
        step=whole.step,
        variables=whole.variables,
        trained=list(whole.trained),
        optimizer=whole.optimizer,
        parts=[note.file for note in notes],
        replicas=[note.own for note in notes],
    )
    for r in range(whole.replicas):
        whole.note(r).unlink()
    manifest.write(whole.aside)
    names.publish(whole.directory, whole.step, whole.token)
    _remove_outdated(whole)


def _remove_outdated(whole: Whole) -> None:
    """Remove all checkpoints up to this step, which is complete, but the newest and the best."""
    done = [each for each in names.steps_in(whole.directory) if each <= whole.step]
    outdated = done[: -whole.keep]
    if whole.best is not None and outdated:
        outdated = [each for each in outdated if each not in whole.best.ranked(whole.directory, done)[-1:]]
    names.remove(whole.directory, outdated, whole.token)


def _wait_for_parts(whole: Whole) -> None:
    nap, longest = _NAPS
    deadline = time.monotonic() + PATIENCE
    missing = list(range(whole.replicas))
    while missing := [r for r in missing if not whole.note(r).exists()]:
        for r in missing:
            if whole.failure(r).exists():
                raise OSError(f"replica {r}: {whole.failure(r).read_text(encoding='utf-8')}")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the parts of replicas {missing} did not appear in {PATIENCE:.0f} s: is {whole.directory} the same "
                "directory on every node?"
            )
        time.sleep(nap)
        nap = min(2 * nap, longest)


def _clean_up(write: Write, error: Exception) -> str | None:
    """Remove this part; return the reason of the failure, or None where another replica's failure caused it."""
    text, whole = f"{type(error).__name__}: {error}", write.whole
    if write.index == 0:
        with contextlib.suppress(OSError):
            names.give_up(whole.directory, whole.step, whole.token)
        return text
    if isinstance(error, FileNotFoundError) and not whole.aside.exists():
        return None
    with contextlib.suppress(OSError):
        write.path.unlink(missing_ok=True)  # room for the note
        write_text(whole.failure(write.index), text)
    return text
