"""What can be made to happen: a table of kinds, each with its action and the places where it can happen."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import engine_of
from distopt.variables.indexed_slices import IndexedSlices

EXIT_STATUS = 3
"""What ``exit`` ends a replica with."""


class InjectedError(RuntimeError):
    """The exception of the kind ``raise``."""


@dataclass(frozen=True)
class Fault:
    """What is to happen, once.

    Args:
        kind: a key of ``KINDS``.
        replica: the index of the replica that it happens on.
        place: a key of ``PLACES``.
        step: ``optimizer.iterations`` before the step; None at places that belong to no step.
        argument: seconds of a delay; the variable of a flipped bit, or "" for the first.
    """

    kind: str
    replica: int
    place: str = "before the header"
    step: int | None = None
    argument: str = ""

    def __str__(self) -> str:
        what = " ".join(filter(None, [self.kind, "of" * (self.kind == "flip a bit" and bool(self.argument))]))
        what = f"{what} {self.argument}".rstrip()
        when = "" if self.step is None else f" at step {self.step}"
        return f"{what} replica {self.replica} {self.place}{when}"


@dataclass(frozen=True)
class Moment:
    """The call that a fault happens in."""

    fault: Fault
    optimizer: Any
    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def go_on(self) -> Any:
        """Do what would have been done."""
        return self.call(*self.args, **self.kwargs)


_IN_A_STEP = ("before the header", "before the first step", "in the header", "after the header", "in the payload")
_ANYWHERE = (*_IN_A_STEP, "in the update", "in a checkpoint")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        act: what happens; it returns what the call returns.
        places: where it can happen; the first is meant where a sentence names none.
        argument: regular expression of what may follow the name.
        needs_process: whether it acts on a process as a whole.
    """

    act: Callable[[Moment], Any]
    places: tuple[str, ...] = _ANYWHERE
    argument: str = ""
    needs_process: bool = False


def _kill(moment: Moment) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(moment: Moment) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)
    return moment.go_on()  # somebody has sent SIGCONT


def _hang(moment: Moment) -> NoReturn:
    while True:  # in Python, as a user's loop would be: signals are heeded
        time.sleep(0.05)


def _raise(moment: Moment) -> NoReturn:
    raise InjectedError(f"injected: {moment.fault}")


def _exit(moment: Moment) -> NoReturn:
    sys.exit(EXIT_STATUS)


def _leave_early(moment: Moment) -> NoReturn:
    sys.exit(0)


def _delay(moment: Moment) -> Any:
    time.sleep(float(moment.fault.argument))
    return moment.go_on()


def _skip(moment: Moment) -> None:
    """Return as if the call had been made."""


def _wrong_shape(moment: Moment) -> Any:
    _, gradients, entry, *rest = moment.args
    view = gradients.slab.views[entry]
    return moment.call(np.zeros((*view.shape, 2), view.dtype), gradients, entry, *rest, **moment.kwargs)


def _nan(moment: Moment) -> Any:
    gradient, gradients, entry, *rest = moment.args
    if isinstance(gradient, IndexedSlices):
        poison: Any = IndexedSlices(np.full_like(gradient.values, np.nan), gradient.indices, gradient.dense_shape)
    else:
        poison = np.full_like(gradients.slab.views[entry], np.nan)
    return moment.call(poison, gradients, entry, *rest, **moment.kwargs)


def _flip_a_bit(moment: Moment) -> Any:
    _memory(moment).reshape(-1).view(np.uint8)[0] ^= 1
    return moment.go_on()


def _memory(moment: Moment) -> Array:
    """The array of the parameter or slot that a fault names."""
    name, optimizer = moment.fault.argument, moment.optimizer
    engine = engine_of(optimizer)
    parameters, slots = engine.stepped, list(engine.slots.table.values())
    known = slots if name == "a slot" else parameters if name in ("", "a parameter") else [*parameters, *slots]
    found = [v for v in known if name in ("", "a parameter", "a slot", v.name)]
    if not found:
        names = ", ".join(variable.name for variable in known) or "none (they are known after the first step)"
        raise InvalidArgumentError(f"inject({str(moment.fault)!r}): there is no such variable; there are: {names}")
    return found[0].storage.array


KINDS: dict[str, Kind] = {
    "kill": Kind(_kill, (*_ANYWHERE, "at exit"), needs_process=True),
    "stop": Kind(_stop, (*_ANYWHERE, "at exit"), needs_process=True),
    "hang": Kind(_hang, (*_ANYWHERE, "at exit")),
    "delay": Kind(_delay, (*_ANYWHERE, "at exit"), r"(\d+\.?\d*)(?: ?s| seconds?)?"),
    "raise": Kind(_raise),
    "exit": Kind(_exit),
    "leave early": Kind(_leave_early),
    "skip a call": Kind(_skip, ("before the header",)),
    "wrong shape": Kind(_wrong_shape, ("in a gradient",)),
    "NaN": Kind(_nan, ("in a gradient",)),
    "flip a bit": Kind(_flip_a_bit, (*_IN_A_STEP, "in the update"), r"(?:of (.+))?"),
}
