"""Replicas of which some may die: the others go on (experimental; Open MPI, ``mpirun --with-ft ulfm``).

MPI reports a dead process to whoever talks to it. So these replicas share no memory, in which nobody would be told,
and sum by messages. After a death the survivors ``shrink`` to a new communicator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from distopt.distribute.agreement.communicator import Array, Transfer
from distopt.distribute.agreement.open_communicators import note_closed, note_lost_replicas
from distopt.distribute.transports.mpi import MPICommunicator
from distopt.distribute.transports.mpi_library import load_mpi
from distopt.errors import InvalidArgumentError, ReplicaLostError

T = TypeVar("T")


class ElasticCommunicator(MPICommunicator):
    """The replicas of an MPI communicator, each by itself: a death is a ``ReplicaLostError`` on the survivors.

    Args:
        comm: as for ``MPICommunicator``.

    Raises:
        InvalidArgumentError: at the first use, if the job was not started with ``--with-ft ulfm``.
    """

    name = "mpi, elastic"

    @property
    def nodes(self) -> tuple[int, ...]:
        """Every replica counts as a node of its own: nobody waits in memory for one that has died."""
        return tuple(range(self.size))

    def all_gather(self, mine: Array, deadline: float | None = None) -> Array:
        """Give every rank everybody's record."""
        return self._or_lost(lambda: super(ElasticCommunicator, self).all_gather(mine, deadline))

    def gathering(self, mine: Array, deadline: float | None = None) -> Iterator[Array | None]:
        """Give every rank everybody's record; None as long as one is missing."""
        rows = super().gathering(mine, deadline)
        while True:
            yield self._or_lost(lambda: next(rows))

    def prepare(
        self, sends: Sequence[Array | None], receives: Sequence[Array | None], *, once: bool = False
    ) -> Transfer:
        """Prepare to exchange arrays."""
        transfer = self._or_lost(lambda: super(ElasticCommunicator, self).prepare(sends, receives, once=once))
        return lambda: self._or_lost(transfer)

    def shrink(self) -> ElasticCommunicator:
        """Return the communicator of the survivors; all of them call it, and this one is used no more."""
        note_closed(self.link)
        note_lost_replicas()
        return ElasticCommunicator(self.comm.Shrink())

    def _open(self) -> Any:
        if os.environ.get("OMPI_MCA_mpi_ft_enable") != "1":  # noqa: SIM112 (Open MPI's spelling)
            raise InvalidArgumentError(
                "ElasticCommunicator: this job does not survive the death of a replica: start it with Open MPI's "
                "'mpirun --with-ft ulfm' (MPICH has nothing like it: restart from checkpoints there, "
                "'distopt run --max-restarts N')"
            )
        return super()._open()

    def _or_lost(self, operation: Callable[[], T]) -> T:
        """Do it; when a process has died, make the others fail in it too."""
        mpi = load_mpi()
        try:
            return operation()
        except mpi.Exception as error:
            for comm in (self.link.comm, self.comm):
                if comm is not None:
                    comm.Revoke()
            raise ReplicaLostError(
                f"a replica of {self.size} has died (MPI says: {error.Get_error_string()}): the others go on after "
                "distopt.elastic.run has regrouped them; without it, start again from the last checkpoint"
            ) from error
