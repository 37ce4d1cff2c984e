"""distopt: data-parallel training with the semantics of Keras optimizers.

Names and rooms are loaded on first touch: ``import distopt`` loads no MPI, Numba or autograd and starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distopt.distribute.ending import install
from distopt.lazy import attach

if TYPE_CHECKING:
    from distopt.distribute import (
        Checks,
        Deadlines,
        Strategy,
        all_gather,
        all_reduce,
        barrier,
        broadcast,
        get_strategy,
        num_replicas,
        print_once,
        replica_index,
        simulate,
    )
    from distopt.memory.digests import digest
    from distopt.variables.indexed_slices import IndexedSlices
    from distopt.variables.tape import GradientTape, stop_gradient
    from distopt.variables.variable import Variable

__version__ = "0.1.0"

_ROOMS = (
    "aggregators", "checkpoint", "constraints", "data", "distribute", "elastic", "errors", "gradients", "kernels",
    "losses", "ops", "optimizers", "ray", "telemetry", "testing", "transformers",
)  # fmt: skip

__all__ = [
    "Checks",
    "Deadlines",
    "GradientTape",
    "IndexedSlices",
    "Strategy",
    "Variable",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "digest",
    "get_strategy",
    "num_replicas",
    "print_once",
    "replica_index",
    "simulate",
    "stop_gradient",
]

_homes = dict.fromkeys(__all__, "distopt.distribute") | {
    "GradientTape": "distopt.gradients",
    "IndexedSlices": "distopt.variables.indexed_slices",
    "Variable": "distopt.variables.variable",
    "digest": "distopt.memory.digests",
    "stop_gradient": "distopt.gradients",
}
__getattr__ = attach(__name__, _homes | {room: f"distopt.{room}" for room in _ROOMS})


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])


install()
