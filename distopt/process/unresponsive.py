"""The reason why a process does not answer, as its machine sees it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_STOPPED = "Tt"


class Unresponsive(NamedTuple):
    """The state of a replica that does not answer, as far as it can be seen.

    Args:
        reason: what it does, as in "replica 3, which ...".
        may_end: whether the replica can be expected to go on by itself.
    """

    reason: str
    may_end: bool


OUT_OF_SIGHT = Unresponsive(
    "gives no sign of life (is its node down, or cut off? Compiled code there that holds the interpreter lock for long "
    "needs Deadlines(silent=...))",
    may_end=False,
)
"""The state of one on another node."""


def explain_process(pid: int) -> Unresponsive:
    """Say what /proc shows of a process on this node that does not answer.

    Example:
        >>> import os
        >>> explain_process(os.getpid()).reason.startswith("does not answer (process")
        True
    """
    state = _process_state(pid)
    if state is None:
        return Unresponsive(f"is dead (there is no process {pid})", may_end=False)
    if state in _STOPPED:
        reason = f"is stopped (process {pid}: SIGSTOP, Ctrl-Z or a debugger; kill -CONT {pid} wakes it)"
        return Unresponsive(reason, may_end=False)
    if state in "ZX":
        return Unresponsive(f"is dead (process {pid})", may_end=False)
    reason = f"does not answer (process {pid} runs: compiled code that holds the interpreter lock?)"
    return Unresponsive(reason, may_end=True)


def is_stopped(pid: int) -> bool:
    """Return whether a process on this node is stopped: by a signal, or by a debugger."""
    state = _process_state(pid)
    return state is not None and state in _STOPPED


def _process_state(pid: int) -> str | None:
    """Return the letter that /proc has for the state of a process; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]
