"""Keras' names over distopt, in place of ``import keras`` in files that define optimizers, schedules or losses.

``import distopt.compat.keras as keras``; its modules can be imported under the paths of Keras 3 and of tf_keras, with
and without ``src``. What is not there raises an AttributeError that says what takes its place.
"""

from __future__ import annotations

from typing import Any

from distopt.compat.keras_paths import COUNTERPARTS, KERAS
from distopt.compat.names import below, install, lacking

__version__ = "3.15.0"

_ROOT = {**KERAS[""], "version": lambda: __version__}

install(__name__, {**KERAS, **below("src", KERAS), "": _ROOT}, COUNTERPARTS)

_lacks = lacking(__name__, "", COUNTERPARTS)


def __getattr__(name: str) -> Any:
    raise _lacks(name)
