"""Requests to stop: a batch system that takes the machine away sends a signal some time before."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from distopt.distribute.strategy import get_strategy
from distopt.process.replica import current_replica

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preemption:
    """Takes signals as requests to stop after a step, where nothing else handles them.

    The handler only notes the request: the next step's header tells all replicas, so that they stop together.
    """

    def __init__(self) -> None:
        self._replica = current_replica()
        self._previous: dict[int, Any] = {}
        self.received: str | None = None
        """The name of the signal that this replica has received."""

    def install(self) -> None:
        """Handle the signals; only the main thread can."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                self._previous[number] = signal.signal(number, self._request)

    def uninstall(self) -> None:
        """Restore the earlier handlers of the signals."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    @property
    def is_agreed(self) -> bool:
        """Return whether all replicas know, in the same step, that one of them was asked to stop."""
        alone = get_strategy().num_replicas_in_sync == 1
        return self._replica.stop_agreed or (alone and self._replica.stop_requested)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._replica.stop_requested = True
