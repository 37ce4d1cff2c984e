"""Keras 3: ``compile(optimizer=DistributedOptimizer(...))`` and ``fit`` train one model on all replicas."""

from distopt.errors import InvalidArgumentError, MissingExtraError

try:
    import keras
except ImportError as error:
    raise MissingExtraError("keras with KERAS_BACKEND=torch or jax", "keras", "distopt.adapters.keras") from error

if keras.backend.backend() not in ("torch", "jax"):
    raise InvalidArgumentError(
        f"distopt.adapters.keras: Keras runs on {keras.backend.backend()}, and this adapter on torch and jax. Set "
        'os.environ["KERAS_BACKEND"] = "torch" before the first import of keras'
    )

from distopt.adapters.keras.callback import ReplicaCallback
from distopt.adapters.keras.optimizer import DistributedOptimizer
from distopt.adapters.keras.shares import Shares

__all__ = ["DistributedOptimizer", "ReplicaCallback", "Shares"]


def __dir__() -> list[str]:
    return __all__
