"""A memory fence: what this process did in shared memory before it is seen before what the process does after it.

A replica writes data and then counts; another sees the count and then reads the data. ARM and POWER may show either
pair to the other processor in the opposite order, x86 does not. A fence between the two steps, on both sides, forbids
it. LLVM's language reference promises that for ``fence acq_rel``, whatever the processor: ``dmb ish`` on ARM, nothing
but a limit for the compiler on x86. The count itself must be an aligned word, which processors read and write whole.

LLVM comes with Numba, but needs no Numba here: so the fence is the same for compiled kernels and for NumPy's.

Rejected: ``os.sched_yield`` (entering the kernel is no barrier, Linux's ``membarrier.c`` says); ``membarrier`` (returns
at once in a process with one thread, and is slow else); locks (what stands on either side may move in); libatomic
(not everywhere); atomic loads and stores called from Python (right, but arguments make a call cost thrice as much).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

SOURCE = """\
define void @fence() {
  fence acq_rel
  ret void
}
"""


_one_at_a_time = threading.Lock()


def memory_fence() -> Callable[[], None]:
    """Return the fence. The first call compiles it, in a fifth of a second; nothing is kept on disk."""
    with _one_at_a_time:  # a second engine, made meanwhile, would take its code with it when it is dropped
        engine = _engine()
    # PYFUNCTYPE keeps the GIL: giving it up would take longer than the fence.
    return ctypes.PYFUNCTYPE(None)(engine.get_function_address("fence"))


@functools.cache
def _engine() -> Any:
    """Compile the source; the code lives as long as what is returned."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(SOURCE), machine)
