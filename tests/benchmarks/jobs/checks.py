"""checks.py: what the header and the comparison of states cost in the digits job. Started by test_checks_cost.py."""

import json
import sys
from pathlib import Path

import numpy as np
from benchmarks.measure import FULL, medians

import distopt
from distopt.distribute.agreement.header import Brought, Call, agree

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import train as digits

EVERY = 50 if FULL else 5
config = digits.read_config(digits.CONFIG)
communicator = distopt.get_strategy().communicator
(x, y), _ = digits.load_digits()
loss_of = distopt.losses.SparseCategoricalCrossentropy(from_logits=True)


def steps(checks):
    """As many steps of the job as one comparison is made for."""
    strategy = distopt.Strategy(communicator, checks=checks)
    layers = digits.make_model([x.shape[1], *config["model"]["hidden"], 10], config["seed"])
    variables = [variable for layer in layers for variable in layer]
    optimizer = distopt.optimizers.Adam(0.01, **config["clipping"])
    size = config["data"]["global_batch_size"]
    mine = np.arange(size)[communicator.index :: communicator.size]
    images, labels = x[mine], y[mine]

    def call():
        with strategy.scope():
            for _ in range(EVERY):
                with distopt.GradientTape() as tape:
                    loss = distopt.losses.compute_average_loss(
                        digits_loss(labels, digits.predict(layers, images)), global_batch_size=size
                    )
                optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return call


digits_loss = distopt.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=distopt.losses.Reduction.NONE)
header = Call("benchmark")
rows = medians(
    {
        "steps, no comparison": steps(distopt.Checks(state_every=0)),
        f"steps, every {EVERY}": steps(distopt.Checks(state_every=EVERY)),
        "their headers": lambda: [agree(communicator, header, Brought(call_digest=1)) for _ in range(EVERY)],
    },
    41 if FULL else 3,
    barrier=distopt.barrier,
)
if communicator.index == 0:
    print(json.dumps({name: seconds / EVERY for name, seconds in rows.items()}))
