"""One replica: nobody to talk to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distopt.distribute.agreement.communicator import Array, Communicator, Copies, Transfer


class LocalCommunicator(Communicator):
    """The communicator of a process that is the only replica.

    Example:
        >>> LocalCommunicator().size
        1
    """

    name = "local"
    index = 0
    size = 1
    nodes = (0,)

    def clone(self) -> LocalCommunicator:
        """Return another one."""
        return LocalCommunicator()

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Return the one record."""
        return mine[np.newaxis]

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to copy the one array."""
        return Copies([(sends[0], receives[0])])

    def fail(self, error: BaseException) -> None:
        """Tell nobody: there is nobody else."""
