"""Prints the table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping

from distopt.distribute.strategy import get_strategy


def summary(rows: Mapping[str, object]) -> None:
    """Print one quantity a line, name first, on replica 0 only.

    Args:
        rows: quantities by name; numbers that are not whole are printed with four significant digits.

    Example:
        >>> summary({"loss": 0.012345, "test accuracy": "97.8 %", "replicas": 4})
        loss           0.01235
        test accuracy  97.8 %
        replicas       4
    """
    if get_strategy().replica_index != 0:
        return
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}", flush=True)
