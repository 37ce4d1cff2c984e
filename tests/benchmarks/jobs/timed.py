"""timed.py FOLDER SCRIPT ARGUMENTS: runs a script, and writes when it began, ended its first step, and its last."""

import json
import os
import runpy
import sys
import time
from pathlib import Path

began = time.time()
ends = []


def timed(step):
    def call(*args, **options):
        result = step(*args, **options)
        ends.append(time.time())
        return result

    return call


if __name__ == "__main__":
    import distopt
    from distopt.optimizers.keras3.optimizer import Optimizer

    Optimizer.apply_gradients = timed(Optimizer.apply_gradients)
    folder, sys.argv = Path(sys.argv[1]), sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    record = {"began": began, "first step": ends[0], "rate": rate}
    (folder / f"replica-{distopt.replica_index()}.json").write_text(json.dumps(record))
