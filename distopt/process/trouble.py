"""Trouble in this replica that its end must know and Python does not tell: an exit status, a broken step.

Replicas that go on together have nothing behind them: the next header that they agree on forgets a broken step.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from typing import Any, NoReturn

from distopt.process.replica import current_replica

_exit_status = 0


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


def exit_status() -> int:
    """Return the status that this process ends with, as far as it is known."""
    return _exit_status


def note_exit_status(status: int) -> None:
    """Note the status that this process ends with."""
    global _exit_status
    _exit_status = status


def notice_exits() -> None:
    """Learn the status of every ``sys.exit`` that nobody catches: nothing else tells an exit handler what it was."""
    sys.exit = _exit


def notice_all_exits() -> None:
    """Learn the status of ``exit(n)`` and ``raise SystemExit(n)`` too: in a forked child, which ends by that status."""
    builtins.SystemExit = _Exit  # type: ignore[misc]


class _Exit(SystemExit):
    """Remembers the status when the interpreter itself asks for it, which means that nobody has caught the exit."""

    @property
    def code(self) -> Any:  # type: ignore[override]
        status = self.args[0] if self.args else None
        frame = inspect.currentframe()
        if frame is not None and frame.f_back is None:
            note_exit_status(status if isinstance(status, int) else int(status is not None))
        return status


def _exit(status: Any = None, /) -> NoReturn:
    """``sys.exit``."""
    raise _Exit() if status is None else _Exit(status)
