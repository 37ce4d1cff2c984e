"""Methods by which TensorFlow's optimizers read and write single rows of a variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.arrays import Array, cast
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import ArrayLike, snapshot
from distopt.variables.indexed_slices import IndexedSlices, Indices


class RowUpdates(ArrayLike):
    """Reads and writes rows; a row that is named several times is written several times, in order."""

    number: int
    """The number of the variable among those of its replica."""

    def _write(self, value: Array) -> None:
        raise NotImplementedError

    @property
    def handle(self) -> Any:
        """Return the variable itself, which takes the place of TensorFlow's handle."""
        return self

    @property
    def op(self) -> Any:
        """Return the variable itself, whose name is that of TensorFlow's operation."""
        return self

    @property
    def _shared_name(self) -> str:
        """Return the name, as TensorFlow's own optimizers look it up."""
        return self.name

    @property
    def _unique_id(self) -> str:
        """Return a name that no other variable of this replica has, as TensorFlow's own optimizers look it up."""
        return f"{self.name}_{self.number}"

    _in_graph_mode = False
    """There are no graphs: what TensorFlow's own optimizers ask before they read the id above."""

    @property
    def rank(self) -> int:
        """Return the number of axes."""
        return self.ndim

    def sparse_read(self, indices: Any, name: str | None = None) -> Any:
        """Return rows of the value."""
        return snapshot(self.as_operand()[np.asarray(indices)])

    def gather_nd(self, indices: Any, name: str | None = None) -> Any:
        """Return the elements at indices (..., axes)."""
        return snapshot(self.as_operand()[_places(indices)])

    def scatter_update(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Set the rows of IndexedSlices; other rows stay.

        Args:
            sparse_delta: the rows.
            use_locking: ignored, as ``name``.
            name: ignored.

        Returns:
            This variable.

        Example:
            >>> from distopt import Variable
            >>> Variable([1.0, 2.0, 3.0]).scatter_update(IndexedSlices([9.0], [1])).numpy()
            array([1., 9., 3.], dtype=float32)
        """
        values, indices = self._rows(sparse_delta, "scatter_update")
        result = self._own().copy()
        result[indices] = values
        self._write(result)
        return self

    def scatter_add(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Add IndexedSlices to their rows."""
        return self._at_rows(np.add, sparse_delta, "scatter_add")

    def scatter_sub(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Subtract IndexedSlices from their rows."""
        return self._at_rows(np.subtract, sparse_delta, "scatter_sub")

    def scatter_mul(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Multiply rows by IndexedSlices."""
        return self._at_rows(np.multiply, sparse_delta, "scatter_mul")

    def scatter_div(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Divide rows by IndexedSlices."""
        return self._at_rows(np.divide, sparse_delta, "scatter_div")

    def scatter_max(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Raise elements of rows to those of IndexedSlices."""
        return self._at_rows(np.maximum, sparse_delta, "scatter_max")

    def scatter_min(self, sparse_delta: Any, use_locking: bool = False, name: str | None = None) -> Any:
        """Lower elements of rows to those of IndexedSlices."""
        return self._at_rows(np.minimum, sparse_delta, "scatter_min")

    def scatter_nd_update(self, indices: Any, updates: Any, name: str | None = None) -> Any:
        """Set the elements at indices (..., axes)."""
        result = self._own().copy()
        result[_places(indices)] = cast(np.asarray(updates), self.dtype, f"scatter_nd_update to {self.name!r}")
        self._write(result)
        return self

    def scatter_nd_add(self, indices: Any, updates: Any, name: str | None = None) -> Any:
        """Add to the elements at indices (..., axes)."""
        return self._at(np.add, _places(indices), updates, "scatter_nd_add")

    def scatter_nd_sub(self, indices: Any, updates: Any, name: str | None = None) -> Any:
        """Subtract from the elements at indices (..., axes)."""
        return self._at(np.subtract, _places(indices), updates, "scatter_nd_sub")

    def _at_rows(self, operation: np.ufunc, rows: Any, what: str) -> Any:
        values, indices = self._rows(rows, what)
        return self._at(operation, indices, values, what)

    def _at(self, operation: np.ufunc, index: Any, values: Any, what: str) -> Any:
        result = self._own().copy()
        operation.at(result, index, cast(np.asarray(values), self.dtype, f"{what} to variable {self.name!r}"))
        self._write(result)
        return self

    def _rows(self, rows: Any, what: str) -> tuple[Array, Indices]:
        """Return the values and indices of slices that fit this variable."""
        if not isinstance(rows, IndexedSlices):
            raise InvalidArgumentError(
                f"{what} to variable {self.name!r} received {type(rows).__name__}: expected IndexedSlices(values, "
                "indices)"
            )
        checked = IndexedSlices(rows.values, rows.indices, self.shape)
        return cast(checked.values, self.dtype, f"{what} to variable {self.name!r}"), checked.indices


def _places(indices: Any) -> tuple[Array, ...]:
    return tuple(np.moveaxis(np.asarray(indices, np.int64), -1, 0))
