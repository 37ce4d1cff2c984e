"""Examples that the tests of losses share: seven, of four classes."""

import numpy as np
import pytest

from distopt.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)

RNG = np.random.default_rng(0)
N, CLASSES = 7, 4
LABELS = RNG.integers(CLASSES, size=N)
ONE_HOT = np.eye(CLASSES)[LABELS]
LOGITS = 3 * RNG.normal(size=(N, CLASSES))
BITS = RNG.integers(2, size=(N, CLASSES))
WEIGHTS = RNG.uniform(0.5, 2, size=N)

CASES = {
    "mse": (MeanSquaredError, {}, ONE_HOT, LOGITS),
    "binary": (BinaryCrossentropy, {"from_logits": True}, BITS, LOGITS),
    "categorical": (CategoricalCrossentropy, {"from_logits": True}, ONE_HOT, LOGITS),
    "sparse": (SparseCategoricalCrossentropy, {"from_logits": True}, LABELS, LOGITS),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
