"""Random runs for every optimizer of the Keras 3 family: hyperparameters, what the base class adds, gradients."""

import numpy as np
from frameworks.on_keras.runs import Case, Spec

STEPS = 20
SHAPES = {"scale": (), "bias": (5,), "kernel": (4, 3), "embedding": (3, 5), "filters": (2, 3, 4)}


class Draw(np.random.Generator):
    """A generator with the draws that hyperparameters need."""

    def __init__(self, *seed):
        super().__init__(np.random.PCG64(seed))

    def number(self, low, high):
        return float(self.uniform(low, high))

    def of(self, *options):
        return options[self.integers(len(options))]

    def happens(self, probability=0.5):
        return bool(self.random() < probability)

    def gradient(self, shape, scale):
        """Draw elements that are away from zero: there rounding decides the sign."""
        values = self.normal(size=shape)
        return np.asarray(scale * (values + np.copysign(0.1, values)), np.float32)

    def small(self):
        """An epsilon; large ones show where it stands."""
        return 10 ** self.number(-4, 0)


def beta_1(draw):
    return draw.number(0.5, 0.95)


def beta_2(draw):
    """Not nearer to 1: Keras computes 1 - β₂ᵀ in float32, whose relative error is ε / (1 - β₂) in the first step."""
    return draw.number(0.5, 0.99)


def moments(draw):
    return {"beta_1": beta_1(draw), "beta_2": beta_2(draw), "epsilon": draw.small()}


SPACES = {
    "SGD": lambda draw: {"momentum": draw.of(0.0, beta_1(draw)), "nesterov": draw.happens()},
    "RMSprop": lambda draw: {
        "rho": beta_1(draw),
        "momentum": draw.of(0.0, beta_1(draw)),
        "epsilon": draw.small(),
        "centered": draw.happens(),
    },
    "Adam": lambda draw: moments(draw) | {"amsgrad": draw.happens()},
    "AdamW": lambda draw: moments(draw) | {"amsgrad": draw.happens(), "weight_decay": draw.number(0.001, 0.5)},
    "Adadelta": lambda draw: {"rho": beta_1(draw), "epsilon": draw.small()},
    "Adagrad": lambda draw: {"initial_accumulator_value": draw.number(0, 1), "epsilon": draw.small()},
    "Adamax": moments,
    "Adafactor": lambda draw: {
        "beta_2_decay": draw.number(-1.5, -0.3),
        "epsilon_1": draw.small(),
        "epsilon_2": draw.small(),
        "clip_threshold": draw.number(0.5, 2),
        "relative_step": draw.happens(),
    },
    "Nadam": moments,
    "Ftrl": lambda draw: {
        "learning_rate_power": draw.of(-0.5, 0.0, draw.number(-1, -0.1)),
        "initial_accumulator_value": draw.number(0.1, 1),
        "l1_regularization_strength": draw.of(0.0, draw.number(0, 1)),
        "l2_regularization_strength": draw.of(0.0, draw.number(0, 1)),
        "l2_shrinkage_regularization_strength": draw.of(0.0, draw.number(0, 0.1)),
        "beta": draw.of(0.0, draw.number(0, 1)),
    },
    "Lion": lambda draw: {"beta_1": beta_1(draw), "beta_2": beta_2(draw)},
    "Lamb": moments,
    "Muon": lambda draw: {
        "adam_beta_1": beta_1(draw),
        "adam_beta_2": beta_2(draw),
        "adam_weight_decay": draw.of(None, draw.number(0, 0.5)),
        "adam_lr_ratio": draw.number(0.5, 2),
        "epsilon": draw.small(),
        "weight_decay": draw.of(None, draw.number(0, 0.5)),
        "exclude_layers": draw.of(None, ["ker.*l"]),
        "exclude_embeddings": draw.happens(),
        "momentum": beta_1(draw),
        "ns_steps": int(draw.integers(1, 6)),
        "nesterov": draw.happens(),
        "rms_rate": draw.of(None, draw.number(0.1, 1)),
    },
    "ScheduleFreeAdamW": lambda draw: moments(draw) | {"warmup_steps": draw.of(0, 5)},
}
"""The arguments that each optimizer has beyond those of the base class."""

SCHEDULES = {
    "ExponentialDecay": lambda draw: {
        "initial_learning_rate": draw.number(0.05, 0.5),
        "decay_steps": int(draw.integers(1, 30)),
        "decay_rate": draw.number(0.3, 1),
        "staircase": draw.happens(),
    },
    "InverseTimeDecay": lambda draw: {
        "initial_learning_rate": draw.number(0.05, 0.5),
        "decay_steps": int(draw.integers(1, 30)),
        "decay_rate": draw.number(0.3, 1),
        "staircase": draw.happens(),
    },
    "PiecewiseConstantDecay": lambda draw: {"boundaries": [3, 9], "values": [draw.number(0.05, 0.5) for _ in range(3)]},
    "PolynomialDecay": lambda draw: {
        "initial_learning_rate": draw.number(0.05, 0.5),
        "decay_steps": int(draw.integers(1, 30)),
        "end_learning_rate": draw.number(0.01, 0.05),
        "power": draw.number(0.5, 2),
        "cycle": draw.happens(),
    },
    "CosineDecay": lambda draw: {
        "initial_learning_rate": draw.number(0.05, 0.5),
        "decay_steps": int(draw.integers(1, 30)),
        "alpha": draw.number(0.1, 1),
        "warmup_target": draw.of(None, draw.number(0.05, 0.5)),
        "warmup_steps": int(draw.integers(0, 10)),
    },
    "CosineDecayRestarts": lambda draw: {
        "initial_learning_rate": draw.number(0.05, 0.5),
        "first_decay_steps": int(draw.integers(3, 20)),
        "t_mul": draw.of(1.0, 2.0, 1.5),
        "m_mul": draw.number(0.5, 1),
        "alpha": draw.number(0.1, 1),
    },
}


