"""The table of what can go wrong and what is promised: fault x place x transport x replicas x mode -> outcome.

``{r}`` stands for the replica of the fault, ``{n}`` for the number of replicas. Texts are regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

STEP, STEPS = 2, 4
"""The step of the faults, and how many steps the job makes."""

FIRST = "before the first step"
"""The replicas have not met: nobody can be told, the job is ended."""
EARLY = ("before the header", "in the header", "in a checkpoint")
"""Places where the others can be told: they wait in a header."""
LATE = ("after the header", "in the payload", "in the update")
"""Places where they wait for a payload."""
EXIT = "at exit"
ANYWHERE = (FIRST, *EARLY, *LATE)


@dataclass(frozen=True)
class Outcome:
    """What is promised.

    Args:
        victim: what the replica of the fault ends with; "" is: nothing is promised.
        others: the same of every other replica.
        someone: the same of one of the others at least: the first to notice ends the job.
        report: how the failure of the job is reported; None: the job recovers.
        bits: of which undisturbed run the digests are, where the job recovers.
    """

    victim: str = ""
    others: str = ""
    someone: str = ""
    report: str | None = None
    bits: str = "all steps"


@dataclass(frozen=True)
class Case:
    """One row: a fault, where it is injected, and what is promised."""

    kind: str
    place: str
    transport: str
    update: str
    replicas: int
    victim: int
    outcome: Outcome
    checks: str = ""

    @property
    def sentence(self) -> str:
        """What is injected."""
        when = "" if self.place in (FIRST, EXIT) else f"at step {STEP}"
        return " ".join(filter(None, [self.kind, f"replica {self.victim}", self.place, when]))

    def __str__(self) -> str:
        checks = f" ({self.checks})" if self.checks else ""
        return f"{self.sentence}{checks}, {self.transport}, {self.replicas} replicas, {self.update}"


RECOVERS = Outcome()
DIED = Outcome(report="replica {r} .*SIGKILL")
STALLED = Outcome(someone="got StalledError: .* for replica {r}", report="StalledError")
STALLED_FIRST = Outcome(someone="got StalledError", report="StalledError")
"""Who is missing can't be told yet under MPI."""
TOLD = "got ReplicaFailedError: replica {r} "
INJECTED, EXITED = "got InjectedError", "got SystemExit: 3"
RAISED_REPORT, EXITED_REPORT = "Replica {r} failed:(.|\n)*InjectedError", r"Replica {r} failed: called sys.exit\(3\)"
LEFT = "got ReplicaLeftError: replica {r} of {n} has ended"
MISMATCH = "got CollectiveMismatchError: .*call: replica {r}: all_reduce"
WRONG_SHAPE = r"got InvalidArgumentError: .*'w' has shape \(40000, 2\)"
NON_FINITE = "got NonFiniteGradientError: step 2: .*'w': replica {r}"
DIVERGED = "got DivergedError: before step 2 .*'w'"

