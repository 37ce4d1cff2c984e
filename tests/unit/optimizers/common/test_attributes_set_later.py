"""Numbers that can't be right are refused, also when an attribute is set later: as in the constructor."""

import sys
import threading
from contextvars import copy_context

import numpy as np
import pytest
from support import run

import distopt
from distopt import simulate
from distopt.errors import InvalidArgumentError
from distopt.losses import compute_average_loss
from distopt.optimizers import SGD, Adam, AdamW, LossScaleOptimizer, Muon, legacy

NAN = float("nan")


def stepped(optimizer):
    optimizer.apply_gradients([([1.0], distopt.Variable([1.0]))])
    return optimizer


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (Adam, "beta_1", NAN),
        (Adam, "beta_1", 1.0),
        (AdamW, "epsilon", None),
        (Adam, "amsgrad", None),
        (SGD, "nesterov", 1.0),
        (SGD, "learning_rate", 1e39),
        (SGD, "loss_scale_factor", 1e-60),
        (Muon, "ns_steps", 1e39),
        (Muon, "ns_steps", float("inf")),
        (legacy.Adam, "epsilon", NAN),
        (legacy.Ftrl, "l2_shrinkage_regularization_strength", NAN),
        (legacy.SGD, "learning_rate", 1e39),
    ],
)
def test_attributes_set_later_are_checked_as_in_the_constructor(make, name, value):
    with pytest.raises(InvalidArgumentError):
        make(**{name: value})
    optimizer = stepped(make())
    before = getattr(optimizer, name)
    with pytest.raises(InvalidArgumentError):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before
    stepped(make())


@pytest.mark.parametrize(("make", "name", "value"), [(Adam, "beta_1", 0.5), (legacy.RMSprop, "epsilon", 1e-3)])
def test_setting_an_attribute_counts_no_name(make, name, value):
    first = make()
    for _ in range(3):
        setattr(first, name, value)
    without = make().name
    for _ in range(3):
        setattr(first, name, value)
    one, other = without.rpartition("_")[2], make().name.rpartition("_")[2]
    assert not other.isdigit() or int(other) == int(one) + 1


@pytest.mark.parametrize(("make", "name"), [(Adam, "beta_1"), (legacy.RMSprop, "epsilon")])
def test_setting_an_attribute_makes_no_engine(make, name):
    optimizer, made = make(), []
    sys.setprofile(lambda frame, event, argument: made.append(frame.f_code.co_qualname))
    try:
        setattr(optimizer, name, 0.25)
    finally:
        sys.setprofile(None)
    assert getattr(optimizer, name) == 0.25
    assert not {"Engine.__init__", "Variable.__init__", "signature"} & set(made)


def test_an_attribute_set_later_means_what_it_means_in_the_constructor():
    optimizer = stepped(legacy.RMSprop())
    optimizer.epsilon = None
    assert optimizer.epsilon == 1e-7


class Named(Adam):
    """A constructor of another kind."""

    def __init__(self, model):
        super().__init__(beta_1=0.5)
        self.model = model


def test_a_subclass_has_the_checks_of_its_base():
    optimizer = stepped(Named("model"))
    optimizer.beta_1 = 0.25
    with pytest.raises(InvalidArgumentError, match="beta_1"):
        optimizer.beta_1 = NAN


@pytest.mark.parametrize("family", [SGD, legacy.SGD])
def test_a_schedule_that_returns_1e39(family):
    with pytest.raises(InvalidArgumentError, match="float32"):
        stepped(family(lambda: 1e39))


@pytest.mark.parametrize("make", [lambda s: SGD(loss_scale_factor=s), lambda s: LossScaleOptimizer(SGD(), s)])
def test_a_loss_scale_of_1e_60(make):
    with pytest.raises(InvalidArgumentError, match="become infinite"):
        make(1e-60)


@pytest.mark.parametrize("items", [5e-324, 1e308])
def test_items_that_gradients_can_not_be_divided_by(items):
    with pytest.raises(InvalidArgumentError, match="items="):
        SGD().apply_gradients([([1.0], distopt.Variable([1.0]))], items=items)
    with pytest.raises(InvalidArgumentError, match="items="):
        distopt.metrics.Mean().update(1.0, items=items)


MASKED = np.ma.MaskedArray(np.float32([1, 2]), [True, False])


@pytest.mark.parametrize(
    "use",
    [
        distopt.Variable,
        distopt.all_reduce,
        distopt.broadcast,
        compute_average_loss,
        lambda x: SGD().apply_gradients([(x, distopt.Variable([1.0, 2.0]))]),
        lambda x: distopt.Variable([1.0, 2.0]).assign(x),
        lambda x: distopt.metrics.Accuracy().update(x, [1, 2]),
    ],
)
def test_masked_arrays_lose_no_mask(use):
    with pytest.raises(InvalidArgumentError, match="masked array"):
        use(MASKED)
    use(np.ma.MaskedArray(np.float32([1, 2])))  # nothing is masked


def test_numba_disable_jit(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import distopt\nv = distopt.Variable([1.0])\ndistopt.optimizers.SGD().apply_gradients([([1.0], v)])\n"
    )
    result = run([sys.executable, script], env={"NUMBA_DISABLE_JIT": "1"})
    assert result.status != 0
    assert "NUMBA_DISABLE_JIT is set" in result.text


def test_two_threads_of_a_simulated_replica():
    def train():
        met, ended, errors = threading.Event(), threading.Event(), []

        def other():
            met.wait()
            try:
                distopt.all_reduce(1.0)
            except Exception as error:
                errors.append(str(error))
            ended.set()

        thread = threading.Thread(target=copy_context().run, args=(other,))
        thread.start()
        distopt.barrier()
        met.set()
        ended.wait()
        thread.join()
        return errors, float(distopt.all_reduce(2.0))

    for errors, total in simulate(1, train):
        assert "Make all collectives in one thread" in errors[0]
        assert total == 2
