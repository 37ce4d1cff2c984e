"""What must come of a program: every replica as a coroutine over plain NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from chaos import programs as p
from chaos.program_meetings import OFFER, Meeting, Refused, run_in_lockstep
from chaos.program_state import Optimizer, differ, sum_of
from chaos.programs import DTYPES, SHAPES, Program


class Replica:
    """One replica's state, in float64."""

    def __init__(self, program: Program, index: int) -> None:
        self.program, self.index = program, index
        self.values = [np.float64(p.initial_value(program, entry, index)) for entry in range(len(SHAPES))]
        self.optimizers = [Optimizer(kind) for kind in program.optimizers]
        self.is_shared = program.update == "shared"
        self.has_greeted = self.knows_place = False
        self.homes: dict[int, tuple[int, ...]] = {}
        self.shared_homes: set[tuple[int, ...]] = set()
        self.may_differ: set[Any] = set()
        self.numbers = 0
        self.log: list[tuple[str, Any]] = []
        self.has_died = False

    def script(self) -> Meeting:
        for op in self.program.scripts[self.index]:
            if isinstance(op, p.Return):
                return
            try:
                value = yield from self.do(op)
            except Refused as refused:
                self.log.append(("error", refused.name))
                if not self.program.catches[self.index]:
                    self.has_died = True
                    return
            else:
                self.log.append(("value", value))

    def do(self, op: Any) -> Meeting:
        match op:
            case p.AllReduce():
                rows = yield from self.gather(f"all_reduce {op.op}", op)
                return rows.sum(0) if op.op == "sum" else rows.max(0)
            case p.AllGather():
                return (yield from self.gather("all_gather", op))
            case p.Broadcast():
                return (yield from self.broadcast(op))
            case p.Barrier():
                yield from self.meet("barrier")
            case p.Place():
                return (yield from self.place())
            case p.Build():
                yield from self.build(self.optimizers[op.optimizer])
            case p.Step():
                return (yield from self.step(op))
            case p.LocalStep():
                return self.local_step(op)
            case p.Assign():
                yield from self.assign(op)
            case p.SetRate():
                self.optimizers[op.optimizer].rate = op.rate
            case p.GetWeights():
                optimizer = self.optimizers[op.optimizer]
                if optimizer.shared_slots:
                    yield from self.meet("get_weights", optimizer.kind == "Adam")
                slots = [optimizer.slots[e, label] for e in optimizer.built_for for label in optimizer.labels]
                return [np.float64(optimizer.iterations), np.float64(optimizer.rate), *slots]
            case p.Batches():
                return (yield from self.loop_over_batches(op))
            case p.Join():
                return (yield from self.loop_over_items(op))
            case p.Mistake():
                yield from self.make_mistake(op)
            case p.Raise():
                raise Refused("UserError")
        return None

    # Meetings

    def meet(self, *key: Any, brings: Any = None) -> Meeting:
        yield from self.greet()
        return (yield key, brings)

    def greet(self) -> Meeting:
        if not self.has_greeted:
            self.has_greeted = True
            yield ("first agreement",), None

    def offer(self) -> Meeting:
        yield from self.meet(OFFER)

    def gather(self, name: str, op: p.AllReduce | p.AllGather) -> Meeting:
        mine = p.contribution(op.shape, op.dtype, self.index)
        return np.array((yield from self.meet(name, op.shape, op.dtype, brings=mine)))

    def broadcast(self, op: p.Broadcast) -> Meeting:
        if not op.variables:
            mine = [p.contribution((6,), "int64", self.index)]
            return (yield from self.meet("broadcast", op.source, "array", brings=mine))[op.source][0]
        mine = [self.values[entry] for entry in op.variables]
        rows = yield from self.meet("broadcast", op.source, op.variables, brings=mine)
        for entry, value in zip(op.variables, rows[op.source], strict=True):
            self.values[entry] = value
        self.may_differ -= set(op.variables)
        return None

    def place(self) -> Meeting:
        if not self.knows_place:
            yield from self.meet("place")
            self.knows_place = True
        return self.members.index(self.index), len(self.members)

    @property
    def members(self) -> list[int]:
        """The replicas of this node."""
        nodes = self.program.nodes
        return [r for r, node in enumerate(nodes) if node == nodes[self.index]]

    def assign(self, op: p.Assign) -> Meeting:
        if self.homes.get(op.variable) in self.shared_homes:
            yield from self.meet("assign", op)
        self.values[op.variable] = np.full(SHAPES[op.variable], float(op.number))

    # Before a first step

    def prepare(self, optimizer: Optimizer, entries: tuple[int, ...]) -> bool:
        """Build where that has not been done; return whether the optimizer knows the variables."""
        if not optimizer.built_for:
            optimizer.built_for = entries
            self.lay_out(entries)
            for entry in entries:
                for label in optimizer.labels:
                    optimizer.slots[entry, label] = np.zeros(SHAPES[entry])
        return set(entries) <= set(optimizer.built_for)

    def lay_out(self, entries: tuple[int, ...]) -> None:
        """Give variables a place in memory: those that come together, one buffer per dtype."""
        homeless = [entry for entry in entries if entry not in self.homes]
        for dtype in dict.fromkeys(DTYPES):
            home = tuple(entry for entry in homeless if DTYPES[entry] == dtype)
            self.homes |= dict.fromkeys(home, home)

    def build(self, optimizer: Optimizer) -> Meeting:
        if not optimizer.built_for:
            everything = tuple(range(len(SHAPES)))
            self.lay_out(everything)
            yield from self.synchronise(optimizer, everything)
            self.prepare(optimizer, everything)

    def begin_plan(self, optimizer: Optimizer, entries: tuple[int, ...]) -> Meeting:
        if set(entries) <= set(optimizer.plan):
            return
        new = self.not_synchronised(optimizer, entries)
        yield from self.meet("first step", optimizer.kind, optimizer.number, entries, new)
        if not optimizer.number:
            self.numbers += 1
            optimizer.number = self.numbers
        together = tuple(dict.fromkeys([*entries, *optimizer.plan]))
        yield from self.synchronise(optimizer, entries)
        if self.is_shared:
            yield from self.share(optimizer, together)
        optimizer.plan = together

    def not_synchronised(self, optimizer: Optimizer, entries: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(entry for entry in entries if entry not in optimizer.synchronised)

    def synchronise(self, optimizer: Optimizer, entries: tuple[int, ...]) -> Meeting:
        """Take replica 0's values."""
        new = self.not_synchronised(optimizer, entries)
        if not new:
            return
        brings = [self.values[entry] for entry in new], dict(optimizer.slots), optimizer.iterations
        kind = "Adam" if optimizer.kind == "Adam" else "SGD"
        state = [SHAPES[e] for e in optimizer.built_for for _ in optimizer.labels], not optimizer.shared_slots
        rows = yield from self.meet("initial values", kind, new, state, brings=brings)
        values, optimizer.slots, optimizer.iterations = rows[0][0], dict(rows[0][1]), rows[0][2]
        for entry, value in zip(new, values, strict=True):
            self.values[entry] = value
        optimizer.synchronised |= set(new)

    def share(self, optimizer: Optimizer, entries: tuple[int, ...]) -> Meeting:
        """Make memory the node's: what its first replica has counts."""
        homes = list(dict.fromkeys(self.homes[entry] for entry in entries))
        fresh = [home for home in homes if home not in self.shared_homes]
        wanted = dict.fromkeys((self.homes[e], label) for e in optimizer.built_for for label in optimizer.labels)
        slots = [key for key in wanted if key not in optimizer.shared_slots]
        rows = yield from self.meet("sharing", optimizer.kind == "Adam", homes, fresh, slots, brings=list(self.values))
        for home in fresh:
            for entry in home:
                self.values[entry] = rows[self.members[0]][entry]
        self.shared_homes |= set(fresh)
        optimizer.shared_slots |= set(slots)

    # Steps

    def step(self, op: p.Step) -> Meeting:
        optimizer = self.optimizers[op.optimizer]
        gradients, items = p.gradients_of(op, self.index), p.items_of(op, self.index)
        if op.how in ("apply", "buffers"):
            if op.how == "buffers" and not self.prepare(optimizer, op.entries):
                raise Refused("InvalidArgumentError")  # nobody is told of it: no call of all replicas has begun
            return (yield from self.apply(optimizer, op.entries, gradients, items))
        yield from self.begin_step(optimizer, op.entries)
        if op.how == "abandon":
            return None
        return (yield from self.finish(optimizer, op.entries, gradients, items, "end_step"))

    def begin_step(self, optimizer: Optimizer, entries: tuple[int, ...]) -> Meeting:
        yield from self.greet()
        if not self.prepare(optimizer, entries):
            yield from self.offer()
        yield from self.meet("begin_step", optimizer.kind, entries, optimizer.number)
        yield from self.begin_plan(optimizer, entries)

    def apply(self, optimizer: Optimizer, entries: tuple[int, ...], gradients: list[Any], items: int | None) -> Meeting:
        yield from self.greet()
        if not self.prepare(optimizer, entries):
            yield from self.offer()
        yield from self.begin_plan(optimizer, entries)
        return (yield from self.finish(optimizer, entries, gradients, items, "apply_gradients"))

    def finish(
        self, optimizer: Optimizer, entries: tuple[int, ...], gradients: list[Any], items: int | None, name: str
    ) -> Meeting:
        plan = optimizer.kind, entries, optimizer.number
        key = name, plan, optimizer.iterations, optimizer.rate, items is None
        every, state = self.program.state_every, self.state_of(optimizer, entries)
        rows = yield from self.meet(*key, brings=(gradients, items, state))
        if every and optimizer.iterations and optimizer.iterations % every == 0 and differ([row[2] for row in rows]):
            raise Refused("DivergedError")
        total = 1 if items is None else sum(row[1] for row in rows)
        sums = [sum_of([row[0][k] for row in rows], entry, total) for k, entry in enumerate(entries)]
        return self.update(optimizer, entries, sums)

    def state_of(self, optimizer: Optimizer, entries: tuple[int, ...]) -> dict[Any, bytes]:
        """What is compared between replicas; where it is shared they have one."""
        if self.is_shared:
            return {}
        kept = {entry: self.values[entry] for entry in entries} | optimizer.slots
        marks = {(optimizer.kind, key) if isinstance(key, tuple) else key: value for key, value in kept.items()}
        return {
            key: value.tobytes() for key, value in marks.items() if self.mark(optimizer, key) not in self.may_differ
        }

    def mark(self, optimizer: Optimizer, key: Any) -> Any:
        return (self.optimizers.index(optimizer), key) if isinstance(key, tuple) else key

    def local_step(self, op: p.LocalStep) -> int:
        optimizer = self.optimizers[op.optimizer]
        if not self.prepare(optimizer, op.entries) or self.is_shared:
            raise Refused("InvalidArgumentError")
        iterations = self.update(optimizer, op.entries, [np.float64(g) for g in p.gradients_of(op, self.index)])
        self.may_differ |= set(op.entries) | {self.mark(optimizer, (optimizer.kind, key)) for key in optimizer.slots}
        return iterations

    def update(self, optimizer: Optimizer, entries: tuple[int, ...], sums: list[np.ndarray | None]) -> int:
        if all(g is None for g in sums):
            raise Refused("InvalidArgumentError")
        for entry, g in zip(entries, sums, strict=True):
            if g is not None:
                self.values[entry] = optimizer.update(entry, self.values[entry], g)
        optimizer.iterations += 1
        return optimizer.iterations

    # Loops

    def loop_over_batches(self, op: p.Batches) -> Meeting:
        arguments = op.examples, op.size
        if len(set((yield from self.meet("batches", brings=arguments)))) > 1:
            raise Refused("InvalidArgumentError")
        seen: list[tuple[int, int]] = []
        examples = np.arange(1.0, op.examples + 1)
        for begin in range(0, op.examples, op.size):
            share = np.array_split(examples[begin : begin + op.size], len(self.program.nodes))
            mine, count = share[self.index], sum(map(len, share))
            gradients = p.full(op.entries, mine.sum())
            yield from self.apply(self.optimizers[op.optimizer], op.entries, gradients, len(mine))
            seen.append((len(mine), count))
            if len(seen) == op.leave_after:
                break
        return seen

    def loop_over_items(self, op: p.Join) -> Meeting:
        seen: list[int] = []
        while True:
            k = len(seen)
            item = np.full(self.index + 1, k + 1.0) if k < op.lengths[self.index] else None
            if not any((yield from self.meet("join", k, brings=item is not None))):
                return seen
            item = np.zeros(0) if item is None else item
            gradients = p.full(op.entries, item.sum())
            yield from self.apply(self.optimizers[op.optimizer], op.entries, gradients, len(item))
            seen.append(len(item))
            if len(seen) == op.leave_after:
                return seen

    def make_mistake(self, op: p.Mistake) -> Meeting:
        yield from self.greet()
        optimizer = self.optimizers[op.optimizer]
        if op.what in ("shape", "items") and not self.prepare(optimizer, op.entries):
            yield from self.offer()
        if op.what == "items":
            yield from self.begin_plan(optimizer, op.entries)
        if op.what == "push":
            yield from self.begin_step(optimizer, op.entries)
        yield from self.offer()


def predict(program: Program) -> list[Replica]:
    """Run the model of a program to its end."""
    replicas = [Replica(program, index) for index in range(len(program.nodes))]
    run_in_lockstep([replica.script() for replica in replicas])
    return replicas
