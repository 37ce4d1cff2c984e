"""Files with the stacks of all replicas, beside a warning of one that is late; gone when the job has ended well."""

from __future__ import annotations

import atexit
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from distopt.process import forked

_written: set[Path] = set()
"""Those of warnings: what they tell of has passed, unless this process ends by a failure."""


def write_stacks(parts: Sequence[str]) -> Path:
    """Write a file, and return its path. At the end of this process it is removed, unless that ends by a failure.

    Args:
        parts: what is written, with empty lines between.
    """
    path = Path(tempfile.gettempdir(), f"distopt-stacks-{os.getpid()}-{time.time_ns() // 10**6}.txt")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if not _written:
        atexit.register(_remove)  # whoever fails ends without exit handlers
    _written.add(path)
    return path


def keep_stacks() -> None:
    """Keep the files of this process: a wait has ended in an error that they explain."""
    _written.clear()
    atexit.unregister(_remove)


def _remove() -> None:
    if not forked.in_child:
        for path in _written:
            path.unlink(missing_ok=True)
