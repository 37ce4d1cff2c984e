"""Removes what MPICH's launcher leaves behind in /tmp where a signal has ended it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

_DAEMON = "hydra_pmi"
"""The beginning of the name of the daemon that writes the files."""
_FILES = "hydra_hwloc_xmlfile_??????"


def remove_topology_files(folder: Path = Path("/tmp"), processes: Path = Path("/proc")) -> None:
    """Remove this user's descriptions of the machine that no daemon of MPICH's launcher uses.

    A daemon writes one after it has started. So a file that is older than all daemons that run is nobody's.

    Args:
        folder: where the launcher puts them; the path is fixed in it.
        processes: where the processes of this machine are listed.
    """
    oldest = min(_daemons_started(processes), default=math.inf)
    for path in folder.glob(_FILES):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and status.st_mtime < oldest:
                path.unlink()


def _daemons_started(processes: Path) -> Iterator[float]:
    """Yield when the daemons that run were started, or a little earlier, in seconds since 1970."""
    since_boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for path in processes.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            if name.partition("(")[2].startswith(_DAEMON):
                yield since_boot + int(fields.split()[19]) / os.sysconf("SC_CLK_TCK") - 1
