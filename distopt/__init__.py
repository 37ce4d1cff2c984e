"""distopt: data-parallel training with the semantics of Keras optimizers.

Names and rooms are loaded on first touch: ``import distopt`` loads no MPI, Numba or autograd and starts nothing. They
are listed in ``__init__.pyi``.
"""

from __future__ import annotations

from distopt.distribute.ending import install
from distopt.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)

install()
