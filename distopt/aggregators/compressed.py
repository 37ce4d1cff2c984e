"""Sums whose terms travel between nodes in 16 bits: fewer bytes, at the price of rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, final

import numpy as np

from distopt.aggregators.sum import Sum
from distopt.arrays import Array, to_dtype
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.summation import Summation
from distopt.memory.layout import aligned_zeros


class _Compressed(Sum):
    """The sum by messages, for replicas that share no memory. For those that do, ``NodeSum`` reads only ``wire``."""

    wire: ClassVar[np.dtype[Any]]

    def reduce(self, communicator: Communicator, flat: Array) -> None:
        """Sum a flat array over replicas, in place."""
        self._sum_of(communicator, flat, once=True)()

    def prepare(self, communicator: Communicator, flat: Array) -> Callable[[], None]:
        """Return a function that sums this buffer over replicas, step after step."""
        return self._sum_of(communicator, flat, once=False)

    def _sum_of(self, communicator: Communicator, flat: Array, *, once: bool) -> Callable[[], None]:
        if communicator.size == 1:
            return lambda: None
        # The owner's own part is rounded too: no element's bits depend on who owns it.
        travelling = aligned_zeros(flat.size, self.wire)
        sum_travelling = Summation(communicator, travelling, once=once)  # in float32, rounded once

        def sum_rounded() -> None:
            with np.errstate(over="ignore"):  # as in the kernels
                travelling[...] = flat
            sum_travelling()
            flat[...] = travelling

        return sum_rounded


@final
class BFloat16(_Compressed):
    """``Sum``, but between nodes gradients travel as bfloat16: float32's range, 8 significant bits.

    With p_k the partial sums of the nodes and u = 2^-8::

        aggregate = round(round(p_0) + round(p_1) + ...),    |error| < about 2 u (|g_0| + ... + |g_R-1|)

    Within a node nothing is rounded: p_k is the sum, in float32, of neighbouring replicas of one node (a whole subtree
    of ``Sum``'s order). A partial sum that travels to the owner of its span is rounded to nearest, ties to even; a
    partial sum of the owner's own node is not rounded. The owner adds in float32, in ``Sum``'s order, and rounds the
    sum, so that every replica gets the same bits. float64 gradients are added in float64.

    So, with these two aggregators alone, *the placement of the replicas matters* for the bits. On one node nothing is
    rounded, and the result equals ``Sum`` bit for bit. Replicas that share no memory count as one node each. So do all
    replicas in a direct call of the aggregator; there every gradient is rounded and the sum is in float32. This
    aggregator pays where steps wait for the network between nodes: float32 sums and partial sums take half the bytes
    there (the parameters, which shared mode sends, do not). On one node there is nothing to gain.

    Rows of sparse gradients travel as they are (a direct call makes them dense). Gradients of 16-bit variables,
    float16 or bfloat16, travel in this aggregator's dtype, where ``Sum`` sends their partial sums in float32.

    Sources: S. Wang and P. Kanwar, "BFloat16: The secret to high performance on Cloud TPUs", 2019, for the format.
    Horovod's compression and the 16-bit hooks of PyTorch's DDP also send 16 bits, and also add in 16 bits.

    Example:
        >>> import distopt
        >>> def step():
        ...     w = distopt.Variable([0.0])
        ...     sgd = distopt.optimizers.SGD(learning_rate=1.0, gradient_aggregator=BFloat16())
        ...     sgd.apply_gradients([([1.001], w)])
        ...     return w.numpy().item(), BFloat16()([(np.float32([1.001]), w)])[0][0].item()
        >>> distopt.simulate(2, step)  # one node; as messages
        [(-2.002000093460083, 2.0), (-2.002000093460083, 2.0)]
    """

    wire: ClassVar[np.dtype[Any]] = to_dtype("bfloat16")


@final
class Float16(_Compressed):
    """``Sum``, but between nodes gradients travel as float16: 11 significant bits, up to 65,504.

    As ``BFloat16``, with u = 2^-11 (eight times as exact), for gradients of moderate size. Nothing is scaled: a sum or
    partial sum that rounds to more than 65,504 becomes infinite, as any overflow does. Below 6.1e-5 numbers are less
    exact (the error of each rounding is up to 3e-8), and below 3e-8 they become zero. The gradients of summed losses
    (``items=``) are divided only after the sum and so are large: ``BFloat16`` is the safe choice there.

    Source: IEEE 754, binary16.

    Example:
        >>> import distopt
        >>> def total():
        ...     return Float16()([(np.float32([1.001]), distopt.Variable([0.0]))])[0][0].item()
        >>> distopt.simulate(2, total)
        [2.001953125, 2.001953125]
    """

    wire: ClassVar[np.dtype[Any]] = np.dtype(np.float16)
