"""Heads each line of a job's output with the replica that printed it: ``distopt run --prefix``.

The launcher alone knows where output comes from, also on other hosts. It is told to mark every piece; pieces of
unfinished lines, which it would mix, are put together here.
"""

from __future__ import annotations

import re

_BEGIN, _END = "\x1e", "\x1f"
_OPTIONS = {"mpich": ["-prepend-pattern", f"{_BEGIN}%r{_END}"], "openmpi": ["--tag-output"]}
_MARK = re.compile(rb"(?:\x1e(\d+)\x1f|\[\d+,(\d+)\]<std(?:out|err|diag)>: ?)")


def options(family: str) -> list[str]:
    """Return what makes a launcher of this family mark the output of replicas."""
    return _OPTIONS.get(family, [])


def head(replica: int) -> bytes:
    """Return what a line of this replica begins with.

    Example:
        >>> head(3)
        b'[3] '
    """
    return f"[{replica}] ".encode()


class Lines:
    """Makes lines with heads of output with marks. Lines without a mark are the launcher's own, and stay.

    Example:
        >>> lines = Lines()
        >>> lines.feed(b"[1,0]<stdout>: loss [1,1]<stdout>: ready\\nlauncher\\n[1,0]<stdout>: 0.5\\n[1,1]<stdout>: end")
        b'[1] ready\\nlauncher\\n[0] loss 0.5\\n'
        >>> lines.rest()
        b'[1] end\\n'
    """

    def __init__(self) -> None:
        self._raw = b""
        self._unfinished: dict[int, bytes] = {}

    def feed(self, data: bytes) -> bytes:
        """Take output; return the lines that it finishes."""
        *lines, self._raw = (self._raw + data).split(b"\n")
        return b"".join(self._finished(line + b"\n") for line in lines)

    def rest(self) -> bytes:
        """Return the lines that have no end."""
        last = self._finished(self._raw)
        lines = [head(replica) + text + b"\n" for replica, text in sorted(self._unfinished.items()) if text]
        return b"".join([last, *lines])

    def _finished(self, raw: bytes) -> bytes:
        before, *pieces = _MARK.split(raw)
        finished = before if before.strip() or not pieces else b""
        for one, other, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
            replica = int(one or other)
            line = self._unfinished.pop(replica, b"") + text
            if line.endswith(b"\n"):
                finished += head(replica) + line
            else:
                self._unfinished[replica] = line
        return finished
