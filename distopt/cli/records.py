"""The reports of a job's replicas on themselves, in the folder of ``distopt run``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path


class Records:
    """The process and host of every replica that has started; replicas on other hosts can't report.

    Args:
        folder: the folder in which they report.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pid_here(self, replica: int) -> int | None:
        """Return the process of a replica on this host; None if it has not reported from here."""
        try:
            pid, host = self._read(replica)
        except (OSError, ValueError):
            return None
        return pid if host == os.uname().nodename else None

    def pids_here(self) -> Iterator[int]:
        """Yield the processes of this host's replicas."""
        for replica in self._reported():
            pid = self.pid_here(replica)
            if pid is not None:
                yield pid

    def index_of(self, pid: int, host: str) -> int | None:
        """Return the replica that has reported this process and host."""
        return next((replica for replica in self._reported() if self._read(replica) == (pid, host)), None)

    def name(self, replica: int) -> str:
        """Return the name of a replica for people."""
        try:
            return named(replica, *self._read(replica))
        except (OSError, ValueError):  # its report could not be written
            return f"replica {replica}"

    def _reported(self) -> list[int]:
        return [int(path.stem.removeprefix("replica-")) for path in self.folder.glob("replica-*.json")]

    def _read(self, replica: int) -> tuple[int, str]:
        record = json.loads((self.folder / f"replica-{replica}.json").read_text(encoding="utf-8"))
        return int(record["pid"]), str(record["host"])


def named(replica: int | None, pid: int, host: str) -> str:
    """Return the name of a replica for people.

    Example:
        >>> named(None, 17, "node3")
        'a replica (pid 17 on node3)'
    """
    return f"{'a replica' if replica is None else f'replica {replica}'} (pid {pid} on {host})"
