"""distopt: data-parallel training with the semantics of Keras optimizers.

Names and subpackages are loaded at their first use: ``import distopt`` loads no MPI, Numba or autograd, and starts
nothing.
"""

from __future__ import annotations

from distopt.distribute.shutdown import install
from distopt.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)

install()
