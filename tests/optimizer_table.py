"""Every optimizer in one table. A new one is its file and a row here: ``test_every_optimizer.py`` holds it to the rest.

Numbers that float32 holds exactly, or nearly all do: the legacy family keeps hyperparameters as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optimizer_oracle as elementwise
import oracle_whole as whole
from optimizer_oracle import Oracle

from distopt import Variable, optimizers
from distopt.optimizers import legacy

FAMILIES = {"keras3": optimizers, "legacy": legacy}


@dataclass(frozen=True)
class Row:
    """An optimizer, or a variant of one.

    Args:
        family: "keras3" or "legacy".
        name: of the class, looked up when a test asks for it: a missing one fails its own tests only.
        oracle: the class that knows its formula.
        arguments: of the class and of the oracle.
        variant: tells rows of one class apart.
        quick: the learning rate with which it converges on a small parabola.
        is_flat: whether replicas can share its parameters: it works element by element.
        rounding: how far runs of narrow dtypes may be from the oracle, in units of their rounding.
    """

    family: str
    name: str
    oracle: type[Oracle]
    arguments: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    quick: float = 0.125
    is_flat: bool = True
    rounding: float = 16.0

    @property
    def id(self) -> str:
        """What tests call it."""
        return "-".join(filter(None, [self.family, self.name, self.variant]))

    @property
    def cls(self) -> Any:
        """The class."""
        return getattr(FAMILIES[self.family], self.name)

    def make(self, **options: Any) -> Any:
        """Return a new optimizer."""
        return self.cls(**self.arguments | options)

    def oracles(self, variables: Sequence[Variable], **options: Any) -> list[Oracle]:
        """Return one oracle for each variable, from where it is."""
        return [self.oracle(v.numpy(), self.family, **self.arguments | options, **self._path_of(v)) for v in variables]

    def _path_of(self, variable: Variable) -> dict[str, str]:
        return {"name": variable.path} if self.oracle is whole.MuonOracle else {}


EIGHTH = {"learning_rate": 0.125}
BETAS = {"learning_rate": 0.0625, "beta_1": 0.875, "beta_2": 0.96875, "epsilon": 2.0**-10}
MOMENTUM = EIGHTH | {"momentum": 0.75}
RHO = {"learning_rate": 0.0625, "rho": 0.875, "epsilon": 2.0**-7}
ACCUMULATOR = {"learning_rate": 0.25, "initial_accumulator_value": 0.25, "epsilon": 2.0**-4}
REGULARISED = {
    "learning_rate": 0.25,
    "initial_accumulator_value": 0.25,
    "l1_regularization_strength": 2.0**-5,
    "l2_regularization_strength": 2.0**-6,
    "l2_shrinkage_regularization_strength": 2.0**-7,
    "beta": 0.25,
}
PLAIN_MUON = {"learning_rate": 0.0625, "nesterov": False, "rms_rate": None, "exclude_layers": ["wide"]}

SHARED_BY_FAMILIES = [
    ("SGD", elementwise.SGDOracle, EIGHTH, "", {}),
    ("SGD", elementwise.SGDOracle, MOMENTUM, "momentum", {}),
    ("SGD", elementwise.SGDOracle, MOMENTUM | {"nesterov": True}, "nesterov", {}),
    ("Adam", elementwise.AdamOracle, BETAS, "", {}),
    ("Adam", elementwise.AdamOracle, BETAS | {"amsgrad": True}, "amsgrad", {}),
    ("Adamax", elementwise.AdamaxOracle, BETAS, "", {}),
    ("Nadam", elementwise.NadamOracle, BETAS, "", {}),
    ("Adagrad", elementwise.AdagradOracle, ACCUMULATOR, "", {"quick": 1.0}),
    ("Adadelta", elementwise.AdadeltaOracle, RHO | {"learning_rate": 1.0}, "", {"quick": 1.0}),
    ("RMSprop", elementwise.RMSpropOracle, RHO, "", {}),
    ("RMSprop", elementwise.RMSpropOracle, RHO | {"centered": True}, "centered", {}),
    ("RMSprop", elementwise.RMSpropOracle, RHO | {"momentum": 0.5}, "momentum", {}),
    ("RMSprop", elementwise.RMSpropOracle, RHO | {"momentum": 0.5, "centered": True}, "momentum-centered", {}),
    ("Ftrl", elementwise.FtrlOracle, {"learning_rate": 0.25}, "", {"quick": 1.0}),
    ("Ftrl", elementwise.FtrlOracle, REGULARISED, "regularised", {"quick": 1.0}),
    ("Ftrl", elementwise.FtrlOracle, REGULARISED | {"learning_rate_power": -0.625}, "power", {"quick": 1.0}),
]

ROWS = [
    Row(family, name, oracle, arguments, variant, **options)
    for family in FAMILIES
    for name, oracle, arguments, variant, options in SHARED_BY_FAMILIES
] + [
    Row("legacy", "SGD", elementwise.SGDOracle, MOMENTUM | {"decay": 0.25}, "decay"),
    Row("legacy", "NonFusedAdam", elementwise.AdamOracle, BETAS),
    Row("legacy", "Nadam", elementwise.NadamOracle, BETAS | {"schedule_decay": 0.5}, "decay"),
    Row("keras3", "AdamW", elementwise.AdamWOracle, BETAS | {"weight_decay": 0.0625}),
    Row("keras3", "SGD", elementwise.SGDOracle, MOMENTUM | {"weight_decay": 0.0625}, "weight-decay"),
    Row("keras3", "Lion", elementwise.LionOracle, {"learning_rate": 2.0**-6, "beta_1": 0.875, "beta_2": 0.96875}),
    Row("keras3", "ScheduleFreeAdamW", elementwise.ScheduleFreeAdamWOracle, BETAS),
    Row("keras3", "ScheduleFreeAdamW", elementwise.ScheduleFreeAdamWOracle, BETAS | {"warmup_steps": 4}, "warmup"),
    Row("keras3", "Lamb", whole.LambOracle, BETAS, is_flat=False),
    Row("keras3", "Adafactor", whole.AdafactorOracle, {"learning_rate": 0.25}, is_flat=False),
    Row("keras3", "Muon", whole.MuonOracle, {"learning_rate": 0.0625, "momentum": 0.75}, is_flat=False),
    Row("keras3", "Muon", whole.MuonOracle, PLAIN_MUON, "plain", is_flat=False),
]
