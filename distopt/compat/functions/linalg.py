"""TensorFlow's functions of linear algebra, with its arguments and meanings; matrices are the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt import ops
from distopt.arrays import Array
from distopt.compat.functions.arrays import convert_to_tensor, plain


def norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: bool | None = None) -> Any:
    """Return the norm of all elements as one vector, or of vectors or matrices along ``axis``.

    Example:
        >>> float(norm(np.array([[3.0, 0.0], [0.0, 4.0]]), ord=1))
        7.0
    """
    array, order = convert_to_tensor(tensor), None if ord in ("euclidean", "fro") else ord
    if axis is None:
        value = ops.norm(np.reshape(array, (-1,)), order)
        return np.reshape(value, (1,) * array.ndim) if keepdims else value
    along = tuple(int(each) for each in axis) if isinstance(axis, (list, tuple)) else int(axis)
    return ops.norm(array, order, along, bool(keepdims))


def normalize(tensor: Any, ord: Any = "euclidean", axis: Any = None) -> tuple[Any, Any]:
    """Return a value over its norm, and the norm."""
    length = norm(tensor, ord, axis, keepdims=True)
    return ops.divide(convert_to_tensor(tensor), length), length


def matmul(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    adjoint_a: bool = False,
    adjoint_b: bool = False,
    **hints: Any,
) -> Any:
    """Return the product of matrices, transposed or not; hints on sparseness are ignored."""
    left, right = convert_to_tensor(a), convert_to_tensor(b)
    left = adjoint(left) if adjoint_a else matrix_transpose(left) if transpose_a else left
    right = adjoint(right) if adjoint_b else matrix_transpose(right) if transpose_b else right
    return ops.matmul(left, right)


def matvec(a: Any, b: Any, transpose_a: bool = False) -> Any:
    """Return the product of matrices and vectors."""
    return matmul(a, convert_to_tensor(b)[..., np.newaxis], transpose_a)[..., 0]


def matrix_transpose(a: Any, conjugate: bool = False) -> Any:
    """Return matrices with rows and columns exchanged."""
    swapped = np.swapaxes(convert_to_tensor(a), -1, -2)
    return np.conj(swapped) if conjugate else swapped


def adjoint(matrix: Any) -> Any:
    """Return the conjugate transpose."""
    return matrix_transpose(matrix, conjugate=True)


def svd(tensor: Any, full_matrices: bool = False, compute_uv: bool = True) -> Any:
    """Return ``(s, u, v)`` with ``tensor = u * s @ adjoint(v)``, or the singular values alone."""
    if not compute_uv:
        return ops.svd(convert_to_tensor(tensor), compute_uv=False)
    u, s, vh = ops.svd(convert_to_tensor(tensor), full_matrices)
    return s, u, adjoint(vh)


def eigh(tensor: Any) -> Any:
    """Return the eigenvalues and eigenvectors of symmetric matrices."""
    return ops.eigh(convert_to_tensor(tensor))


def qr(input: Any, full_matrices: bool = False) -> Any:
    """Return orthogonal matrices and triangular ones, whose product is the matrices given."""
    return ops.qr(convert_to_tensor(input), "complete" if full_matrices else "reduced")


def inv(input: Any, adjoint: bool = False) -> Any:
    """Return the inverse of matrices."""
    return ops.inv(matrix_transpose(input, conjugate=True) if adjoint else convert_to_tensor(input))


def solve(matrix: Any, rhs: Any, adjoint: bool = False) -> Any:
    """Return the x with ``matrix @ x = rhs``."""
    left = matrix_transpose(matrix, conjugate=True) if adjoint else convert_to_tensor(matrix)
    return ops.solve(left, convert_to_tensor(rhs))


def triangular_solve(matrix: Any, rhs: Any, lower: bool = True, adjoint: bool = False) -> Any:
    """Return the x with ``matrix @ x = rhs``, of which the other triangle is not read."""
    array = convert_to_tensor(matrix)
    return solve(ops.tril(array) if lower else ops.triu(array), rhs, adjoint)


def diag(diagonal: Any, k: int = 0) -> Array:
    """Return matrices with these diagonals, and zeros elsewhere."""
    rows = plain(diagonal)
    length = rows.shape[-1] + abs(k)
    result, at = np.zeros((*rows.shape[:-1], length, length), rows.dtype), np.arange(rows.shape[-1])
    result[..., at + max(-k, 0), at + max(k, 0)] = rows
    return result


def diag_part(input: Any, k: int = 0) -> Any:
    """Return the diagonals of matrices."""
    return np.diagonal(plain(input), k, -2, -1).copy()


def set_diag(input: Any, diagonal: Any) -> Array:
    """Return matrices with other diagonals."""
    result, at = plain(input).copy(), np.arange(np.shape(diagonal)[-1])
    result[..., at, at] = plain(diagonal)
    return result


def band_part(input: Any, num_lower: int, num_upper: int) -> Any:
    """Return matrices of which only so many diagonals are kept below and above the main one; -1 keeps all."""
    array = convert_to_tensor(input)
    rows, columns = np.ogrid[: array.shape[-2], : array.shape[-1]]
    kept = ((num_lower < 0) | (rows - columns <= num_lower)) & ((num_upper < 0) | (columns - rows <= num_upper))
    return np.where(kept, array, np.zeros((), array.dtype))


def trace(x: Any) -> Any:
    """Return the sums of the diagonals of matrices."""
    return np.trace(convert_to_tensor(x), axis1=-2, axis2=-1)


def einsum(equation: str, *inputs: Any, **hints: Any) -> Any:
    """Return the products that the equation chooses, summed; hints on the order are ignored."""
    return ops.einsum(equation, *map(convert_to_tensor, inputs))


def tensordot(a: Any, b: Any, axes: Any) -> Any:
    """Return the products along axes, summed."""
    return ops.tensordot(convert_to_tensor(a), convert_to_tensor(b), axes)


def logdet(matrix: Any) -> Any:
    """Return the logarithm of the determinant of matrices."""
    return np.linalg.slogdet(plain(matrix))[1]
