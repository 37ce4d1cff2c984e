"""SGD and Adam once more, from the papers, in float64 and one element after the other: no kernel, no slab, no rule."""

import math

import numpy as np


class Oracle:
    """One parameter; ``step`` takes a dense gradient, or the rows {index: values} of a sparse one."""

    def __init__(self, value, family):
        self.value = np.array(value, np.float64)
        self.family = family
        self.steps = 0
        self.slots = {}

    def slot(self, name):
        return self.slots.setdefault(name, np.zeros_like(self.value))

    def gradient_at(self, gradient, place):
        if not isinstance(gradient, dict):
            return float(np.asarray(gradient, np.float64)[place])
        rows = gradient.get(place[0])
        return 0.0 if rows is None else float(np.asarray(rows, np.float64)[place[1:]])

    def step(self, gradient):
        self.steps += 1
        for place in np.ndindex(self.value.shape):
            if self.touches(gradient, place):
                self.move(place, self.gradient_at(gradient, place))

    def touches(self, gradient, place):
        return True


class SGDOracle(Oracle):
    def __init__(self, value, family, lr=0.01, momentum=0.0, nesterov=False):
        super().__init__(value, family)
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov

    def touches(self, gradient, place):
        """The legacy family leaves rows without a gradient alone; in Keras 3 sparse equals dense."""
        return not (isinstance(gradient, dict) and self.family == "legacy") or place[0] in gradient

    def move(self, place, g):
        if not self.momentum:
            self.value[place] -= self.lr * g
            return
        a = self.slot("momentum")
        a[place] = self.momentum * a[place] - self.lr * g
        self.value[place] += self.momentum * a[place] - self.lr * g if self.nesterov else a[place]


class AdamOracle(Oracle):
    def __init__(self, value, family, lr=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False):
        super().__init__(value, family)
        self.lr, self.beta_1, self.beta_2, self.epsilon, self.amsgrad = lr, beta_1, beta_2, epsilon, amsgrad

    def move(self, place, g):
        m, v, vhat = self.slot("m"), self.slot("v"), self.slot("vhat")
        m[place] = self.beta_1 * m[place] + (1 - self.beta_1) * g
        v[place] = self.beta_2 * v[place] + (1 - self.beta_2) * g * g
        vhat[place] = max(vhat[place], v[place])
        second = vhat[place] if self.amsgrad else v[place]
        correction = math.sqrt(1 - self.beta_2**self.steps) / (1 - self.beta_1**self.steps)
        self.value[place] -= self.lr * correction * m[place] / (math.sqrt(second) + self.epsilon)
