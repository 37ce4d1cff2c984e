"""The part of a step that writes: what a failure in it means."""

from __future__ import annotations

from types import TracebackType

from distopt.distribute.ending import note_broken_step
from distopt.engine.call import StepCall
from distopt.errors import NonFiniteGradientError, ReplicaLostError
from distopt.memory.storage import note_writes
from distopt.process.moments import StopAtMoment
from distopt.slabs.gradients import Gradients


class Writing:
    """Mark the optimizer as damaged where a failure leaves a step half done.

    A verdict on the sum changes nothing. The loss of another replica leaves this one's state good as long as nothing is
    written, and where all of its state is its own: an update of its own is complete before it waits for others again.

    Args:
        call: the step.
        gradients: what takes part.
    """

    def __init__(self, call: StepCall, gradients: Gradients) -> None:
        self._call, self._gradients = call, gradients
        self._has_begun = False

    def __enter__(self) -> Writing:
        return self

    def begin(self) -> None:
        """Note that parameters are written from now on: open tapes must not mix old and new values."""
        slab, entries = self._gradients.slab, self._gradients.entries
        self._has_begun = True
        note_writes(slab.storages if entries is slab.all_entries else [slab.storages[k] for k in entries])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, NonFiniteGradientError | StopAtMoment):
            return
        strategy = self._call.strategy
        shares = strategy is not None and strategy.shares_parameters
        if isinstance(error, ReplicaLostError) and not (self._has_begun and shares):
            return
        note_broken_step()
        self._call.engine.training.note_damage(error)
