"""Shows the progress of a loop of steps."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from distopt.distribute.strategy import get_strategy
from distopt.speaking import is_terminal, write

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A progress bar with metrics, on replica 0 only; in a file or a pipe, a plain line now and then.

    Where the file can't be written to, or there is no standard error, nothing is shown: training goes on.

    Args:
        total: number of steps.
        description: what the steps do.
        file: a text file to write to (None means ``sys.stderr``, so that only results go to the standard output).

    Example:
        >>> with Progress(2, file=sys.stdout) as progress:
        ...     for loss in (0.5, 0.25):
        ...         progress.advance(loss=loss)
        training  2/2  loss 0.25
    """

    def __init__(self, total: int, description: str = "training", *, file: TextIO | None = None) -> None:
        self.total = total
        self.description = description
        self.done = 0
        self._metrics = ""
        self._file = sys.stderr if file is None else file
        self._silent = get_strategy().replica_index != 0
        self._bar: Bar | None = None if self._silent or not is_terminal(self._file) else _bar(self._file)
        self._printed = time.monotonic()

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """Note ``steps`` more steps, and the current metrics."""
        self.done += steps
        if self._silent:
            return
        self._metrics = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, metrics=self._metrics)
        elif time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._print()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.add_task(self.description, total=self.total, metrics="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._silent and self.done:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        text = f"{self.description}  {self.done}/{self.total}  {self._metrics}"
        write(self._file, f"{text.rstrip()}\n")


def _bar(file: TextIO) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=Console(file=file),
    )
