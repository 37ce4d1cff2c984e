"""The pages on PyTorch, JAX and Keras: their code runs on two replicas."""

import importlib.util
import os

import pytest
from pages import DOCS, run

import distopt

os.environ["KERAS_BACKEND"] = "jax"  # read once, by the first import of keras in a process


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras reads its own variables so
@pytest.mark.parametrize(("page", "package"), [("pytorch", "torch"), ("jax", "jax"), ("keras", "keras")])
def test_the_python_of_a_page_runs(page, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    distopt.simulate(2, run, DOCS / f"{page}.md")
