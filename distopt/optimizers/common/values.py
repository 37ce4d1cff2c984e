"""Values as TensorFlow and JAX know them: what is computed in place is a new one."""

from __future__ import annotations

from distopt.slabs.fitting import Gradient
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.values import Value, value_of


def own_value(gradient: Gradient) -> Gradient:
    """Return a copy of a gradient for a method of the user's: the slab is written again in the next step."""
    if isinstance(gradient, IndexedSlices):
        return gradient.with_values(gradient.values.copy().view(Value))
    copy: Gradient = value_of(gradient.copy())
    return copy
