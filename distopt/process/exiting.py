"""The end of the program, where Python starts no more threads (from 3.12 on)."""

from __future__ import annotations

import threading


def is_exiting() -> bool:
    """Return whether the caller is an exit handler: what a thread would do is then left to the main thread, or out.

    Threads that the program still waits for are no exit handlers: they may start others.

    Example:
        >>> is_exiting()
        False
    """
    main = threading.main_thread()
    return threading.current_thread() is main and not main.is_alive()
