"""Draws the floors of the house from its imports, as ``docs/floors.svg``: ``python tests/draw_floors.py``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from house import FLOORS, MODULES, floor, imports, room

PICTURE = Path(__file__).parent.parent / "docs" / "floors.svg"

_ROW, _BOX, _GAP = 46, 178, 8
_LEFT, _TOP = 64, 56
_MOST = max(len(rooms) for rooms in FLOORS)
_WIDTH = _LEFT + _MOST * (_BOX + _GAP) + 200
_HEIGHT = _TOP + len(FLOORS) * _ROW + 16
_COLOURS = ("#f4efe6", "#e6eef4")
"""Of the boxes: those of neighbouring floors differ."""


@dataclass
class Room:
    """What the picture says of one room."""

    name: str
    files: int = 0
    lines: int = 0
    uses: set[str] = field(default_factory=set)
    """The other rooms that its files import from."""


def read_rooms() -> dict[str, Room]:
    """Return every room by name, counted and with its imports."""
    rooms = {name: Room(name) for names in FLOORS for name in names}
    for module, path in MODULES.items():
        name = room(module)
        if name is None or path.name == "__init__.py":
            continue
        here = rooms[name]
        here.files += 1
        here.lines += len(path.read_text().splitlines())
        here.uses |= {other for other in map(room, imports(path)) if other not in (None, name)}
    return rooms


def draw() -> str:
    """Return the picture: one row a floor, the highest on top; one box a room."""
    rooms = read_rooms()
    used_by = {name: sum(name in other.uses for other in rooms.values()) for name in rooms}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif">',
        '<defs><marker id="head" markerWidth="9" markerHeight="9" refX="4" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 Z" fill="#555"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, "distopt, floor by floor", size=17, weight="bold"),
        _text(_LEFT, 43, "A file imports from floors below its own, or from its own room.", colour="#555"),
        f'<path d="M16 {_TOP + 8} V{_HEIGHT - 30}" stroke="#555" stroke-width="2" marker-end="url(#head)"/>',
    ]
    for number, names in reversed(list(enumerate(FLOORS))):
        y = _TOP + (len(FLOORS) - 1 - number) * _ROW
        parts.append(_text(_LEFT - 10, y + 26, str(number + 1), size=14, weight="bold", anchor="end"))
        for k, name in enumerate(names):
            colour = _COLOURS[number % len(_COLOURS)]
            parts += _box(rooms[name], _LEFT + k * (_BOX + _GAP), y, colour, used_by[name])
        below = {floor(other) + 1 for name in names for other in rooms[name].uses}
        label = f"imports from {ranges(below)}" if below else "imports nothing of distopt"
        parts.append(_text(_LEFT + _MOST * (_BOX + _GAP) + 4, y + 26, label, colour="#555"))
    return "\n".join([*parts, "</svg>", ""])


def ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers in few words: {1, 2, 3, 5} is "1-3, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _box(here: Room, x: int, y: int, colour: str, users: int) -> list[str]:
    size = f"{here.files} file{'s' * (here.files != 1)}, {here.lines:,} lines, used by {users}"
    return [
        f"<g><title>{here.name} imports from: {', '.join(sorted(here.uses)) or 'nothing'}</title>",
        f'<rect x="{x}" y="{y}" width="{_BOX}" height="{_ROW - 8}" rx="4" fill="{colour}" stroke="#888"/>',
        _text(x + 8, y + 16, here.name, size=13, weight="bold"),
        _text(x + 8, y + 31, size, size=10.5, colour="#444") + "</g>",
    ]


def _text(
    x: int, y: int, text: str, *, size: float = 12, weight: str = "normal", colour: str = "#111", anchor: str = "start"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"{PICTURE.name}: {len(FLOORS)} floors, {len(MODULES)} files")
