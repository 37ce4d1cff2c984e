"""Processes that were forked from a replica: they share its memory and its connections, but are no replicas."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import NoReturn

from distopt.errors import ForkedProcessError
from distopt.speaking import flush, say

in_child = False
"""True where this process was forked from a replica that a launcher started."""

_CURE = (
    "Only the replica itself may make collectives and steps: let such processes do other work (loading data, NumPy) "
    "and hand back what they have; processes that must not inherit the replica's state come from "
    "multiprocessing.get_context('spawn') or 'forkserver'"
)


def mark_children(prepare: Callable[[], None] = lambda: None) -> None:
    """Let processes that will be forked from this one know what they are.

    Args:
        prepare: called in each of them.
    """

    def mark() -> None:
        global in_child
        in_child = True
        prepare()

    os.register_at_fork(after_in_child=mark)


def refuse(replica: str) -> NoReturn:
    """Say to a forked process that it is no replica.

    Args:
        replica: which one it was forked from.

    Raises:
        ForkedProcessError: always.
    """
    raise ForkedProcessError(
        f"process {os.getpid()} was forked from {replica} and called a collective or a step: the replicas would take "
        f"it for that one, and their messages would mix. {_CURE}"
    )


def end(failure: BaseException | None) -> NoReturn:
    """End a process that was forked from a simulated replica and has come to the end of that replica's function.

    Its thread was not the main one, so there is nobody above it to report to.
    """
    if failure is not None:
        say("".join(traceback.format_exception(failure)).rstrip())
    flush()
    os._exit(failure is not None)
