"""Sum the gradients by hand, with mpi4py, and tell the optimizer that they are summed already.

mpirun -n 4 python examples/sum_by_hand.py
"""

import numpy as np
from mpi4py import MPI

import distopt

WEIGHTS = np.float32([1.0, -2.0, 0.5])


def main():
    world = MPI.COMM_WORLD
    random = np.random.default_rng(world.rank)  # every replica has examples of its own
    x = random.normal(size=(64, 3)).astype(np.float32)
    y = x @ WEIGHTS

    weights = distopt.Variable(np.zeros(3, np.float32))
    optimizer = distopt.optimizers.SGD(0.1)
    for _ in range(100):
        with distopt.GradientTape() as tape:
            loss = distopt.losses.compute_average_loss((x @ weights - y) ** 2, global_batch_size=64 * world.size)
        [gradient] = tape.gradient(loss, [weights])
        total = np.empty_like(gradient)
        world.Allreduce(gradient, total)
        # With False the optimizer communicates nothing: without the line above, replicas would diverge.
        optimizer.apply_gradients([(total, weights)], experimental_aggregate_gradients=False)

    distopt.print_once(f"{world.size} replicas learned {np.round(weights.numpy(), 3).tolist()}")


if __name__ == "__main__":
    main()
