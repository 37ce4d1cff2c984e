"""The line of the user's code that a replica is at."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import traceback
from types import FrameType

_HOUSE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = (_HOUSE, os.path.dirname(os.__file__) + os.sep, "<frozen ")


def user_line(frame: FrameType | None = None) -> str:
    """Return the innermost place in the user's own files that led here, such as ``train.py:31 in evaluate``.

    Args:
        frame: where to begin; None begins at the caller.

    Example:
        >>> def evaluate():
        ...     return user_line()
        >>> evaluate().endswith("in evaluate")
        True
    """
    frame = frame or inspect.currentframe()  # its own is one of the house's
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "?"
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or f"{os.sep}site-packages{os.sep}" in file


def user_line_of(thread: int) -> str:
    """Return the same of another thread, by its identifier."""
    frame = _frames().get(thread)
    return "?" if frame is None else user_line(frame)


def _frames() -> dict[int, FrameType]:
    """Return where all threads are; Python has no public name for it."""
    return sys._current_frames()


def stacks() -> str:
    """Return the stacks of all threads of this process."""
    frames = _frames()
    return "\n".join(
        f"thread {thread.name!r}:\n{_stack(frames[thread.ident])}"
        for thread in threading.enumerate()
        if thread.ident in frames
    )


def _stack(frame: FrameType) -> str:
    try:
        return "".join(traceback.format_stack(frame))
    except Exception as error:  # the lines of code come from the loaders of modules, which may be the user's
        return f"  at {user_line(frame)} (its stack can't be shown: {type(error).__name__})\n"
