"""The first header of a group of replicas: do they run the same thing, with the same options?"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping

import numpy as np

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, agree, exchange_texts
from distopt.kernels import cpu_target, kernel_kind
from distopt.process.thread_limits import limit_threads
from distopt.settings import BUCKET_BYTES, THREADS


def handshake(communicator: Communicator, options: Mapping[str, str]) -> None:
    """Agree on versions, kernels and threads, which the bits of a result depend on, and set the threads.

    Args:
        communicator: the replicas.
        options: the options of the strategy: all of them decide what is sent later, or for how long it is waited for.
    """
    description = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "numpy": np.__version__,
        "kernels (DISTOPT_KERNELS)": kernel_kind(),
        "bucket size (DISTOPT_BUCKET_BYTES)": BUCKET_BYTES.text() or "measured",
        "threads per replica (DISTOPT_THREADS)": str(THREADS.read()),
        **options,
    }
    agree(communicator, Call("first agreement of the replicas", lambda: description))
    mine = [cpu_target(), os.urandom(8).hex(), communicator.dropped()]
    rows = [json.loads(row) for row in exchange_texts(communicator, json.dumps(mine))]
    targets = [target for target, _, _ in rows]
    communicator.note_first_agreement(rows[0][1], set.intersection(*(set(dropped) for _, _, dropped in rows)))
    if len(set(targets)) > 1 and communicator.index == 0:
        other = next(r for r, target in enumerate(targets) if target != targets[0])
        warnings.warn(
            f"replicas run on different CPUs (replica 0: {targets[0]}; replica {other}: {targets[other]}): distopt's "
            "own kernels give the same bits on both, but NumPy and BLAS may not, so local gradients can differ",
            stacklevel=2,
        )
    if communicator.name != "threads":
        limit_threads()
