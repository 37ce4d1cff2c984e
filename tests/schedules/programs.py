"""Random training programs whose numbers no schedule may change; a seed draws one.

Gradients are small whole numbers: their sums are exact in any order and in any dtype, so one replica on the joined
batch is right to the last bit. Half of the programs limit nothing, and half of the steps are all dense: every further
exchange is one more place where replicas wait for each other, and hides what they should have waited for before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from schedules.shelf import LEGACY, OPTIMIZERS, SHAREABLE, WITH_ACCUMULATION, WITH_MASTERS, WITH_SCALE

SHAPES = ((5000,), (3, 4), (66, 130), (), (9001,), (40, 3), (1,))
LARGE = (131_072 + 17,)
DTYPES = ("float16", "bfloat16", "float32", "float64")
PATTERNS = ("dense", "sparse", "absent", "mixed")
LIMITS = ({"clipvalue": 5.0}, {"clipnorm": 30.0}, {"global_clipnorm": 50.0})
WIRES = ("Float16", "BFloat16")
HOOKS = ("all_reduce", "Stacked")
TRANSFORMERS = ("halve", "clip")
STEPS_ARE = ("apply", "buffers", "stream", "stream of buffers", "alone")
OTHERS = ("assign", "slot assign", "weights", "checkpoint", "restore", "collectives", "give up", "rate")


@dataclass(frozen=True)
class Action:
    """What all replicas do next.

    Args:
        what: a way to do a step, or one of ``OTHERS``.
        optimizer: which of the program's.
        entries: the variables of the list, in its order; the first is the one that is assigned.
        patterns: for each entry how its gradient comes.
        has_items: whether replicas give items.
        is_infinite: whether one replica brings a number that is not finite.
        reads: whether the whole state is read afterwards.
    """

    what: str
    optimizer: int = 0
    entries: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()
    has_items: bool = False
    is_infinite: bool = False
    reads: bool = False


@dataclass(frozen=True)
class Program:
    """Everything that replicas do, but for who is late."""

    seed: int
    replicas: int
    update: str
    nodes: tuple[int, ...]
    optimizers: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    hook: str | None = None
    transformer: str | None = None
    variables: tuple[tuple[tuple[int, ...], str], ...] = ()
    on_nonfinite: str | None = None
    state_every: int = 0
    actions: tuple[Action, ...] = ()

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in vars(self).items() if name != "actions"]
        return "\n".join([*lines, *(f"  {k}: {action}" for k, action in enumerate(self.actions))])


def draw_program(seed: int, replicas: int) -> Program:
    """Draw a program: an even seed's updates replicated parameters, an odd one's shared."""
    rng = np.random.default_rng([seed, replicas])
    update = ("replicated", "shared")[seed % 2]
    is_plain = rng.random() < 0.5
    optimizers = _draw_optimizers(rng, update)
    dtypes = rng.choice(DTYPES, size=int(rng.integers(1, 3)), replace=False).tolist()
    if set(optimizers) & WITH_MASTERS:
        dtypes[0] = "float16"
    count = int(rng.integers(2, 5))
    shapes = [SHAPES[k] for k in rng.integers(len(SHAPES), size=count)]
    if rng.random() < 0.1:
        shapes[0] = LARGE
    variables = tuple((shape, str(rng.choice(dtypes))) for shape in shapes)
    can_be_hooked = update == "replicated" and not is_plain
    hook = _maybe(rng, 0.3, HOOKS) if can_be_hooked else _maybe(rng, 0.2, WIRES)
    options = {} if is_plain or optimizers[0] not in LIMITED else _maybe(rng, 0.7, LIMITS) or {}
    can_transform = can_be_hooked and not (options and optimizers[0] in LEGACY) and optimizers[0] in LIMITED
    program = Program(
        seed, replicas, update, _draw_nodes(rng, replicas), optimizers, options, hook,
        _maybe(rng, 0.3, TRANSFORMERS) if can_transform else None, variables,
        None if is_plain else _maybe(rng, 0.3, ("skip",)), int(rng.choice([0, 1, 3])),
    )  # fmt: skip
    return Program(**vars(program) | {"actions": tuple(_draw_actions(rng, program))})


LIMITED = frozenset(name for name in OPTIMIZERS if not name.startswith("composite"))
"""Optimizers that take limits themselves: a composite leaves them to the inner ones."""


def _draw_optimizers(rng: np.random.Generator, update: str) -> tuple[str, ...]:
    known = [name for name in OPTIMIZERS if update == "replicated" or name in SHAREABLE]
    first = str(rng.choice(known))
    partners = [name for name in known if name not in WITH_ACCUMULATION | WITH_SCALE]
    if first in WITH_ACCUMULATION | WITH_SCALE or not partners or rng.random() < 0.75:
        return (first,)
    return first, str(rng.choice(partners))


def _draw_nodes(rng: np.random.Generator, replicas: int) -> tuple[int, ...]:
    raw = [0] * replicas if rng.random() < 0.6 else rng.integers(2, size=replicas).tolist()
    return tuple(list(dict.fromkeys(raw)).index(node) for node in raw)


def _draw_actions(rng: np.random.Generator, program: Program) -> list[Action]:
    actions: list[Action] = []
    has_saved = False
    has_items = rng.random() < 0.4
    for _ in range(12):
        optimizer = int(rng.integers(len(program.optimizers)))
        what = str(rng.choice(STEPS_ARE if rng.random() < 0.7 else OTHERS))
        if what == "restore" and not has_saved:
            what = "checkpoint"
        if what == "checkpoint" and not _has_all_slots(program, actions):
            what = "buffers"
        if not _can(program, program.optimizers[optimizer], what):
            what = "apply"
        has_saved = has_saved or what == "checkpoint"
        actions.append(_draw_action(rng, program, what, optimizer, has_items=has_items))
    return actions


def _has_all_slots(program: Program, actions: list[Action]) -> bool:
    """Return whether every variable has its slots; a checkpoint without them can't be restored with them."""
    return program.optimizers[0] not in LEGACY or any(
        action.what in STEPS_ARE
        and not action.is_infinite
        and len(action.entries) == len(program.variables)
        and set(action.patterns) == {"dense"}
        for action in actions
    )


