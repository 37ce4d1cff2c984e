"""memory.py WAY COUNT: bytes that all ranks together hold for COUNT parameters. Started by test_memory.py."""

import gc
import importlib
import json
import sys

import numpy as np
from benchmarks.measure import held_memory, start_gloo, torch_if_installed
from mpi4py import MPI

import distopt

WIDTH = 1024


def numpy_training(mode):
    """Adam on gradients that are computed in the slab."""
    strategy = distopt.Strategy(update=mode)

    def train(count):
        with strategy.scope():
            variable = distopt.Variable(np.zeros(count, np.float32))
            optimizer = distopt.optimizers.Adam()
            (buffer,) = optimizer.gradient_buffers([variable])
            for _ in range(3):
                buffer[:] = 1e-3
                optimizer.apply_gradients([(buffer, variable)])
        return variable, optimizer

    return train


def torch_training(mode):
    """A linear layer of so many parameters."""
    torch = torch_if_installed()
    if mode == "DDP":
        start_gloo(MPI.COMM_WORLD)
        strategy = distopt.Strategy()
    else:
        strategy = distopt.Strategy(update=mode)

    def train(count):
        model = torch.nn.Linear(WIDTH, count // WIDTH, bias=False)
        with strategy.scope():
            model, optimizer = together(model)
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.ones(1, WIDTH)).sum().backward()
                optimizer.step()
        return model, optimizer

    def together(model):
        if mode == "DDP":
            model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
            return model, torch.optim.Adam(model.parameters(), fused=True)
        adapter = importlib.import_module("distopt.adapters.torch")
        return model, adapter.DistributedOptimizer(model.named_parameters(), distopt.optimizers.Adam())

    return train


way, count = sys.argv[1], int(sys.argv[2])
library, mode = way.split()
train = (numpy_training if library == "NumPy" else torch_training)(mode)
distopt.get_strategy().ready()
world = MPI.COMM_WORLD.Dup()


def held():
    """All that the ranks hold, while nobody allocates."""
    gc.collect()
    world.Barrier()
    return world.allreduce(held_memory())


small = train(64 * WIDTH)  # libraries, kernels and communicators are there from now on, on every rank
before = held()
state = train(count)
after = held()
if mode == "DDP":
    importlib.import_module("torch.distributed").destroy_process_group()
if world.rank == 0:
    print(json.dumps(after - before))
