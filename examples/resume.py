"""Stop it at any time and run the same command again: it goes on where it was, to the same bits.

mpirun -n 4 python examples/resume.py checkpoints --steps 500

SIGUSR1 (sbatch --signal=USR1@60) saves and stops; after Ctrl-C or a crash it goes on from the last checkpoint. With
another number of replicas it goes on too, over the same batches.
"""

import argparse

import numpy as np

import distopt
from distopt.checkpoint import Checkpointer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="where checkpoints are, the same on all nodes")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()

    random = np.random.default_rng(0)
    x = random.normal(size=(1000, 3)).astype(np.float32)
    y = x @ np.float32([1.0, -2.0, 0.5])

    weights = distopt.Variable(np.zeros(3, np.float32), name="weights")
    optimizer = distopt.optimizers.Adam(0.05)
    data = distopt.data.batches((x, y), global_batch_size=64, epochs=1000, seed=1)

    with Checkpointer(options.directory, optimizer=optimizer, variables=[weights], data=data) as checkpointer:
        step = checkpointer.restore() or 0
        if step:
            distopt.print_once(f"going on after step {step}")
        if step < options.steps:
            for batch in data:
                inputs, targets = batch.arrays
                with distopt.GradientTape() as tape:
                    loss = distopt.losses.compute_average_loss((inputs @ weights - targets) ** 2)
                optimizer.minimize(loss, [weights], tape=tape)
                checkpointer.save_every(50)
                if int(optimizer.iterations) == options.steps:
                    break

    learned = weights.numpy().astype(float).round(2).tolist()
    distopt.print_once(f"learned {learned} in {int(optimizer.iterations)} steps: {distopt.digest([weights])}")


if __name__ == "__main__":
    main()
