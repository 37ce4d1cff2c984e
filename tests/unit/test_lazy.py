"""What Python shows of the package: names of modules, and what takes the place of a name that is not there."""

import importlib
import inspect
import pydoc
import sys
from types import ModuleType

import pytest
from support import run

import distopt

EXTRAS = ("ray", "jax", "torch", "keras")


@pytest.mark.parametrize(
    ("name", "counterpart"),
    [
        ("rank", r"distopt.replica_index\(\)"), ("size", r"distopt.num_replicas\(\)"),
        ("init", "nothing to call"), ("shutdown", "nothing to call"), ("allreduce", "distopt.all_reduce"),
        ("DistributedOptimizer", "sum gradients themselves"),
    ],
)  # fmt: skip
def test_names_of_horovod(name, counterpart):
    with pytest.raises(AttributeError, match=f"no attribute '{name}': .*{counterpart}"):
        getattr(distopt, name)


def test_other_names():
    with pytest.raises(AttributeError, match=r"no attribute 'ranks'$"):
        _ = distopt.ranks


@pytest.mark.parametrize(
    ("module", "misspelt", "meant"),
    [
        ("distopt", "all_reduc", "all_reduce"),
        ("distopt", "optimisers", "optimizers"),
        ("distopt.distribute", "Stategy", "Strategy"),
        ("distopt.ops", "matmull", "matmul"),
        ("distopt.optimizers", "Adamm", "Adam"),
        ("distopt.losses", "MeanSquareError", "MeanSquaredError"),
        ("distopt.adapters", "jaxx", "jax"),
        ("distopt.compat.tensorflow", "optimizrs", "optimizers"),
    ],
)
def test_python_suggests_the_name_that_was_meant(module, misspelt, meant, capsys):
    loaded = importlib.import_module(module)
    with pytest.raises(AttributeError) as caught:
        getattr(loaded, misspelt)
    assert (caught.value.name, caught.value.obj) == (misspelt, loaded)
    sys.__excepthook__(caught.type, caught.value, caught.tb)
    assert f"Did you mean: '{meant}'?" in capsys.readouterr().err


def public_modules() -> list[ModuleType]:
    """The modules that are reached from the package by public names, but for those that an optional package lacks."""
    found, queue = {distopt.__name__: distopt}, [distopt]
    while queue:
        module = queue.pop()
        for name in dir(module):
            try:
                value = getattr(module, name, None)
            except ImportError:  # Ray may be there without all that the extra brings: its error has the cure
                continue
            is_inside = inspect.ismodule(value) and value.__name__ == f"{module.__name__}.{name}"
            if is_inside and value.__name__ not in found:
                found[value.__name__] = value
                queue.append(value)
    return list(found.values())


def test_every_public_module_shows_its_public_names_and_not_its_imports():
    modules = public_modules()
    names = {module.__name__ for module in modules}
    assert {"distopt.errors", "distopt.transformers", "distopt.optimizers.legacy", "distopt.adapters"} <= names
    for module in modules:
        shown = {name for name in dir(module) if not name.startswith("__")}
        assert not {"annotations", "Any", "np"} & shown, module.__name__
        if not module.__name__.startswith("distopt.compat."):
            inside = {name for name in shown if f"{module.__name__}.{name}" in names}
            assert shown == {*module.__all__, *inside, *({*EXTRAS} & shown)}, module.__name__


def test_every_exception_is_shown():
    classes = {name for name, value in vars(distopt.errors).items() if isinstance(value, type)}
    assert {*dir(distopt.errors)} == classes


WITHOUT_EXTRAS = f"""
import importlib, inspect, pydoc, sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # as Python itself marks what can't be imported
import distopt

assert not hasattr(distopt, "ray")
assert not any(hasattr(distopt.adapters, name) for name in ("jax", "keras", "torch"))
for module in distopt, distopt.adapters, distopt.optimizers, distopt.ops, distopt.errors, distopt.compat:
    assert len(inspect.getmembers(module)) >= 2, module
    assert pydoc.plain(pydoc.render_doc(module)).startswith("Python Library Documentation: "), module
    assert pydoc.HTMLDoc().document(module)
for name, cure in {{"ray": "distopt[ray]", "adapters.jax": "distopt[jax]", "adapters.torch": "distopt[torch]"}}.items():
    package, _, last = f"distopt.{{name}}".rpartition(".")
    try:
        getattr(sys.modules[package], last)
    except AttributeError as error:
        assert cure in str(error), error
        assert (error.name, error.obj) == (last, sys.modules[package])
    for statement in f"import distopt.{{name}}", f"from {{package}} import {{last}}":
        try:
            exec(statement)
        except ImportError as error:
            assert cure in str(error), error
        else:
            raise AssertionError(statement)
print("done")
"""


def test_an_extra_that_is_missing_is_an_attribute_that_is_not_there():
    result = run([sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS])
    assert (result.status, result.output) == (0, "done\n"), result.text


def test_help_of_the_package():
    assert "class Strategy" in pydoc.plain(pydoc.render_doc(distopt))
    result = run([sys.executable, "-m", "pydoc", "distopt"])
    assert (result.status, result.errors) == (0, "")
    assert "all_reduce(" in result.output
