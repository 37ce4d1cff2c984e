"""Tensors of PyTorch as NumPy arrays of the same memory, and checks that a parameter can be trained there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from distopt.arrays import Array
from distopt.distribute.agreement.header import Call, agree, telling_the_others
from distopt.distribute.collectives import copy_from
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError, MissingExtraError
from distopt.variables.indexed_slices import IndexedSlices

try:
    import torch as torch  # for the other files too: here a missing one is explained
except ImportError as error:
    raise MissingExtraError("torch", "torch", "distopt.adapters.torch") from error

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_TRAINED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_array(tensor: Any) -> Array:
    """Return the array that shows a CPU tensor's memory."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which NumPy alone does not know
        return np.asarray(tensor.view(torch.int16).numpy().view(_BFLOAT16))
    return np.asarray(tensor.numpy())


def as_tensor(array: Array) -> Any:
    """Return the tensor that shows an array's memory."""
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def version_of(tensor: Any) -> int:
    """Return how often a tensor was written in place, as autograd counts; PyTorch has no public name for it."""
    version: int = tensor._version
    return version


def as_slices(gradient: Any, name: str) -> IndexedSlices:
    """Return the rows of a sparse gradient, equal ones added.

    Raises:
        InvalidArgumentError: a sparse gradient that does not consist of rows.
    """
    if gradient.layout is not torch.sparse_coo or gradient.sparse_dim() != 1:
        raise InvalidArgumentError(
            f"the gradient of {name!r} has the layout {gradient.layout}: sparse gradients are taken as rows, such as "
            "nn.Embedding(sparse=True) makes them. Convert it: parameter.register_hook(lambda g: g.to_dense())"
        )
    gradient = gradient.coalesce()
    return IndexedSlices(as_array(gradient.values()), gradient.indices()[0].numpy(), tuple(gradient.shape))


def distinct_parameters(named_parameters: Any) -> dict[str, Any]:
    """Return parameters by name; a parameter that has several names under its first.

    Raises:
        InvalidArgumentError: no (name, parameter) pairs, or one name for two parameters.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    try:
        pairs = [(name, parameter) for name, parameter in named_parameters]
    except (TypeError, ValueError, RuntimeError):
        pairs = [(None, None)]
    for name, parameter in pairs:
        if not isinstance(name, str) or not isinstance(parameter, torch.Tensor):
            raise InvalidArgumentError(
                f"DistributedOptimizer received {type(named_parameters).__name__} where (name, parameter) pairs are "
                "expected: pass model.named_parameters()"
            )
        if id(parameter) in seen:
            continue
        if name in found:
            raise InvalidArgumentError(
                f"two parameters have the name {name!r}: optimizer state is kept by name. With several models, put "
                "them into one nn.ModuleDict and pass its named_parameters()"
            )
        seen.add(id(parameter))
        found[name] = parameter
    return found


def check_parameter(name: str, parameter: Any) -> None:
    """Refuse a parameter that can't be trained where distopt keeps it.

    Raises:
        InvalidArgumentError: the parameter can't be trained; the message says why.
    """
    if torch.nn.parameter.is_lazy(parameter):
        trouble = "has no shape yet: call the model once with an example, then make the optimizer"
    elif parameter.device.type != "cpu":
        trouble = f"lies on {parameter.device}: distopt trains on CPUs. Call model.cpu() first"
    elif not parameter.is_leaf:
        trouble = "was computed from other tensors: pass the parameters that it was computed from"
    elif parameter.dtype not in _TRAINED:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _TRAINED)
        trouble = f"has dtype {parameter.dtype}: optimizers train {known}. Set parameter.requires_grad = False"
    elif parameter.layout is not torch.strided or not parameter.is_contiguous():
        trouble = (
            f"is not contiguous (shape {tuple(parameter.shape)}, layout {parameter.layout}), and distopt keeps "
            "parameters row by row: parameter.data = parameter.data.contiguous() before the optimizer is made"
        )
    else:
        return
    raise InvalidArgumentError(f"parameter {name!r} {trouble}")


def copy_from_replica_0(call: str, named_tensors: Iterable[tuple[str, Any]]) -> None:
    """Overwrite CPU tensors of any dtype by those of replica 0 (collective).

    Raises:
        InvalidArgumentError: a tensor that is not on the CPU.
        CollectiveMismatchError: the replicas have other tensors (on every one of them).
    """
    communicator = get_strategy().ready()
    tensors = dict(named_tensors)
    with telling_the_others(communicator):
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
                raise InvalidArgumentError(
                    f"{call}: {name!r} is no dense CPU tensor but {tensor.layout} on {tensor.device}"
                )
        flats = [tensor.detach().reshape(-1) for tensor in tensors.values()]
    text = ", ".join(f"{name}: {tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items())
    agree(communicator, Call(call, lambda: {"tensors": text}))
    copy_from(communicator, [flat.view(torch.uint8).numpy() for flat in flats if flat.numel()], 0)
    for tensor, flat in zip(tensors.values(), flats, strict=True):
        if not tensor.is_contiguous():  # its flat form is a copy
            tensor.detach().copy_(flat.reshape(tensor.shape))


def torch_counterpart(optimizer: Any, names: Sequence[str]) -> str | None:
    """Say which optimizer of distopt replaces one of PyTorch; None where it is none of PyTorch."""
    is_class = isinstance(optimizer, type)
    if not (issubclass(optimizer, torch.optim.Optimizer) if is_class else isinstance(optimizer, torch.optim.Optimizer)):
        return None
    name = optimizer.__name__ if is_class else type(optimizer).__name__
    if name not in names:
        return f"torch.optim.{name}, which has no counterpart in distopt yet"
    rate = "..." if is_class else f"{float(optimizer.param_groups[0]['lr']):g}"
    return f"torch.optim.{name}: pass distopt.optimizers.{name}(learning_rate={rate}), which replaces it"