BY_PLACE: dict[str, dict[str, dict[tuple[str, ...], Outcome]]] = {
    "mpi": {
        "raise": {
            EARLY: Outcome(INJECTED, TOLD, report=RAISED_REPORT),
            (FIRST, *LATE): Outcome(INJECTED, report=RAISED_REPORT),
        },
        "exit": {
            EARLY: Outcome(EXITED, TOLD, report=EXITED_REPORT),
            (FIRST, *LATE): Outcome(EXITED, report=EXITED_REPORT),
        },
        "leave early": {
            (FIRST, *EARLY): Outcome(others=LEFT, report="ReplicaLeftError"),
            LATE: Outcome(report="Replica {r} failed: ended after a failure inside a step"),
        },
        "kill": {(*ANYWHERE, EXIT): DIED},
        "stop": {(FIRST,): STALLED_FIRST, (*EARLY, *LATE): STALLED},
        "hang": {(FIRST,): STALLED_FIRST, (*EARLY, *LATE): STALLED},
        "delay 0.5": {(*ANYWHERE, EXIT): RECOVERS},
    },
    "threads": {
        "raise": {ANYWHERE: Outcome(INJECTED, TOLD, report="raised by simulated replica {r} of {n}")},
        "exit": {ANYWHERE: Outcome(EXITED, TOLD, report=r"ReplicaError: replica {r} called sys.exit\(3\)")},
        "leave early": {ANYWHERE: Outcome("", TOLD, report=r"ReplicaError: replica {r} called sys.exit\(0\)")},
        "hang": {ANYWHERE: STALLED},
        "delay 0.5": {ANYWHERE: RECOVERS},
    },
    "ray": {
        "raise": {ANYWHERE: Outcome(INJECTED, TOLD, report=RAISED_REPORT)},
        "exit": {ANYWHERE: Outcome(EXITED, TOLD, report="Replica {r} failed:(.|\n)*SystemExit: 3")},
        "leave early": {ANYWHERE: Outcome("", TOLD, report="Replica {r} failed:(.|\n)*SystemExit: 0")},
        "kill": {ANYWHERE: Outcome("", "got ReplicaLostError: replica {r} is gone", report="replica {r} was killed")},
        "stop": {ANYWHERE: STALLED},
        "hang": {ANYWHERE: STALLED},
        "delay 0.5": {ANYWHERE: RECOVERS},
    },
}
"""Transport -> kind -> places -> outcome."""

WHEREVER: list[tuple[str, str, Outcome]] = [
    ("skip a call", "", Outcome(MISMATCH, MISMATCH, report="CollectiveMismatchError")),
    ("wrong shape", "", Outcome(WRONG_SHAPE, TOLD, report="InvalidArgumentError")),
    ("NaN", "on_nonfinite=raise", Outcome(NON_FINITE, NON_FINITE, report="NonFiniteGradientError")),
    ("NaN", "on_nonfinite=skip", Outcome(bits=f"without step {STEP}")),
    ("flip a bit of w", "state_every=1", Outcome(DIVERGED, DIVERGED, report="DivergedError")),
    ("flip a bit of w", "state_every=1,on_divergence=resync", RECOVERS),
]
"""Kind, DISTOPT_CHECKS, outcome: what has one place only."""

PLACEMENTS = (
    ("replicated", 2, 1),
    ("shared", 3, 2),
    ("replicated", 4, 0),
    ("shared", 2, 0),
    ("replicated", 3, 1),
    ("shared", 4, 3),
)
"""Mode, replicas, the replica of the fault: the rows take two of them in turn, one of each mode."""


SMALL = (
    ("raise", "in the payload"),
    ("leave early", "before the header"),
    ("kill", "in the header"),
    ("stop", "before the header"),
    ("hang", "in the payload"),
    *((kind, "") for kind in ("skip a call", "wrong shape", "NaN", "flip a bit of w")),
)
"""What every ``make test`` tries under MPI, and ``make test-ray`` in Ray actors."""


def cases(*transports: str) -> list[Case]:
    """Return all rows of some transports."""
    return [row for transport in transports for row in _rows(transport)]


def small_cases(transport: str) -> list[Case]:
    """Return one row of each of ``SMALL``, and of each DISTOPT_CHECKS: of both modes in turn."""
    rows = [row for row in _rows(transport) if (row.kind, row.place) in SMALL]
    return [rows[k + k // 2 % 2] for k in range(0, len(rows), 2)]


def _rows(transport: str) -> Iterator[Case]:
    faults = [
        (kind, place, "", outcome)
        for kind, outcomes in BY_PLACE[transport].items()
        for places, outcome in outcomes.items()
        for place in places
    ]
    faults += [(kind, "", checks, outcome) for kind, checks, outcome in WHEREVER]
    for k, (kind, place, checks, outcome) in enumerate(faults):
        if "resync" in checks:  # from replica 0's values, which must be the good ones; memory in common has no others
            placements: tuple[tuple[str, int, int], ...] = (("replicated", 2, 1), ("replicated", 4, 3))
        else:
            placements = PLACEMENTS[2 * k % 6], PLACEMENTS[(2 * k + 3) % 6]
        for update, replicas, victim in placements:
            yield Case(kind, place, transport, update, replicas, victim, outcome, checks)
