"""Waiting for processes that are nobody's children."""

import os
import select
import time
from collections.abc import Iterable

from support import SOON


def that_do_not_end(pids: Iterable[int]) -> set[int]:
    """Wait a while until all these processes have ended; return the ids of those that have not."""
    left, deadline = set(), time.monotonic() + SOON
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with open(descriptor) as ended:
            if not select.select([ended], [], [], max(0, deadline - time.monotonic()))[0]:
                left.add(pid)
    return left
