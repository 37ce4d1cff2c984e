"""Files with the stacks of all replicas, beside a warning of one that is late; gone when the job has ended well."""

from __future__ import annotations

import atexit
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distopt.process import forked

_written: set[Path] = set()
"""Those of warnings: what they tell of has passed, unless this process ends by a failure."""


def write_stacks(parts: Sequence[str]) -> str:
    """Write a file, and say in a sentence where it is, or why there is none. Never raises.

    At the end of this process the file is removed, unless that ends by a failure.

    Args:
        parts: what is written, with empty lines between.
    """
    name = f"distopt-stacks-{os.getpid()}-{time.time_ns() // 10**6}.txt"
    try:
        path = Path(tempfile.gettempdir(), name)
        if not _written:
            atexit.register(_remove)  # whoever fails ends without exit handlers
        _written.add(path)
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"Their stacks could not be written ({error}); TMPDIR sets the directory"
    return f"The stacks of all replicas are in {path}"


def keep_stacks() -> None:
    """Keep the files of this process: a wait has ended in an error that they explain."""
    _written.clear()
    atexit.unregister(_remove)


def _remove() -> None:
    if not forked.in_child:
        for path in _written:
            with suppress(OSError):
                path.unlink(missing_ok=True)
