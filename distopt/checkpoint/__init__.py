"""Checkpoints: the whole state of a run on disk. A thread writes while the training goes on, all or nothing."""

from distopt.checkpoint.checkpointer import Checkpointer

__all__ = ["Checkpointer"]


def __dir__() -> list[str]:
    return __all__
