"""The house rules, as tests: imports go down, files and functions stay short, public names are what they say."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import distopt

ROOT = Path(distopt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Lowest floor first; a module may import from its own floor and from those below it.
FLOORS = [
    ["errors", "lazy"],
    ["arrays", "kernels"],
    ["indexed_slices", "shared_memory", "arena"],
    [
        f"distribute.{name}"
        for name in (
            "communicator", "launcher", "replica", "names", "thread_limits", "checks", "whereabouts", "watchdog",
            "silence", "mpi_line", "forked", "memory", "orphans", "ending", "header", "greeting", "local", "node",
            "node_sum", "mailbox", "threads", "one_thread", "mpi", "peers", "wire", "rings", "staging", "ray_line",
            "ray", "elastic", "strategy", "summation", "simulation",
        )
    ],
    ["array_like", "variable"],
    ["distribute.collectives", "traceable", "tracing", "backward", "gradients", "ops", "slab", "partition"],
    ["constraints", "data"],
    ["losses"],
    ["aggregators", "transformers", "telemetry"],
    ["optimizers"],
    ["checkpoint", "elastic", "adapters", "testing"],
    ["ray"],
    ["cli"],
]  # fmt: skip


# Imports inside functions that look up a floor: each with its reason.
LOOKS_UP = {
    ("variable", "tracing.read_under"): "a Variable read under an open tape is traced; autograd is loaded only then",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int | None:
    """The floor of a module, by its longest prefix; None for packages that only re-export lazily."""
    for level, rooms in enumerate(FLOORS):
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return level
    return None


def imports(path: Path) -> list[tuple[str, int]]:
    """What a file imports from distopt, with the lines; not what only type checkers see."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in hidden:
            package = node.module.removeprefix("distopt").removeprefix(".")
            if node.module.split(".")[0] == "distopt":
                names = [f"{package}.{alias.name}".lstrip(".") for alias in node.names]
                found += [(name if floor(name) is not None else package, node.lineno) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    here = floor(module_name(path))
    if here is None:
        assert path.name == "__init__.py", f"{module_name(path)} stands on no floor"
        return
    for name, line in imports(path):
        there = floor(name)
        if there is not None and there > here:
            assert (module_name(path), name) in LOOKS_UP, f"{path}:{line} imports {name} from a floor above"


@pytest.mark.parametrize("path", FILES, ids=module_name)
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
            if package == "distopt.ray" and importlib.util.find_spec("ray") is None:
                continue  # an optional extra
            module = __import__(package, fromlist=["__all__"])
            names = getattr(module, "__all__", [])
            assert len(names) == len(set(names)), package
            for name in names:
                assert getattr(module, name) is not None


def test_rooms_are_attributes_after_a_bare_import() -> None:
    script = "import distopt; assert distopt.distribute.get_strategy().num_replicas_in_sync == 1; print('ok')"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "ok\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HorovodOptimizer'"):
        _ = distopt.HorovodOptimizer
