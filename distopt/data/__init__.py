"""Global batches, each replica's share of them, and the end on the same step everywhere."""

from distopt.data.global_batches import Batch, Batches, batches
from distopt.data.uneven import join

__all__ = ["Batch", "Batches", "batches", "join"]


def __dir__() -> list[str]:
    return __all__
