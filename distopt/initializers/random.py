"""Initializers that draw random numbers: the same on every replica.

The distributions are those of Keras, the numbers are NumPy's. As in Keras 3, one initializer gives the same values at
each call; without a seed it has drawn one when it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.initializers.constant import Initializer, dtype_of
from distopt.process.replica import current_replica

_WITHIN_TWO = 0.87962566103423978
"""The standard deviation of the part of a normal distribution that lies within two of its own."""


class _Random(Initializer):
    """The base of those that draw."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self._drawn = int(current_replica().draws.of_all().integers(2**31)) if seed is None else seed

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._drawn % 2**63)


def truncated_normal(generator: np.random.Generator, shape: Sequence[int]) -> Array:
    """Return numbers of the standard normal distribution that lie within two standard deviations."""
    values: Array = np.asarray(generator.standard_normal(shape))
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


class RandomNormal(_Random):
    """Normally distributed values.

    Args:
        mean: their mean.
        stddev: their standard deviation.
        seed: the seed; drawn by default.
    """

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the values."""
        return np.asarray(self._generator().normal(self.mean, self.stddev, shape)).astype(dtype_of(dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"mean": self.mean, "stddev": self.stddev, "seed": self.seed}


class TruncatedNormal(RandomNormal):
    """Normally distributed values within two standard deviations of their mean; arguments as of `RandomNormal`."""

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the values."""
        return (self.mean + self.stddev * truncated_normal(self._generator(), shape)).astype(dtype_of(dtype))


class RandomUniform(_Random):
    """Equally distributed values.

    Args:
        minval: the least value.
        maxval: the limit above.
        seed: the seed; drawn by default.
    """

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the values."""
        return np.asarray(self._generator().uniform(self.minval, self.maxval, shape)).astype(dtype_of(dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"minval": self.minval, "maxval": self.maxval, "seed": self.seed}


class VarianceScaling(_Random):
    """Values whose variance is ``scale / n``, where n counts inputs, outputs, or is the mean of both.

    Args:
        scale: the variance, times n.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"truncated_normal"``, ``"untruncated_normal"`` or ``"uniform"``.
        seed: the seed; drawn by default.

    Raises:
        InvalidArgumentError: an argument out of its range.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if not scale > 0 or mode not in ("fan_in", "fan_out", "fan_avg"):
            raise InvalidArgumentError(
                f"VarianceScaling received scale={scale!r} and mode={mode!r}: expected a scale above 0, and "
                "'fan_in', 'fan_out' or 'fan_avg'"
            )
        self.distribution = "truncated_normal" if distribution == "normal" else distribution
        if self.distribution not in ("truncated_normal", "untruncated_normal", "uniform"):
            raise InvalidArgumentError(
                f"VarianceScaling received distribution={distribution!r}: expected 'truncated_normal', "
                "'untruncated_normal' or 'uniform'"
            )
        self.scale, self.mode = scale, mode

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the values."""
        inputs, outputs = _fans(tuple(shape))
        count = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, count))
        generator = self._generator()
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation
            values = np.asarray(generator.uniform(-limit, limit, shape))
        elif self.distribution == "untruncated_normal":
            values = np.asarray(generator.normal(0, deviation, shape))
        else:
            values = truncated_normal(generator, shape) * (deviation / _WITHIN_TWO)
        return values.astype(dtype_of(dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        config = {"scale": self.scale, "mode": self.mode, "distribution": self.distribution, "seed": self.seed}
        return config if type(self) is VarianceScaling else {"seed": self.seed}


class _Scaled(VarianceScaling):
    """The base of those whose scale, mode and distribution are fixed."""

    fixed: ClassVar[tuple[float, str, str]]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self.fixed, seed)


class GlorotUniform(_Scaled):
    """Equally distributed values of the variance 2 / (inputs + outputs) (Glorot and Bengio, 2010)."""

    fixed = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Scaled):
    """Normally distributed values of the variance 2 / (inputs + outputs) (Glorot and Bengio, 2010)."""

    fixed = (1.0, "fan_avg", "truncated_normal")


class HeNormal(_Scaled):
    """Normally distributed values of the variance 2 / inputs (He et al., 2015)."""

    fixed = (2.0, "fan_in", "truncated_normal")


class HeUniform(_Scaled):
    """Equally distributed values of the variance 2 / inputs (He et al., 2015)."""

    fixed = (2.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """Normally distributed values of the variance 1 / inputs (LeCun et al., 1998)."""

    fixed = (1.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """Equally distributed values of the variance 1 / inputs (LeCun et al., 1998)."""

    fixed = (1.0, "fan_in", "uniform")


class Orthogonal(_Random):
    """A matrix with orthogonal rows or columns; further axes in front are taken together.

    Args:
        gain: a factor of the matrix.
        seed: the seed; drawn by default.

    Raises:
        InvalidArgumentError: called: a shape of fewer than two axes.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the matrix."""
        if len(shape) < 2:
            raise InvalidArgumentError(f"Orthogonal received the shape {tuple(shape)}: expected two axes or more")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(self._generator().standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))
        return (self.gain * np.reshape(q.T if rows < columns else q, shape)).astype(dtype_of(dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"gain": self.gain, "seed": self.seed}


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the numbers of inputs and of outputs of weights; axes in front are those of a convolution."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field
