"""The default: the sum over replicas, in distopt's own order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.summation import Summation, sum_in_place


class Sum(FlatAggregator):
    """The sum over replicas: ``((g0 + g1) + (g2 + g3)) + ...``, the same bits under every transport.

    Every optimizer without a ``gradient_aggregator`` uses this sum. Averaging is the loss's business. Where replicas
    share memory the step itself does this sum, and a subclass can change only ``wire`` there.

    Example:
        >>> import distopt
        >>> def total():
        ...     v = distopt.Variable([0.0])
        ...     mine = np.float32([distopt.replica_index() + 1])
        ...     return Sum()([(mine, v)])[0][0].item()
        >>> import numpy as np
        >>> distopt.simulate(3, total)
        [6.0, 6.0, 6.0]
    """

    wire: ClassVar[np.dtype[Any] | None] = None
    """The dtype in which partial sums travel between nodes; None means float32 or wider."""

    def reduce(self, communicator: Communicator, flat: Array) -> None:
        """Sum a flat array over replicas, in place."""
        sum_in_place(communicator, flat)

    def prepare(self, communicator: Communicator, flat: Array) -> Callable[[], None]:
        """Return a function that sums this buffer over replicas, step after step."""
        return Summation(communicator, flat)
