"""No definition has one of the names that a reader had to guess; exceptions are few, each with its reason."""

import ast
from collections.abc import Iterator

from house import MODULES

GUESSED = {
    *("line", "watch", "enter", "meet", "begin_wait", "look", "end_wait", "place", "take", "leave", "leave_state"),
    *("seal", "sealed", "settle", "state_of", "present", "twin", "home", "homes", "owned", "holder", "held", "told"),
    *("beginning", "ending", "greeting", "intake", "sharing", "silence", "orphans"),
}
"""Leading underscores and capitals aside."""

ALLOWED = {
    ("variables.recording", "watch"): "tape.watch is TensorFlow's, and public",
    ("variables.traceable", "take"): "NumPy's",
    ("variables.tracing", "take"): "NumPy's",
    ("variables.array_like", "take"): "NumPy's",
    ("ops.making", "take"): "NumPy's",
    ("ray.group", "leave"): "a process joins and leaves a group; public",
    ("testing.faults.kinds", "place"): "the word of inject()'s sentences; public",
    ("telemetry.receipt_reader", "line"): "a line of a file",
    ("cli.streams", "line"): "a line of output",
}

ONCE = ("Node", "Part", "Entry")
"""Names of classes that had two each."""


def definitions(tree: ast.AST) -> Iterator[str]:
    """Yield what a file defines: functions, classes, arguments, attributes, what stands in modules and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.Module() | ast.ClassDef():
                if isinstance(node, ast.ClassDef):
                    yield node.name
                yield from (name for statement in node.body for name in _assigned(statement))


def _assigned(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.Assign(targets=targets, value=value) if "FormerName(" not in ast.unparse(value):
            yield from (name.id for each in targets for name in ast.walk(each) if isinstance(name, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def test_no_definition_has_a_name_to_guess() -> None:
    found = {
        (module, plain)
        for module, path in MODULES.items()
        for name in (module.rpartition(".")[2], *definitions(ast.parse(path.read_text())))
        if not name.startswith("__") and (plain := name.strip("_").lower()) in GUESSED
    }
    assert not found - ALLOWED.keys()
    assert not ALLOWED.keys() - found, "allowed, and no longer there"


def test_these_names_mean_one_class_each() -> None:
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    classes = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [classes.count(name) for name in ONCE] == [1] * len(ONCE)
