"""Refuses, when ``fit`` begins, what it would compute wrongly over ``Shares``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from distopt.adapters.keras.training import training
from distopt.errors import InvalidArgumentError

_UNFIT = ("sum", "mean_with_sample_weight")


def refuse_unfit_model(*, are_uneven: bool) -> None:
    """Refuse the model in training if weights of shares would not give the gradients of one process.

    Args:
        are_uneven: whether some replica has fewer examples of a batch than another.

    Raises:
        InvalidArgumentError: a reduction of a loss, a loss of a layer, or a mask does not go with weighted shares.
    """
    model = training.model
    fault = "" if model is None else _fault(model, are_uneven)
    if fault:
        training.end()
        raise InvalidArgumentError(f"fit over Shares: {fault}")


def _fault(model: Any, are_uneven: bool) -> str:
    """Return what is wrong with a model, and the cure; an empty string where nothing is."""
    for loss in keras.tree.flatten(model.loss):
        if (reduction := getattr(loss, "reduction", None)) in _UNFIT:
            return (
                f"the loss {loss.name!r} has reduction={reduction!r}, and its averages over replicas are not those of "
                "one process: pass the default reduction, a mean over examples"
            )
    for layer in _layers(model):
        if getattr(layer, "mask_zero", False) or isinstance(layer, keras.layers.Masking):
            return (
                f"layer {layer.name!r} makes a mask, and Keras divides by what each replica's mask "
                "leaves: give sample weights of 0 in place of the mask, or train with distopt's own loop"
            )
    if are_uneven and (owner := _with_own_losses(model)):
        return (
            f"{owner!r} has losses of its own, which shares of different sizes would weigh wrongly: "
            "take a global_batch_size, and a number of examples, that divide evenly among the replicas"
        )
    return ""


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _with_own_losses(model: Any) -> str:
    """Return the name of a layer with losses beside those of its weights, or an empty string."""
    for layer in (*_layers(model), model):
        of_weights = sum(weight.regularizer is not None for weight in layer.trainable_weights)
        if layer.activity_regularizer is not None or len(layer.losses) > of_weights:
            return str(layer.name)
    return ""
