"""The sum by the MPI library: its order, its hardware offload."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.arrays import Array, wide_dtype
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.transports.local import LocalCommunicator
from distopt.distribute.transports.mpi import MPICommunicator
from distopt.distribute.transports.mpi_library import load_mpi, refuse_intercommunicator
from distopt.errors import InvalidArgumentError

PIECE_ELEMENTS = 1 << 28
"""Larger arrays are reduced in pieces: counts above 2^31 are not safe in every MPI."""


@final
class MPIAllreduce(FlatAggregator):
    """``MPI_Allreduce`` with ``MPI_SUM``: the MPI library chooses algorithm and order of summation.

    The bits may differ between MPI libraries, placements and message sizes; with ``Sum`` they do not. 16-bit
    gradients are reduced in float32.

    Args:
        comm: an mpi4py communicator over the same replicas; None duplicates the strategy's own.

    Raises:
        InvalidArgumentError: the replicas do not run under MPI, or ``comm`` is an intercommunicator.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> sgd = distopt.optimizers.SGD(learning_rate=0.5, gradient_aggregator=MPIAllreduce())
        >>> _ = sgd.apply_gradients([([1.0], w)])
        >>> w.numpy()
        array([0.5], dtype=float32)
    """

    def __init__(self, comm: Any = None) -> None:
        if comm is not None:
            refuse_intercommunicator(comm, "MPIAllreduce")
        self._comm = comm
        self._replicas: Communicator | None = None
        """Those whose communicator was duplicated; None where the user has given one."""

    def reduce(self, communicator: Communicator, flat: Array) -> None:
        """Sum a flat array over replicas, in place."""
        if isinstance(communicator, LocalCommunicator):
            return
        if self._comm is None or self._replicas not in (None, communicator):
            if not isinstance(communicator, MPICommunicator):
                raise InvalidArgumentError(
                    f"MPIAllreduce needs replicas under MPI, and these are {communicator.name!r}: use "
                    "aggregators.Sum(), which works everywhere"
                )
            self._comm, self._replicas = communicator.duplicate(), communicator
        total = flat.astype(wide_dtype(flat.dtype), copy=False)
        in_place = load_mpi().IN_PLACE
        for start in range(0, total.size, PIECE_ELEMENTS):
            self._comm.Allreduce(in_place, total[start : start + PIECE_ELEMENTS])
        if total is not flat:
            np.copyto(flat, total, casting="same_kind")
