"""The reason why a process does not answer, as its machine sees it."""

from __future__ import annotations

from pathlib import Path


def explain_process(pid: int) -> str:
    """Say what /proc shows of a process on this node that does not answer.

    Example:
        >>> import os
        >>> explain_process(os.getpid()).startswith("does not answer (process")
        True
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return f"is dead (there is no process {pid})"
    if state in "Tt":
        return f"is stopped (process {pid}: SIGSTOP, Ctrl-Z or a debugger; kill -CONT {pid} wakes it)"
    if state in "ZX":
        return f"is dead (process {pid})"
    return f"does not answer (process {pid} runs: compiled code that holds the interpreter lock?)"
