"""The kinds of faults: a table, each kind with its action and the places where it can happen."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from distopt.errors import InvalidArgumentError
from distopt.process.moments import SKIP
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable

EXIT_STATUS = 3
"""The exit status of a replica that ``exit`` ends."""


class InjectedError(RuntimeError):
    """The exception of the kind ``raise``."""


@dataclass(frozen=True)
class Fault:
    """A fault that shall happen, once.

    Args:
        kind: a key of ``KINDS``.
        replica: the index of the replica on which the fault happens.
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
class Occasion:
    """The circumstances in which a fault happens.

    Args:
        fault: the fault.
        subject: the object that observers of the moment receive.
        parameters: the variables of which the optimizer has received gradients so far.
        slots: the optimizer's state for these variables.
    """

    fault: Fault
    subject: Any = None
    parameters: Sequence[Variable] = ()
    slots: Sequence[Variable] = ()


_IN_A_STEP = ("before the header", "before the first step", "in the header", "after the header", "in the payload")
_ANYWHERE = (*_IN_A_STEP, "in the update", "in a checkpoint")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        act: function that does the fault; its result is that of an observer of the moment.
        places: the places where the fault can happen; the first one is the default of a sentence without a place.
        argument: regular expression of the text that may follow the kind's name.
        needs_process: whether the fault acts on a process as a whole.
    """

    act: Callable[[Occasion], Any]
    places: tuple[str, ...] = _ANYWHERE
    argument: str = ""
    needs_process: bool = False


def _kill(occasion: Occasion) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(occasion: Occasion) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # it returns when somebody has sent SIGCONT


def _hang(occasion: Occasion) -> NoReturn:
    while True:  # in Python, as a user's loop would be: signals are heeded
        time.sleep(0.05)


def _raise(occasion: Occasion) -> NoReturn:
    raise InjectedError(f"injected: {occasion.fault}")


def _exit(occasion: Occasion) -> NoReturn:
    sys.exit(EXIT_STATUS)


def _leave_early(occasion: Occasion) -> NoReturn:
    sys.exit(0)


def _delay(occasion: Occasion) -> None:
    time.sleep(float(occasion.fault.argument))


def _skip(occasion: Occasion) -> object:
    """Let the call return as if it had been made."""
    return SKIP


def _wrong_shape(occasion: Occasion) -> None:
    variable = occasion.subject.variable
    occasion.subject.gradient = np.zeros((*variable.shape, 2), variable.dtype)


def _nan(occasion: Occasion) -> None:
    reading, gradient = occasion.subject, occasion.subject.gradient
    if isinstance(gradient, IndexedSlices):
        reading.gradient = IndexedSlices(np.full_like(gradient.values, np.nan), gradient.indices, gradient.dense_shape)
    else:
        reading.gradient = np.full_like(reading.variable.value, np.nan)


def _flip_a_bit(occasion: Occasion) -> None:
    memory = _named(occasion).value.view()
    memory.flags.writeable = True  # the fault writes past assign
    memory.reshape(-1).view(np.uint8)[0] ^= 1


def _named(occasion: Occasion) -> Variable:
    """Return the parameter or slot that a fault names."""
    name, parameters, slots = occasion.fault.argument, occasion.parameters, occasion.slots
    known = slots if name == "a slot" else parameters if name in ("", "a parameter") else [*parameters, *slots]
    found = [v for v in known if name in ("", "a parameter", "a slot", v.name)]
    if not found:
        names = ", ".join(variable.name for variable in known) or "none (they are known after the first step)"
        raise InvalidArgumentError(f"inject({str(occasion.fault)!r}): there is no such variable; there are: {names}")
    return found[0]


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
