"""Generated source to compiled kernels, once per machine.

The source of each kernel is a real file in the cache directory, named after its content, so tracebacks,
debuggers and Numba's own cache work. Numba's index is not safe when several processes use it at once (wrong
results were seen), so looking up, compiling and storing happen under a file lock; each file holds one
kernel with one signature.
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

from distopt.kernels.target import cpu_target

# Simulated replicas are threads: they may ask for the same kernel at once.
_thread_lock = threading.RLock()


def compile_kernel(name: str, source: str, signature: Any) -> Callable[..., Any]:
    """Return the function ``name`` of ``source``, compiled for ``signature`` or loaded from the cache.

    Serial, without the GIL, without fastmath: the same bits as NumPy.

    Args:
        name: the function's name, without its dtype; the file's name begins with it.
        source: a Python module that defines the function.
        signature: a Numba signature.
    """
    with _thread_lock:
        directory = cache_directory()
        try:
            with _locked(directory):
                return _load(directory, name, source, signature, cache=True)
        except OSError as error:
            return _load(_temporary_directory(directory, error), name, source, signature, cache=False)


def cache_directory() -> Path:
    """Return where compiled kernels are kept: ``DISTOPT_CACHE_DIR``, else the user's cache directory."""
    root = os.environ.get("DISTOPT_CACHE_DIR")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "distopt")
    return Path(root) / f"numba{numba.__version__}-python{platform.python_version()}-{cpu_target()}"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of ``directory``; the lock goes with its holder, however that ends."""
    if not directory.is_absolute():
        raise OSError(f"{directory} is not an absolute path: set DISTOPT_CACHE_DIR to one")
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(directory: Path, name: str, source: str, signature: Any, *, cache: bool) -> Callable[..., Any]:
    """Compile the function, or load it from Numba's cache beside its source file."""
    digest = hashlib.sha256(f"{source}\n{signature}".encode()).hexdigest()[:16]
    module = _import_source(directory / f"{name}_{digest}.py", source)
    kernel = numba.njit(nogil=True, error_model="numpy", cache=cache)(getattr(module, name))
    if not (cache and any(Path(kernel.stats.cache_path).glob(f"{module.__name__}.*.nbi"))):
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
    """Say once what takes so long."""
    print(f"distopt: compiling kernels for {cpu_target()} (once per machine) ...", file=sys.stderr, flush=True)


@functools.cache
def _holder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="distopt-kernels-")


def _temporary_directory(wanted: Path, error: OSError) -> Path:
    """Return a directory that ends with this process, and say once why it is used."""
    first = not _holder.cache_info().currsize
    path = Path(_holder().name)
    if first:
        print(
            f"distopt: compiled kernels can't be kept in {wanted} ({error}); compiling them for this process "
            "only: set DISTOPT_CACHE_DIR to a directory that you can write and lock",
            file=sys.stderr,
            flush=True,
        )
    return path
