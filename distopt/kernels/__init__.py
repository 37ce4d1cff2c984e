"""Update rules and gradient arithmetic on flat arrays: compiled for speed, in NumPy for reference."""

from distopt.kernels.drivers import add_tree, clip, decay, divide, multiply, scale, square_sums, tree_sum, update
from distopt.kernels.rule import Array, Rule, Scalar, decayed, mastered
from distopt.kernels.target import cpu_target, kernel_kind

__all__ = [
    "Array",
    "Rule",
    "Scalar",
    "add_tree",
    "clip",
    "cpu_target",
    "decay",
    "decayed",
    "divide",
    "kernel_kind",
    "mastered",
    "multiply",
    "scale",
    "square_sums",
    "tree_sum",
    "update",
]


def __dir__() -> list[str]:
    return __all__
