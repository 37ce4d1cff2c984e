"""The docs' table of optimizers is the one that the code gives."""

from optimizers_in_docs import PAGE, classes, written

from distopt import optimizers


def test_the_table_is_that_of_the_code():
    text = PAGE.read_text()
    assert written(text) == text, "run: python tests/optimizers_in_docs.py"


def test_every_optimizer_has_a_row():
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    for family, module in (("Keras 3", optimizers), ("legacy", optimizers.legacy)):
        names = {n for n in module.__all__ if isinstance(getattr(module, n), type) and n != "OptimizerMap"} - wrappers
        assert {name for of, name, _ in classes() if of == family} == names
