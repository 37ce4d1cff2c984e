"""Configs that former versions of upstream have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distopt.errors import InvalidArgumentError


def config_of_tensorflow_2_3(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``LossScaleOptimizer`` that a config of TensorFlow 2.0 to 2.3 means.

    Args:
        config: it has ``optimizer``, and ``loss_scale``: a dictionary, a number or ``"dynamic"``; not changed.

    Raises:
        InvalidArgumentError: a loss scale of another kind.

    Example:
        >>> scale = {"class_name": "FixedLossScale", "config": {"loss_scale_value": 8.0}}
        >>> config_of_tensorflow_2_3({"optimizer": "the inner one's", "loss_scale": scale})
        {'inner_optimizer': "the inner one's", 'dynamic': False, 'initial_scale': 8.0}
    """
    scale = config["loss_scale"]
    kind = scale.get("class_name") if isinstance(scale, Mapping) else None
    arguments = {"inner_optimizer": config["optimizer"]}
    if isinstance(scale, (int, float)):
        return arguments | {"dynamic": False, "initial_scale": float(scale)}
    if scale == "dynamic":
        return arguments
    given = scale["config"] if kind in ("FixedLossScale", "DynamicLossScale") else {}
    if kind == "FixedLossScale":
        return arguments | {"dynamic": False, "initial_scale": given["loss_scale_value"]}
    if kind != "DynamicLossScale" or given.get("multiplier", 2) != 2:
        raise InvalidArgumentError(
            f"LossScaleOptimizer.from_config received loss_scale={scale!r}: expected a FixedLossScale, or a "
            "DynamicLossScale whose multiplier is 2"
        )
    growth = {"dynamic_growth_steps": given["increment_period"]} if "increment_period" in given else {}
    return arguments | {"initial_scale": given.get("initial_loss_scale")} | growth
