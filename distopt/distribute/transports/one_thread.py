"""One thread at a time: what two threads send on one communicator would mix."""

from __future__ import annotations

import threading

from distopt.errors import ReplicaError

_handing_over = threading.Lock()


class OneThread:
    """The thread that uses a communicator; another one may go on when it has ended.

    Args:
        cure: what else than one thread there is, for the message.
    """

    def __init__(self, cure: str = "") -> None:
        self._cure = cure
        self._thread: threading.Thread | None = None
        self.identifier = 0
        """Of the thread, as ``threading.get_ident`` gives it; 0 while none uses the communicator."""

    def release(self) -> None:
        """Let whichever thread comes next use it."""
        with _handing_over:
            self._thread, self.identifier = None, 0

    def hand_over(self) -> None:
        """Let this thread use it, which has not used it last.

        Raises:
            ReplicaError: another one does, and has not ended.
        """
        mine = threading.current_thread()
        with _handing_over:
            if self._thread is not None and self._thread is not mine and self._thread.is_alive():
                raise ReplicaError(
                    f"thread {mine.name!r} called a collective, but thread {self._thread.name!r} uses this "
                    "communicator and has not ended: what they send would mix. Make all collectives in one thread"
                    f"{self._cure}"
                )
            self._thread, self.identifier = mine, threading.get_ident()
