"""What ``update="shared"`` is to its user: one copy per node, collective writing, refusals with their reasons."""

import numpy as np
import pytest
from parallel.caught import caught
from parallel.modes.sharing import index, shared, steps, variables

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.constraints import MaxNorm
from distopt.errors import CollectiveMismatchError, InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy

# One copy per node


def test_parameters_and_slots_are_the_memory_of_the_node(several):
    def look():
        chosen, optimizer = variables(), Adam(0.1)
        optimizer.build(chosen)
        before = [v.value.ctypes.data for v in [*chosen, *optimizer.variables]]
        values = [v.value for v in chosen]
        steps(optimizer, chosen, 2)
        kept = before == [v.value.ctypes.data for v in [*chosen, *optimizer.variables]]
        live = all(np.array_equal(value, v.numpy()) for value, v in zip(values, chosen, strict=True))
        distopt.barrier()
        if index() == 0:
            chosen[0].storage.array[7] = 123.0  # past all agreements: only to see where it lies
            optimizer.variables[2].storage.array[...] = 5.0
        distopt.barrier()
        return kept, live, chosen[0].numpy()[7], float(optimizer.variables[2].numpy().min())

    def look_replicated():
        chosen = variables()
        steps(SGD(0.1), chosen, 1)
        if index() == 0:
            chosen[0].storage.array[...] = 123.0
        distopt.barrier()
        return chosen[0].numpy()[7] == 123.0

    assert several(shared, look) == [(True, True, 123.0, 5.0)] * several.count
    assert several(look_replicated) == [r == 0 for r in range(several.count)]


def test_a_node_keeps_the_slots_that_its_replicas_own_until_they_are_collected(placed):
    def look():
        v, optimizer = Variable(np.zeros(40_000), dtype="float32"), SGD(0.1, momentum=0.9)
        steps(optimizer, [v], 2)
        slot = optimizer.variables[2]
        mine = np.zeros(v.size, bool)
        for begin, end in v.storage.buffer.owned_ranges:
            mine[begin:end] = True
        own = slot.numpy()
        distopt.barrier()
        whole = optimizer.get_weights()[2]
        return distopt.get_strategy().location.node, mine, own, whole, np.array_equal(whole, slot.numpy())

    looks = placed(shared, look)
    for node in {each[0] for each in looks}:
        of_node = np.any([mine for number, mine, *_ in looks if number == node], axis=0)
        assert not of_node.all()
        for number, _, own, whole, is_collected in looks:
            if number == node:
                np.testing.assert_array_equal(own[of_node], whole[of_node])
                assert not own[~of_node].any()
                assert whole.all()
                assert is_collected
    assert len({whole.tobytes() for *_, whole, _ in looks}) == 1


def test_state_of_one_replica_is_not_shared():
    def step():
        v = Variable(np.ones(3))
        SGD(1.0, gradient_transformers=[lambda pairs: pairs]).apply_gradients([(np.ones(3), v)])
        return v.storage.buffer.shared_by, v.numpy().tolist()

    assert shared(step) == (None, [0.0, 0.0, 0.0])


# Writing


def test_assign_is_done_by_all_replicas_together(several):
    def write():
        v = Variable(np.zeros(5), name="v")
        steps(SGD(0.1), [v], 1)
        v.assign(np.arange(5.0))
        first = v.numpy().tolist()
        v.assign_add(np.ones(5))
        v.assign_sub(IndexedSlices([10.0], [4], (5,)))
        return first, v.numpy().tolist()

    assert several(shared, write) == [([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, -5.0])] * several.count


def test_assign_of_different_values_is_an_error_everywhere_and_writes_nothing(several):
    def write():
        v = Variable(np.zeros(5), name="v")
        steps(SGD(0.0), [v], 1)
        failure = caught(v.assign, np.full(5, index()))
        distopt.barrier()
        return failure, v.numpy().any()

    for failure, is_changed in several(shared, write):
        assert failure.kind is CollectiveMismatchError
        assert "value (digest)" in failure.text
        assert not is_changed


def test_assign_on_some_replicas_only_is_an_error_everywhere(several):
    def write():
        v = Variable(np.zeros(5), name="v")
        steps(SGD(0.0), [v], 1)
        failure = caught(v.assign, np.ones(5)) if index() else caught(distopt.barrier)
        return failure, v.numpy().any()

    for failure, is_changed in several(shared, write):
        assert failure.kind is CollectiveMismatchError
        assert "assignment to 'v'" in failure.text
        assert not is_changed


def test_values_are_read_only(several):
    def write():
        v = Variable(np.zeros(5), name="v")
        steps(SGD(0.0), [v], 1)
        return caught(v.value.__setitem__, 0, 1.0)

    for failure in several(shared, write):
        assert failure.kind is ValueError
        assert "read-only" in failure.text


def test_initial_values_are_those_of_replica_0(placed):
    def begin():
        v = Variable(np.full(5, index() + 1.0), name="v")
        SGD(0.0).apply_gradients([(np.zeros(5), v)])
        return v.numpy().tolist()

    def quietly():
        return shared(begin)

    with pytest.warns(UserWarning, match="began with other values") if index() == 0 else pytest.MonkeyPatch.context():
        assert placed(quietly) == [[1.0] * 5] * placed.count


