"""The update rules once more, from the papers and from what Keras documents, in float64: no kernel, no slab, no rule.

What acts on whole arrays (norms, means, matrices) is in ``oracle_whole.py``.
"""

import numpy as np


class Oracle:
    """One parameter; ``step`` takes a dense gradient, or the rows {index: values} of a sparse one.

    Args:
        value: where the parameter begins.
        family: "legacy" or anything else; a few rules differ, and what a sparse gradient moves.
        learning_rate: a number.
        decay: of the legacy family, the learning rate is divided by 1 + decay t.
        weight_decay: of Keras 3, before the step.
    """

    untouched = "stay"
    """What the legacy family does with rows that a sparse gradient doesn't name: they "stay", or "move" as by zeros, or
    their state does ("state moves") and the parameter stays."""

    def __init__(self, value, family, learning_rate=0.001, *, decay=0.0, weight_decay=None):
        self.value = np.array(value, np.float64)
        self.legacy = family == "legacy"
        self.learning_rate, self.decay, self.weight_decay = learning_rate, decay, weight_decay
        self.steps = 0
        self.slots = {name: np.full(self.value.shape, float(start)) for name, start in self.initial_slots().items()}

    def initial_slots(self):
        return {}

    @property
    def lr(self):
        return self.learning_rate / (1 + self.decay * (self.steps - 1))

    def step(self, gradient):
        self.steps += 1
        dense, named = self._whole(gradient)
        before = {name: slot.copy() for name, slot in self.slots.items()}
        start = self.value.copy()
        if self.weight_decay is not None:
            self.value -= self.value * self.weight_decay * self.lr
        self.move(dense)
        if self.legacy and self.untouched != "move":
            self.value[~named] = start[~named]
            if self.untouched == "stay":
                for name, slot in self.slots.items():
                    slot[~named] = before[name][~named]

    def _whole(self, gradient):
        if not isinstance(gradient, dict):
            return np.asarray(gradient, np.float64).reshape(self.value.shape), np.ones(self.value.shape, bool)
        dense, named = np.zeros(self.value.shape), np.zeros(self.value.shape, bool)
        for row, values in gradient.items():
            dense[row], named[row] = np.asarray(values, np.float64), True
        return dense, named

    def move(self, g):
        raise NotImplementedError


class SGDOracle(Oracle):
    def __init__(self, value, family, learning_rate=0.01, momentum=0.0, nesterov=False, **base):
        super().__init__(value, family, learning_rate, **base)
        self.momentum, self.nesterov = momentum, nesterov

    def initial_slots(self):
        return {"momentum": 0}

    def move(self, g):
        if not self.momentum:
            self.value -= self.lr * g
            return
        a = self.slots["momentum"]
        a[...] = self.momentum * a - self.lr * g
        self.value += self.momentum * a - self.lr * g if self.nesterov else a


class Moments(Oracle):
    """With running means m and v of g and g²."""

    def __init__(self, value, family, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **base):
        super().__init__(value, family, learning_rate, **base)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def initial_slots(self):
        return {"m": 0, "v": 0}

    def moments(self, g):
        m, v = self.slots["m"], self.slots["v"]
        m[...] = self.beta_1 * m + (1 - self.beta_1) * g
        v[...] = self.beta_2 * v + (1 - self.beta_2) * g**2
        return m, v


class AdamOracle(Moments):
    untouched = "move"

    def __init__(
        self, value, family, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, **base
    ):
        super().__init__(value, family, learning_rate, beta_1, beta_2, epsilon, **base)
        self.amsgrad = amsgrad

    def initial_slots(self):
        return {"m": 0, "v": 0, "vhat": 0}

    def move(self, g):
        m, v = self.moments(g)
        vhat = self.slots["vhat"]
        vhat[...] = np.maximum(vhat, v)
        correction = np.sqrt(1 - self.beta_2**self.steps) / (1 - self.beta_1**self.steps)
        self.value -= self.lr * correction * m / (np.sqrt(vhat if self.amsgrad else v) + self.epsilon)


class AdamWOracle(AdamOracle):
    def __init__(self, value, family, learning_rate=0.001, weight_decay=0.004, **options):
        super().__init__(value, family, learning_rate, weight_decay=weight_decay, **options)


class AdamaxOracle(Moments):
    def move(self, g):
        m, u = self.slots["m"], self.slots["v"]
        m[...] = self.beta_1 * m + (1 - self.beta_1) * g
        u[...] = np.maximum(self.beta_2 * u, np.abs(g))
        self.value -= self.lr / (1 - self.beta_1**self.steps) * m / (u + self.epsilon)


class NadamOracle(Moments):
    untouched = "state moves"

    def __init__(self, value, family, *args, schedule_decay=0.004, **options):
        super().__init__(value, family, *args, **options)
        self.schedule_decay = schedule_decay if self.legacy else 1.0
        self.product = 1.0

    def mu(self, step):
        return self.beta_1 * (1 - 0.5 * 0.96 ** (self.schedule_decay * step))

    def move(self, g):
        m, v = self.moments(g)
        now, then = self.mu(self.steps), self.mu(self.steps + 1)
        self.product *= now
        ahead = (1 - now) * g / (1 - self.product) + then * m / (1 - self.product * then)
        self.value -= self.lr * ahead / (np.sqrt(v / (1 - self.beta_2**self.steps)) + self.epsilon)


