"""The named moments of a step, and who has asked to be told of them."""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


class Moment(enum.Enum):
    """A point of a step; each is told before what it names happens, unless it says otherwise."""

    STEP = "a step begins"
    """Subject: the optimizer. An observer that returns SKIP leaves the call out."""
    GRADIENT = "a gradient is read"
    """Subject: a Reading, whose gradient may be replaced."""
    HEADER = "the header is exchanged"
    """No subject."""
    STATE = "slots are made, and master weights follow what was assigned"
    """Subject: a StepReport."""
    AGREED = "all replicas have agreed on the step, and its state is there"
    """Subject: a StepReport. Told after the header, when the slots are made."""
    GRADIENTS = "gradients are aggregated"
    """Subject: a StepReport; its gradients are those of this replica alone."""
    SUM = "this replica adds gradients of several"
    """Told for each list or block, also in the communication thread of a streamed step. No subject."""
    SQUARES = "squares are exchanged, or norms are taken"
    """No subject."""
    SUMS = "the aggregate is limited, transformed and used"
    """Subject: a StepReport; its gradients are the aggregate. Whoever asks for it makes replicas sum the whole list."""
    UPDATE = "variables are updated"
    """Told for each list or block. No subject."""
    ALL_UPDATED = "parameters are published, and the node's replicas wait for each other"
    """No subject."""
    UPDATED = "everything is updated"
    """Subject: a StepReport, with the norm. Told afterwards."""
    STEP_DONE = "the step is counted, or left out"
    """No subject. Told afterwards."""
    ASSIGN = "a variable is written by its user, or by set_weights"
    """Subject: the variable."""
    CHECKPOINT = "a checkpoint is saved"
    """Subject: the number of steps that are done."""
    PUSHED = "a pushed gradient is noted for its bucket"
    """Subject: its entry in the list."""
    WAIT = "a streamed step waits for its sums"
    """No subject."""


WITH_GRADIENTS = frozenset({Moment.GRADIENTS, Moment.SUMS})
"""Moments whose observers change the way of a step, not its numbers: no sum is made while gradients come (GRADIENTS and
SUMS), or in parts (SUMS)."""

SKIP = object()
"""The value that an observer of STEP returns to leave the call out."""


class StopAtMoment(SystemExit):
    """An observer raises it on all replicas to end the program before a step has written anything."""


@dataclass
class Reading:
    """A gradient that is about to be read, as the user gave it."""

    variable: Any
    gradient: Any


Observer: TypeAlias = Callable[[Moment, Any], Any]


ACTIVE: set[int] = set()
"""The observers of this process that somebody has joined; empty in most programs, so that a look at it is enough."""


class Observers:
    """The observers of moments; false where there are none."""

    def __init__(self) -> None:
        self._of: dict[Moment, list[Observer]] = {}
        weakref.finalize(self, ACTIVE.discard, id(self)).atexit = False

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, observer: Observer, *moments: Moment) -> None:
        """Tell an observer of some moments; without any, of all that change no step's way."""
        for moment in moments or set(Moment) - WITH_GRADIENTS:
            known = self._of.setdefault(moment, [])
            if observer not in known:
                known.append(observer)
        ACTIVE.add(id(self))

    def remove(self, observer: Observer) -> None:
        """Tell an observer nothing any more."""
        remaining = {moment: [other for other in known if other != observer] for moment, known in self._of.items()}
        self._of = {moment: known for moment, known in remaining.items() if known}
        if not self._of:
            ACTIVE.discard(id(self))

    def want(self, moment: Moment) -> bool:
        """Return whether anybody is told of a moment."""
        return moment in self._of

    def tell(self, moment: Moment, subject: Any) -> Any:
        """Tell everybody of a moment, in the order in which they were added; return what one of them answers."""
        answer = None
        for observer in tuple(self._of.get(moment, ())):
            answer = observer(moment, subject) or answer
        return answer

    def copy(self) -> Observers:
        """Return the same observers, for another replica."""
        twin = Observers()
        for moment, known in self._of.items():
            for observer in known:
                twin.add(observer, moment)
        return twin
