"""Losses whose parts on the replicas add up to the loss of the global batch, without any communication."""

from distopt.losses.crossentropy import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    binary_crossentropy,
    categorical_crossentropy,
    sparse_categorical_crossentropy,
)
from distopt.losses.loss import Loss
from distopt.losses.mean_squared_error import MeanSquaredError, mean_squared_error
from distopt.losses.reduction import Reduction, compute_average_loss, scale_regularization_loss

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "Reduction",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "compute_average_loss",
    "mean_squared_error",
    "scale_regularization_loss",
    "sparse_categorical_crossentropy",
]
