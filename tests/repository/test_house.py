"""The house rules, as tests: imports go down, files and functions stay short, public names are what they say."""

import ast
import graphlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from house import FILES, FILES_OF_TESTS, MODULES, ROOT, TESTS, floor, imports, module_name, room

import distopt

OPTIONAL = {"distopt.ray": "ray", "distopt.adapters.keras": "keras", "distopt.adapters.torch": "torch"}
"""Rooms that need an optional extra, and its package."""


def arrows() -> dict[str, list[str]]:
    """What each file imports, ``__init__.py`` files aside: they only hand names on."""
    return {name: list(imports(path)) for name, path in MODULES.items() if path.name != "__init__.py"}


def test_imports_go_to_a_lower_floor_or_stay_in_their_room() -> None:
    up = [
        (name, target)
        for name, targets in arrows().items()
        for target in targets
        if room(name) != room(target) and floor(target) >= floor(name)
    ]
    assert not up


def test_there_are_no_circles() -> None:
    graphlib.TopologicalSorter(arrows()).prepare()  # raises CycleError with the circle


def test_every_file_stands_on_a_floor() -> None:
    homeless = [name for name, path in MODULES.items() if path.name != "__init__.py" and floor(name) < 0]
    assert not homeless


def test_init_files_only_hand_names_on() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            made = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
            assert not made, path


def test_no_folder_is_crowded() -> None:
    for folder in {path.parent for path in [*FILES, *FILES_OF_TESTS]}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 16, folder


def test_unit_tests_mirror_the_package() -> None:
    unit = TESTS / "unit"
    folders = {path.parent.relative_to(unit) for path in FILES_OF_TESTS if unit in path.parents}
    assert not [folder for folder in folders if not (ROOT / folder).is_dir()]


def name_of(path: Path) -> str:
    """Return the dotted name of a file of the package, and the path of another one."""
    return module_name(path) if ROOT in path.parents else str(path.relative_to(TESTS))


@pytest.mark.parametrize("path", [*FILES, *FILES_OF_TESTS], ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 42, f"{path.name}:{node.lineno} {node.name} has {lines} lines"


def test_public_names_exist() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            package = "distopt." + module_name(path) if module_name(path) else "distopt"
            extra = OPTIONAL.get(package)
            if extra is not None and importlib.util.find_spec(extra) is None:
                continue
            module = __import__(package, fromlist=["__all__"])
            names = getattr(module, "__all__", [])
            assert len(names) == len(set(names)), package
            for name in names:
                assert getattr(module, name) is not None


@pytest.mark.parametrize("stub", sorted(ROOT.rglob("*.pyi")), ids=lambda stub: stub.parent.name)
def test_a_stub_lists_names_and_rooms_that_exist(stub: Path) -> None:
    package = ".".join(["distopt", *stub.parent.relative_to(ROOT).parts])
    if package in OPTIONAL and importlib.util.find_spec(OPTIONAL[package]) is None:
        pytest.skip(f"needs {OPTIONAL[package]}")
    module = importlib.import_module(package)
    lines = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    listed = [alias.asname for line in lines for alias in line.names]
    rooms = [alias.asname for line in lines for alias in line.names if line.module == package]
    assert len(listed) == len(set(listed))
    assert sorted(set(listed) - set(rooms)) == sorted(module.__all__)
    assert sorted(name for name in dir(module) if not name.startswith("__")) == sorted(listed)
    for each in rooms:
        assert (stub.parent / each).is_dir() or (stub.parent / f"{each}.py").is_file()
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_rooms_are_attributes_after_a_bare_import() -> None:
    script = "import distopt; assert distopt.distribute.get_strategy().num_replicas_in_sync == 1; print('ok')"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "ok\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HorovodOptimizer'"):
        _ = distopt.HorovodOptimizer


MOST_PRIVATE_NAMES = 11
"""Reads of another object's private name that are left in the package; this number only ever goes down."""


OF_KERAS = (
    *(
        "_apply_weight_decay",
        "_clip_by_norm",
        "_clip_gradients",
        "_current_learning_rate",
        "_get_variable_index",
        "_iterations",
    ),
    *("_learning_rate", "_track_variable", "_untrack_variable", "_variables"),
)
"""Names of Keras' optimizers, which the subclasses of users read and set: no private names of distopt."""


def private_names(folder: Path) -> list[Path]:
    """Return a file for each read of another object's private name, except for Keras' names on an optimizer."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--ignore-noqa", "--select", "SLF001"]
    found = subprocess.run([*ruff, "--output-format", "json", folder], capture_output=True, text=True).stdout
    places = [each for each in json.loads(found) if each["message"].split("`")[1] not in OF_KERAS]
    return [Path(each["filename"]).relative_to(folder) for each in places]


def test_private_names_of_others_become_fewer() -> None:
    places = private_names(ROOT)
    assert not [place for place in places if place.parts[0] in ("engine", "distribute", "kernels", "memory")]
    assert len(places) <= MOST_PRIVATE_NAMES


MOST_PRIVATE_NAMES_IN_TESTS = 21
"""The same in tests, where no public way exists; this number only ever goes down, too."""


def test_private_names_in_tests_become_fewer() -> None:
    assert len(private_names(TESTS)) <= MOST_PRIVATE_NAMES_IN_TESTS