def _can(program: Program, optimizer: str, what: str) -> bool:
    """Return whether an action is possible with this program."""
    is_shared, names = program.update == "shared", set(program.optimizers)
    if what in ("checkpoint", "restore"):
        return len(names) == 1 == len(program.optimizers)
    if what == "alone":
        return not is_shared and program.hook is None and not names & WITH_ACCUMULATION
    if what == "weights":
        return not names & WITH_ACCUMULATION
    return not (what == "rate" and optimizer.startswith("composite"))


def _draw_action(rng: np.random.Generator, program: Program, what: str, optimizer: int, *, has_items: bool) -> Action:
    count = len(program.variables)
    entries = list(range(count))
    if set(program.optimizers) & WITH_ACCUMULATION:
        pass  # the last micro-step must list what the others have listed
    elif rng.random() < 0.4:
        entries = rng.permutation(count)[: rng.integers(1, count + 1)].tolist()
    patterns = ["dense"] * len(entries)
    if rng.random() < 0.5:
        # Rows that a norm limits are no whole numbers, and the legacy family adds them only then: in another order.
        rounds = program.optimizers[optimizer] in LEGACY and not program.options.keys() <= {"clipvalue"}
        patterns = rng.choice(["dense", "absent"] if rounds else PATTERNS, size=len(entries)).tolist()
    skips = program.optimizers[optimizer] in WITH_SCALE or program.on_nonfinite == "skip"
    may_be_infinite = skips and what != "alone"
    return Action(
        what,
        optimizer,
        tuple(entries),
        tuple(patterns),
        has_items and what != "alone",
        bool(may_be_infinite and rng.random() < 0.3),
        bool(rng.random() < 0.3),
    )


def _maybe(rng: np.random.Generator, chance: float, choices: Any) -> Any:
    drawn = choices[int(rng.integers(len(choices)))]
    return drawn if rng.random() < chance else None
