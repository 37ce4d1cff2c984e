"""IndexedSlices: a gradient with only some of the rows, as embeddings produce it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array, to_array, wide_dtype
from distopt.errors import InvalidArgumentError

Indices = npt.NDArray[np.int64]


class IndexedSlices:
    """A sparse gradient: ``values[i]`` belongs to row ``indices[i]``; an index may appear several times.

    It stands for the dense gradient ``dense[j] = Σ_{i: indices[i] = j} values[i]``, which is zero elsewhere.

    Args:
        values: array-like (n, ...), the rows; not copied, never written.
        indices: integers (n,), the row of each value, 0 to ``dense_shape[0] - 1``; not copied, never written.
        dense_shape: shape of the dense gradient, which is the variable's; None where it is not known.

    Raises:
        InvalidArgumentError: shapes that do not fit, or an index that is negative, too large or no integer.

    Example:
        >>> slices = IndexedSlices([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [2, 0, 2], (3, 2))
        >>> (slices / 2).to_dense()
        array([[1.5, 2. ],
               [0. , 0. ],
               [3. , 4. ]], dtype=float32)
        >>> slices.deduplicate().indices
        array([2, 0])

    Source: TensorFlow's class of this name; ``*``, ``/`` and ``-`` by numbers, which stay sparse, are ours.
    """

    __array_ufunc__ = None  # so that ``np.float32(2) * slices`` ends in __rmul__

    def __init__(self, values: npt.ArrayLike, indices: npt.ArrayLike, dense_shape: Sequence[int] | None = None) -> None:
        self.values: Array = to_array(values, "values of IndexedSlices")
        self.indices: Indices = _to_indices(indices)
        self.dense_shape = None if dense_shape is None else tuple(int(n) for n in dense_shape)
        self._row_counts: tuple[int, ...] | None = None
        self._check()

    def _check(self) -> None:
        values, indices, shape = self.values, self.indices, self.dense_shape
        if values.ndim == 0 or indices.ndim != 1 or len(values) != len(indices):
            raise InvalidArgumentError(
                f"IndexedSlices with values of shape {values.shape} and indices of shape {indices.shape}: "
                "one row of values belongs to each index. Give values (n, ...) and indices (n,)."
            )
        if shape is not None and (not shape or values.shape[1:] != shape[1:]):
            raise InvalidArgumentError(
                f"IndexedSlices with values of shape {values.shape} for dense_shape {shape}: "
                f"the rows of values must have the shape of the rows of the variable, {shape[1:]}."
            )
        if len(indices) and np.min(indices) < 0:
            raise InvalidArgumentError(
                f"IndexedSlices with index {np.min(indices)}: negative indices are refused, as one row would "
                "have two names. Add the number of rows to them."
            )
        if len(indices) and shape is not None and np.max(indices) >= shape[0]:
            raise InvalidArgumentError(
                f"IndexedSlices with index {np.max(indices)} for dense_shape {shape}: the last row is "
                f"{shape[0] - 1}. Check which variable these indices were made for."
            )

    @classmethod
    def of_replicas(
        cls, values: Array, indices: Indices, dense_shape: tuple[int, ...] | None, row_counts: tuple[int, ...]
    ) -> IndexedSlices:
        """The slices of all replicas, end to end; equal rows are added in the replica tree.

        Args:
            values: the rows.
            indices: their indices.
            dense_shape: shape of the dense gradient.
            row_counts: how many rows each replica has brought.
        """
        slices = cls(values, indices, dense_shape)
        slices._row_counts = row_counts
        return slices

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the dense gradient.

        Raises:
            InvalidArgumentError: ``dense_shape`` was not given.
        """
        if self.dense_shape is None:
            raise InvalidArgumentError(
                "These IndexedSlices do not know the shape of their variable. Give it: "
                "IndexedSlices(values, indices, dense_shape=variable.shape)."
            )
        return self.dense_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the values."""
        return self.values.dtype

    def astype(self, dtype: npt.DTypeLike) -> IndexedSlices:
        """Return the same slices with values of ``dtype``."""
        return self.with_values(self.values.astype(dtype, copy=False))

    def deduplicate(self) -> IndexedSlices:
        """Return slices with every index once, in order of first appearance, with the sum of its rows.

        Rows of one index are added in order of appearance; where the slices are a concatenation over replicas, the
        sums of each replica are then added in the replica tree (see ``merge``). Sums of 16-bit values are
        formed in float32 and rounded once. As in all sums of gradients, an overflow gives no warning.

        Returns:
            New IndexedSlices of the same dtype.

        Example:
            >>> IndexedSlices([1.0, 2.0, 3.0], [7, 0, 7]).deduplicate()
            IndexedSlices(values=array([4., 2.], dtype=float32), indices=array([7, 0]), dense_shape=None)
        """
        wide = self.values.astype(wide_dtype(self.dtype), copy=False)
        ends = np.cumsum(self._row_counts if self._row_counts is not None else (len(wide),))[:-1]
        split = zip(np.split(wide, ends), np.split(self.indices, ends), strict=True)
        with np.errstate(over="ignore", invalid="ignore"):
            merged = merge([IndexedSlices(*_sum_equal(rows, at), self.dense_shape) for rows, at in split])
            return merged.astype(self.dtype)

    def to_dense(self) -> Array:
        """Return the dense gradient, a new array of shape ``dense_shape``: rows that do not appear are zero.

        Raises:
            InvalidArgumentError: ``dense_shape`` was not given.
        """
        dense = np.zeros(self.shape, self.dtype)
        unique = self.deduplicate()
        dense[unique.indices] = unique.values
        return dense

    def with_values(self, values: Array) -> IndexedSlices:
        """The same rows with other values, without checking the indices again.

        Args:
            values: one row per index; not copied.
        """
        other = object.__new__(IndexedSlices)
        other.values, other.indices, other.dense_shape = values, self.indices, self.dense_shape
        other._row_counts = self._row_counts
        return other

    # With a number ``*`` and ``/`` scale the rows; with arrays, and in other operations, the result is dense, as in
    # TensorFlow: the other operand is dense anyway.

    def __mul__(self, other: Any) -> Any:
        if np.ndim(other):
            return np.multiply(self.to_dense(), _dense(other))
        return self.with_values((self.values * np.asarray(other)).astype(self.dtype, copy=False))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if np.ndim(other):
            return np.divide(self.to_dense(), _dense(other))
        return self.with_values((self.values / np.asarray(other)).astype(self.dtype, copy=False))

    def __rtruediv__(self, other: Any) -> Any:
        return np.divide(_dense(other), self.to_dense())

    def __add__(self, other: Any) -> Any:
        return np.add(self.to_dense(), _dense(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return np.subtract(self.to_dense(), _dense(other))

    def __rsub__(self, other: Any) -> Any:
        return np.subtract(_dense(other), self.to_dense())

    def __pow__(self, other: Any) -> Any:
        return np.power(self.to_dense(), _dense(other))

    def __neg__(self) -> IndexedSlices:
        return self.with_values(-self.values)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        raise InvalidArgumentError(
            f"IndexedSlices of {len(self.indices)} rows used as an array: it would become dense unnoticed. "
            "Say slices.to_dense() where that is meant."
        )

    def __repr__(self) -> str:
        return f"IndexedSlices(values={self.values!r}, indices={self.indices!r}, dense_shape={self.dense_shape})"


def _dense(operand: Any) -> Any:
    return operand.to_dense() if isinstance(operand, IndexedSlices) else operand


def merge(parts: Sequence[IndexedSlices]) -> IndexedSlices:
    """Add the deduplicated slices of all replicas, row by row, in the replica tree.

    Node k of level l covers the replicas [k 2^l, (k+1) 2^l). For each row adjacent nodes are added, as in
    (a₀ + a₁) + (a₂ + a₃); a node without the row is left out. Rows come in order of first appearance. Sums of
    16-bit values are formed in float32 and rounded once, at the root.

    Args:
        parts: the slices of each replica, in the order of the replicas, without repeated indices; not mutated.

    Returns:
        New IndexedSlices without repeated indices, in the dtype of the first part.

    Example:
        >>> merge([IndexedSlices([1.0, 2.0], [4, 1]), IndexedSlices([3.0, 5.0], [0, 1])])
        IndexedSlices(values=array([1., 7., 3.], dtype=float32), indices=array([4, 1, 0]), dense_shape=None)
    """
    dtype, shape = parts[0].dtype, parts[0].dense_shape
    level = [(part.values.astype(wide_dtype(part.dtype), copy=False), part.indices) for part in parts]
    while len(level) > 1:
        pairs = [_add_rows(*level[i], *level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    values, indices = level[0]
    return IndexedSlices(values.astype(dtype, copy=False), indices, shape)


def _add_rows(left: Array, left_at: Indices, right: Array, right_at: Indices) -> tuple[Array, Indices]:
    """Return ``left + right`` over the union of their rows; each side names a row at most once."""
    unique, _, place = _by_first_appearance(np.concatenate([left_at, right_at]))
    total = np.empty((len(unique), *left.shape[1:]), left.dtype)
    total[: len(left)] = left
    place = place[len(left) :]
    both = place < len(left)
    total[place[both]] += right[both]
    total[place[~both]] = right[~both]
    return total, unique


def _sum_equal(rows: Array, at: Indices) -> tuple[Array, Indices]:
    """Sum rows of equal index in order of appearance."""
    unique, first, place = _by_first_appearance(at)
    total = np.ascontiguousarray(rows[first])
    if len(unique) < len(at):
        repeated = np.ones(len(at), bool)
        repeated[first] = False
        width = int(np.prod(rows.shape[1:]))
        # One flat index per element: np.add.at is sequential, and fast only in one dimension.
        flat = (place[repeated, None] * width + np.arange(width)).ravel()
        np.add.at(total.reshape(-1), flat, rows[repeated].ravel())
    return total, unique


def _by_first_appearance(indices: Indices) -> tuple[Indices, Indices, Indices]:
    """Return unique indices in order of first appearance, their first positions, and each index's position in them."""
    unique, first, inverse = np.unique(indices, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return unique[order], first[order], place[inverse]


def _to_indices(indices: npt.ArrayLike) -> Indices:
    array = np.asarray(indices)
    if array.size and array.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"indices of IndexedSlices have dtype {array.dtype}; rows are named by integers. "
            "Convert them with np.asarray(indices, dtype='int64')."
        )
    return array.astype(np.int64, copy=False)
