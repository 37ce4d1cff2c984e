"""The update rules that act on whole arrays, in float64, written apart from distopt's."""

import re

import numpy as np
from optimizer_oracle import Moments, Oracle


def root_mean_square(x):
    return np.sqrt(np.mean(x**2))


class LambOracle(Moments):
    def move(self, g):
        m, v = self.moments(g)
        u = m / (1 - self.beta_1**self.steps) / (np.sqrt(v / (1 - self.beta_2**self.steps)) + self.epsilon)
        w_norm, u_norm = np.sqrt(np.sum(self.value**2)), np.sqrt(np.sum(u**2))
        self.value -= (w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1) * self.lr * u


class AdafactorOracle(Oracle):
    def __init__(
        self,
        value,
        family,
        learning_rate=0.001,
        beta_2_decay=-0.8,
        epsilon_1=1e-30,
        epsilon_2=1e-3,
        clip_threshold=1.0,
        relative_step=True,
        **base,
    ):
        super().__init__(value, family, learning_rate, **base)
        self.beta_2_decay, self.epsilon_1, self.epsilon_2 = beta_2_decay, epsilon_1, epsilon_2
        self.clip_threshold = clip_threshold
        # relative_step caps the learning rate at 1/sqrt(T), and so does the rule itself: it changes nothing.
        self.rows, self.columns, self.v = (0.0, 0.0, 0.0)

    def move(self, g):
        rho = min(self.lr, 1 / np.sqrt(self.steps))
        beta_2 = 1 - self.steps**self.beta_2_decay
        squares = g**2 + self.epsilon_1
        if g.ndim >= 2:
            self.rows = beta_2 * self.rows + (1 - beta_2) * squares.mean(axis=-1)
            self.columns = beta_2 * self.columns + (1 - beta_2) * squares.mean(axis=-2)
            factor = self.rows / self.rows.mean(axis=-1, keepdims=True)
            self.v = factor[..., :, None] * self.columns[..., None, :]
        else:
            self.v = beta_2 * self.v + (1 - beta_2) * squares
        u = g / np.sqrt(self.v)
        u /= max(1, root_mean_square(u) / self.clip_threshold)
        self.value -= max(self.epsilon_2, root_mean_square(self.value)) * rho * u


class MuonOracle(Oracle):
    """AdamW for what is no matrix, for embeddings and for excluded layers; ``name`` is the variable's path."""

    def __init__(
        self,
        value,
        family,
        learning_rate=0.001,
        adam_beta_1=0.9,
        adam_beta_2=0.999,
        adam_weight_decay=0.004,
        epsilon=1e-7,
        weight_decay=0.004,
        muon_a=3.4445,
        muon_b=-4.7750,
        muon_c=2.0315,
        adam_lr_ratio=1.0,
        momentum=0.95,
        ns_steps=5,
        nesterov=True,
        exclude_layers=(),
        exclude_embeddings=True,
        rms_rate=0.2,
        *,
        name="",
        **base,
    ):
        excluded = exclude_embeddings and "embedding" in name.lower()
        self.is_adam = np.ndim(value) != 2 or excluded or any(re.search(layer, name) for layer in exclude_layers)
        decay = adam_weight_decay if self.is_adam else weight_decay
        super().__init__(value, family, learning_rate, weight_decay=decay, **base)
        self.beta_1, self.beta_2, self.epsilon, self.lr_ratio = adam_beta_1, adam_beta_2, epsilon, adam_lr_ratio
        self.coefficients = muon_a, muon_b, muon_c
        self.momentum, self.ns_steps, self.nesterov, self.rms_rate = momentum, ns_steps, nesterov, rms_rate

    def initial_slots(self):
        return {"m": 0, "v": 0}

    def move(self, g):
        m, v = self.slots["m"], self.slots["v"]
        if self.is_adam:
            m += (g - m) * (1 - self.beta_1)
            v += (g**2 - v) * (1 - self.beta_2)
            correction = np.sqrt(1 - self.beta_2**self.steps) / (1 - self.beta_1**self.steps)
            self.value -= self.lr * self.lr_ratio * correction * m / (np.sqrt(v) + self.epsilon)
            return
        m[...] = self.momentum * m + g
        direction = self.orthogonal(g + self.momentum * m if self.nesterov else m)
        scale = 1 if self.rms_rate is None else np.sqrt(max(g.shape)) * self.rms_rate
        self.value -= self.lr * scale * direction

    def orthogonal(self, x):
        """Newton and Schulz: an odd polynomial of x, which brings its singular values near 1."""
        a, b, c = self.coefficients
        rows, columns = x.shape
        x = x.T if rows > columns else x
        x = x / (np.sqrt(np.sum(x**2)) + 1e-7)
        for _ in range(self.ns_steps):
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        return x.T if rows > columns else x
