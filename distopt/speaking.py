"""Words to the person who runs the program that must come out, and must not do harm: nothing here raises.

A program may have closed its streams or never had any, and may have put objects of its own in their place. A disk may
be full, a pipe may have lost its reader, an encoding may not know a letter. Who warns, or ends a job, speaks through
this module: an error there would end a healthy job, or leave the others waiting.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import Any

_STDERR = 2


def say(text: str, *, past_wrappers: bool = False) -> bool:
    """Write a line to the standard error, at once; where that is broken, wherever it led before.

    Args:
        text: what to say, without the end of the line.
        past_wrappers: begin with the stream that the program was started with: libraries that wrap an excepthook may
            catch what goes to ``sys.stderr``.

    Returns:
        Whether it was written somewhere.
    """
    streams = (sys.stderr, sys.__stderr__)
    line = f"{text}\n"
    return any(write(stream, line) for stream in (streams[::-1] if past_wrappers else streams)) or _write_past_streams(
        line
    )


def write(stream: Any, text: str) -> bool:
    """Write a text to a stream, if there is one, and flush it; return whether that went well.

    Example:
        >>> write(None, "said")
        False
    """
    with suppress(Exception):
        try:
            stream.write(text)
        except UnicodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        if hasattr(stream, "flush"):
            stream.flush()
        return True
    return False


def write_bytes(descriptor: int, data: bytes) -> bool:
    """Write bytes to a file descriptor; return whether all of them could be written."""
    with suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
        return True
    return False


def is_terminal(stream: Any) -> bool:
    """Return whether somebody sees at once what is written to a stream."""
    with suppress(Exception):
        return bool(stream.isatty())
    return False


def flush() -> None:
    """Pass on what was printed before, as far as that goes."""
    for stream in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
        with suppress(Exception):
            stream.flush()  # type: ignore[union-attr]


def say_without_waiting(text: str) -> None:
    """Write a line past the streams, unless whoever read the standard error is gone, or reads no more."""
    with suppress(OSError, ValueError):
        if select.select([], [_STDERR], [], 0)[1]:
            _write_past_streams(f"{text}\n")


def _write_past_streams(text: str) -> bool:
    """Write to the file descriptor, which is open even where ``sys.stderr`` was closed."""
    if sys.__stderr__ is None:  # it was not open at the start: another file may have its number
        return False
    return write_bytes(_STDERR, text.encode(errors="backslashreplace"))
