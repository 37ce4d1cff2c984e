"""What the Keras 3 family adds to a step, over replicas: accumulation, loss scale, decay, averages, ...."""

import numpy as np
import pytest
from parallel.caught import caught, warned

import distopt
from distopt import Checks, IndexedSlices, Strategy, Variable
from distopt.aggregators import Sum
from distopt.errors import CollectiveMismatchError, NonFiniteGradientError
from distopt.optimizers import SGD, Adam, Lamb, LossScaleOptimizer, MultiOptimizer, OptimizerMap, legacy
from distopt.testing import LocalReplica, SimulatedReplicas

STEPS, MICRO = 3, 2


def variables():
    return [Variable(np.full(shape, 0.5), name=f"v{k}", dtype="float64") for k, shape in enumerate([(5, 3), (4,), ()])]


def several():
    return MultiOptimizer(OptimizerMap(Adam(0.1, weight_decay=0.1), {"v1": SGD(0.5, momentum=0.9, clipnorm=1.0)}))


OPTIMIZERS = {
    "decay and average": lambda **k: Adam(0.1, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2, **k),
    "momentum": lambda **k: SGD(0.1, momentum=0.9, global_clipnorm=1.0, **k),
    "Lamb": lambda **k: Lamb(0.1, weight_decay=0.1, **k),
}


def gradients_of(micro_step, replica, chosen):
    """The gradients of a summed loss, and how many items it was over; the last replica has none at times."""
    if replica == 2 and micro_step % 2:
        return [None] * len(chosen), 0
    rng = np.random.default_rng([micro_step, replica])
    items = 1 + (micro_step + replica) % 3
    gradients = [items * rng.normal(size=v.shape) for v in chosen]
    if micro_step % 3 == 1:
        gradients[0] = IndexedSlices(gradients[0][:2], [4, 4], (5, 3))
    return gradients, items


def add(parts):
    present = [np.asarray(p.to_dense() if isinstance(p, IndexedSlices) else p) for p in parts if p is not None]
    return sum(present) if present else None


def accumulate(name, streamed=False):
    """Two micro-steps a step, each replica with items of its own."""
    chosen, optimizer = variables(), OPTIMIZERS[name](gradient_accumulation_steps=MICRO)
    for k in range(STEPS * MICRO):
        gradients, items = gradients_of(k, distopt.replica_index(), chosen)
        pairs = list(zip(gradients, chosen, strict=True))
        if streamed:
            optimizer.begin_step(chosen)
            for gradient, variable in reversed(pairs):
                optimizer.push(variable, gradient)
            optimizer.end_step(items=items)
        else:
            optimizer.apply_gradients(pairs, items=items)
    assert (int(optimizer.iterations), int(optimizer.variables[0])) == (STEPS, STEPS * MICRO)
    return [v.numpy() for v in chosen]


def joined(name, count):
    """One replica, one step for all micro-steps of all replicas."""
    chosen, optimizer = variables(), OPTIMIZERS[name]()
    for step in range(STEPS):
        of_all = [gradients_of(step * MICRO + m, r, chosen) for m in range(MICRO) for r in range(count)]
        items = sum(items for _, items in of_all)
        sums = [add([gradients[v] for gradients, _ in of_all]) for v in range(len(chosen))]
        optimizer.apply_gradients([(total / items, v) for total, v in zip(sums, chosen, strict=True)])
    return [v.numpy() for v in chosen]


def within(update, fn, *args, **options):
    with Strategy(distopt.get_strategy().communicator, update=update, **options).scope():
        return fn(*args)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulation_is_the_step_with_the_joined_batch(replicas, name):
    (expected,) = LocalReplica()(joined, name, replicas.count)
    for values in replicas(accumulate, name):
        for value, wanted in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-10)


def test_accumulation_streams_and_shares(replicas):
    expected = [distopt.digest(values) for values in replicas(accumulate, "decay and average")]
    for update, streamed in (("replicated", True), ("shared", False), ("shared", True)):
        outcomes = replicas(within, update, accumulate, "decay and average", streamed)
        assert [distopt.digest(values) for values in outcomes] == expected, (update, streamed)


