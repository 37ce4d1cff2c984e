"""Yogi, an optimizer that distopt does not have: as a rule on single elements it is as fast as the built-in Adam.

mpirun -n 2 python examples/own_rule.py
"""

import time

import numpy as np

import distopt
from distopt.kernels import Rule
from distopt.optimizers import Adam, Optimizer

SIZE, STEPS = 2_000_000, 20


def yogi(p, g, m, v, alpha, one_minus_beta_1, one_minus_beta_2, epsilon):
    """The specification: whole arrays, changed in place."""
    square = g * g
    m += (g - m) * one_minus_beta_1
    v += one_minus_beta_2 * np.where(square > v, square, np.where(square < v, -square, square - v))
    p -= alpha * m / (np.sqrt(v) + epsilon)


YOGI = Rule(
    name="yogi",
    slots=("m", "v"),
    scalars=("alpha", "one_minus_beta_1", "one_minus_beta_2", "epsilon"),
    sparse="all",
    reference=yogi,
    # The same on one element: these lines become a compiled loop.
    body="""\
square = g * g
m += (g - m) * one_minus_beta_1
v += one_minus_beta_2 * (square if square > v else (-square if square < v else square - v))
p -= alpha * m / (sqrt(v) + epsilon)""",
)


class Yogi(Optimizer):
    """``v ← v + (1 - β₂) sign(g² - v) g²`` in place of Adam's second moment."""

    def __init__(self, learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-3, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def update_rule(self):
        return YOGI

    def rule_scalars(self, learning_rate):
        step = int(self.iterations) + 1
        alpha = float(learning_rate) * np.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return alpha, 1 - self.beta_1, 1 - self.beta_2, self.epsilon

    def get_config(self):
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


def milliseconds(optimizer):
    """The quickest step, with the sum over replicas."""
    weights = distopt.Variable(np.ones(SIZE, np.float32))
    gradient = np.full(SIZE, 0.5, np.float32)
    optimizer.apply_gradients([(gradient, weights)])  # compiles
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        optimizer.apply_gradients([(gradient, weights)])
        times.append(time.perf_counter() - begin)
    return 1000 * min(times)


def main():
    for update in ("replicated", "shared"):
        with distopt.Strategy(update=update).scope():
            for optimizer in (Yogi(), Adam(0.01)):
                name, taken = type(optimizer).__name__, milliseconds(optimizer)
                distopt.print_once(f"{name + ', ' + update:<20}{taken:.1f} ms")


if __name__ == "__main__":
    main()
