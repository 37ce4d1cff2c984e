"""AdamW, Keras 3 family."""

from __future__ import annotations

from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.adam import Adam


class AdamW(Adam):
    """Adam with decoupled weight decay.

    ``w ← w - lr λ w``, then Adam's step; the decay does not enter its moments.

    Args:
        learning_rate: lr; a number, a schedule, or a function without arguments.
        weight_decay: λ, 0 or more.
        beta_1: β₁, decay of the first moment.
        beta_2: β₂, decay of the second.
        epsilon: ε, as in ``Adam``.
        amsgrad: whether to use AMSGrad.
        *options: the arguments of ``Optimizer`` by position, from ``clipnorm``.
        **kwargs: the arguments of ``Optimizer``.

    Raises:
        InvalidArgumentError: no weight decay; any argument that ``Adam`` refuses.

    Example:
        >>> import distopt
        >>> w = distopt.Variable([1.0])
        >>> _ = AdamW(learning_rate=0.5).apply_gradients([([1.0], w)])
        >>> w.numpy().round(4)
        array([0.498], dtype=float32)

    Source: Loshchilov and Hutter 2019, as in Keras 3 ``keras.optimizers.AdamW``: the decay is multiplied by the
    learning rate of the step.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *options: Any,
        **kwargs: Any,
    ) -> None:
        if weight_decay is None:
            raise InvalidArgumentError(
                "AdamW(weight_decay=None): expected a number, 0 or more; without weight decay it is Adam"
            )
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, *options, **kwargs)
