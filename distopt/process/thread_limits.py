"""The number of threads that a replica's libraries may use."""

from __future__ import annotations

from typing import Any

from distopt.settings import THREADS


def limit_threads() -> Any:
    """Set the threads of BLAS and OpenMP libraries to the configured number; return the limiter.

    BLAS results depend on the number of threads, so every replica uses the same one.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(THREADS.read())
