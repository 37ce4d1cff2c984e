"""Update rules and gradient arithmetic on flat arrays: compiled for speed, in NumPy for reference."""

from distopt.kernels.drivers import add_tree, clip, divide, multiply, scale, square_sums, tree_sum, update
from distopt.kernels.rules import ADAM, AMSGRAD, MOMENTUM, NESTEROV, SGD, Rule
from distopt.kernels.target import cpu_target, kernel_kind

__all__ = [
    "ADAM",
    "AMSGRAD",
    "MOMENTUM",
    "NESTEROV",
    "SGD",
    "Rule",
    "add_tree",
    "clip",
    "cpu_target",
    "divide",
    "kernel_kind",
    "multiply",
    "scale",
    "square_sums",
    "tree_sum",
    "update",
]