def messages():
    """How often the aggregator was asked in five micro-steps."""
    calls = []

    def counted(pairs):
        calls.append(1)
        return Sum()(pairs)

    (v, *_), optimizer = variables(), SGD(0.1, gradient_accumulation_steps=2, gradient_aggregator=counted)
    for _ in range(5):
        optimizer.apply_gradients([(np.ones(v.shape), v)])
    return len(calls)


def test_micro_steps_send_nothing(replicas):
    assert replicas(messages) == [2] * replicas.count


def scaled(bad_replica):
    """Two good steps, one that is not finite on one replica, one good one."""
    chosen = variables()
    optimizer = LossScaleOptimizer(
        Adam(0.1, global_clipnorm=1.0, use_ema=True), initial_scale=8.0, dynamic_growth_steps=2
    )
    seen = []
    for k in range(4):
        scale = float(optimizer.dynamic_scale)
        gradients = [scale * np.ones(v.shape) * (k + 1 + distopt.replica_index()) for v in chosen]
        if k == 2 and distopt.replica_index() == bad_replica:
            gradients[1][0] = np.inf
        optimizer.apply_gradients(zip(gradients, chosen, strict=True))
        seen.append((float(optimizer.dynamic_scale), int(optimizer.iterations)))
    return seen, [v.numpy() for v in chosen]


def unscaled(count):
    """The three good steps."""
    chosen, optimizer = variables(), Adam(0.1, global_clipnorm=1.0)
    for k in (0, 1, 3):
        total = sum(k + 1 + r for r in range(count))
        optimizer.apply_gradients([(total * np.ones(v.shape), v) for v in chosen])
    return [v.numpy() for v in chosen]


def test_a_step_that_is_not_finite_is_left_out_on_all_replicas(replicas):
    (expected,) = LocalReplica()(unscaled, replicas.count)
    for history, values in replicas(scaled, replicas.count - 1):
        assert history == [(8.0, 1), (16.0, 2), (8.0, 2), (8.0, 3)]
        for value, wanted in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-12)


def left_out():
    """The second micro-step of two is not finite: both are left out."""
    (v, *_) = variables()
    optimizer = LossScaleOptimizer(SGD(0.5, gradient_accumulation_steps=2), initial_scale=4.0)
    for factor in (1.0, np.nan, 4.0, 4.0):
        optimizer.apply_gradients([(np.full(v.shape, factor), v)])
    return int(optimizer.iterations), float(optimizer.dynamic_scale), float(v[0, 0])


def test_accumulation_is_left_out_as_a_whole(replicas):
    assert replicas(left_out) == [(1, 2.0, 0.5 - 0.5 * replicas.count * 4.0 / 2.0)] * replicas.count


def route(together):
    chosen, optimizer = variables(), several()
    for k in range(3):
        parts = range(distopt.num_replicas()) if together is None else range(together)
        own = [distopt.replica_index()] if together is None else parts
        sums = [sum(np.random.default_rng([k, r]).normal(size=v.shape) for r in own) for v in chosen]
        optimizer.apply_gradients(zip(sums, chosen, strict=True))
    return [v.numpy() for v in chosen], [int(inner.iterations) for inner in optimizer.optimizers]


