"""How many threads a replica's libraries may use."""

from __future__ import annotations

import os
import re
from typing import Any

from distopt.errors import InvalidArgumentError


def configured_threads() -> int:
    """Return the threads that one of several replicas may use (``DISTOPT_THREADS``, default 1)."""
    text = os.environ.get("DISTOPT_THREADS") or "1"
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise InvalidArgumentError(f"DISTOPT_THREADS={text!r}: expected a number of threads, 1 or more")
    return int(text)


def limit_threads() -> Any:
    """Set the threads of BLAS and OpenMP libraries to the configured number; return the limiter.

    BLAS results depend on the number of threads, so every replica uses the same one.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(configured_threads())
