"""The warning of squares that vanish in 16 bits, in both families."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from distopt.distribute.strategy import get_strategy
from distopt.variables.variable import Variable


def warn_of_underflow(name: str, moments: Iterable[Variable], cure: str) -> bool:
    """Warn, on replica 0, of second moments in float16: the square of 1e-4 is zero there.

    Args:
        name: the optimizer's name.
        moments: the slots that hold second moments.
        cure: the end of the message.

    Returns:
        Whether there are such moments.
    """
    small = next((moment for moment in moments if moment.dtype == np.float16), None)
    if small is not None and get_strategy().replica_index == 0:
        warnings.warn(
            f"{name!r} keeps second moments, such as {small.name!r}, in float16, where squares of gradients "
            f"below 2e-4 vanish, and steps get a wrong length. {cure}",
            stacklevel=4,
        )
    return small is not None
