"""Compiles generated source to kernels, once per machine.

The source of each kernel is a real file in the cache directory, named after its content, so tracebacks,
debuggers and Numba's own cache work; each file holds one kernel with one signature. Where nothing can be kept, kernels
are compiled for this process, from memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba.core.registry import cpu_target as cpu_target_of_numba

from distopt.errors import InvalidArgumentError
from distopt.kernels import cache
from distopt.kernels.target import cpu_target
from distopt.speaking import say

Kernel = Callable[..., Any]

# Simulated replicas are threads: they may ask for the same kernel at once.
_thread_lock = threading.RLock()

_given_up: set[Path] = set()
"""The cache directories that this process does without, after an error."""


def compile_kernel(name: str, source: str, signature: Any) -> Kernel:
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
        stem = f"{name}_{hashlib.sha256(f'{source}{signature}'.encode()).hexdigest()[:16]}"
        wanted = cache.cache_directory()
        if wanted not in _given_up:
            try:
                return _kept(name, stem, source, signature)
            except OSError as error:
                _give_up(wanted, error)
        return _for_this_process(name, stem, source, signature)


@functools.cache
def _start_numba() -> None:
    """Let Numba load what it needs for any kernel (half a second), before a lock makes other processes wait for it."""
    cpu_target_of_numba.typing_context.refresh()
    cpu_target_of_numba.target_context.refresh()


def _kept(name: str, stem: str, source: str, signature: Any) -> Kernel:
    """Load a kernel from the cache, or compile it into the cache."""
    directory = cache.make_directory()
    function = functools.partial(_function, name, source, str(cache.source_path(directory, stem)))
    with cache.locked(directory, fcntl.LOCK_SH):
        if cache.is_stored(directory, stem, source):
            return _compiled(function(), signature, directory)
    with cache.locked(directory, fcntl.LOCK_EX):
        if cache.is_stored(directory, stem, source):  # by another process, meanwhile
            return _compiled(function(), signature, directory)
        _announce()
        cache.begin_storing(directory, stem, source)
        kernel = _compiled(function(), signature, directory)
        cache.end_storing(directory, stem)
        return kernel


def _for_this_process(name: str, stem: str, source: str, signature: Any) -> Kernel:
    """Compile a kernel, and keep nothing of it."""
    _announce()
    file = f"<distopt kernel {stem}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    return _compiled(_function(name, source, file), signature, None)


def _function(name: str, source: str, file: str) -> Kernel:
    """Run a source, and return its function. The file is where readers find the source: what runs is the text."""
    module = ModuleType(Path(file).stem)
    module.__file__ = file
    sys.modules[module.__name__] = module  # Numba finds a kernel's globals through its module's name
    exec(compile(source, file, "exec"), vars(module))
    function: Kernel = getattr(module, name)
    return function


def _compiled(function: Kernel, signature: Any, directory: Path | None) -> Kernel:
    """Compile a function; with a directory, through Numba's cache there."""
    with _beside_sources():
        kernel = numba.njit(nogil=True, error_model="numpy", cache=directory is not None)(function)
    if directory is not None and Path(kernel.stats.cache_path) != cache.numba_directory(directory):
        raise OSError(f"Numba would keep its files in {kernel.stats.cache_path}")
    kernel.compile(signature)
    kernel.disable_compile()
    compiled: Kernel = kernel
    return compiled


@contextlib.contextmanager
def _beside_sources() -> Iterator[None]:
    """Make Numba keep its files beside the sources, whatever ``NUMBA_CACHE_DIR`` says: others may write there."""
    former, numba.config.CACHE_DIR = numba.config.CACHE_DIR, ""
    try:
        yield
    finally:
        numba.config.CACHE_DIR = former


@functools.cache
def _announce() -> None:
    """Say once that kernels are being compiled, which takes some time."""
    say(f"distopt: compiling kernels for {cpu_target()} (once per machine) ...")


def _give_up(directory: Path, error: OSError) -> None:
    """Do without a cache directory from now on, and say why."""
    _given_up.add(directory)
    say(
        f"distopt: compiled kernels can't be kept in {directory} ({error}); compiling them for this process only: set "
        "DISTOPT_CACHE_DIR to a directory of your own, where only you can write"
    )
