"""Runs a person's program in this process as Python would have: a file, a directory, an archive, or ``-m module``."""

from __future__ import annotations

import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import Any

from distopt.speaking import say


def main(command: Sequence[str]) -> None:
    """Run a program to its end, and end the process with it as the interpreter would.

    An exception goes to ``sys.excepthook`` without the frames of this file. Where the program has replaced the hook,
    the one of before is called too: in a replica that one ends the job.

    Args:
        command: what follows ``python`` on a command line.
    """
    ending = sys.excepthook
    try:
        execute(command)
    except SystemExit:
        raise
    except BaseException as error:
        trace = in_program(error.__traceback__)
        error.__traceback__ = trace
        try:
            sys.excepthook(type(error), error, trace)
        except Exception:  # the program's own hook: the job ends by the first failure all the same
            say(f"Error in sys.excepthook:\n{traceback.format_exc()}")
        if sys.excepthook is not ending and ending is not sys.__excepthook__:
            ending(type(error), error, trace)
        sys.exit(1)


def execute(command: Sequence[str]) -> None:
    """Run a program as ``__main__``, which it stays: what outlives its code (threads, exit handlers) may look there.

    Args:
        command: what follows ``python`` on a command line.
    """
    program, *arguments = command
    module = sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = [program, *arguments]
    if program == "-m":
        _search_first(os.getcwd())
        sys.argv = ["-m", *arguments[1:]]  # until it is found, as in Python
        spec = _module(arguments[0])
        sys.argv[0] = spec.origin or ""
    elif pkgutil.get_importer(program) is not None:
        _search_first(_full(program))
        del sys.modules["__main__"]  # it would be found there
        spec = _module("__main__")
        sys.modules["__main__"] = module
    else:
        _search_first(os.path.dirname(os.path.realpath(program)))
        path = _full(program)
        vars(module).update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))
        exec(_code_in(path), vars(module))
        return
    vars(module).update(__file__=spec.origin, __cached__=spec.cached, __loader__=spec.loader)
    vars(module).update(__spec__=spec, __package__=spec.parent)
    exec(_code_of(spec), vars(module))


def in_program(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first line of the program on."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _full(path: str) -> str:
    """Return a path from the root on, otherwise as the person wrote it, as Python does."""
    return os.path.join(os.getcwd(), path)


def _search_first(folder: str) -> None:
    """Look for modules in this folder first, in the place of that of the command that runs the program."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _module(name: str) -> ModuleSpec:
    """Find what ``python -m`` runs: a module, or the ``__main__`` of a package."""
    spec = find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name += ".__main__"
        spec = find_spec(name)
    if spec is None or spec.loader is None:
        sys.exit(f"{sys.executable}: No module named {name}")
    return spec


def _code_of(spec: ModuleSpec) -> Any:
    loader: Any = spec.loader
    code = loader.get_code(spec.name)
    if code is None:
        sys.exit(f"{sys.executable}: {spec.name} holds no code of Python to run")
    return code


def _code_in(path: str) -> Any:
    with open(path, "rb") as file:
        if path.endswith(".pyc"):
            return pkgutil.read_code(file)
        return compile(file.read(), path, "exec", dont_inherit=True)
