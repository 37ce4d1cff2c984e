"""step_rivals.py BYTES...: sum of gradients and Adam, distopt beside its rivals. Started by test_step_rivals.py.

Every rival's gradients are written before each of its turns, outside of the timing, as a backward pass would. MPI's
sum is followed by distopt's own Adam kernel, which is faster than PyTorch's fused one (``test_adam_kernel.py``).
"""

import contextlib
import functools
import gc
import json
import sys

import numba
import numpy as np
from benchmarks.measure import FULL, available_memory, medians, start_gloo, torch_if_installed
from mpi4py import MPI

import distopt
from distopt.kernels import update
from distopt.kernels.compiler import compile_kernel
from distopt.memory.layout import aligned_zeros, stagger
from distopt.memory.segment import Segment, map_segment
from distopt.optimizers.adam import ADAM

FLOAT = np.dtype(np.float32)
REPLICATED, SHARED = (distopt.Strategy(update=mode) for mode in ("replicated", "shared"))
REPLICATED.ready()
world = MPI.COMM_WORLD.Dup()
torch = torch_if_installed()
gloo = None if torch is None else start_gloo(world)

ARRAYS_PER_RANK = 20
"""How many arrays of the size in question all rivals together keep on a rank, at most."""


class Rival:
    """Something that sums ``gradient`` over ranks and updates from it."""

    strategy = REPLICATED
    gradient: np.ndarray


class MPIAndAdam(Rival):
    """A bare loop: MPI_Allreduce in place, then the fused Adam kernel on private arrays."""

    def __init__(self, count):
        self.gradient, self.parameters, self._m, self._v = (aligned_zeros(count, FLOAT) for _ in range(4))
        self.parameters[:] = 0.1
        self._spans, self._steps = np.array([[0, 0, count]]), 0

    def step(self):
        self._steps += 1
        alpha = 1e-3 * (1 - 0.999**self._steps) ** 0.5 / (1 - 0.9**self._steps)
        world.Allreduce(MPI.IN_PLACE, self.gradient)
        update(ADAM, self.parameters, self.gradient, [self._m, self._v], [alpha, 0.1, 0.001, 1e-7], self._spans)


class GlooAndTorchAdam(Rival):
    """PyTorch's own loop: all_reduce on Gloo in place, then its fused Adam."""

    def __init__(self, count):
        parameter = torch.nn.Parameter(torch.full((count,), 0.1))
        self._total = parameter.grad = torch.zeros(count)
        self.parameters, self.gradient = parameter.detach().numpy(), self._total.numpy()
        self._optimizer = torch.optim.Adam([parameter], lr=1e-3, eps=1e-7, fused=True)

    def step(self):
        gloo.all_reduce(self._total)
        self._optimizer.step()


class Distopt(Rival):
    """One whole ``apply_gradients``, from gradients that lie in the slab."""

    def __init__(self, count, strategy, **options):
        self.strategy = strategy
        with strategy.scope():
            self._variable = distopt.Variable(np.full(count, 0.1, FLOAT))
            self._optimizer = distopt.optimizers.Adam(1e-3, **options)
            (self.gradient,) = self._optimizer.gradient_buffers([self._variable])

    @property
    def parameters(self):
        return self._variable.numpy()

    def step(self):
        self.apply(self.gradient)

    def apply(self, gradient):
        self._optimizer.apply_gradients([(gradient, self._variable)])


class FromOwnArray(Rival):
    """The same optimizer and variable, with gradients in an array of the user's."""

    def __init__(self, rival, array):
        self.strategy, self.gradient = rival.strategy, array
        self.step = functools.partial(rival.apply, array)


class CopyLoop(Rival):
    """The floor: one loop over the bytes that a sweep in shared memory must read and write, with the least to do."""

    def __init__(self, count):
        part = count // world.size
        mine = slice(part * world.rank, part * (world.rank + 1))
        sizes = [count, part, part, part]
        segment = Segment(sum(sizes) * FLOAT.itemsize + len(sizes) * 2 * 4096)
        self.gradient, *state = carve(segment.bytes, sizes)
        slabs = [carve(map_segment(ticket), sizes)[0] for ticket in world.allgather(segment.ticket)]
        world.Barrier()  # a segment must last until it is mapped
        self.step = functools.partial(copy_kernel(), *(slab[mine] for slab in slabs), *state)


def carve(raw, sizes):
    """Cut float32 arrays from bytes, each on a page of its own and staggered as distopt's are."""
    arrays, begin = [], 0
    for k, size in enumerate(sizes):
        first = begin + stagger(k)
        arrays.append(raw[first : first + size * FLOAT.itemsize].view(FLOAT))
        begin = -(-(first + arrays[-1].nbytes) // 4096) * 4096
    return arrays


@functools.cache
def copy_kernel():
    rows = [f"row_{r}" for r in range(world.size)]
    source = f"""\
def copy_loop({", ".join(rows)}, p, m, v):
    for i in range(p.size):
        g = {" + ".join(f"{row}[i]" for row in rows)}
        m[i] += g
        v[i] += g
        p[i] += g
"""
    return compile_kernel("copy_loop", source, numba.void(*[numba.float32[::1]] * (world.size + 3)))


def competitors(count):
    """Return all rivals by name."""
    rivals = {"MPI + Adam": MPIAndAdam(count)}
    if gloo is not None:
        rivals["Gloo + torch Adam"] = GlooAndTorchAdam(count)
    rivals |= {"replicated": Distopt(count, REPLICATED), "shared": Distopt(count, SHARED)}
    check(rivals, count)
    array = np.zeros(count, FLOAT)
    rivals |= {f"{mode}, own array": FromOwnArray(rivals[mode], array) for mode in ("replicated", "shared")}
    return rivals | {"shared, clipped": Distopt(count, SHARED, global_clipnorm=1.0), "copy loop": CopyLoop(count)}


def check(rivals, count):
    """See that all compute the same before they are timed."""
    gradient = (np.arange(count) % 7 + 1).astype(FLOAT) * FLOAT.type(1e-3 * (world.rank - 0.3))
    expected = None
    for name, rival in rivals.items():
        with rival.strategy.scope():
            for _ in range(3):
                rival.gradient[:] = gradient
                rival.step()
        expected = rival.parameters if expected is None else expected
        np.testing.assert_allclose(rival.parameters, expected, rtol=0, atol=2e-5, err_msg=name)


def measure(size):
    """Return the median seconds of every rival at one size."""
    rivals = competitors(size // FLOAT.itemsize)

    @contextlib.contextmanager
    def turn(name):
        rivals[name].gradient[:] = 1e-3
        with rivals[name].strategy.scope():
            yield

    repeats = (101 if size <= 1 << 20 else 31 if size < 1 << 24 else 9) if FULL else 3
    return medians({name: rival.step for name, rival in rivals.items()}, repeats, barrier=world.Barrier, turn=turn)


rows = {}
for size in map(int, sys.argv[1:]):
    if ARRAYS_PER_RANK * size * world.size < 0.7 * world.bcast(available_memory()):
        rows[str(size)] = measure(size)
        gc.collect()
if gloo is not None:
    gloo.destroy_process_group()
if world.rank == 0:
    print(json.dumps(rows))
