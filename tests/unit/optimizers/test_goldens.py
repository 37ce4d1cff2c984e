"""Numbers that upstream's tests and documentation give: our oracles have them, and so have the optimizers."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from optimizer_table import FAMILIES, ROWS

from distopt import Variable

ORACLES = {row.name: row.oracle for row in ROWS}
L1, L2, SHRINKAGE = (f"{name}_regularization_strength" for name in ("l1", "l2", "l2_shrinkage"))


@dataclass(frozen=True)
class Golden:
    """The values of a parameter after some steps with one gradient."""

    family: str
    name: str
    arguments: dict
    expected: list
    start: list = field(default_factory=lambda: [1.0, 2.0, 3.0, 4.0])
    gradient: list = field(default_factory=lambda: [1.0, 6.0, 7.0, 2.0])
    steps: int = 1
    tolerance: float = 1e-4

    @property
    def id(self):
        return f"{self.family}-{self.name}"


def single(name, expected, **arguments):
    return Golden("keras3", name, {"learning_rate": 0.5} | arguments, expected)


def square(name, expected, **arguments):
    """The single step with matrices."""
    start, gradient = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 6.0], [7.0, 2.0]]
    return Golden("keras3", name, {"learning_rate": 0.5} | arguments, expected, start, gradient)


def ftrl(first, second, steps, starts=((1.0, 2.0), (4.0, 3.0)), **arguments):
    """Two parameters, which a ramp of gradients moves: each is a case."""
    arguments = {"learning_rate": 3.0, "initial_accumulator_value": 0.1} | arguments
    for expected, start, gradient in zip((first, second), starts, ([0.1, 0.2], [0.01, 0.02]), strict=True):
        yield Golden("legacy", "Ftrl", arguments, expected, start, gradient, steps)


GOLDENS = [
    single("SGD", [0.5, -1, -0.5, 3]),
    single("Adam", [0.5, 1.5, 2.5, 3.5]),
    single("Adamax", [0.5, 1.5, 2.5, 3.5]),
    single("Lion", [0.5, 1.5, 2.5, 3.5]),
    single("AdamW", [0.498, 1.496, 2.494, 3.492]),
    single("Adagrad", [0.5233, 1.5007, 2.5005, 3.5061]),
    single("Adadelta", [0.9993, 1.9993, 2.9993, 3.9993]),
    single("RMSprop", [-0.5811, 0.4189, 1.4189, 2.4189]),
    single("Nadam", [0.4686, 1.4686, 2.4686, 3.4686]),
    single("Ftrl", [0.2218, 1.3954, 2.3651, 2.8814]),
    single("Lamb", [-0.3693, 0.6306, 1.6306, 2.6306]),
    single("Adafactor", [-0.3693, 0.6307, 1.6307, 2.6307]),
    square("Adafactor", [[0.7007, -0.0081], [1.2492, 3.4407]]),
    square("Muon", [[0.988775, 1.887053], [2.873428, 3.97035]], weight_decay=0.0),
    Golden("legacy", "Adam", {"learning_rate": 0.1}, [9.9], [10.0], [10.0]),
    Golden("legacy", "Nadam", {"learning_rate": 0.2}, [9.79], [10.0], [10.0], tolerance=1e-2),
    Golden("legacy", "RMSprop", {"learning_rate": 0.1}, [9.683772], [10.0], [10.0]),
    *ftrl([-2.60260963, -4.29698515], [-0.28432083, -0.56694895], 3, ((0.0, 0.0), (0.0, 0.0))),
    *ftrl([-2.55607247, -3.98729396], [-0.28232238, -0.56096673], 3),
    *ftrl([-7.66718769, -10.91273689], [-0.93460727, -1.86147261], 10, **{L1: 0.001}),
    *ftrl([-6.096838, -9.162214], [-0.717741, -1.425132], 10, beta=0.1),
    *ftrl([-2.735487, -4.704625], [-0.294335, -0.586556], 10, beta=0.1, **{L2: 0.1}),
    *ftrl([-0.24059935, -0.46829352], [-0.02406147, -0.04830509], 10, **{L1: 0.001, L2: 2.0}),
    *ftrl([-0.22578995, -0.44345796], [-0.14378493, -0.13229476], 10, **{L1: 0.001, L2: 2.0, SHRINKAGE: 0.1}),
]  # fmt: skip

RUNS = {
    "Adam": ({"amsgrad": True}, [0.999, 0.9982, 0.9974, 0.9965, 0.9955]),
    "Lamb": ({}, [0.999, 0.9982, 0.9974, 0.9965, 0.9955]),
    "Lion": ({}, [0.999, 0.998, 0.997, 0.996, 0.995]),
    "Adadelta": ({"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-6}, [0.9978, 0.9947, 0.9915, 0.9882, 0.9849]),
    "RMSprop": ({"centered": True}, [0.9967, 0.9933, 0.9908, 0.9885, 0.9864]),
    "AdamW": (
        {"learning_rate": 1.0, "weight_decay": 0.5, "epsilon": 2.0},
        [0.4998, (0.2486, 0.2382), (0.1223, 0.1003), (0.0586, 0.0258), (0.0263, -0.0159)],
    ),
    "Adagrad": (
        {"learning_rate": 0.2, "initial_accumulator_value": 0.3, "epsilon": 1e-6},
        [0.9963, (0.9604, 0.8209), (0.9251, 0.6891), (0.8903, 0.579), (0.856, 0.4825)],
    ),
    "Adamax": (
        {"learning_rate": 0.2, "beta_1": 0.85, "beta_2": 0.95, "epsilon": 1e-6},
        [0.8, (0.6827, 0.691), (0.5333, 0.5466), (0.368, 0.3848), (0.1933, 0.2126)],
    ),
    "Nadam": (
        {"learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.67, "epsilon": 1e-5},
        [0.4281, (-0.1738, -0.1717), (-0.7115, -0.7084), (-1.2335, -1.2299), (-1.7492, -1.7454)],
    ),
    "Ftrl": (
        {"learning_rate": 0.05, "learning_rate_power": -0.2, "initial_accumulator_value": 0.4, "beta": 0.3}
        | {L1: 0.05, L2: 0.15, SHRINKAGE: 0.01},
        [0.0, (-0.0034, -0.0354), (-0.0078, -0.0685), (-0.0121, -0.0999), (-0.0164, -0.1299)],
    ),
    "Adafactor": (
        {
            "learning_rate": 0.5,
            "beta_2_decay": -0.65,
            "epsilon_1": 1e-15,
            "epsilon_2": 1e-4,
            "clip_threshold": 0.9,
            "relative_step": False,
        },
        [0.55, (0.3031, 0.3024), (0.1671, 0.1663), (0.0923, 0.0914), (0.0554, 0.0545)],
    ),
}


def ends(expected):
    """What the first and the last element of a run are."""
    return [(e, e) if isinstance(e, float) else e for e in expected]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.id)
def test_goldens(golden):
    start, gradient = np.array(golden.start, np.float32), np.array(golden.gradient, np.float32)
    oracle = ORACLES[golden.name](start, golden.family, **golden.arguments)
    x, optimizer = Variable(start), getattr(FAMILIES[golden.family], golden.name)(**golden.arguments)
    for _ in range(golden.steps):
        oracle.step(gradient)
        optimizer.apply_gradients([(gradient, x)])
    np.testing.assert_allclose(oracle.value, golden.expected, rtol=golden.tolerance, atol=golden.tolerance)
    np.testing.assert_allclose(x.numpy(), golden.expected, rtol=golden.tolerance, atol=golden.tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_golden_runs_of_keras_3(name):
    arguments, expected = RUNS[name]
    start = np.ones(10, np.float32)
    oracle = ORACLES[name](start, "keras3", **arguments)
    x, optimizer = Variable(start), getattr(FAMILIES["keras3"], name)(**arguments)
    reached = []
    for gradient in [np.full(10, 0.01), *[np.arange(1, 11) / 10] * 4]:
        oracle.step(gradient)
        optimizer.apply_gradients([(gradient, x)])
        reached.append((oracle.value[[0, -1]], x.numpy()[[0, -1]]))
    for values in zip(*reached, strict=True):
        np.testing.assert_allclose(values, ends(expected), rtol=5e-4, atol=5e-4)
