"""Faults on purpose, so that every promise about failures can be checked by those who rely on it.

A sentence says what happens, on which replica, where and when::

    <kind> replica <r> [<place>] at step <n>

    kill replica 2 at step 5
    delay 0.5 s replica 1 in the payload at step 3
    flip a bit of w replica 0 after the header at step 4
    raise replica 1 before the first step
    hang replica 0 at exit

A step's number is ``optimizer.iterations`` before it: the first step is 0. ``in a checkpoint at step n`` is the
checkpoint of n steps. Each fault happens once. The library knows nothing of this: what it calls is wrapped while an
injection lasts.
"""

from __future__ import annotations

import atexit
import functools
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Self
from weakref import WeakKeyDictionary

from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import counter_of
from distopt.process.launcher import launched
from distopt.process.replica import Replica, current_replica
from distopt.testing.faults.kinds import KINDS, Fault, Moment
from distopt.testing.faults.places import PLACES, STEP_BEGINS, find
from distopt.testing.faults.sentences import parse


def inject(*faults: str | Fault) -> Injection:
    """Make faults happen in this process: at once, until the end of a ``with`` block or of the program.

    In a job every replica injects the same sentences, and each heeds those that name it.

    Args:
        *faults: sentences (see above), or ``Fault`` objects.

    Returns:
        The injection; ``remove()``, or the end of its ``with`` block, takes what is left of it back.

    Raises:
        InvalidArgumentError: a sentence that says nothing known, with the nearest that does.

    Warns:
        UserWarning: at the end, of a fault that has not happened.

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
        faults: each happens once.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._pending = list(faults)
        self._lock = threading.Lock()
        self._steps: WeakKeyDictionary[Replica, tuple[Any, int]] = WeakKeyDictionary()
        """The optimizer and the number of the step that each replica of this process began last."""
        self._seen: set[int] = set()
        self._undo: list[Callable[[], None]] = []
        places = dict.fromkeys(fault.place for fault in self._pending)
        for target in dict.fromkeys([*STEP_BEGINS, *(target for place in places for target in PLACES[place])]):
            self._wrap(target)
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.remove()
        if error is None:
            self._warn_of_the_rest()

    def remove(self) -> None:
        """Take back what has not happened."""
        atexit.unregister(self._at_exit)
        while self._undo:
            self._undo.pop()()

    def _wrap(self, target: str) -> None:
        owner, name = find(target)
        original = vars(owner)[name]
        places = [place for place, targets in PLACES.items() if target in targets]

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if target in STEP_BEGINS:
                self._enter(args[0])
            fault = self._due(places)
            if fault is None:
                return original(*args, **kwargs)
            optimizer, _ = self._steps.get(current_replica(), (None, 0))
            return KINDS[fault.kind].act(Moment(fault, optimizer, original, args, kwargs))

        setattr(owner, name, wrapper)
        self._undo.append(lambda: setattr(owner, name, original))

    def _enter(self, optimizer: Any) -> None:
        """Note whose step begins."""
        strategy, replica = get_strategy(), current_replica()
        if strategy.communicator.name == "threads":
            for fault in self._pending:
                if KINDS[fault.kind].needs_process:
                    raise InvalidArgumentError(
                        f"inject({str(fault)!r}): {fault.kind!r} acts on a process, and simulated replicas are threads "
                        "of one. Use raise or exit, or start replicas that are processes (distopt run -n N)"
                    )
        self._seen.add(strategy.replica_index)
        self._steps[replica] = optimizer, int(counter_of(optimizer))

    def _due(self, places: list[str]) -> Fault | None:
        """Return the fault that happens here and now, and forget it."""
        if not any(fault.place in places for fault in self._pending):
            return None
        index, (optimizer, step) = get_strategy().replica_index, self._steps.get(current_replica(), (None, 0))
        if optimizer is not None and "in a checkpoint" in places:  # that of the steps that are done
            step = int(counter_of(optimizer))
        with self._lock:
            for fault in self._pending:
                if fault.place in places and fault.replica == index and fault.step in (None, step):
                    self._pending.remove(fault)
                    return fault
        return None

    def _at_exit(self) -> None:
        launch = launched()
        index = 0 if launch is None else launch.rank
        for fault in list(self._pending):
            if fault.place == "at exit" and fault.replica == index:
                self._pending.remove(fault)
                KINDS[fault.kind].act(Moment(fault, None, lambda: None, (), {}))
        if index == 0 or index in self._seen:
            self._warn_of_the_rest(index)

    def _warn_of_the_rest(self, index: int | None = None) -> None:
        """Say which faults have not happened: those of one replica (replica 0 speaks for those that do not exist)."""
        for fault in self._pending:
            mine = index is None or fault.replica == index or (index == 0 and fault.replica >= _job_size())
            if mine and fault.place != "at exit":
                warnings.warn(
                    f"the injected fault {str(fault)!r} has not happened: the program ended before, or has no such "
                    "replica, step or place",
                    stacklevel=3,
                )


def _job_size() -> int:
    launch = launched()
    return 1 if launch is None else launch.size
