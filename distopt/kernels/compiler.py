"""Compiles generated source to kernels, once per machine.

The source of each kernel is a real file in the cache directory, named after its content, so tracebacks,
debuggers and Numba's own cache work. Numba's index is not safe when several processes use it at once (wrong
results were seen). So kernels are compiled and stored under an exclusive file lock, and loaded under a shared one;
each file holds one kernel with one signature.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core.registry import cpu_target as cpu_target_of_numba

from distopt.errors import InvalidArgumentError
from distopt.kernels.target import cpu_target
from distopt.settings import CACHE_DIR
from distopt.speaking import say

# Simulated replicas are threads: they may ask for the same kernel at once.
_thread_lock = threading.RLock()


def compile_kernel(name: str, source: str, signature: Any) -> Callable[..., Any]:
    """Return the function ``name`` of ``source``, compiled for ``signature`` or loaded from the cache.

    The kernel is serial, releases the GIL and uses no fastmath: it gives the same bits as NumPy.

    Args:
        name: the function's name, without its dtype; the file's name begins with it.
        source: a Python module that defines the function.
        signature: a Numba signature.

    Raises:
        InvalidArgumentError: Numba was told to compile nothing.
    """
    if numba.config.DISABLE_JIT:
        raise InvalidArgumentError(
            "NUMBA_DISABLE_JIT is set, and distopt's kernels exist only compiled: unset it. A function of your own can "
            "be debugged without compilation by calling its .py_func"
        )
    with _thread_lock:
        _start_numba()
        directory = cache_directory()
        stem = f"{name}_{hashlib.sha256(f'{source}{signature}'.encode()).hexdigest()[:16]}"
        try:
            if _is_stored(directory, stem):
                with _locked(directory, fcntl.LOCK_SH):
                    return _load(directory, stem, name, source, signature, cache=True)
            with _locked(directory, fcntl.LOCK_EX):
                return _load(directory, stem, name, source, signature, cache=True)
        except OSError as error:
            return _load(_temporary_directory(directory, error), stem, name, source, signature, cache=False)


def cache_directory() -> Path:
    """Return where compiled kernels are kept: ``DISTOPT_CACHE_DIR``, else the user's cache directory."""
    root = CACHE_DIR.read()
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "distopt")
    return Path(root) / f"numba{numba.__version__}-python{platform.python_version()}-{cpu_target()}"


@functools.cache
def _start_numba() -> None:
    """Let Numba load what it needs for any kernel (half a second), before a lock makes other processes wait for it."""
    cpu_target_of_numba.typing_context.refresh()
    cpu_target_of_numba.target_context.refresh()


def _is_stored(directory: Path, stem: str) -> bool:
    """Return whether Numba has stored index and data of a kernel; once stored, they never change."""
    folder = directory / "__pycache__"
    return any(folder.glob(f"{stem}.*.nbi")) and any(folder.glob(f"{stem}.*.nbc"))


@contextlib.contextmanager
def _locked(directory: Path, kind: int) -> Iterator[None]:
    """Keep other processes out of ``directory``; the lock ends with the process that holds it, even if that dies."""
    if not directory.is_absolute():
        raise OSError(f"{directory} is not an absolute path: set DISTOPT_CACHE_DIR to one")
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, kind)
        yield


def _load(directory: Path, stem: str, name: str, source: str, signature: Any, *, cache: bool) -> Callable[..., Any]:
    """Compile the function, or load it from Numba's cache beside its source file."""
    module = _import_source(directory / f"{stem}.py", source)
    kernel = numba.njit(nogil=True, error_model="numpy", cache=cache)(getattr(module, name))
    if not (cache and _is_stored(directory, stem)):
        _announce()
    kernel.compile(signature)
    kernel.disable_compile()
    compiled: Callable[..., Any] = kernel
    return compiled


def _import_source(path: Path, source: str) -> Any:
    """Write ``source`` to ``path``, whole or not at all, and import it."""
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(source)
        part.replace(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # Numba finds a kernel's globals through its module's name
    spec.loader.exec_module(module)
    return module


@functools.cache
def _announce() -> None:
    """Print once that kernels are being compiled, which takes some time."""
    say(f"distopt: compiling kernels for {cpu_target()} (once per machine) ...")


@functools.cache
def _process_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="distopt-kernels-")


def _temporary_directory(wanted: Path, error: OSError) -> Path:
    """Return a directory that is removed when this process ends, and print once why it is used."""
    first = not _process_directory.cache_info().currsize
    path = Path(_process_directory().name)
    if first:
        say(
            f"distopt: compiled kernels can't be kept in {wanted} ({error}); compiling them for this process "
            "only: set DISTOPT_CACHE_DIR to a directory that you can write and lock"
        )
    return path
