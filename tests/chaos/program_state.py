"""What a replica of the model keeps for an optimizer, sums over replicas, and states compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from chaos.programs import RATES, SHAPES

from distopt import IndexedSlices


class Optimizer:
    """What one replica's optimizer keeps."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rate = RATES[0]
        self.iterations = 0
        self.built_for: tuple[int, ...] = ()
        self.slots: dict[tuple[int, str], np.ndarray] = {}
        self.synchronised: set[int] = set()
        self.plan: tuple[int, ...] = ()
        """The variables that the replicas have agreed on stepping together."""
        self.number = 0
        self.shared_slots: set[tuple[Any, str]] = set()

    @property
    def labels(self) -> tuple[str, ...]:
        return {"SGD": (), "momentum": ("momentum",), "Adam": ("momentum", "velocity")}[self.kind]

    def update(self, entry: int, value: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The value after a step; the slots change."""
        if self.kind == "SGD":
            return value - self.rate * g
        if self.kind == "momentum":
            a = self.slots[entry, "momentum"] = 0.5 * self.slots[entry, "momentum"] - self.rate * g
            return value + a
        t = self.iterations + 1
        m = self.slots[entry, "momentum"] = 0.9 * self.slots[entry, "momentum"] + 0.1 * g
        v = self.slots[entry, "velocity"] = 0.999 * self.slots[entry, "velocity"] + 0.001 * g * g
        return value - self.rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)


def sum_of(gradients: list[Any], entry: int, divisor: float) -> np.ndarray | None:
    """The sum over replicas, None where it exists on none."""
    dense = [g.to_dense() if isinstance(g, IndexedSlices) else g for g in gradients if g is not None]
    return sum(dense, np.zeros(SHAPES[entry])) / divisor if dense else None


def differ(states: list[dict[Any, bytes]]) -> bool:
    """Whether something that is compared on all replicas differs."""
    everywhere = set.intersection(*map(set, states))
    return any(len({state[key] for state in states}) > 1 for key in everywhere)
