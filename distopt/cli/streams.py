"""Passes on what a job prints."""

from __future__ import annotations

import os
import re
import threading
from typing import IO

from distopt.cli.prefix import Lines

_TAIL = 1 << 16  # launchers report a killed process in their last words


class Stream(threading.Thread):
    """Passes on one output stream of the job, each byte as it comes, and keeps the last part.

    Args:
        source: the stream.
        target: the file descriptor to which it goes.
        lines: what heads each line, in place of the launcher's marks.
    """

    def __init__(self, source: IO[bytes], target: int, lines: Lines | None = None) -> None:
        super().__init__(daemon=True)
        self.source, self.target, self.tail = source, target, b""
        self._lines = lines
        self.failure: OSError | None = None
        """The reason why the output could not be written."""
        self.leaves_out: re.Pattern[bytes] | None = None
        """The lines that are not passed on; once this is set, the stream is passed on line by line."""
        self._line = b""
        self.start()

    def run(self) -> None:
        """Pass on what comes, to the end."""
        with self.source:
            try:
                while data := os.read(self.source.fileno(), 1 << 16):
                    self.tail = (self.tail + data)[-_TAIL:]
                    self._write(self._filtered(data if self._lines is None else self._lines.feed(data)))
                self._write(self._line if self._lines is None else self._line + self._lines.rest())
            except BrokenPipeError:  # nobody reads any more: the job learns it in the same way
                return
            except OSError as error:  # a full disk, say: the job learns that nobody reads any more
                self.failure = error

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.target, data) :]

    def _filtered(self, data: bytes) -> bytes:
        if self.leaves_out is None:
            return data
        lines = (self._line + data).splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return b"".join(line for line in lines if not self.leaves_out.match(line))
