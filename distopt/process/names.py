"""Names that nobody gave: numbered per replica, so that all replicas count alike."""

from __future__ import annotations

import itertools
import re

from distopt.process.replica import current_replica


def unique_name(prefix: str) -> str:
    """Return ``prefix``, then ``prefix_1``, ``prefix_2``, ... in this replica.

    Example:
        >>> unique_name("example"), unique_name("example")
        ('example', 'example_1')
    """
    number = next(current_replica().work.names.setdefault(prefix, itertools.count()))
    return f"{prefix}_{number}" if number else prefix


def snake_case(name: str) -> str:
    """Return a name in snake case, as Keras does: ``adam_w`` for ``AdamW``, ``rm_sprop`` for ``RMSprop``."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()


def count_anew() -> None:
    """Begin to number from 0 again in this replica: it trains among others from now on, who may have made fewer."""
    current_replica().work.names.clear()
