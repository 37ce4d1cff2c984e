"""The memory fence: compiled at its first use, without Numba, to what each processor needs."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import pytest

from distopt.memory.fence import SOURCE, memory_fence

FIRST_USE = """
import sys
import distopt.distribute.node.barrier
from distopt.memory.fence import memory_fence
assert "llvmlite" not in sys.modules
memory_fence()()
assert "numba" not in sys.modules
"""


@pytest.mark.parametrize(
    ("processor", "instruction"), [("aarch64", "dmb\tish"), ("powerpc64le", "lwsync"), ("riscv64", "fence.tso")]
)
def test_processors_that_reorder_get_their_fence(processor, instruction):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(f"{processor}-unknown-linux-gnu").create_target_machine()
    assert instruction in machine.emit_assembly(llvm.parse_assembly(SOURCE))


def test_it_is_compiled_at_the_first_use_silently_and_without_numba():
    result = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_threads_may_ask_for_it_at_once():
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: memory_fence()(), range(64))) == [None] * 64