class AdagradOracle(Oracle):
    def __init__(self, value, family, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, **base):
        self.initial_accumulator_value, self.epsilon = initial_accumulator_value, epsilon
        super().__init__(value, family, learning_rate, **base)

    def initial_slots(self):
        return {"accumulator": self.initial_accumulator_value}

    def move(self, g):
        a = self.slots["accumulator"]
        a += g**2
        self.value -= self.lr * g / (np.sqrt(a) + self.epsilon if self.legacy else np.sqrt(a + self.epsilon))


class AdadeltaOracle(Oracle):
    def __init__(self, value, family, learning_rate=0.001, rho=0.95, epsilon=1e-7, **base):
        super().__init__(value, family, learning_rate, **base)
        self.rho, self.epsilon = rho, epsilon

    def initial_slots(self):
        return {"gradients": 0, "updates": 0}

    def move(self, g):
        a, s = self.slots["gradients"], self.slots["updates"]
        a[...] = self.rho * a + (1 - self.rho) * g**2
        u = np.sqrt(s + self.epsilon) / np.sqrt(a + self.epsilon) * g
        s[...] = self.rho * s + (1 - self.rho) * u**2
        self.value -= self.lr * u


class RMSpropOracle(Oracle):
    def __init__(self, value, family, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, **base):
        super().__init__(value, family, learning_rate, **base)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered

    @property
    def untouched(self):
        return "stay" if self.momentum else "state moves"

    def initial_slots(self):
        return {"squares": 0, "means": 0, "momentum": 0}

    def move(self, g):
        r, q, momentum = self.slots["squares"], self.slots["means"], self.slots["momentum"]
        r[...] = self.rho * r + (1 - self.rho) * g**2
        q[...] = self.rho * q + (1 - self.rho) * g
        d = r - q**2 if self.centered else r
        is_outside = self.legacy and not self.momentum
        momentum[...] = self.momentum * momentum + self.lr * g / (
            np.sqrt(d) + self.epsilon if is_outside else np.sqrt(d + self.epsilon)
        )
        self.value -= momentum


class FtrlOracle(Oracle):
    def __init__(
        self,
        value,
        family,
        learning_rate=0.001,
        learning_rate_power=-0.5,
        initial_accumulator_value=0.1,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        l2_shrinkage_regularization_strength=0.0,
        beta=0.0,
        **base,
    ):
        self.power, self.initial_accumulator_value = -learning_rate_power, initial_accumulator_value
        self.l1, self.l2, self.beta = l1_regularization_strength, l2_regularization_strength, beta
        self.shrinkage = l2_shrinkage_regularization_strength
        super().__init__(value, family, learning_rate, **base)

    def initial_slots(self):
        return {"accumulator": self.initial_accumulator_value, "linear": 0}

    def move(self, g):
        n, z = self.slots["accumulator"], self.slots["linear"]
        before, after = n**self.power / self.lr, (n + g**2) ** self.power / self.lr
        n += g**2
        z += g + 2 * self.shrinkage * self.value - (after - before) * self.value
        quadratic = after + 2 * self.l2 + self.beta / self.lr
        self.value[...] = np.where(np.abs(z) > self.l1, (np.sign(z) * self.l1 - z) / quadratic, 0)


class LionOracle(Oracle):
    def __init__(self, value, family, learning_rate=0.001, beta_1=0.9, beta_2=0.99, **base):
        super().__init__(value, family, learning_rate, **base)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def initial_slots(self):
        return {"m": 0}

    def move(self, g):
        m = self.slots["m"]
        self.value -= self.lr * np.sign(self.beta_1 * m + (1 - self.beta_1) * g)
        m[...] = self.beta_2 * m + (1 - self.beta_2) * g


class ScheduleFreeAdamWOracle(Oracle):
    """z takes the steps, x is their mean, and the parameter y lies between both: gradients are taken there."""

    def __init__(
        self,
        value,
        family,
        learning_rate=0.0025,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        warmup_steps=0,
        **base,
    ):
        super().__init__(value, family, learning_rate, **base)
        self.beta_1, self.beta_2, self.epsilon, self.warmup_steps = beta_1, beta_2, epsilon, warmup_steps
        self.z, self.v = self.value.copy(), np.zeros(self.value.shape)

    def move(self, g):
        warmth = min(self.steps / self.warmup_steps, 1) if self.warmup_steps else 1
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        x = (self.value - (1 - self.beta_1) * self.z) / self.beta_1
        self.z = self.z - self.lr * warmth * g / (np.sqrt(self.v / (1 - self.beta_2**self.steps)) + self.epsilon)
        x = x + (self.z - x) / self.steps
        self.value[...] = self.beta_1 * x + (1 - self.beta_1) * self.z
