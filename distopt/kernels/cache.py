"""Keeps compiled kernels in a directory, safe from other users and from each other's processes.

Numba stores a kernel as pickles, and a pickle runs whatever its writer wanted. So the directory must be this user's,
and nobody else may write to it. A digest beside each kernel tells whether it was cut short or changed, before Numba
reads it. Numba's index is not safe when several processes use it at once (wrong results were seen): kernels are stored
under an exclusive lock, and loaded under a shared one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba

from distopt.kernels.target import cpu_target
from distopt.settings import CACHE_DIR

LOCK_SECONDS = 60.0
"""Seconds to wait for other processes: longer than all kernels take to compile."""

_LOOK_SECONDS = 0.02
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_directory() -> Path:
    """Return where compiled kernels are kept: ``DISTOPT_CACHE_DIR``, else the user's cache directory."""
    root = CACHE_DIR.read()
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "distopt")
    return Path(root) / f"numba{numba.__version__}-python{platform.python_version()}-{cpu_target()}"


def make_directory() -> Path:
    """Return the cache directory, which is made if it is not there.

    Raises:
        OSError: it can't be made, or somebody else could put code into it.
    """
    directory = cache_directory()
    root = directory.parent
    if not root.is_absolute():
        raise OSError(f"{root} is not an absolute path")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    found = root.stat()
    if not found.st_mode & stat.S_ISVTX:  # in a directory such as /tmp nobody can put another in the place of this one
        _refuse_others(root, found, owners=(0, os.geteuid()))
    _refuse_others(directory, directory.lstat(), owners=(os.geteuid(),))
    return directory


def _refuse_others(path: Path, found: os.stat_result, owners: tuple[int, ...]) -> None:
    if found.st_uid not in owners:
        raise PermissionError(
            f"{path} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}: its files would be "
            "run as code"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise PermissionError(
            f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o}), and its files are run as code: "
            "remove it, or chmod go-w if you trust what it holds"
        )


@contextmanager
def locked(directory: Path, kind: int) -> Iterator[None]:
    """Keep other processes out of the directory; the lock ends with the process that holds it, even if that dies.

    Args:
        directory: the directory.
        kind: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.

    Raises:
        OSError: there can be no lock, or others have kept it for too long.
    """
    path = directory / "lock"
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link: remove it")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _wait_for_lock(file, kind, path)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file too
    finally:
        os.close(file)


def _wait_for_lock(file: int, kind: int, path: Path) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"other processes have kept {path} locked for {LOCK_SECONDS:.0f} s") from None
            time.sleep(_LOOK_SECONDS)
        else:
            return


def source_path(directory: Path, stem: str) -> Path:
    """Return the file of a kernel's source."""
    return directory / f"{stem}.py"


def is_stored(directory: Path, stem: str, source: str) -> bool:
    """Return whether a kernel is there as it was stored, and made of this source."""
    try:
        same = source_path(directory, stem).read_bytes() == source.encode()
        return same and _digest_path(directory, stem).read_text("ascii", "replace") == _digest(directory, stem)
    except FileNotFoundError:
        return False


def begin_storing(directory: Path, stem: str, source: str) -> None:
    """Remove what is left of a kernel, and write its source, whole or not at all."""
    _digest_path(directory, stem).unlink(missing_ok=True)
    for path in _files_of_numba(directory, stem):
        path.unlink()
    path = source_path(directory, stem)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(source.encode())
    part.replace(path)


def end_storing(directory: Path, stem: str) -> None:
    """Note that a kernel is stored, and what its files hold."""
    for path in _files_of_numba(directory, stem):
        path.chmod(0o600)
    _digest_path(directory, stem).write_text(_digest(directory, stem))


def _digest(directory: Path, stem: str) -> str:
    """Return a digest of a kernel's files, and of what else decides whether Numba loads them."""
    source = source_path(directory, stem)
    digest = hashlib.sha256(f"{source.stat().st_mtime_ns}".encode())
    for path in (source, *_files_of_numba(directory, stem)):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _digest_path(directory: Path, stem: str) -> Path:
    return directory / f"{stem}.sha256"


def _files_of_numba(directory: Path, stem: str) -> list[Path]:
    return sorted(numba_directory(directory).glob(f"{stem}.*"))


def numba_directory(directory: Path) -> Path:
    """Return the directory of Numba's own files: beside the sources, in a directory of its own."""
    return directory / "__pycache__"
