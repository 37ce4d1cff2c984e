"""Converts the state of one family into that of the other, by name, so that training goes on in the other family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.optimizers.by_name.serialization import KERAS_3, LEGACY
from distopt.optimizers.common.access import counter_of, engine_of, family_of, parts_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.optimizers.legacy.base.optimizer import Optimizer as LegacyOptimizer
from distopt.registry import built_in
from distopt.variables.variable import Variable

AnyOptimizer = Optimizer | LegacyOptimizer

_KERAS_3_NAMES: Mapping[str, Mapping[str, str]] = {
    "Adadelta": {"accum_grad": "accumulated_grad", "accum_var": "accumulated_delta_var"},
    "Adam": {"m": "momentum", "v": "velocity", "vhat": "velocity_hat"},
    "Adamax": {"m": "momentum", "v": "norm"},
    "Nadam": {"m": "momentum", "v": "velocity"},
    "RMSprop": {"rms": "velocity", "mg": "average_gradient"},
}
"""Algorithm -> legacy name of a slot -> its name in Keras 3, where the two differ."""

_Key = tuple[int, int | None, str]
"""The meaning of a weight: the number of the optimizer in a composite one (-1 for the composite's own weights), the
index of the variable to which the weight belongs, and the weight's name."""


def convert_weights(weights: Sequence[Any], source: AnyOptimizer, target: AnyOptimizer) -> list[Array]:
    """Return the state of one optimizer in the order of another: ``target.set_weights(convert_weights(...))``.

    Each array is found by its meaning: the number of steps, or a slot of a variable (``m`` of the legacy Adam is
    ``momentum`` of the Keras 3 Adam). The learning rate, which the legacy family does not save, the scale of a
    ``LossScaleOptimizer`` and the sums of gradient accumulation are taken from ``target`` where ``source`` has none.

    Args:
        weights: arrays in the order of ``source``: from ``source.get_weights()``, or from the optimizer of Keras that
            ``source`` describes, as ``get_weights`` of tf_keras' legacy family and ``[v.numpy() for v in
            optimizer.variables]`` of Keras 3 give them; not changed.
        source: an optimizer of either family with the same options as the one with that state; its own state is not
            read.
        target: an optimizer of either family, of the same algorithm with the same options; not changed. Both are for
            the same variables, or for as many in the same order. If one of them has not been built, it is built for the
            variables of the other (``build``, which all replicas must call).

    Returns:
        New arrays in the shapes and dtypes of ``target``'s state.

    Raises:
        InvalidArgumentError: another algorithm; slots that one of the two optimizers lacks; another number of arrays,
            or other shapes; a state in the middle of an accumulation.

    Example:
        >>> import distopt
        >>> from distopt.optimizers import SGD, legacy
        >>> w = distopt.Variable([1.0])
        >>> old, new = legacy.SGD(0.5, momentum=0.9), SGD(0.5, momentum=0.9)
        >>> _ = old.apply_gradients([([1.0], w)])
        >>> new.build([w])
        >>> new.set_weights(convert_weights(old.get_weights(), old, new))
        >>> [v.tolist() for v in new.get_weights()]
        [1, 0.5, [-0.5]]

    Source: the orders of ``tf_keras.optimizers.legacy`` and of Keras 3. Nadam's two forms have different schedules
    of the momentum: the state is converted, and the next steps follow the schedule of ``target``.
    """
    _check_algorithms(source, target)
    _build(source, target)
    held = _weights(source)
    if len(weights) != len(held):
        raise InvalidArgumentError(
            f"convert_weights received {len(weights)} arrays, and {source.name!r} keeps {len(held)} "
            f"({[weight.name for weight in held]}): make it with the options that they were made with"
        )
    kept, wanted = _keys(source, target)
    given = dict(zip(kept, weights, strict=True))
    _check_slots(given.keys(), dict.fromkeys(wanted).keys(), source, target)
    result = []
    for key, weight in zip(wanted, _weights(target), strict=True):
        value = given.get(key, weight.storage.array)
        if np.shape(value) != weight.shape:
            raise InvalidArgumentError(
                f"convert_weights received shape {np.shape(value)} for {weight.name!r} of {target.name!r}, which has "
                f"shape {weight.shape}: both optimizers are to be for the same variables, in the same order"
            )
        if key[2] == "iterations":
            value = _counted(int(value), parts_of(source)[key[0]], parts_of(target)[key[0]])
        result.append(np.array(value, weight.dtype))
    return result


def _weights(optimizer: Any) -> list[Variable]:
    held: list[Variable] = optimizer.weights if isinstance(optimizer, LegacyOptimizer) else optimizer.variables
    return held


def _algorithm(part: BaseOptimizer) -> str:
    """Return the name of the algorithm: that of the built-in class farthest up, so that AdamW is Adam."""
    family: Any = (LEGACY, LegacyOptimizer) if isinstance(part, LegacyOptimizer) else (KERAS_3, Optimizer)
    ours = built_in(*family).values()
    return ([cls for cls in type(part).__mro__ if cls in ours] or [type(part)])[-1].__name__


def _check_algorithms(source: BaseOptimizer, target: BaseOptimizer) -> None:
    for optimizer in (source, target):
        if not isinstance(optimizer, BaseOptimizer):
            raise InvalidArgumentError(
                f"convert_weights received {optimizer!r}: expected an optimizer of distopt. For arrays from Keras, "
                "pass the optimizer of distopt with the same options"
            )
    there, here = (list(map(_algorithm, parts_of(optimizer))) for optimizer in (source, target))
    if there != here:
        raise InvalidArgumentError(
            f"convert_weights: {source.name!r} is {', '.join(there)} and {target.name!r} is {', '.join(here)}: the "
            "state of one algorithm means nothing to another"
        )


def _build(source: AnyOptimizer, target: AnyOptimizer) -> None:
    variables = list(family_of(source).trained()) or list(family_of(target).trained())
    for optimizer in (source, target):
        if isinstance(optimizer, LegacyOptimizer):
            part: Any
            for part in parts_of(optimizer):
                if variables and not list(family_of(part).trained()):
                    family_of(part).prepare(variables)
                _ = part.iterations
        elif not optimizer.built:
            if not variables:
                raise InvalidArgumentError(
                    f"convert_weights: neither {source.name!r} nor {target.name!r} knows its variables: call "
                    f"build(variables) of {optimizer.name!r}"
                )
            optimizer.build(variables)


def _keys(source: BaseOptimizer, target: BaseOptimizer) -> tuple[list[_Key], list[_Key]]:
    """Return the meanings of the weights of both optimizers, in the order of each."""
    there, here = ({variable: k for k, variable in enumerate(family_of(o).trained())} for o in (source, target))
    return _keys_of(source, there), _keys_of(target, there if there.keys() == here.keys() else here)


def _keys_of(optimizer: BaseOptimizer, positions: Mapping[Variable, int]) -> list[_Key]:
    known: dict[Variable, _Key] = {}
    for number, part in enumerate(parts_of(optimizer)):
        names, others = _KERAS_3_NAMES.get(_algorithm(part), {}), count()
        for (variable, label), slot in engine_of(part).slots.table.items():
            known[slot] = number, positions[variable], names.get(label, label)
        accumulation = engine_of(part).training.accumulation
        for variable, sums in accumulation.sums.items() if accumulation else ():
            known[sums] = number, positions[variable], "gradient_accumulator"
        known[counter_of(part)] = number, None, "iterations"
        rate = family_of(part).sources().get("learning_rate") if isinstance(part, Optimizer) else None
        if isinstance(rate, Variable):
            known[rate] = number, None, "learning_rate"
        for weight in _weights(part):
            if weight not in known:
                known[weight] = number, None, f"number {next(others)} of the state that belongs to no variable"
    own = count()
    return [known.get(weight) or (-1, None, f"own {next(own)}") for weight in _weights(optimizer)]


def _check_slots(kept: Any, wanted: Any, source: BaseOptimizer, target: BaseOptimizer) -> None:
    for owner, other, keys in ((source, target, kept - wanted), (target, source, wanted - kept)):
        names = sorted({name for part, _, name in keys if part >= 0} - {"learning_rate", "gradient_accumulator"})
        if names:
            raise InvalidArgumentError(
                f"convert_weights: {owner.name!r} keeps {names}, and {other.name!r} not, or not for as many variables: "
                "make both with the same options (momentum, amsgrad, centered, use_ema), for the same variables"
            )


def _counted(calls: int, source: BaseOptimizer, target: BaseOptimizer) -> int:
    """Return ``target``'s count for the calls counted by ``source``: with accumulation a step is several calls."""
    there, here = (engine_of(part).training.micro_steps for part in (source, target))
    if there == here:
        return calls
    if calls % there:
        raise InvalidArgumentError(
            f"convert_weights: {calls} calls of {there} each for a step end within one, and the other optimizer has "
            f"{here} for a step: convert after a whole step"
        )
    return calls // there * here