def test_broadcast_and_digest_of_shared_variables(placed):
    def look():
        chosen = variables()
        steps(SGD(0.1), chosen, 2)
        before = distopt.digest(chosen)
        distopt.broadcast(chosen, source=placed.count - 1)
        return before, distopt.digest(chosen)

    assert len({each for pair in placed(shared, look) for each in pair}) == 1


# Refusals


class Overridden(SGD):
    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(gradient * learning_rate)


class Clipped(SGD):
    def _clip_gradients(self, grads):
        return grads


class LegacyOverridden(legacy.SGD):
    def _resource_apply_dense(self, grad, var, apply_state=None):
        var.assign_sub(grad)


def hook(pairs):
    return pairs


class LegacyRows(legacy.SGD):
    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        raise AssertionError


class LegacyLimits(legacy.SGD):
    def _transform_gradients(self, grads_and_vars):
        return grads_and_vars


class LegacySums(legacy.SGD):
    def _aggregate_gradients(self, grads_and_vars):
        return grads_and_vars


REFUSED = {
    "aggregator": (lambda: SGD(gradient_aggregator=hook), {}, "gradient_aggregator=", {}),
    "transformer": (lambda: SGD(gradient_transformers=[hook]), {}, "gradient_transformers=", {}),
    "update_step": (Overridden, {}, "Overridden, whose update_step sees the whole sum,", {}),
    "_clip_gradients": (Clipped, {}, "Clipped, whose _clip_gradients sees the whole sum,", {}),
    "_resource_apply_dense": (LegacyOverridden, {}, "whose _resource_apply_dense sees the whole sum,", {}),
    "constraint": (SGD, {"constraint": MaxNorm(1.0)}, "of variable 'v'", {}),
    "no aggregation": (
        SGD, {}, "experimental_aggregate_gradients=False", {"experimental_aggregate_gradients": False},
    ),
    "_resource_apply_sparse": (LegacyRows, {}, "LegacyRows, whose _resource_apply_sparse sees", {}),
    "_transform_gradients": (LegacyLimits, {}, "LegacyLimits, whose _transform_gradients sees", {}),
    "_aggregate_gradients": (LegacySums, {}, "gradient_aggregator=_aggregate_gradients", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_private_parameters_is_refused_with_its_reason(several, name):
    make, options, reason, arguments = REFUSED[name]

    def step():
        v = Variable(np.ones(5), name="v", **options)
        return caught(lambda: make().apply_gradients([(np.ones(5), v)], **arguments)), v.numpy().tolist()

    for failure, value in several(shared, step):
        assert failure.kind is InvalidArgumentError
        assert reason in failure.text
        assert "needs parameters of each replica's own" in failure.text
        assert "use Strategy(update='replicated')" in failure.text
        assert value == [1.0] * 5


def test_a_variable_that_stands_twice_is_refused(several):
    def step():
        v = Variable(np.ones(5), name="v")
        return caught(SGD().apply_gradients, [(np.ones(5), v), (np.ones(5), v)])

    for failure in several(shared, step):
        assert "a list in which a variable stands twice needs parameters of each replica's own" in failure.text


def test_a_strategy_that_keeps_replicas_apart_cannot_share():
    with pytest.raises(InvalidArgumentError, match="what exists once per node can't be kept apart"):
        Strategy(update="shared", broadcast=False)


def test_variables_of_a_replicated_optimizer_are_not_shared_later(several):
    def step():
        v = Variable(np.ones(5), name="v")
        steps(SGD(0.1), [v], 1)
        return shared(lambda: caught(SGD(0.1).apply_gradients, [(np.ones(5), v)]))

    for failure in several(step):
        assert failure.kind is InvalidArgumentError
        assert "variables ['v'] were placed by an optimizer that was not under update='shared'" in failure.text


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_shared_variables_stay_with_their_strategy(several, update):
    def step():
        v, optimizer = Variable(np.ones(5), name="v"), SGD(0.1)
        shared(steps, optimizer, [v], 1)
        value = v.numpy().tolist()
        failure = shared(lambda: caught(SGD(0.1).apply_gradients, [(np.ones(5), v)]), update=update)
        return failure, v.numpy().tolist() == value

    for failure, is_kept in several(step):
        assert failure.kind is InvalidArgumentError
        assert ("another Strategy" if update == "shared" else "under another strategy") in failure.text
        assert is_kept


def test_replicas_that_placed_variables_differently_are_told(several):
    def step():
        v, w = Variable(np.zeros(5), name="v"), Variable(np.ones(5), name="w")
        optimizer = legacy.SGD(0.1)
        optimizer.gradient_buffers([v, w] if index() == 0 else [w, v])
        failure = caught(optimizer.apply_gradients, [(np.ones(5), v), (np.ones(5), w)])
        return failure, float(v.numpy().max()), float(w.numpy().min())

    for failure, v, w in several(shared, step):
        assert failure.kind is CollectiveMismatchError
        assert "replica 0: v in buffer 0 at 0, w in buffer 0 at" in failure.text
        assert (v, w) == (0.0, 1.0)
