"""The operating system's word on memory: limits, and processes that it has killed for want of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # version 1 of the control groups writes a huge number
_GIB = 1 << 30


@dataclass(frozen=True)
class ControlGroup:
    """The control group of this process: how much memory its processes may use, and how many died of it."""

    limit: int | None
    """In bytes; None if there is none."""
    kills: int
    """The number of its processes that the kernel has killed for want of memory, its own limit or another."""


def control_group(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> ControlGroup | None:
    """Read this process's control group, version 1 or 2; None if there is none to be read.

    Args:
        root: where the control groups are mounted.
        membership: the file that says which this process belongs to.
    """
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None
    paths = {name: path for _, names, path in entries for name in names.split(",")}
    if "memory" in paths:
        base, path, limit_file, kills_file = (
            root / "memory",
            paths["memory"],
            "memory.limit_in_bytes",
            "memory.oom_control",
        )
    else:
        base, path, limit_file, kills_file = root, paths.get("", "/"), "memory.max", "memory.events"
    # In a container the path may be that outside of it, while the mounted tree begins at its own group.
    folders = [folder for folder in _with_parents(base, path) if (folder / kills_file).exists()]
    if not folders:
        return None
    limits = [int(text) for folder in folders if (text := _read(folder / limit_file)).isdigit()]
    counts = dict(line.split() for line in _read(folders[0] / kills_file).splitlines())
    limit = min(limits, default=_UNLIMITED)
    return ControlGroup(None if limit >= _UNLIMITED else limit, int(counts.get("oom_kill", 0)))


def describe_memory() -> str:
    """Say in one line how much memory this process uses, and how much it may.

    Example:
        >>> describe_memory().startswith("this process holds ")
        True
    """
    import resource

    resident = int(_read(Path("/proc/self/statm")).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    group = control_group()
    limits = []
    if group is not None and group.limit is not None:
        limits.append(f"{in_gib(group.limit)} for all processes of its control group")
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(f"{in_gib(address_space)} of addresses (ulimit -v)")
    return f"this process holds {in_gib(resident)} of memory; its limits: {', '.join(limits) or 'none'}"


def in_gib(count: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> in_gib(3 << 29)
        '1.50 GiB'
    """
    return f"{count / _GIB:.2f} GiB"


def _with_parents(base: Path, path: str) -> Iterator[Path]:
    relative = Path(path.lstrip("/"))
    for part in (relative, *relative.parents):
        yield base / part


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
