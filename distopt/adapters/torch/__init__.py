"""PyTorch: a module's parameters live in distopt's memory, and its gradients are summed from there."""

from distopt.adapters.torch.optimizer import DistributedOptimizer, broadcast_buffers

__all__ = ["DistributedOptimizer", "broadcast_buffers"]


def __dir__() -> list[str]:
    return __all__
