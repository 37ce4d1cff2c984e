"""The table of how one of two replicas may end, and what is promised: launcher x kind x place x surrounding -> report.

``{r}`` stands for that replica, ``{o}`` for the other one, ``{boom}`` for the text of the exception, ``{line}`` for
where a replica is. Reports are regular expressions. Each job ends in seconds, with a status that is not 0, and leaves
no process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("exception", "SystemExit", "exception in a thread", "kill", "stop", "hang")
WAITING_KINDS = ("stop", "hang")
"""Those that only a clock can notice."""

BEFORE_IMPORT, BEFORE_INIT, IN_INIT = "before the import", "before MPI_Init", "in MPI_Init"
FIRST, STEP, EXIT = "before the first call", "in a step", "at exit"
PLACES = (BEFORE_IMPORT, BEFORE_INIT, IN_INIT, FIRST, STEP, EXIT)
"""Of the first two, the latter is when the other replica waits in MPI_Init; in the third the replica itself does."""

FULL, ASCII = "temporary directory full", "ASCII locale"
SURROUNDINGS = (
    "",
    "stdout closed",
    "stdout None",
    "stdout full",
    "stderr closed",
    "temporary directory read-only",
    FULL,
    ASCII,
)

LAUNCHERS = ("distopt run", "mpirun", "ray")
"""The last is ``distopt run --backend ray``; which MPI the others use is a matter of the environment."""


@dataclass(frozen=True)
class Ending:
    """One row.

    Args:
        launcher: of ``LAUNCHERS``.
        kind: of ``KINDS``.
        place: of ``PLACES``.
        surrounding: of ``SURROUNDINGS``.
        victim: the replica that ends so; there are two.
        report: how the job's failure is reported, last.
    """

    launcher: str
    kind: str
    place: str
    surrounding: str
    victim: int
    report: str

    @property
    def pattern(self) -> str:
        """What the report looks like in this row."""
        boom = r"b\\xf6\\xf6m \\udc80" if self.surrounding == ASCII else "boom"
        line = "" if self.surrounding == FULL else r" and is at .*job\.py:\d+"  # stacks are told by a file
        words = {"{r}": str(self.victim), "{o}": str(1 - self.victim), "{boom}": boom, "{line}": line}
        text = self.report
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        return text

    @property
    def has_deadlines(self) -> bool:
        """Whether a clock ends the job: one that is quicker than by default."""
        return self.kind in WAITING_KINDS or self.report == TIMED_OUT

    def __str__(self) -> str:
        where = f", {self.surrounding}" if self.surrounding else ""
        return f"{self.launcher}, {self.kind} {self.place}, replica {self.victim}{where}"


RAISED = r"Replica {r} failed:\n(?:.*\n)*ValueError: {boom}"
IN_THREAD = r"Replica {r} failed:\nin thread 'loader':\n(?:.*\n)*ValueError: {boom}"
EXITED = r"Replica {r} failed: called sys\.exit\(3\)"
KILLED = r"distopt run: replica {r} \(pid \d+ on \S+\) was killed by signal 9 \(SIGKILL\).*"
AWAITED = r"distopt run: replica {o} has waited \d+ s in MPI_Init for replica {r} \(.*\), which "
AT_FAULT = r"job\.py:\d+ in hang\b"
STRANGER = r"Replica {o} failed:\n(?:.*\n)*.*StalledError: .* for a replica that has made none.*"
"""Who is missing can't be told before all have met."""
STALLED = r"Replica {o} failed:\n(?:.*\n)*.*StalledError: .* for replica {r}"
BY_LAUNCHER = r"(?:.|\n)*(?:Killed \(signal 9\)|rank {r} .* exited on\s+signal 9)"
"""Open MPI's names the replica."""
TIMED_OUT = r"(?:.|\n)*Timeout \(.*\)!\n(?:.*\n)*.* in wait_in_MPI_Init_for_all_replicas"
"""The clock of a replica that waits in MPI_Init has ended it; plain launchers say no more."""

