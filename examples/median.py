"""Replace the sum by a coordinate-wise median: a replica with wrong gradients does no harm.

mpirun -n 4 python examples/median.py
"""

import numpy as np

import distopt

WEIGHTS = np.float32([1.0, -2.0, 0.5])


def median(stack):
    """The (R, N) gradients of all replicas -> N; times R, since the learning rate expects a sum."""
    return np.median(stack, axis=0) * len(stack)


def main():
    index, replicas = distopt.replica_index(), distopt.num_replicas()
    is_faulty = replicas > 2 and index == replicas - 1
    random = np.random.default_rng(index)
    x = random.normal(size=(64, 3)).astype(np.float32)
    y = x @ WEIGHTS

    weights = distopt.Variable(np.zeros(3, np.float32))
    optimizer = distopt.optimizers.SGD(0.1, gradient_aggregator=distopt.aggregators.Stacked(median))
    for _ in range(100):
        with distopt.GradientTape() as tape:
            loss = distopt.losses.compute_average_loss((x @ weights - y) ** 2, global_batch_size=64 * replicas)
        [gradient] = tape.gradient(loss, [weights])
        if is_faulty:
            gradient = random.normal(0, 1000, 3).astype(np.float32)
        optimizer.apply_gradients([(gradient, weights)])

    distopt.print_once(f"{replicas} replicas learned {np.round(weights.numpy(), 3).tolist()}")


if __name__ == "__main__":
    main()
