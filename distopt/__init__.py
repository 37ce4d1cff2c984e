"""distopt: data-parallel training with the semantics of Keras optimizers.

Names and subpackages are loaded at their first use: ``import distopt`` loads no MPI, Numba or autograd, and starts
nothing.
"""

from __future__ import annotations

from distopt.distribute.shutdown import install
from distopt.lazy import attach

__version__ = "0.1.0"

_COUNTERPARTS = {
    "rank": "this replica's number is distopt.replica_index()",
    "local_rank": "that on its node is distopt.get_strategy().location",
    "size": "the number of replicas is distopt.num_replicas()",
    "init": "there is nothing to call: replicas find each other at the first step or collective",
    "shutdown": "there is nothing to call: replicas part when their programs end",
    "allreduce": "it is called distopt.all_reduce",
    "allgather": "it is called distopt.all_gather",
    "DistributedOptimizer": "optimizers of distopt sum gradients themselves; for those of PyTorch, JAX and Keras see "
    "distopt.adapters",
}
"""Names that other libraries for data-parallel training have here."""

__getattr__, __dir__, __all__ = attach(__name__, __file__, counterparts=_COUNTERPARTS)

install()
