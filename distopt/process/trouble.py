"""Trouble in this replica that its end must know and Python does not tell: an exit status, a broken step.

Replicas that go on together have nothing behind them: the next header that they agree on forgets a broken step.
"""

from __future__ import annotations

import gc
import inspect
import sys
from types import TracebackType
from typing import Any, NoReturn

from distopt.errors import ReplicaFailedError
from distopt.process.replica import current_replica

_exit_status, _exit_is_consequence = 0, False


def note_broken_step(error: BaseException) -> None:
    """Note that this replica left a step in the middle: the others may wait for its part of the sum."""
    current_replica().broken_by = type(error)  # its traceback would keep the step's arrays alive


def forget_trouble() -> None:
    """Note that all replicas go on together: an earlier failure in a step was caught."""
    current_replica().broken_by = None


def broken_by() -> type[BaseException] | None:
    """Return what kind of error left a step in the middle; None where the replicas can go on together.

    Example:
        >>> broken_by() is None
        True
    """
    return current_replica().broken_by


def describe(error: BaseException) -> str:
    """Return what the other replicas are told of an error. Never raises, whatever the error's own class does.

    Example:
        >>> describe(ValueError("boom")), describe(SystemExit(3))
        ('ValueError: boom', 'called sys.exit(3)')
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    try:
        if isinstance(error, SystemExit):
            return f"called sys.exit({error.code})"
        return f"{type(error).__name__}: {error}"
    except Exception as trouble:
        return f"{type(error).__name__} (its text can't be shown: {type(trouble).__name__})"


def is_consequence(error: BaseException | None) -> bool:
    """Return whether another replica's failure has led to an error, whatever the program has made of it.

    Programs raise errors of their own from what they catch, gather errors in groups, or log them and exit.

    Example:
        >>> group = ExceptionGroup("all errors", [ReplicaFailedError("replica 1 failed", 1)])
        >>> is_consequence(group), is_consequence(ValueError("boom"))
        (True, False)
    """
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if isinstance(each, ReplicaFailedError):
            return True
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            pending += [each.__cause__, each.__context__]
            pending += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return False


def exit_status() -> int:
    """Return the status that this process ends with, as far as it is known."""
    return _exit_status


def exit_is_consequence() -> bool:
    """Return whether it ends with that status because another replica has failed."""
    return _exit_is_consequence


def note_exit_status(status: int, cause: BaseException | None = None) -> None:
    """Note the status that this process ends with, and the exit."""
    global _exit_status, _exit_is_consequence
    _exit_status, _exit_is_consequence = status, is_consequence(cause)


def uncaught() -> tuple[BaseException, TracebackType] | None:
    """Return the exception that has ended the main program, and where; whoever's excepthook was called.

    Exits are none. Consoles and test runners leave what they have caught in the same place of ``sys``: it has not left
    the outermost frame.

    Example:
        >>> uncaught() is None
        True
    """
    error, trace = getattr(sys, "last_value", None), getattr(sys, "last_traceback", None)
    return None if error is None or trace is None or trace.tb_frame.f_back is not None else (error, trace)


def notice_exits() -> None:
    """Learn the status of every exit that nobody catches: nothing else tells an exit handler what it was.

    The interpreter reads ``code`` of the exception then, and no frame of Python is left. So this attribute of the class
    notes it, wherever and by whatever name the exit was raised.
    """
    if sys.implementation.name != "cpython":
        return
    import ctypes  # in replicas only: importing distopt is quick

    (attributes,) = gc.get_referents(SystemExit.__dict__)  # Python shows a view that can't be written to
    attributes["code"] = _Code(attributes["code"])
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
    if sys.version_info < (3, 12):
        _replace_exit()


class _Code:
    """``SystemExit.code``, which notes the status when the interpreter itself asks for it.

    Args:
        member: the attribute as it was.
    """

    def __init__(self, member: Any) -> None:
        self._member = member

    def __get__(self, error: SystemExit | None, owner: type | None = None) -> Any:
        if error is None:
            return self
        status = self._member.__get__(error, owner)
        frame = inspect.currentframe()
        if frame is not None and frame.f_back is None:
            note_exit_status(status if isinstance(status, int) else int(status is not None), error)
        return status

    def __set__(self, error: SystemExit, status: Any) -> None:
        self._member.__set__(error, status)

    def __delete__(self, error: SystemExit) -> None:
        self._member.__delete__(error)


def _replace_exit() -> None:
    """Put ``_exit`` in the place of ``sys.exit``, also in modules that have imported that before."""
    original, sys.exit = sys.exit, _exit
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name in [name for name, value in names.items() if value is original]:
            names[name] = _exit


def _exit(status: Any = None, /) -> NoReturn:
    """``sys.exit``, which before Python 3.12 leaves it to whoever catches the exit to make an exception of it."""
    raise SystemExit() if status is None else SystemExit(status)
