"""Checkpoints: the whole state of a run on disk, written beside the training, whole or not at all."""

from distopt.checkpoint.checkpointer import Checkpointer

__all__ = ["Checkpointer"]
