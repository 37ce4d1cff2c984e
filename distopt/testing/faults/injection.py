"""Faults on purpose, so that every promise about failures can be checked by those who rely on it.

A sentence describes a fault: its kind, the replica, the place and the step::

    <kind> replica <r> [<place>] at step <n>

    kill replica 2 at step 5
    delay 0.5 s replica 1 in the payload at step 3
    flip a bit of w replica 0 after the header at step 4
    raise replica 1 before the first step
    hang replica 0 at exit

A step's number is ``optimizer.iterations`` before the step: the first step is 0. ``in a checkpoint at step n`` is the
checkpoint of n steps. Each fault happens once. An injection is an observer of steps, as receipts are; no other code of
the library knows of faults.
"""

from __future__ import annotations

import atexit
import sys
import threading
import warnings
from collections.abc import Iterable
from typing import Any, Self
from weakref import WeakKeyDictionary

from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.process.launcher import launched
from distopt.process.moments import Moment
from distopt.process.observers import add_observer, remove_observer
from distopt.process.replica import Replica, current_replica
from distopt.testing.faults.kinds import KINDS, Fault, Occasion
from distopt.testing.faults.places import PLACES
from distopt.testing.faults.sentences import parse
from distopt.variables.variable import Variable


def inject(*faults: str | Fault) -> Injection:
    """Make faults happen in this process, from now on until the end of a ``with`` block or of the program.

    In a job every replica injects the same sentences, and each heeds only those with its index.

    Args:
        *faults: sentences (see above), or ``Fault`` objects.

    Returns:
        The injection; ``remove()``, or the end of its ``with`` block, cancels faults that have not happened.

    Raises:
        InvalidArgumentError: a sentence is not understood; the message has the nearest sentence that would be.

    Warns:
        UserWarning: at the end, if a fault has not happened.

    Example:
        >>> import distopt
        >>> w, optimizer = distopt.Variable([1.0, 2.0]), distopt.optimizers.SGD()
        >>> with inject("raise replica 0 at step 1"):
        ...     for _ in range(3):
        ...         _ = optimizer.apply_gradients([([1.0, 1.0], w)])
        Traceback (most recent call last):
        distopt.testing.faults.kinds.InjectedError: injected: raise replica 0 before the header at step 1
    """
    return Injection([parse(fault) if isinstance(fault, str) else fault for fault in faults])


class Injection:
    """Faults that wait for their moment.

    Args:
        faults: the faults, each of which happens once.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._pending = list(faults)
        self._lock = threading.Lock()
        self._steps: WeakKeyDictionary[Replica, _Step] = WeakKeyDictionary()
        """The last step that each replica of this process has begun."""
        self._seen: set[int] = set()
        self._is_over = False
        places = [PLACES[fault.place] for fault in self._pending]
        add_observer(self._observe, Moment.STEP, Moment.GRADIENT, *(moment for moment in places if moment is not None))
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove()
        if error is None:
            self._warn_of_the_rest()

    def remove(self) -> None:
        """Cancel the faults that have not happened."""
        atexit.unregister(self._at_exit)
        remove_observer(self._observe)
        self._is_over = True  # replicas that were simulated meanwhile have observers of their own

    def _observe(self, moment: Moment, subject: Any) -> Any:
        """Let the fault of this moment happen, if there is one."""
        if self._is_over:
            return None
        if moment is Moment.STEP:
            self._note_step(subject)
        step = self._steps.get(current_replica())
        if moment is Moment.GRADIENT and step is not None:
            step.parameters[subject.variable] = None
        number = subject if moment is Moment.CHECKPOINT else 0 if step is None else step.number
        fault = self._due(moment, number)
        if fault is None:
            return None
        parameters, slots = ([], []) if step is None else (list(step.parameters), step.slots)
        return KINDS[fault.kind].act(Occasion(fault, subject, parameters, slots))

    def _note_step(self, optimizer: Any) -> None:
        """Note that a step of this optimizer begins on this replica."""
        strategy, replica = get_strategy(), current_replica()
        if strategy.communicator.name == "threads":
            for fault in self._pending:
                if KINDS[fault.kind].needs_process:
                    raise InvalidArgumentError(
                        f"inject({str(fault)!r}): {fault.kind!r} acts on a process, and simulated replicas are threads "
                        "of one. Use raise or exit, or start replicas that are processes (distopt run -n N)"
                    )
        self._seen.add(strategy.replica_index)
        former = self._steps.get(replica)
        parameters = former.parameters if former is not None and former.optimizer is optimizer else {}
        self._steps[replica] = _Step(optimizer, parameters)

    def _due(self, moment: Moment, step: int) -> Fault | None:
        """Return the fault of this moment, step and replica, and forget it; None if there is none."""
        if not any(PLACES[fault.place] is moment for fault in self._pending):
            return None
        index = get_strategy().replica_index
        with self._lock:
            for fault in self._pending:
                if PLACES[fault.place] is moment and fault.replica == index and fault.step in (None, step):
                    self._pending.remove(fault)
                    return fault
        return None

    def _at_exit(self) -> None:
        launch = launched()
        index = 0 if launch is None else launch.rank
        for fault in list(self._pending):
            if fault.place == "at exit" and fault.replica == index:
                self._pending.remove(fault)
                KINDS[fault.kind].act(Occasion(fault))
        if index == 0 or index in self._seen:
            self._warn_of_the_rest(index)

    def _warn_of_the_rest(self, index: int | None = None) -> None:
        """Warn of one replica's faults that have not happened (replica 0 also warns for replicas that do not exist)."""
        for fault in self._pending:
            mine = index is None or fault.replica == index or (index == 0 and fault.replica >= _job_size())
            if mine and fault.place != "at exit":
                warnings.warn(
                    f"the injected fault {str(fault)!r} has not happened: the program ended before, or has no such "
                    "replica, step or place",
                    stacklevel=3,
                )


class _Step:
    """A step that has begun.

    Args:
        optimizer: the optimizer that steps.
        parameters: the variables of which it has received gradients in earlier steps; those of this step are added.
    """

    def __init__(self, optimizer: Any, parameters: dict[Variable, None]) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.number = int(_value_of(optimizer.iterations))

    @property
    def slots(self) -> list[Variable]:
        """Return the variables of the optimizer's state, without counters and hyperparameters."""
        variables = self.optimizer.variables
        state = variables() if callable(variables) else variables
        controls = ("learning_rate", "dynamic_scale")
        return [variable for variable in state if variable.dtype.kind != "i" and variable.name not in controls]


def _value_of(number: Any) -> Any:
    return number.value if isinstance(number, Variable) else number


def _job_size() -> int:
    launch = launched()
    return 1 if launch is None else launch.size or sys.maxsize  # a launcher may not say
