"""training.py: whole training steps in PyTorch, distopt beside DDP, under mpirun. Started by test_training.py.

``training.py R`` outside of mpirun: the same steps in one process on all cores with R times the batch.
"""

import contextlib
import functools
import json
import os
import sys

import torch
from benchmarks.measure import FULL, medians, start_gloo
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector
from torch_models import WORKLOADS, training_step

import distopt
from distopt.adapters.torch import DistributedOptimizer

EPSILON = 1e-12
"""As good as none: PyTorch adds it elsewhere than Keras does, and here both should compute the same."""

REPEATS, INNER = (21, 5) if FULL else (2, 1)


class Trainer:
    """A model and its optimizer; every one starts from the same parameters.

    Args:
        workload: what to train.
        data: what this replica trains on.
        strategy: of what is distopt's; None is PyTorch's fused Adam.
        wrap: makes the model that computes from the model that is trained.
    """

    def __init__(self, workload, data, strategy=None, wrap=lambda model: model):
        torch.manual_seed(0)
        self.model = workload.build()
        self.strategy = strategy
        model = wrap(self.model)
        if strategy is None:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=EPSILON, fused=True)
            self.step = functools.partial(training_step, model, optimizer, data)
        else:  # distopt sums over replicas, and divides by the items of all: DDP's average
            with strategy.scope():
                optimizer = DistributedOptimizer(
                    model.named_parameters(), distopt.optimizers.Adam(1e-3, epsilon=EPSILON)
                )
            items = len(data[1])
            self.step = functools.partial(training_step, model, optimizer, data, reduction="sum", items=items)

    def turn(self):
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def parameters(self):
        return parameters_to_vector(self.model.parameters()).detach().clone()


def competitors(workload, data, strategies):
    """Return all rivals by name: the local step, and those that train together."""
    ddp = functools.partial(DistributedDataParallel, gradient_as_bucket_view=True)
    together = {
        "DDP": Trainer(workload, data, wrap=ddp),
        "DDP, static graph": Trainer(workload, data, wrap=functools.partial(ddp, static_graph=True)),
    }
    together |= {f"distopt {name}": Trainer(workload, data, strategy) for name, strategy in strategies.items()}
    return Trainer(workload, data), together


def check(together):
    """See that all train alike: after three steps nobody is far from DDP, on its way from the start."""
    start = together["DDP"].parameters
    for trainer in together.values():
        with trainer.turn():
            for _ in range(3):
                trainer.step()
    expected = together["DDP"].parameters
    for name, trainer in together.items():
        apart = float((trainer.parameters - expected).norm() / (expected - start).norm())
        assert apart < 0.05, f"{name} is {apart:.3f} of the way from DDP"


def train_together():
    from mpi4py import MPI

    strategies = {mode: distopt.Strategy(update=mode) for mode in ("replicated", "shared")}
    strategies["replicated"].ready()
    world = MPI.COMM_WORLD.Dup()
    torch.set_num_threads(1)
    gloo = start_gloo(world)
    rows = {}
    for name, workload in WORKLOADS.items():
        torch.manual_seed(1 + world.rank)
        local, together = competitors(workload, workload.draw(workload.batch), strategies)
        check(together)
        rivals = {"local step": local, **together}
        rows[name] = medians(
            {label: rival.step for label, rival in rivals.items()},
            REPEATS,
            inner=INNER,
            barrier=world.Barrier,
            turn=lambda label, rivals=rivals: rivals[label].turn(),
        )
        for label, trainer in together.items():
            digests = world.allgather(distopt.digest([trainer.parameters.numpy()]))
            assert len(set(digests)) == 1, f"the replicas of {label} differ"
    gloo.destroy_process_group()
    return rows if world.rank == 0 else None


def train_alone(replicas):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = {}
    for name, workload in WORKLOADS.items():
        torch.manual_seed(1)
        trainer = Trainer(workload, workload.draw(replicas * workload.batch))
        rows[name] = medians({"one process": trainer.step}, REPEATS, inner=INNER)
    return rows


result = train_alone(int(sys.argv[1])) if len(sys.argv) > 1 else train_together()
if result is not None:
    print(json.dumps(result))