def test_several_optimizers_in_one(replicas):
    ((expected, counts),) = LocalReplica()(route, replicas.count)
    assert counts == [3, 3]
    for values, _ in replicas(route, None):
        for value, wanted in zip(values, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "named"), [(several, "MultiOptimizer"), (lambda: LossScaleOptimizer(SGD()), "LossScale"), (Lamb, "Lamb")]
)
def test_what_has_no_flat_rule_is_refused_in_shared_mode(make, named):
    def step():
        v = Variable(np.ones((2, 2)), name="v1")
        return caught(lambda: make().apply_gradients([(np.ones((2, 2)), v)]))

    for said in SimulatedReplicas(2)(within, "shared", step):
        assert named in said.text
        assert "Strategy(update='replicated')" in said.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (lambda r: {"loss_scale_factor": 2.0 + r}, "loss_scale"),
        (lambda r: {"weight_decay": 0.1 * (r + 1)}, "weight_decay"),
        (lambda r: {"use_ema": True, "ema_momentum": 0.1 * r}, "ema_momentum"),
        (lambda r: {"use_ema": True, "ema_overwrite_frequency": 1 + r}, "ema_overwrite_frequency"),
        (lambda r: {"use_ema": r == 0}, "use_ema"),
        (lambda r: {"gradient_accumulation_steps": 2 + r}, "gradient_accumulation_steps"),
        (lambda r: {"weight_decay": 0.1, "exclude": r == 0}, "no decay of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_replicas_with_other_options_are_told(options, named):
    def step():
        v, chosen = Variable([1.0]), options(distopt.replica_index())
        excludes = chosen.pop("exclude", False)
        sgd = SGD(0.1, **chosen)
        if excludes:
            sgd.exclude_from_weight_decay([v])
        with pytest.raises(CollectiveMismatchError, match=named):
            sgd.apply_gradients([([1.0], v)])
        return float(v[0])

    assert SimulatedReplicas(2)(step) == [1.0, 1.0]


def test_a_check_of_the_sums_sees_accumulated_ones():
    def steps():
        v = Variable(np.ones(2), name="v")
        sgd = SGD(0.5, gradient_accumulation_steps=2)
        sgd.apply_gradients([([1.0, np.inf], v)])
        with pytest.raises(NonFiniteGradientError, match="'v'"):
            sgd.apply_gradients([([1.0, 1.0], v)])
        return v.numpy().tolist()

    checks = Checks(on_nonfinite="raise")
    assert SimulatedReplicas(2)(lambda: within("replicated", steps, checks=checks)) == [[1.0, 1.0]] * 2


def test_legacy_loss_scale_skips_alike(replicas):
    def steps():
        v = Variable([1.0])
        optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=4.0)
        for k in range(2):
            bad = k == 0 and distopt.replica_index() == distopt.num_replicas() - 1
            loss = optimizer.get_scaled_loss(np.float32([np.inf if bad else 1.0]))
            optimizer.apply_gradients(zip(optimizer.get_unscaled_gradients([loss]), [v], strict=True))
        return float(v[0]), int(optimizer.iterations), float(optimizer.loss_scale)

    assert replicas(steps) == [(1.0 - 0.5 * replicas.count, 2, 2.0)] * replicas.count


@pytest.mark.parametrize("family", ["keras3", "legacy"])
@pytest.mark.parametrize("aggregates", [True, False])
def test_a_loss_scale_at_its_end_says_so_once(several, family, aggregates):
    def steps():
        v, other = Variable(np.ones(9000), name="v"), Variable(np.ones(1), name="other")
        if family == "keras3":
            optimizer = LossScaleOptimizer(SGD(0.5), initial_scale=4.0)
        else:
            optimizer = legacy.LossScaleOptimizer(legacy.SGD(0.5), initial_scale=4.0)
        for _ in range(8):
            bad = np.inf if not aggregates or distopt.replica_index() == 1 else 1.0
            pairs = [(np.full(9000, bad), v), ([1.0], other)]
            if family == "legacy":
                optimizer.get_scaled_loss(1.0)
                gradients = optimizer.get_unscaled_gradients([gradient for gradient, _ in pairs])
                pairs = list(zip(gradients, [v, other], strict=True))
            optimizer.apply_gradients(pairs, experimental_aggregate_gradients=aggregates)
        return float(v[0]), float(other[0])

    results, warnings = warned(several, steps)
    assert results == [(1.0, 1.0)] * several.count
    assert len(warnings) == (1 if aggregates else several.count)
    scale, step = ("0.5", "0") if family == "keras3" else ("1", "3")
    for warning in warnings:
        assert f"step {step}: the loss scale is down at {scale}, " in warning
        assert "'v'" in warning
        assert "'other'" not in warning
        assert not aggregates or "'v': replica 1" in warning
