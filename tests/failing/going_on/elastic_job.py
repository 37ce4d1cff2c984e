"""elastic_job.py VICTIM STEP PLACE: three epochs; a replica kills itself; the survivors say what every step used."""

import json
import os
import signal
import sys

import numpy as np

import distopt
from distopt.distribute import ElasticCommunicator, Strategy

VICTIM, STEP, PLACE = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
EXAMPLES = 64
x = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype("float32")
y = x @ np.array([1, -2, 3], "float32")


def main():
    me = distopt.replica_index()  # stays its name when replicas are lost

    def die_at(place):
        if (me, int(optimizer.iterations.numpy()), place) == (VICTIM, STEP, PLACE):
            os.kill(os.getpid(), signal.SIGKILL)

    def transformer(grads_and_vars):
        die_at("in the step")
        return grads_and_vars

    weights = distopt.Variable(np.zeros(3, "float32"), name="weights")
    optimizer = distopt.optimizers.Adam(0.1, gradient_transformers=[transformer])
    data = distopt.data.batches((x, y, np.arange(EXAMPLES)), global_batch_size=10, epochs=3, seed=1)

    def loop():
        for batch in data:
            inputs, targets, numbers = batch.arrays
            error = inputs @ weights.numpy() - targets
            die_at("before the step")
            optimizer.apply_gradients([(2 * inputs.T @ error / batch.global_size, weights)])
            used = {"replica": me, "step": int(optimizer.iterations.numpy()), "used": numbers.tolist()}
            sys.stdout.write(json.dumps(used) + "\n")
            die_at("after the step")

    distopt.elastic.run(loop, optimizer=optimizer, data=data)
    result = {"replicas": distopt.num_replicas(), "steps": int(optimizer.iterations.numpy())}
    sys.stdout.write(json.dumps(result | {"weights": weights.numpy().tolist()}) + "\n")


with Strategy(ElasticCommunicator()).scope():
    main()
