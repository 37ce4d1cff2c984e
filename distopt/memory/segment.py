"""Memory that the processes of one node can map: a memfd, or a file in /dev/shm that has no name any more.

Nothing of it is left when the last process that maps it has ended, however it ended. A segment can *become* another
one: its addresses, and every array and view that lies there, then show the other segment's memory. So what a replica
has made for itself alone is shared later without moving.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import resource
import struct
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from distopt.arrays import Array

TICKET = struct.Struct("<qqQQq")
"""Process, its file descriptor, device and inode of the file, size in bytes: what another process needs."""

_MAP_FIXED = 0x10
_FALLBACK = "/dev/shm"


class Segment:
    """Zeroed memory of this process that others can map.

    Args:
        nbytes: its size in bytes, at least 1.

    Raises:
        OSError: there is no room, or the system knows neither memfd nor /dev/shm.

    Example:
        >>> segment = Segment(4096)
        >>> segment.bytes[:3]
        array([0, 0, 0], dtype=uint8)
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._fd = _memory_file(nbytes)
        self._close = weakref.finalize(self, os.close, self._fd)
        self._close.atexit = False
        self.bytes = _mapped(self._fd, nbytes)

    @property
    def ticket(self) -> bytes:
        """Return the ticket that others need to map the segment.

        Raises:
            OSError: the file is closed.
        """
        if not self._close.alive:
            raise OSError("the file of this memory is closed: it has been united with that of others")
        status = os.fstat(self._fd)
        return TICKET.pack(os.getpid(), self._fd, status.st_dev, status.st_ino, self.nbytes)

    def become(self, ticket: bytes) -> None:
        """Show the memory of another process's segment of the same size, at the same addresses.

        Raises:
            OSError: it can't be mapped.
        """
        with _opened(ticket) as fd:
            _map(fd, self.nbytes, at=self.bytes.ctypes.data)
            os.dup2(fd, self._fd, inheritable=False)  # closes the own file, whose pages nobody needs any more

    def close(self) -> None:
        """Close the file. The memory stays; no further process can map it, and the segment has no ticket any more."""
        self._close()


def map_segment(ticket: bytes) -> Array:
    """Return another process's segment as a uint8 array.

    Raises:
        OSError: it can't be mapped.
    """
    with _opened(ticket) as fd:
        return _mapped(fd, TICKET.unpack(ticket)[-1])


@contextlib.contextmanager
def _opened(ticket: bytes) -> Any:
    process, fd, device, inode, _ = TICKET.unpack(ticket)
    mine = _with_room_for_files(lambda: os.open(f"/proc/{process}/fd/{fd}", os.O_RDWR))
    try:
        status = os.fstat(mine)
        if (status.st_dev, status.st_ino) != (device, inode):
            raise OSError("process numbers mean other processes there: the replicas run in separate containers")
        yield mine
    finally:
        os.close(mine)


def _memory_file(nbytes: int) -> int:
    """Return a descriptor of a file without a name that lives in memory."""
    try:
        fd = _with_room_for_files(lambda: os.memfd_create("distopt"))
    except (AttributeError, OSError):
        return _unlinked_file(nbytes)
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _with_room_for_files(open_file: Callable[[], int]) -> int:
    """Open a file; where this process has as many open as it may, raise its limit as far as the system allows."""
    try:
        return open_file()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return open_file()


def _unlinked_file(nbytes: int) -> int:
    fd, path = tempfile.mkstemp(prefix="distopt-", dir=_FALLBACK)
    os.unlink(path)
    try:
        os.posix_fallocate(fd, 0, nbytes)  # or writing to a full /dev/shm would end the process by SIGBUS
    except OSError:
        os.close(fd)
        raise
    return fd


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _map(fd: int, nbytes: int, at: int = 0) -> int:
    # Python's mmap would keep a descriptor for every mapping, and can't replace one at its addresses.
    flags = mmap.MAP_SHARED | (_MAP_FIXED if at else 0)
    address = _libc().mmap(at or None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"mmap of {nbytes} bytes: {os.strerror(error)}")
    return int(address)


def _mapped(fd: int, nbytes: int) -> Array:
    address = _map(fd, nbytes)
    buffer: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    # Not at exit: exit handlers and threads may still read what lies there.
    weakref.finalize(buffer, _libc().munmap, address, nbytes).atexit = False
    array: Array = np.frombuffer(buffer, np.uint8)
    return array
