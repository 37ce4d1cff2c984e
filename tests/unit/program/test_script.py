"""A program that a replica runs finds what it would find under ``python``, and fails as it would there."""

import sys
import zipfile

import pytest
from support import ROOT, run

from distopt.cli.mpirun import replica_command

LOOK = '''"""What a program can see of itself."""
import atexit, multiprocessing, os, pickle, sys, threading
count: int = 3
class Thing:
    pass
def double(x):
    return 2 * x
def late():
    print("at exit", sys.modules["__main__"].double is double)
if __name__ == "__main__":
    names = sorted(name for name in globals() if name.startswith("__"))
    print(names, __name__, __file__, __doc__, __package__, type(__loader__).__name__, __spec__ and __spec__.name)
    print(sys.argv, sys.path[0], [os.fsencode(each) for each in sys.argv], __annotations__)
    print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, vars(sys.modules["__main__"]) is globals())
    if "spawn" in sys.argv:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.map(double, [1, 2]))
    atexit.register(late)
'''

ARGUMENTS = ["--title", ":", "", "-n", "a b", "'\"$HOME", "two\nlines", "é", "\udcff", "=", "%s"]


def both(command, folder, env=None):
    """The results of ``python`` and of a replica's first lines."""
    settings = {"cwd": folder, "env": {"PYTHONPATH": str(ROOT)} | (env or {})}
    starts = ([sys.executable, *command], replica_command("distopt.program.script", command))
    return [run(start, **settings) for start in starts]


@pytest.fixture
def programs(tmp_path):
    """A folder with a script, a package and an archive."""
    (tmp_path / "work").mkdir()
    package = tmp_path / "work" / "package"
    (package / "inner").mkdir(parents=True)
    for path in (tmp_path / "look.py", package / "__main__.py", package / "inner" / "tool.py"):
        path.write_text(LOOK)
    (package / "__init__.py").write_text("")
    (tmp_path / "work" / "link.py").symlink_to(tmp_path / "look.py")
    with zipfile.ZipFile(tmp_path / "look.pyz", "w") as archive:
        archive.writestr("__main__.py", "import sys, other; print(__name__, other.name, sys.argv, sys.path[0])")
        archive.writestr("other.py", "name = 'found'")
    return tmp_path / "work"


@pytest.mark.parametrize(
    "command",
    [["../look.py"], ["link.py"], ["-m", "package"], ["-m", "package.inner.tool"], ["package"], ["../look.pyz"]],
    ids=" ".join,
)
def test_a_program_finds_itself_as_under_python(command, programs):
    spawn = ["spawn"] if command[-1].endswith(("look.py", "tool")) else []  # elsewhere Python itself can't
    expected, got = both([*command, *ARGUMENTS, *spawn], programs)
    assert expected.status == 0, expected.text
    assert (got.status, got.output, got.errors) == (0, expected.output, expected.errors)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return {}['é']\ntry:\n    f()\nexcept KeyError:\n    import not_there\n",
        "x = (\n",
        "# coding: latin-1\nprint('\udce9')\nraise SystemExit(3)\n",
        "import sys; sys.exit('sorry')",
        "import sys; sys.excepthook = lambda kind, error, trace: print('mine', error, trace.tb_lineno); 1 / 0",
        "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\n",
    ],
    ids=["exception", "syntax", "status", "text", "hook", "caught"],
)
def test_a_program_ends_as_under_python(text, tmp_path):
    (tmp_path / "program.py").write_bytes(text.encode(errors="surrogateescape"))
    expected, got = both(["program.py"], tmp_path)
    assert (got.status, got.output) == (expected.status, expected.output)
    if "print_exc" not in text:  # whoever formats a caught exception may see who has called the program
        assert got.errors == expected.errors


def test_modules_are_not_looked_for_where_python_would_not(programs):
    for command in (["../look.py"], ["-m", "package"]):
        expected, got = both(command, programs, {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{ROOT}:{programs}"})
        assert (got.status, got.output) == (expected.status, expected.output)


def test_a_module_that_is_not_there_is_named(tmp_path):
    expected, got = both(["-m", "not_there"], tmp_path)
    assert (got.status, got.errors) == (expected.status, expected.errors)


def test_a_folder_named_like_a_package_of_distopt_does_not_hide_it(tmp_path):
    for name in ("distopt", "importlib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not meant')")
    (tmp_path / "program.py").write_text("print('ran')")
    _, got = both(["program.py"], tmp_path)
    assert (got.status, got.output) == (0, "ran\n")
