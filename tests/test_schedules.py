import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distopt.errors import InvalidArgumentError
from distopt.optimizers.schedules import (
    CosineDecay,
    ExponentialDecay,
    LearningRateSchedule,
    PolynomialDecay,
    deserialize,
    serialize,
)

EXAMPLES = [
    ExponentialDecay(0.1, 10, 0.5, staircase=True),
    PolynomialDecay(0.1, 10, end_learning_rate=0.01, power=2, cycle=True),
    CosineDecay(0.01, 10, alpha=0.1, warmup_target=0.2, warmup_steps=5),
]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ExponentialDecay(2.0, 10, 0.25), {0: 2, 5: 1, 10: 0.5, 20: 0.125}),
        (ExponentialDecay(2.0, 10, 0.25, staircase=True), {0: 2, 9: 2, 10: 0.5, 19: 0.5, 20: 0.125}),
        (PolynomialDecay(0.1, 10, 0.01), {0: 0.1, 5: 0.055, 10: 0.01, 11: 0.01, 1000: 0.01}),
        (PolynomialDecay(0.1, 10, 0.01, power=2), {0: 0.1, 5: 0.09 * 0.25 + 0.01, 10: 0.01}),
        (PolynomialDecay(0.1, 10, 0.01, power=0.5), {5: 0.09 * 0.5**0.5 + 0.01}),
        (
            PolynomialDecay(0.1, 10, 0.01, cycle=True),
            {0: 0.1, 5: 0.055, 10: 0.01, 11: 0.0505, 15: 0.0325, 20: 0.01, 21: 0.09 * 0.3 + 0.01},
        ),
        (CosineDecay(0.4, 10), {0: 0.4, 5: 0.2, 10: 0, 11: 0}),
        (CosineDecay(0.4, 10, alpha=0.5), {0: 0.4, 5: 0.3, 10: 0.2, 99: 0.2}),
        (
            CosineDecay(0.1, 10, warmup_target=0.5, warmup_steps=4),
            {0: 0.1, 1: 0.2, 3: 0.4, 4: 0.5, 9: 0.25, 14: 0, 99: 0},
        ),
        (CosineDecay(0.1, 10, alpha=0.5, warmup_target=0.4, warmup_steps=2), {2: 0.4, 12: 0.2}),
        (CosineDecay(0.1, 10, warmup_target=0.4), {0: 0.4, 5: 0.2}),
        (CosineDecay(0.4, 10, warmup_steps=5), {0: 0.4, 5: 0.2}),
    ],
)
def test_values(schedule, expected):
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6, abs=1e-9), step


@given(st.integers(0, 10_000), st.integers(1, 1000), st.floats(0, 1))
def test_cosine_decay_never_rises(step, decay_steps, alpha):
    schedule = CosineDecay(1.0, decay_steps, alpha=alpha)
    assert alpha - 1e-6 <= schedule(step + 1) <= schedule(step) <= 1


@pytest.mark.parametrize(
    ("initial", "dtype"),
    [
        (0.1, "float32"),
        (1, "float32"),
        (np.int64(1), "float32"),
        (np.float64(0.1), "float64"),
        (np.float16(0.1), "float16"),
        (np.array(0.1), "float64"),
    ],
)
def test_the_result_has_the_dtype_of_the_initial_rate(initial, dtype):
    for cls in (ExponentialDecay, PolynomialDecay, CosineDecay):
        arguments = {"decay_rate": 0.5} if cls is ExponentialDecay else {}
        rate = cls(initial, 10, **arguments)(3)
        assert isinstance(rate, np.floating)
        assert rate.dtype == dtype


def test_float64_rates_are_not_rounded_to_float32():
    assert ExponentialDecay(np.float64(0.1), 10, 0.5)(10) == 0.05
    assert ExponentialDecay(0.1, 10, 0.5)(10) == np.float32(0.05)


def test_the_step_may_be_an_int_a_float_or_a_variable():
    import distopt

    iterations = distopt.Variable(np.int64(5))
    for schedule in EXAMPLES:
        assert schedule(5) == schedule(5.0) == schedule(np.int64(5)) == schedule(iterations)


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_a_schedule_survives_json(schedule):
    again = deserialize(json.loads(json.dumps(serialize(schedule))))
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [again(step) for step in range(30)] == [schedule(step) for step in range(30)]


def test_the_dictionary_has_the_keys_of_keras():
    assert serialize(ExponentialDecay(0.5, np.int64(10), 0.5)) == {
        "module": "distopt.optimizers.schedules",
        "class_name": "ExponentialDecay",
        "config": {
            "initial_learning_rate": 0.5,
            "decay_steps": 10,
            "decay_rate": 0.5,
            "staircase": False,
            "name": "ExponentialDecay",
        },
        "registered_name": None,
    }


def test_deserialize_leaves_the_dictionary_alone_and_takes_the_short_form():
    config = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 1.0, "decay_steps": 10}}
    assert deserialize(config)(5) == np.float32(0.5)
    assert config == {
        "class_name": "CosineDecay",
        "config": {"initial_learning_rate": 1.0, "decay_steps": 10},
    }


class Stairs(LearningRateSchedule):
    def __init__(self, height):
        self.height = height

    def __call__(self, step):
        return self.height * (step // 10)

    def get_config(self):
        return {"height": self.height}


def test_a_schedule_of_the_users_own():
    config = serialize(Stairs(3))
    assert config["module"] == __name__
    assert config["registered_name"] == "Stairs"
    assert deserialize(config, custom_objects={"Stairs": Stairs})(25) == 6
    with pytest.raises(InvalidArgumentError, match=r"Unknown learning rate schedule 'Stairs'.*custom_objects"):
        deserialize(config)


def test_unknown_names_get_the_nearest_match():
    with pytest.raises(InvalidArgumentError, match="Did you mean 'CosineDecay'"):
        deserialize({"class_name": "CosinDecay", "config": {}})
    with pytest.raises(InvalidArgumentError, match="keys 'class_name' and 'config'"):
        deserialize({"initial_learning_rate": 1.0})
    with pytest.raises(InvalidArgumentError, match=r"expected a LearningRateSchedule, received 0.1"):
        serialize(0.1)


def test_the_base_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"without __call__\(step\)"):
        LearningRateSchedule()(0)
    with pytest.raises(NotImplementedError, match="be saved"):
        LearningRateSchedule().get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialDecay(0.1, 0, 0.5), "decay_steps must be greater than 0, received 0"),
        (lambda: PolynomialDecay(0.1, -1), "decay_steps must be greater than 0, received -1"),
        (lambda: CosineDecay(0.1, 0), "decay_steps must be greater than 0"),
        (lambda: CosineDecay(float("nan"), 10), "initial_learning_rate must be one finite real number"),
        (lambda: CosineDecay([0.1, 0.2], 10), "initial_learning_rate must be one finite"),
        (lambda: CosineDecay("0.1", 10), "initial_learning_rate must be one finite"),
        (lambda: CosineDecay(True, 10), "initial_learning_rate must be one finite"),
        (lambda: CosineDecay(None, 10), "initial_learning_rate must be one finite"),
        (lambda: ExponentialDecay(0.1, 10, -0.5), "decay_rate must be at least 0"),
        (lambda: PolynomialDecay(0.1, 10, power=-1), "power must be at least 0"),
        (lambda: CosineDecay(0.1, 10, warmup_steps=-1), "warmup_steps must be at least 0"),
        (lambda: CosineDecay(0.1, 10, name="mine", alpha=float("inf")), "mine: alpha must be one finite"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()
