"""The sum by Ray's collective library: Gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import functools
from typing import Any, final

import numpy as np

from distopt.aggregators.aggregator import FlatAggregator
from distopt.arrays import Array, wide_dtype
from distopt.distribute.agreement.communicator import Communicator
from distopt.errors import InvalidArgumentError, MissingExtraError


@final
class RayCollective(FlatAggregator):
    """``ray.util.collective.allreduce``: Ray's backend chooses algorithm and order of summation.

    The bits may differ between backends, placements and sizes; with ``Sum`` they do not. 16-bit gradients are reduced
    in float32. The backend decides how long a missing replica is waited for (Gloo: 30 minutes).

    Args:
        group_name: a collective group of all replicas, in the order of their indices; where this process belongs to
            no group of that name, the group is made at the first sum.
        backend: the backend of a group that is made: ``"gloo"`` (which needs PyTorch) or ``"nccl"``.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidArgumentError: at the first sum, if the collective group consists of other processes than the replicas.

    Example:
        >>> import distopt
        >>> sgd = distopt.optimizers.SGD(0.5, gradient_aggregator=RayCollective("gradients"))
        >>> w = distopt.Variable([1.0])
        >>> _ = sgd.apply_gradients([([1.0], w)])  # one replica: there is nothing to sum
        >>> w.numpy()
        array([0.5], dtype=float32)
    """

    def __init__(self, group_name: str = "distopt", backend: str = "gloo") -> None:
        self.group_name, self.backend = group_name, backend

    def reduce(self, communicator: Communicator, flat: Array) -> None:
        """Sum a flat array over replicas, in place."""
        if communicator.size == 1:
            return
        library = _library()
        if not library.is_group_initialized(self.group_name):
            library.init_collective_group(communicator.size, communicator.index, self.backend, self.group_name)
        group = library.get_collective_group_size(self.group_name), library.get_rank(self.group_name)
        if group != (communicator.size, communicator.index):
            raise InvalidArgumentError(
                f"RayCollective: in the group {self.group_name!r} of ray.util.collective this process is number "
                f"{group[1]} of {group[0]}, here it is replica {communicator.index} of {communicator.size}: the sum "
                "would be that of others. Give every group of replicas a collective group of its own"
            )
        total = flat.astype(wide_dtype(flat.dtype), copy=False)
        library.allreduce(total, self.group_name)
        if total is not flat:
            np.copyto(flat, total, casting="same_kind")


@functools.cache
def _library() -> Any:
    try:
        from ray.util import collective
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "RayCollective") from error
    return collective
