"""NumPy under the names of ``keras.ops``, so that optimizers written for Keras port by their imports.

Every function takes Variables, arrays, traced values, numbers and IndexedSlices. A floating result is as wide as the
widest floating array among the operands, and float32 where there is none: numbers and integers widen nothing.
Scaling by a number, ``negative``, ``cast`` and functions with f(0) = 0 return IndexedSlices for IndexedSlices; all
other functions make them dense.

Example:
    >>> from distopt import IndexedSlices, Variable, ops
    >>> m = Variable([1.0, 2.0])
    >>> ops.multiply(m, ops.cast(0.5, m.dtype))
    array([0.5, 1. ], dtype=float32)
    >>> ops.square(IndexedSlices([1.0, 2.0], [3, 3], (4,)))
    IndexedSlices(values=array([9.], dtype=float32), indices=array([3]), dense_shape=(4,))
"""

from distopt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
