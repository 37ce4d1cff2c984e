"""plot.py: the pictures of docs/figures.md, from the tables of a full run. ``make bench`` calls it at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from benchmarks.measure import RESULTS

matplotlib.use("agg")  # there may be no display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = Path(__file__).parents[2] / "docs"
STYLES = {
    "Gloo + torch Adam": ("tab:red", "o-"),
    "MPI + Adam": ("tab:orange", "o-"),
    "replicated": ("tab:blue", "s-"),
    "shared": ("tab:green", "s-"),
    "copy loop": ("gray", "--"),
    "DDP": ("tab:red", ""),
    "DDP, static graph": ("lightcoral", ""),
    "distopt replicated": ("tab:blue", ""),
    "distopt shared": ("tab:green", ""),
    "one process": ("gray", ""),
}


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw what the results hold; return the pictures.

    Args:
        results: where ``measure.keep`` has stored tables.
        folder: where the pictures go; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for family in ("mpich", "openmpi"):
        if tables := _tables(results, f"step-{family}"):
            drawn.append(_save(_panels(tables, _times), folder / f"step-{family}.png"))
    if tables := _tables(results, "training"):
        drawn.append(_save(_panels(tables, _bars), folder / "training.png"))
    return drawn


def _tables(results: Path, kind: str) -> list[dict[str, Any]]:
    tables = [json.loads(path.read_text()) for path in results.glob(f"{kind}-*.json")]
    return sorted(tables, key=lambda table: table["ranks"])


def _panels(tables: list[dict[str, Any]], panel: Any) -> Any:
    """Draw one panel for each number of replicas."""
    figure, axes = plt.subplots(1, len(tables), figsize=(5 * len(tables), 4.2), sharey=True, squeeze=False)
    for table, ax in zip(tables, axes[0], strict=True):
        panel(ax, table["rows"])
        ax.set_title(f"{table['ranks']} replicas")
        ax.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    machine, mpi = tables[0]["machine"], tables[0].get("mpi")
    figure.suptitle(", ".join(filter(None, [f"{machine['cores']} cores, {machine['cpu']}", mpi])), fontsize="small")
    return figure


def _times(ax: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    sizes = sorted(rows, key=int)
    for name, (color, style) in STYLES.items():
        known = [size for size in sizes if name in rows[size]]
        if known:
            milliseconds = [rows[size][name] * 1e3 for size in known]
            ax.loglog([int(size) // 4 for size in known], milliseconds, style, color=color, label=name, markersize=4)
    ax.set_xlabel("float32 parameters")
    ax.set_ylabel("sum of gradients and Adam [ms]")


def _bars(ax: Axes, rows: Mapping[str, Mapping[str, float]]) -> None:
    names = [name for name in STYLES if any(name in row for row in rows.values())]
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        places = [place + (k - (len(names) - 1) / 2) * width for place in range(len(rows))]
        heights = [row.get(name, 0) / row["local step"] for row in rows.values()]
        ax.bar(places, heights, width, label=name, color=STYLES[name][0])
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(rows)), rows, fontsize="small")
    ax.set_ylabel("training step [local steps]")


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


if __name__ == "__main__":
    for picture in draw(RESULTS, DOCS):
        print(picture.relative_to(DOCS.parent))
