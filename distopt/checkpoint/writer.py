"""Writing a checkpoint: each replica's thread writes its part; replica 0's makes the parts one checkpoint.

The threads use no communicator. A replica that has its part on the disk says so in a small file beside it; replica 0
waits for all of them, writes the manifest and renames the directory. A part that can't be written is said so likewise.
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
from distopt.checkpoint.files import write_tensors, write_text
from distopt.checkpoint.manifest import Described, Manifest, Part
from distopt.checkpoint.pieces import Piece
from distopt.process.exiting import is_exiting

PATIENCE = 600.0
"""Seconds that replica 0 waits for the parts of the others after its own."""

_NAPS = (0.002, 0.1)

_LAST_SECONDS = 30.0


@dataclass(frozen=True)
class Whole:
    """A checkpoint that is to be written, the same on all replicas.

    Args:
        directory: of the checkpoints.
        step: whose it is.
        token: tells this attempt from earlier ones.
        replicas: how many write.
        variables: shape and dtype of everything, as the manifest says them.
        trained: likewise.
        keep: how many checkpoints stay.
    """

    directory: Path
    step: int
    token: str
    replicas: int
    variables: dict[str, Described]
    trained: Sequence[str]
    keep: int

    @property
    def aside(self) -> Path:
        """Where it is written."""
        return names.aside(self.directory, self.step, self.token)

    def note(self, replica: int) -> Path:
        """Where a replica says that its part is on the disk."""
        return self.aside / f"part-{replica:05}.json"

    def failure(self, replica: int) -> Path:
        """Where a replica says why its part can't be."""
        return self.aside / f"failed-{replica:05}.txt"


@dataclass(frozen=True)
class Write:
    """One replica's part of it.

    Args:
        whole: the checkpoint.
        index: the replica's.
        pieces: what it writes, each with its dtype, in the order of the buffer.
        buffer: their bytes.
        own: what this replica keeps for itself, as JSON.
    """

    whole: Whole
    index: int
    pieces: Sequence[tuple[Piece, str]]
    buffer: Array
    own: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file."""
        return self.whole.aside / f"part-{self.index:05}.safetensors"


class Note(msgspec.Struct, frozen=True):
    """What a replica says in a file when its part is on the disk."""

    file: Part
    own: dict[str, Any]


class Writer:
    """This replica's thread, which writes one checkpoint at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def begin(self, write: Write) -> None:
        """Write in the background, in an exit handler here; what was begun before is over."""
        if is_exiting():
            self._run(write)
            if self._failure is not None:
                _warn_of(self._failure)
            return
        self._thread = threading.Thread(target=self._run, args=(write,), name="distopt-checkpoint", daemon=True)
        self._thread.start()
        atexit.register(self._finish_at_exit)

    def join(self) -> str | None:
        """Wait for what was begun; return, once, why it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            atexit.unregister(self._finish_at_exit)
        failure, self._failure = self._failure, None
        return failure

    def give_up(self) -> None:
        """Wait a little for what was begun: the job is about to end, and other replicas may have ended already."""
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
    """Say at the end of the program, where nobody may ask any more, that the last checkpoint is missing."""
    warnings.warn(f"the last checkpoint could not be written: {failure}", stacklevel=1)


def _write(write: Write) -> None:
    whole = write.whole
    if write.index == 0:
        names.remove_leftovers(whole.directory, whole.token)
    whole.aside.mkdir(parents=True, exist_ok=True)
    size, digest = write_tensors(write.path, write.pieces, write.buffer)
    part = Part(write.path.name, size, digest, [piece for piece, _ in write.pieces])
    write_text(whole.note(write.index), json.dumps(msgspec.to_builtins(Note(part, write.own))))
    if write.index == 0:
        _wait_for_parts(whole)
        _complete(whole)


def _complete(whole: Whole) -> None:
    """Make the parts of all replicas a checkpoint."""
    notes = [msgspec.convert(json.loads(whole.note(r).read_bytes()), Note) for r in range(whole.replicas)]
    manifest = Manifest(
        step=whole.step,
        variables=whole.variables,
        trained=list(whole.trained),
        parts=[note.file for note in notes],
        replicas=[note.own for note in notes],
    )
    for r in range(whole.replicas):
        whole.note(r).unlink()
    manifest.write(whole.aside)
    names.publish(whole.directory, whole.step, whole.token)
    names.keep_newest(whole.directory, whole.step, whole.token, whole.keep)


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
    """Remove what was written; return what happened, or None where it follows from another replica's failure."""
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
