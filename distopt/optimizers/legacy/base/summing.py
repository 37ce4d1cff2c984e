"""The sum over replicas as a list: what an override of ``_aggregate_gradients`` gets from its base."""

from __future__ import annotations

from collections.abc import Sequence

from distopt.distribute.agreement.summation import sum_in_place
from distopt.distribute.strategy import get_strategy
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.slabs.read_gradients import read_gradients
from distopt.slabs.rows import gather_rows
from distopt.slabs.slab import Slab


def summed(pairs: Sequence[Pair]) -> list[Pair]:
    """Return gradients summed over replicas, in memory of their own; of sparse ones the rows of all (collective).

    Example:
        >>> import numpy as np
        >>> from distopt import Variable
        >>> [gradient.tolist() for gradient, _ in summed([(np.float32([1.0]), Variable([0.0]))])]
        [[1.0]]
    """
    communicator = get_strategy().ready()
    gradients = Gradients(Listing(Slab([variable for _, variable in pairs])))
    read_gradients(pairs, gradients, casts=True)
    if communicator.size > 1:
        for flat in gradients.slab.flats.values():
            sum_in_place(communicator, flat)
        gather_rows(communicator, gradients)
    return gradients.pairs()
