"""Configs that Keras 3.4 to 3.11 have saved make the optimizers that they describe."""

import pytest

from distopt import optimizers

COMMON = {
    **dict.fromkeys(("weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "ema_overwrite_frequency")),
    "name": "saved",
    "use_ema": False,
    "ema_momentum": 0.99,
    **dict.fromkeys(("loss_scale_factor", "gradient_accumulation_steps")),
}
BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
OWN = {
    "Adam": BETAS | {"amsgrad": False},
    "AdamW": BETAS | {"amsgrad": False, "weight_decay": 0.004},
    "Adamax": BETAS,
    "Nadam": BETAS,
    "Lamb": BETAS,
    "SGD": {"momentum": 0.9, "nesterov": False},
    "RMSprop": {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    "Adagrad": {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "Adadelta": {"rho": 0.95, "epsilon": 1e-7},
    "Lion": {"beta_1": 0.9, "beta_2": 0.99},
    "Adafactor": {
        "beta_2_decay": -0.8,
        "epsilon_1": 1e-30,
        "epsilon_2": 0.001,
        "clip_threshold": 1.0,
        "relative_step": True,
    },
    "Ftrl": {
        "learning_rate_power": -0.5,
        "initial_accumulator_value": 0.1,
        "l1_regularization_strength": 0.0,
        "l2_regularization_strength": 0.0,
        "l2_shrinkage_regularization_strength": 0.0,
        "beta": 0.0,
    },
}
SCHEDULE = {
    "module": "keras.optimizers.schedules",
    "class_name": "ExponentialDecay",
    "config": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.9, "staircase": False, "name": "E"},
    "registered_name": None,
}
PLACES = [
    {},
    {"module": "keras.optimizers", "registered_name": None},
    {"module": "keras.src.optimizers.{}", "registered_name": "{}"},
    {"module": "builtins", "registered_name": None, "build_config": {}},
]
"""What stands around a config, by version and by way of saving."""


@pytest.mark.parametrize("rate", [0.0010000000474974513, SCHEDULE], ids=["a number", "a schedule"])
@pytest.mark.parametrize("place", PLACES, ids=["plain", "public", "by file", "built-in"])
@pytest.mark.parametrize("name", OWN)
def test_a_saved_config(name, place, rate):
    config = COMMON | OWN[name] | {"learning_rate": rate}
    around = {key: value.format(name) if isinstance(value, str) else value for key, value in place.items()}
    made = optimizers.deserialize({"class_name": name, "config": config, **around})
    assert type(made).__name__ == name
    got = made.get_config()
    assert {key: got[key] for key in OWN[name]} == OWN[name]
    assert got["name"] == "saved"
