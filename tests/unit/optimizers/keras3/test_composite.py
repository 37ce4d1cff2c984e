"""Several optimizers in one: which has which variables, what is refused, copies."""

import copy
import json
import pickle

import numpy as np
import pytest

import distopt
from distopt import Variable
from distopt.optimizers import SGD, Adam, Lamb, LossScaleOptimizer, MultiOptimizer, OptimizerMap


def ones(*variables):
    return [(np.ones(v.shape, v.dtype), v) for v in variables]


# Several optimizers


def several():
    return MultiOptimizer(OptimizerMap(Adam(0.1, use_ema=True), {"a/.*": SGD(0.5), "exact": SGD(0.25)}))


def test_paths_choose_the_optimizer():
    names = ("a/b", "exact", "else")
    variables, optimizer = [Variable([1.0], name=name) for name in names], several()
    optimizer.apply_gradients(ones(*variables))
    np.testing.assert_allclose([float(v[0]) for v in variables], [0.5, 0.75, 0.9], rtol=1e-5)
    assert [int(inner.iterations) for inner in optimizer.optimizers] == [1, 1, 1]
    assert len(optimizer.variables) == 2 + 2 + 2 + 2 + 3
    optimizer.finalize_variable_values(variables)
    with pytest.raises(AttributeError, match="has no learning rate"):
        optimizer.learning_rate = 0.1


def test_a_pattern_that_fits_nothing_is_told():
    optimizer = MultiOptimizer(OptimizerMap(SGD(), {"bias": SGD(), ".*kernel": SGD()}))
    with pytest.warns(UserWarning, match=r"the patterns \['bias'\] fit no variable.*such as 'dense/bias'"):
        optimizer.build([Variable([1.0], name=f"dense/{name}") for name in ("bias", "kernel")])


def test_what_can_not_be_inside_is_refused():
    with pytest.raises(ValueError, match="patterns"):
        OptimizerMap(SGD(), {"a.*": SGD(), ".*b": SGD()})["ab"]
    for inner in (LossScaleOptimizer(SGD()), "sgd", distopt.optimizers.legacy.SGD()):
        with pytest.raises(ValueError, match="as an inner optimizer"):
            LossScaleOptimizer(inner)
    with pytest.raises(ValueError, match="has hooks"):
        LossScaleOptimizer(SGD(gradient_transformers=[lambda pairs: pairs]))
    with pytest.raises(ValueError, match="give them to MultiOptimizer"):
        MultiOptimizer(OptimizerMap(SGD(gradient_accumulation_steps=2)))
    for cls, argument in ((LossScaleOptimizer, SGD()), (MultiOptimizer, OptimizerMap(SGD()))):
        with pytest.raises(ValueError, match="clipnorm"):
            cls(argument, clipnorm=1.0)


@pytest.mark.parametrize(
    "make",
    [
        several,
        lambda: LossScaleOptimizer(Adam(0.1, gradient_accumulation_steps=2), initial_scale=2.0),
        lambda: SGD(0.1, 0.9, weight_decay=0.1, use_ema=True, gradient_accumulation_steps=3, loss_scale_factor=2.0),
    ],
    ids=["several", "loss scale", "features"],
)
def test_configs_and_copies_go_on_alike(make):
    def start():
        return [Variable(np.ones(3), name=name) for name in ("a/b", "exact", "else")]

    def go_on(variables, optimizer, first):
        for k in range(first, first + 4):
            optimizer.apply_gradients([(np.full(3, k + 1.0), v) for v in variables])
        return distopt.digest([*variables, *optimizer.variables])

    variables, optimizer = start(), make()
    again_variables = start()
    again = distopt.optimizers.deserialize(json.loads(json.dumps(distopt.optimizers.serialize(optimizer))))
    assert go_on(variables, optimizer, 0) == go_on(again_variables, again, 0)
    copies = [copy.deepcopy((variables, optimizer)), pickle.loads(pickle.dumps((variables, optimizer)))]
    again.set_weights(optimizer.get_weights())
    expected = go_on(variables, optimizer, 4)
    assert [go_on(*each, 4) for each in [*copies, (again_variables, again)]] == [expected] * 3


def test_an_optimizer_map_is_a_mutable_mapping():
    adam, sgd = Adam(), SGD()
    routes = OptimizerMap(sgd, {"a.*": adam})
    assert "a" not in OptimizerMap(SGD())
    assert ["a.*" in routes, "ab" in routes, len(routes), list(routes)] == [True, False, 1, ["a.*"]]
    assert (routes["ab"], routes["b"], list(routes.values())) == (adam, sgd, [adam])
    routes.update({"b": Lamb()})
    del routes["a.*"]
    assert (list(routes), routes["ab"]) == (["b"], sgd)
