"""Replicas in a Ray cluster: a trainer with the manners of Ray Train, and groups of plain actors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distopt.errors import MissingExtraError
from distopt.lazy import attach

try:
    import ray as _ray  # noqa: F401 (whoever asks for this package needs it)
except ImportError as error:
    raise MissingExtraError("ray", "ray", "distopt.ray") from error

if TYPE_CHECKING:
    from distopt.ray.checkpoints import report, restore
    from distopt.ray.group import Group, init_group
    from distopt.ray.trainer import DistoptTrainer

__all__ = ["DistoptTrainer", "Group", "init_group", "report", "restore"]

__getattr__ = attach(
    __name__,
    {
        "DistoptTrainer": "distopt.ray.trainer",
        "Group": "distopt.ray.group",
        "init_group": "distopt.ray.group",
        "report": "distopt.ray.checkpoints",
        "restore": "distopt.ray.checkpoints",
    },
)
