"""Operations of linear algebra; matrices are the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.ops.operands import each, fitted, of_one, of_results, of_two, operand


def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    """Return ``numpy.einsum``: the products that the subscripts choose, summed."""
    return fitted(np.einsum(subscripts, *map(operand, operands), **kwargs), *operands)


def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Any:
    """Return ``numpy.tensordot``: the products along ``axes``, summed."""
    return fitted(np.tensordot(operand(x1), operand(x2), axes), x1, x2)


def svd(x: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Return ``(u, s, vh)`` with ``x = u * s @ vh``, or the singular values alone."""
    if not compute_uv:
        return fitted(np.linalg.svd(operand(x), compute_uv=False), x)
    return tuple(fitted(part, x) for part in np.linalg.svd(operand(x), full_matrices))


def lstsq(a: Any, b: Any, rcond: float | None = None) -> Any:
    """Return the x with the smallest ``‖a x - b‖``."""
    return fitted(np.linalg.lstsq(operand(a), operand(b), rcond)[0], a, b)


norm, inv, det, cholesky = each(of_one, np.linalg.norm, np.linalg.inv, np.linalg.det, np.linalg.cholesky)
trace, tril, triu, diagonal = each(of_one, np.trace, np.tril, np.triu, np.diagonal)
eigh, qr = each(of_results, np.linalg.eigh, np.linalg.qr)
matmul, dot, outer, inner, solve = each(of_two, np.matmul, np.dot, np.outer, np.inner, np.linalg.solve)
