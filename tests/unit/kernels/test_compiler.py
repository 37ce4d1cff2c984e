"""Compiling: lazily, once per machine, by many processes at once, into vector code without multiply-add."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

from distopt.errors import InvalidArgumentError
from distopt.kernels import Rule, cpu_target, sources
from distopt.kernels.cache import cache_directory
from distopt.kernels.compiler import compile_kernel
from distopt.kernels.target import kernel_kind
from distopt.optimizers.adam import ADAM, AMSGRAD

COLD = """
import sys
import ml_dtypes, numba, numpy as np
from distopt.kernels import fused, reference
from distopt.optimizers.adam import ADAM
from distopt.optimizers.sgd import DESCENT as SGD, NESTEROV

number = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
dtypes = ["float32", "float64", "float16", "bfloat16"]
spans, random = np.array([[1, 0, 90], [100, 95, 20]]), np.random.default_rng(number)
for turn in range(8):
    dtype = np.dtype(dtypes[(number + turn) % 4])
    rule = [SGD, NESTEROV, ADAM][(number + turn // 4) % 3]
    g, *state = (random.normal(size=120).astype(dtype) ** 2 for _ in range(2 + len(rule.slots)))
    outcome = []
    for backend in (reference, fused):
        p, *slots = (array.copy() for array in state)
        backend.update(rule, p, g, slots, [0.1, 0.9, 0.01, 1e-7][: len(rule.scalars)], spans)
        backend.add_tree([p, g, p][: 2 + number % 2], p)
        outcome.append([p, *slots, backend.square_sums(p, spans[:, 1:].copy())])
    for expected, got in zip(*outcome):
        assert expected.tobytes() == got.tobytes(), (number, turn, dtype, rule.name, expected, got)
print("right", flush=True)
"""

STEP = """
import sys
import numpy as np
from distopt import kernels
from distopt.optimizers.sgd import DESCENT
assert "numba" not in sys.modules
for _ in range(2):
    p = np.ones(5, np.float32)
    kernels.update(DESCENT, p, p.copy(), [], [0.5], np.array([[0, 0, 4]]))
    kernels.multiply(p, np.array([[0, 5]]), 2.0)
assert p.tolist() == [1, 1, 1, 1, 2], p
print(kernels.kernel_kind(), "numba" in sys.modules)
"""


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "DISTOPT_CACHE_DIR": str(cache), **more}


def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def compile_at_once(cache: Path, count: int) -> None:
    """Start processes, let them begin to compile at the same moment, and hold them to their values."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COLD, str(number)],
            env=environment(cache),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=100)
            assert (process.returncode, out) == (0, "right\n"), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_cold_processes_compile_at_once(tmp_path: Path) -> None:
    compile_at_once(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_eight_cold_processes_twenty_times(tmp_path: Path) -> None:
    for number in range(20):
        compile_at_once(tmp_path / str(number), 8)


def test_cold_says_so_once_and_warm_is_silent(tmp_path: Path) -> None:
    cold = run(STEP, DISTOPT_CACHE_DIR=str(tmp_path))
    assert re.fullmatch(rf"distopt: compiling kernels for {re.escape(cpu_target())} .*\n", cold.stderr)
    warm = run(STEP, DISTOPT_CACHE_DIR=str(tmp_path))
    assert warm.stderr == ""
    assert warm.stdout == cold.stdout == "fused True\n"


def test_a_cache_that_cannot_be_written_is_told_once_and_done_without() -> None:
    result = run(STEP, DISTOPT_CACHE_DIR="/dev/null/cache")
    assert result.stdout == "fused True\n"
    assert result.stderr.count("can't be kept in /dev/null/cache") == 1
    assert "set DISTOPT_CACHE_DIR" in result.stderr


def test_reference_kernels_need_no_numba() -> None:
    result = run(STEP, DISTOPT_KERNELS="reference")
    assert (result.stdout, result.stderr) == ("reference False\n", "")


def test_unknown_kernel_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTOPT_KERNELS", "fast")
    with pytest.raises(InvalidArgumentError, match="DISTOPT_KERNELS='fast'"):
        kernel_kind.__wrapped__()


def test_cache_directory_belongs_to_one_cpu_and_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    directory = cache_directory()
    assert directory.parent == tmp_path
    assert cpu_target() in directory.name
    assert numba.__version__ in directory.name


SOURCE = "def add_one(x):\n    return x + 1\n"


def test_threads_may_ask_for_one_kernel_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    signatures = [numba.float64(numba.float64), numba.int64(numba.int64)] * 4
    with ThreadPoolExecutor(8) as pool:
        kernels = list(pool.map(lambda signature: compile_kernel("add_one", SOURCE, signature), signatures))
    assert [kernel(1.5) for kernel in kernels[::2]] == [2.5] * 4
    assert [kernel(1) for kernel in kernels[1::2]] == [2] * 4
    assert len(list(cache_directory().glob("add_one_*.py"))) == 2


def test_the_cache_is_not_touched_while_another_process_holds_its_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    cache_directory().mkdir()
    with ThreadPoolExecutor(1) as pool:
        with open(cache_directory() / "lock", "w") as lock:  # a lock of another open file is another holder's
            fcntl.flock(lock, fcntl.LOCK_EX)
            kernel = pool.submit(compile_kernel, "add_one", SOURCE, numba.float64(numba.float64))
            with pytest.raises(TimeoutError):
                kernel.result(timeout=1)
            assert [path.name for path in cache_directory().iterdir()] == ["lock"]
        assert kernel.result(timeout=60)(1.0) == 2.0


def test_a_kernel_refuses_other_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    kernel = compile_kernel("add_one", SOURCE, numba.float64(numba.float64))
    with pytest.raises(TypeError, match="No matching definition"):
        kernel(np.ones(3))


@pytest.mark.parametrize("rule", [ADAM, AMSGRAD], ids=lambda rule: rule.name)
def test_loops_are_vector_code_without_fused_multiply_add(
    rule: Rule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    array = numba.float32[::1]
    arrays = [array] * (2 + len(rule.slots))
    signature = numba.int64(*arrays, numba.float64[::1], numba.int64[:, ::1])
    kernel = compile_kernel(f"update_{rule.name}", sources.update_source(rule, "float32"), signature)
    assembly = kernel.inspect_asm(kernel.signatures[0])
    assert not re.search(r"\b(v?fn?m(add|sub|la|ls)\w*)\b", assembly)
    if platform.machine() == "x86_64":
        assert re.search(r"sqrtps\b", assembly)
        assert re.search(r"divps\b", assembly)
