"""State of the Keras 3 family goes in and out; exact copies of variables of 16 bits."""

import pickle

import ml_dtypes
import numpy as np
import pytest

import distopt
from distopt import Variable
from distopt.constraints import NonNeg
from distopt.optimizers import SGD, Adam, Lamb


def ones(*variables):
    return [(np.ones(v.shape, v.dtype), v) for v in variables]


# State in and out


def test_own_variables_go_through_a_store():
    x, y, store = Variable([1.0, 2.0]), Variable([1.0, 2.0]), {}
    adam, again = Adam(0.1, amsgrad=True, use_ema=True), Adam(0.5, amsgrad=True, use_ema=True)
    adam.apply_gradients(ones(x))
    adam.save_own_variables(store)
    assert list(store) == [str(k) for k in range(len(adam.variables))]
    with pytest.raises(ValueError, match="call build"):
        again.load_own_variables(store)
    again.build([y])
    again.load_own_variables(store)
    assert distopt.digest(again.variables) == distopt.digest(adam.variables)


def test_a_stateless_step_is_a_step_and_changes_nothing():
    x, y = Variable([1.0, 2.0]), Variable([5.0, 5.0])
    stateful, stateless = (Adam(0.1, weight_decay=0.1, gradient_accumulation_steps=2) for _ in range(2))
    stateless.build([y])
    state, values = stateless.get_weights(), [x.numpy()]
    before = distopt.digest([y, *stateless.variables])
    for _ in range(4):
        stateful.apply_gradients(ones(x))
        values, state = stateless.stateless_apply(state, [np.ones(2)], values)
    assert distopt.digest([y, *stateless.variables]) == before
    np.testing.assert_array_equal(values[0], x.numpy())
    assert distopt.digest(state) == distopt.digest(stateful.get_weights())
    for arguments in (([], [np.ones(2)], values), (state, [np.ones(2)], [])):
        with pytest.raises(ValueError, match=r"received"):
            stateless.stateless_apply(*arguments)
    with pytest.raises(ValueError, match="call build"):
        Adam().stateless_apply(state, [np.ones(2)], values)


# Exact copies


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_updates_add_up_in_exact_copies(dtype):
    rounded, exact = Variable(np.ones(3), dtype=dtype), Variable(np.ones(3, "f4"))
    ours, wide = (Adam(1e-5, weight_decay=0.01, use_ema=True, master_weights=flag) for flag in (True, False))
    for k in range(40):
        gradient = np.full(3, 1.0 + k % 3)
        ours.apply_gradients([(gradient, rounded)])
        wide.apply_gradients([(gradient, exact)])
    assert distopt.digest([ours.variables[-1]]) == distopt.digest([exact])
    assert distopt.digest(ours.variables[2:-1]) == distopt.digest(wide.variables[2:])
    np.testing.assert_array_equal(rounded.numpy(), exact.numpy().astype(rounded.dtype))
    rounded.assign(np.full(3, 2.0))
    ours.apply_gradients([(np.zeros(3), rounded)])
    assert abs(float(ours.variables[-1][0]) - 2.0) < 1e-4


def test_exact_copies_travel():
    x = Variable(np.ones(3), dtype="bfloat16")
    adam = Adam(1e-4, master_weights=True)
    for _ in range(3):
        adam.apply_gradients(ones(x))
    y, again = pickle.loads(pickle.dumps((x, adam)))
    z, fresh = Variable(x.numpy()), Adam.from_config(adam.get_config())
    fresh.build([z])
    fresh.set_weights(adam.get_weights())
    for v, optimizer in ((x, adam), (y, again), (z, fresh)):
        optimizer.apply_gradients(ones(v))
    assert len({distopt.digest(o.variables) for o in (adam, again, fresh)}) == 1


def test_exact_copies_can_not_be_switched_after_build():
    for sgd in (SGD(master_weights=True), SGD()):
        has_copies = sgd.master_weights
        sgd.master_weights = has_copies
        sgd.build([Variable(np.ones(3), dtype="float16")])
        with pytest.raises(ValueError, match=f"was built with master_weights = {has_copies}"):
            sgd.master_weights = not has_copies


def test_exact_copies_need_a_rule_and_no_constraint():
    x = Variable(np.ones(3, ml_dtypes.bfloat16), constraint=NonNeg())
    with pytest.raises(ValueError, match="has the constraint NonNeg"):
        SGD(master_weights=True).build([x])
    with pytest.raises(ValueError, match="method of its own"):
        Lamb(master_weights=True).build([Variable(np.ones(3), dtype="float16")])
