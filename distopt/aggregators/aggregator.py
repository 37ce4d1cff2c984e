"""An aggregator: a function from a list of (gradient, variable) to such a list.

Any callable of that form is an aggregator. It is called on every replica in the same step, after the replicas have
agreed on the step, and may use the public collectives. Every replica's list has the same variables (with zeros where
this replica has no gradient and another one has). There are three ways to make an aggregator::

    def halve(grads_and_vars):                      # a function
        return [(distopt.all_reduce(g) / 2, v) for g, v in grads_and_vars]

    aggregators.Stacked(lambda g: np.median(g, 0))  # a rule on the (R, N) matrix of all replicas' gradients

    class TopK(aggregators.Aggregator): ...         # a class, where state per variable is kept
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any

from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.strategy import get_strategy
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.slabs.slab import Slab
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import Variable


class Aggregator(abc.ABC):
    """An aggregator that may keep state, as variables that are saved with the optimizer.

    Example:
        >>> class Halving(Aggregator):
        ...     def __call__(self, grads_and_vars):
        ...         return [(g / 2, v) for g, v in Sum()(grads_and_vars)]
        >>> from distopt.aggregators import Sum
        >>> v = Variable([1.0])
        >>> [g for g, v in Halving()([(v.numpy(), v)])]
        [array([0.5], dtype=float32)]
    """

    lockstep: bool = True
    """True where all replicas make the same steps. False (local SGD, gossip): no header is sent before a step."""

    def build(self, variables: Sequence[Variable]) -> None:  # noqa: B027 (most aggregators keep no state)
        """Make the state that the aggregator keeps for these variables. Called once, before the first step, everywhere.

        Args:
            variables: the optimizer's variables, in the order of the step.
        """

    @property
    def variables(self) -> list[Variable]:
        """Return the variables of the aggregator's state, in a fixed order."""
        return []

    @abc.abstractmethod
    def __call__(self, grads_and_vars: list[Pair]) -> list[Pair]:
        """Return the aggregated gradients.

        Args:
            grads_and_vars: this replica's gradients: arrays of the variable's shape, which may be overwritten, or
                IndexedSlices.

        Returns:
            A list of (gradient, variable) with the same variables.
        """


class FlatAggregator(Aggregator):
    """An aggregator that combines element by element: it needs only a flat buffer, not its division into variables."""

    @abc.abstractmethod
    def reduce(self, communicator: Communicator, flat: Array) -> None:
        """Replace a flat array by its aggregate over replicas.

        Args:
            communicator: the replicas, which have agreed on this call.
            flat: contiguous array of shape (n,); overwritten.
        """

    def prepare(self, communicator: Communicator, flat: Array) -> Callable[[], None]:
        """Return a function that reduces this very buffer, step after step."""
        return functools.partial(self.reduce, communicator, flat)

    def __call__(self, grads_and_vars: list[Pair]) -> list[Pair]:
        """Return the aggregated gradients; sparse ones are made dense."""
        communicator = get_strategy().ready()
        listing = Listing(Slab([variable for _, variable in grads_and_vars]))
        dense = [(_to_dense(gradient), variable) for gradient, variable in grads_and_vars]
        gradients = Gradients(listing)
        gradients.replace_from_hook(dense, type(self).__name__)
        for flat in listing.slab.flats.values():
            self.reduce(communicator, flat)
        return gradients.pairs()


def _to_dense(gradient: Any) -> Any:
    return gradient.to_dense() if isinstance(gradient, IndexedSlices) else gradient