MET = {
    "stop": rf"{STALLED}, which is stopped.*",
    "hang": rf"{STALLED} \(.*it is at {AT_FAULT}.*",
}
TOLD = {"exception": RAISED, "SystemExit": EXITED, "exception in a thread": IN_THREAD, "kill": KILLED}
WAITED_FOR = TOLD | {"stop": rf"{AWAITED}is stopped.*", "hang": AWAITED + r"has not called it{line}\. That is .*"}
BY_SIGNAL_OR_CLOCK = {"kill": KILLED, "stop": rf"{AWAITED}is stopped.*"}
UNTOLD = dict.fromkeys(KINDS, TIMED_OUT) | {"kill": BY_LAUNCHER}
FIRST_CALL = TOLD | dict.fromkeys(WAITING_KINDS, STRANGER)
IN_TIME = TOLD | {
    "stop": r"Replica {o} failed: StalledError: .* has ended and waits for replica {r}, which is stopped.*"
}
"""At exit a replica that hangs is none of the table: nobody can tell it from one that is long in ending."""
ON_RAY = {
    "exception": RAISED,
    "SystemExit": r"Replica {r} failed:\n(?:.*\n)*SystemExit: 3",
    "exception in a thread": RAISED,
    "kill": r"Replica {r} failed:\n(?:.*\n)*.*(?:killed|died|SIGKILL|gone)(?:.|\n)*",
}

PROMISES: dict[str, dict[str, dict[str, str]]] = {
    "distopt run": {
        BEFORE_IMPORT: WAITED_FOR,
        BEFORE_INIT: WAITED_FOR,
        IN_INIT: BY_SIGNAL_OR_CLOCK,
        FIRST: FIRST_CALL,
        STEP: TOLD | MET,
        EXIT: IN_TIME,
    },
    "mpirun": {
        BEFORE_IMPORT: UNTOLD,  # nothing of distopt is there yet
        BEFORE_INIT: TOLD | dict.fromkeys(WAITING_KINDS, TIMED_OUT) | {"kill": BY_LAUNCHER},
        IN_INIT: {"kill": BY_LAUNCHER, "stop": TIMED_OUT},
        FIRST: FIRST_CALL | {"kill": BY_LAUNCHER},
        STEP: TOLD | MET | {"kill": BY_LAUNCHER},
        EXIT: IN_TIME | {"kill": BY_LAUNCHER},
    },
    "ray": {
        BEFORE_IMPORT: ON_RAY | MET,  # of the script: its replicas have met
        FIRST: ON_RAY | MET,
        STEP: ON_RAY | MET,
        EXIT: ON_RAY | {"stop": MET["stop"]},
    },
}
"""Launcher -> place -> kind -> the report."""

SMALL = (
    ("exception", BEFORE_IMPORT, ASCII),
    ("hang", BEFORE_IMPORT, "stdout closed"),
    ("SystemExit", BEFORE_INIT, "stderr closed"),
    ("stop", BEFORE_INIT, ""),
    ("exception in a thread", BEFORE_INIT, FULL),
    ("kill", IN_INIT, ""),
    ("exception", FIRST, "stdout None"),
    ("kill", FIRST, "stdout full"),
    ("exception in a thread", STEP, "stdout closed"),
    ("hang", STEP, "temporary directory read-only"),
    ("SystemExit", EXIT, "stdout full"),
    ("exception", EXIT, ""),
)
"""What every ``make test`` tries with ``distopt run``: each kind, place and surrounding."""


def endings(*launchers: str) -> list[Ending]:
    """Return all rows of some launchers."""
    return [row for launcher in launchers for row in _rows(launcher)]


def small_endings() -> list[Ending]:
    """Return the rows of ``SMALL``."""
    return [row for row in _rows("distopt run") if (row.kind, row.place, row.surrounding) in SMALL]


def _rows(launcher: str) -> Iterator[Ending]:
    for p, (place, reports) in enumerate(PROMISES[launcher].items()):
        for k, (kind, report) in enumerate(reports.items()):
            for s, surrounding in enumerate(SURROUNDINGS):
                yield Ending(launcher, kind, place, surrounding, (p + k + s) % 2, report)
