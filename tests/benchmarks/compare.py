"""Compare the benchmark tables of two checkouts, measured in turns: old, new, old, new, ....

Usage: ``python tests/benchmarks/compare.py OLD NEW [TABLE ...] [--turns 5]``, where a table is the middle of a file's
name (``step_rivals`` for ``test_step_rivals.py``); ``DISTOPT_BENCH=full`` for sizes that tell something. Prints the
medians over the turns, new beside old (above 1 is slower), the geometric mean of these ratios, and what is slower by
more than a twentieth. Columns of rivals, which are the same in both checkouts, show how far the machine wavers. A full
run also writes to ``tests/benchmarks/results`` of both checkouts, as ever.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TABLES = [
    "aggregation",
    "checks_cost",
    "small_variables",
    "step_rivals",
    "update_kernels",
    "sum_kernel",
    "layerwise",
    "startup",
]
TITLE = re.compile(r"(?P<title>.+) \[(?P<unit>[^;\[]+); \d+ cores; .+\]")
RIVAL = re.compile(r"torch|Gloo|MPI|DDP|copy|NumPy reference|local step|one process")
"""How the names of columns begin that distopt has no part in."""
SLOWER = 1.05
"""Ratios above are listed."""


class Row(NamedTuple):
    """What one number of a table is of: the case is the name of its line, the column who did it."""

    title: str
    unit: str
    case: str
    column: str

    @property
    def is_rival(self) -> bool:
        """Whether distopt has no part in it."""
        return RIVAL.match(self.column) is not None

    def ratio(self, old: float, new: float) -> float:
        """Return how much slower or larger the new one is; of what is the better the more, it is the inverse."""
        return old / new if self.unit.endswith("/s") else new / old


NAMED: Mapping[str, tuple[str, str]] = {
    "a step on 200 small variables": ("global_clipnorm and Adam, 200 variables", "distopt"),
    "a header, in the digits job": ("a step of the digits job, 2 replicas", "their headers"),
    "a header, by itself": ("sum over 2 replicas", "header"),
}
"""Rows that the summary begins with: how their title begins, and their column."""


def read_tables(output: str) -> Iterator[tuple[Row, float]]:
    """Give the numbers of all tables that ``measure.show`` printed.

    Example:
        >>> text = "sum [ms; 2 cores; medians]" + chr(10) + " " * 26 + "  shared  MPI + Adam" + chr(10)
        >>> [(row.column, value) for row, value in read_tables(text + "4 B    0.5    -")]
        [('shared', 0.5)]
    """
    title: re.Match[str] | None = None
    columns: list[str] = []
    for line in output.splitlines():
        cells = re.split(r" {2,}", line.strip())
        if found := TITLE.fullmatch(line):
            title, columns = found, []
        elif title is not None and not columns:
            columns = cells
        elif title is not None and len(cells) == len(columns) + 1:
            row = zip(columns, cells[1:], strict=True)
            what = title["title"], title["unit"], cells[0]
            yield from ((Row(*what, name), float(cell)) for name, cell in row if cell != "-")
        else:
            title = None


def run_table(repository: Path, table: str, python: str) -> str:
    """Run a benchmark of a checkout, and return what it printed; a failure is told, for what it printed counts."""
    (path,) = (repository / "tests" / "benchmarks").rglob(f"test_{table}.py")
    file = str(path.relative_to(repository))
    print(f"{repository.name}: {file}", file=sys.stderr)
    result = subprocess.run(
        [python, "-m", "pytest", "-q", "-s", "-m", "benchmark", "-p", "no:cacheprovider", "--color=no", file],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in result.stdout.splitlines() + result.stderr.splitlines():
        if result.returncode and line.startswith(("FAILED", "ERROR", "E  ")):
            print(f"  {line}", file=sys.stderr)
    return result.stdout


def measure(
    repositories: tuple[Path, Path], tables: list[str], turns: int, python: str
) -> dict[Row, tuple[float, float]]:
    """Return the medians of every row that both checkouts have, old and new."""
    seen: tuple[dict[Row, list[float]], ...] = ({}, {})
    for _ in range(turns):
        for table in tables:
            for repository, values in zip(repositories, seen, strict=True):
                for row, value in read_tables(run_table(repository, table, python)):
                    values.setdefault(row, []).append(value)
    old, new = ({row: statistics.median(numbers) for row, numbers in values.items()} for values in seen)
    for row in old.keys() ^ new.keys():
        print(f"only {'old' if row in old else 'new'}: {', '.join(row)}", file=sys.stderr)
    return {row: (value, new[row]) for row, value in old.items() if row in new}


def show(rows: Mapping[Row, tuple[float, float]]) -> None:
    """Print all rows, by title."""
    title = None
    for row, (old, new) in rows.items():
        if row.title != title:
            print(f"\n{'old':>10}{'new':>10}{'ratio':>8}  {row.title} [{row.unit}]")
            title = row.title
        print(line_of(f"{row.case}: {row.column}", row, old, new))


def line_of(name: str, row: Row, old: float, new: float) -> str:
    """Return the line of a row."""
    return f"{old:>10.4g}{new:>10.4g}{row.ratio(old, new):>8.3f}  {name}"


def summarize(rows: Mapping[Row, tuple[float, float]]) -> None:
    """Print the rows with a name, the means of the ratios, and what is slower."""
    print("\nIn short")
    for name, (title, column) in NAMED.items():
        for row, values in rows.items():
            if row.title.startswith(title) and row.column == column:
                print(line_of(f"{name} ({row.case}) [{row.unit}]", row, *values))
    for who, is_rival in (("distopt", False), ("rivals", True)):
        ratios = [row.ratio(*values) for row, values in rows.items() if row.is_rival == is_rival]
        if ratios:
            print(f"{statistics.geometric_mean(ratios):>28.3f}  geometric mean of the {len(ratios)} ratios of {who}")
    slower = {row: values for row, values in rows.items() if not row.is_rival and row.ratio(*values) > SLOWER}
    print(f"\nAbove {SLOWER}: {len(slower) or 'none'}")
    for row, values in sorted(slower.items(), key=lambda item: -item[0].ratio(*item[1])):
        print(line_of(f"{row.title}: {row.case}: {row.column}", row, *values))


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("tables", nargs="*", default=TABLES, help=f"which (default: {' '.join(TABLES)})")
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--python", default=sys.executable, help="of the environment (default: this one)")
    given = parser.parse_args()
    rows = measure((given.old.resolve(), given.new.resolve()), given.tables, given.turns, given.python)
    show(rows)
    summarize(rows)


if __name__ == "__main__":
    main()