def schedule(draw):
    name = draw.of(*SCHEDULES)
    return Spec(name, SCHEDULES[name](draw))


def of_base(draw):
    """Draw arguments that every optimizer has; see DIFFERENCES in the test on those that are not drawn together."""
    limits = [
        {"clipnorm": draw.number(0.5, 3)},
        {"clipvalue": draw.number(0.3, 1)},
        {"global_clipnorm": draw.number(1, 9)},
    ]
    means = {
        "use_ema": True,
        "ema_momentum": draw.number(0.1, 0.99),
        "ema_overwrite_frequency": draw.of(None, int(draw.integers(1, 8))),
    }
    accumulation = {"gradient_accumulation_steps": int(draw.integers(2, 5))}
    return (
        draw.of({}, {}, *limits)
        | draw.of({}, {"weight_decay": draw.number(0.001, 0.5)})
        | draw.of(
            {}, {"loss_scale_factor": draw.number(0.5, 64)}, means, means | {"loss_scale_factor": 8.0}, accumulation
        )
    )


def some_optimizer(draw, name, **arguments):
    number = draw.number(0.05, 0.5)
    rate = draw.of(number, number, number, lambda: number, schedule(draw), schedule(draw))
    return Spec(name, {"learning_rate": rate, **SPACES[name](draw), **arguments})


def some_case(name, seed):
    """A run of an optimizer; the seed decides everything."""
    draw = Draw(seed, *name.encode())
    if name == "LossScaleOptimizer":
        growth = {"initial_scale": draw.of(4.0, 1024.0), "dynamic_growth_steps": int(draw.integers(2, 6))}
        optimizer = Spec(name, {"inner_optimizer": some_inner(draw, draw.of("SGD", "Adam")), **growth})
        return with_gradients(draw, optimizer, growth["initial_scale"])
    if name == "MultiOptimizer":
        routes = {"k.*": some_inner(draw, "SGD"), "bias": some_inner(draw, "Lion")}
        chosen = Spec("OptimizerMap", {"default_optimizer": some_inner(draw, "Adam"), "optimizer_map": routes})
        factor = draw.of(None, draw.number(0.5, 64))
        return with_gradients(draw, Spec(name, {"optimizer_map": chosen, "loss_scale_factor": factor}), factor)
    base = of_base(draw)
    return with_gradients(draw, some_optimizer(draw, name, **base), base.get("loss_scale_factor"))


def some_config(name):
    """An optimizer whose arguments a config can hold: no function."""
    draw = Draw(*name.encode())
    inner = Spec("Adam", {**SPACES["Adam"](draw), **of_base(draw), "learning_rate": schedule(draw)})
    if name == "LossScaleOptimizer":
        return Spec(name, {"inner_optimizer": inner, "initial_scale": 8.0})
    if name == "MultiOptimizer":
        routes = {"default_optimizer": Spec("SGD", {}), "optimizer_map": {"k.*": Spec("Lion", SPACES["Lion"](draw))}}
        return Spec(name, {"optimizer_map": Spec("OptimizerMap", routes), "loss_scale_factor": 8.0})
    return Spec(name, {**SPACES[name](draw), **of_base(draw), "learning_rate": schedule(draw)})


def some_inner(draw, name):
    base = of_base(draw)
    base.pop("gradient_accumulation_steps", None)
    return some_optimizer(draw, name, **base | {"loss_scale_factor": None})


def with_gradients(draw, optimizer, scale=None):
    """Choose variables and gradients; where it makes no difference, some are missing or not finite."""
    routed = optimizer.name == "MultiOptimizer"  # one variable for each route
    names = ["bias", "embedding", "kernel"] if routed else sorted(draw.permutation(list(SHAPES))[:2].tolist())
    whole = routed or "gradient_accumulation_steps" in optimizer.arguments
    missing = 0 if whole else draw.of(0, 0.3)
    infinite = 0.2 if optimizer.name == "LossScaleOptimizer" else 0
    gradients = [[draw.gradient(SHAPES[name], scale or 1.0) for name in names] for _ in range(STEPS)]
    for step in gradients:
        if draw.happens(infinite):
            step[0].flat[0] = np.inf
        if draw.happens(missing):
            step[draw.integers(2)] = None
    constrained = draw.of((), names[:1])
    values = {name: draw.normal(size=SHAPES[name]).astype(np.float32) for name in names}
    for name in constrained:
        values[name] = np.abs(values[name])
    return Case(optimizer, values, gradients, draw.of((), ("b", "ker.*l")), constrained)
