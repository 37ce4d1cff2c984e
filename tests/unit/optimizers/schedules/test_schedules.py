import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distopt.errors import InvalidArgumentError
from distopt.optimizers.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
    Warmup,
    deserialize,
    register,
    serialize,
)


def wave(fraction):
    return 0.5 * (1 + math.cos(math.pi * fraction))


EXAMPLES = [
    ExponentialDecay(0.1, 10, 0.5, staircase=True),
    PolynomialDecay(0.1, 10, end_learning_rate=0.01, power=2, cycle=True),
    CosineDecay(0.01, 10, alpha=0.1, warmup_target=0.2, warmup_steps=5),
    CosineDecayRestarts(0.1, 4, t_mul=1.5, m_mul=0.9, alpha=0.01),
    InverseTimeDecay(0.1, 10, 0.5, staircase=True),
    PiecewiseConstantDecay([5, 12.5], [0.1, 0.05, 0.01]),
    PiecewiseConstantDecay([5], np.array([0.1, 0.05], np.float16)),
    Warmup(Warmup(CosineDecay(np.float64(0.1), 10), 3), 5, start=0.2),
    Warmup(0.1, 5),
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
        (InverseTimeDecay(0.1, 10, 0.2), {0: 0.1, 5: 0.1 / 1.1, 10: 0.1 / 1.2, 100: 0.1 / 3}),
        (InverseTimeDecay(0.1, 10, 0.2, staircase=True), {9: 0.1, 10: 0.1 / 1.2, 19: 0.1 / 1.2, 20: 0.1 / 1.4}),
        (
            PiecewiseConstantDecay([100, 110, 120], [1.0, 0.1, 0.01, 0.001]),
            {-1: 1, 0: 1, 100: 1, 100.5: 0.1, 101: 0.1, 110: 0.1, 111: 0.01, 120: 0.01, 121: 0.001, 1000: 0.001},
        ),
        (PiecewiseConstantDecay([2.5, 2.5], [1.0, 0.5, 0.25]), {2: 1, 3: 0.25}),
        (PiecewiseConstantDecay([], [0.5]), {0: 0.5, 99: 0.5}),
        (
            CosineDecayRestarts(1.0, 10),
            {
                0: 1,
                9: wave(9 / 10),
                10: 1,
                29: wave(19 / 20),
                30: 1,
                69: wave(39 / 40),
                70: 1,
                149: wave(79 / 80),
                150: 1,
            },
        ),
        (CosineDecayRestarts(1.0, 10, t_mul=1, m_mul=0.5), {5: 0.5, 10: 0.5, 15: 0.25, 20: 0.25, 45: 0.03125}),
        (CosineDecayRestarts(0.4, 10, m_mul=0.5, alpha=0.5), {0: 0.4, 5: 0.3, 10: 0.3, 20: 0.25, 30: 0.25}),
        (
            CosineDecayRestarts(1.0, 8, t_mul=0.5),
            {7: wave(7 / 8), 8: 1, 10: 0.5, 12: 1, 14: 1, 15: 1, 16: 0, 17: 0, 99: 0},
        ),
        (CosineDecayRestarts(1.0, 8, t_mul=0.5, alpha=0.1), {10: 0.55, 15: 1, 16: 0.1, 10**9: 0.1}),
        (Warmup(0.2, 4), {0: 0, 1: 0.05, 4: 0.2, 9: 0.2}),
        (Warmup(PolynomialDecay(0.2, 10, 0.0), 4, start=0.4), {0: 0.4, 1: 0.35, 4: 0.2, 9: 0.1, 14: 0}),
        (Warmup(ExponentialDecay(0.2, 1, 0.5), 0), {0: 0.2, 1: 0.1}),
    ],
)
def test_values(schedule, expected):
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6, abs=1e-9), step


@pytest.mark.parametrize("t_mul", [2, 2.0, 3, 1.5, 1.1, 1.2])
@pytest.mark.parametrize("first", [1, 3, 10, 10**6, 10**9])
def test_restarts_are_at_the_exact_step(t_mul, first):
    schedule = CosineDecayRestarts(1.0, first, t_mul=t_mul, m_mul=0.5)
    start, length, growth = Fraction(0), Fraction(first), Fraction(str(t_mul))
    for k in range(24):
        for step in {math.ceil(start), math.ceil(start + length) - 1}:
            if start <= step < start + length and step < 2**53:
                assert schedule(step) == np.float32(0.5**k * wave(float((step - start) / length))), (k, step)
        start, length = start + length, length * growth


def test_restarts_of_equal_length_are_exact_after_a_billion_of_them():
    schedule = CosineDecayRestarts(1.0, 3, t_mul=1)
    assert schedule(3 * 10**9) == 1
    assert schedule(3 * 10**9 - 1) == np.float32(wave(2 / 3))


@given(
    st.integers(0, 10**9),
    st.integers(1, 1000) | st.floats(0.01, 1000),
    st.sampled_from([0.001, 0.5, 1 - 1e-12, 1, 1 + 1e-12, 1.3, 50]),
)
def test_restarts_stay_between_their_ends(step, first, t_mul):
    assert 0.25 <= CosineDecayRestarts(1.0, first, t_mul=t_mul, alpha=0.25)(step) <= 1


@given(st.integers(0, 60), st.floats(0.01, 1), st.integers(1, 30), st.integers(0, 20), st.floats(0, 1))
def test_a_warm_up_in_front_of_a_cosine_is_its_own(step, target, decay_steps, warmup_steps, alpha):
    outside = Warmup(CosineDecay(target, decay_steps, alpha), warmup_steps, start=0.01)
    inside = CosineDecay(0.01, decay_steps, alpha, warmup_target=target, warmup_steps=warmup_steps)
    assert float(outside(step)) == pytest.approx(float(inside(step)), rel=1e-6, abs=1e-9)


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
    for schedule in (
        ExponentialDecay(initial, 10, 0.5),
        InverseTimeDecay(initial, 10, 0.5),
        PolynomialDecay(initial, 10),
        CosineDecay(initial, 10),
        CosineDecayRestarts(initial, 10),
        PiecewiseConstantDecay([2], [initial, 0.5]),
        Warmup(initial, 10),
        Warmup(CosineDecay(initial, 10), 10),
    ):
        assert isinstance(schedule(3), np.floating)
        assert schedule(3).dtype == dtype
        again = deserialize(json.loads(json.dumps(serialize(schedule))))
        assert again(3).dtype == dtype
        assert again(3) == schedule(3)


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


def test_a_registered_schedule_is_known_without_custom_objects():
    @register
    class Waves(Stairs):
        pass

    inner = Warmup(Waves(3), 5)
    assert deserialize(json.loads(json.dumps(serialize(inner))))(25) == 6
    again = type("Waves", (Waves,), {"__qualname__": Waves.__qualname__})
    assert register(again) is again, "the same lines, run again"
    other = type("Waves", (LearningRateSchedule,), {})
    with pytest.raises(InvalidArgumentError, match=r"registered under this name: rename one"):
        register(other)
    with pytest.raises(InvalidArgumentError, match=r"register received 'Waves': expected a class"):
        register("Waves")


def test_custom_objects_reach_schedules_inside_schedules():
    config = json.loads(json.dumps(serialize(Warmup(Warmup(Stairs(3), 2), 3))))
    assert deserialize(config, custom_objects={"Stairs": Stairs})(30) == 6
    with pytest.raises(InvalidArgumentError, match="Unknown learning rate schedule 'Stairs'"):
        deserialize(config)


def test_what_json_can_not_hold_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"config of Stairs can't be written as JSON.*from get_config"):
        serialize(Stairs(np.float32(3)))


def test_a_warm_up_keeps_whole_steps_whole_and_follows_any_schedule():
    class Listed(LearningRateSchedule):
        def __call__(self, step):
            return [8, 4, 2][step]

    assert [Warmup(Listed(), 2, start=2)(step) for step in range(5)] == [2, 5, 8, 4, 2]


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
        (lambda: InverseTimeDecay(0.1, 0, 0.5), "decay_steps must be greater than 0"),
        (lambda: InverseTimeDecay(0.1, 10, -0.5), "decay_rate must be at least 0"),
        (lambda: PiecewiseConstantDecay([1], [0.1]), "1 boundaries part 2 values, received 1"),
        (lambda: PiecewiseConstantDecay([5, 2], [0.4, 0.5, 0.6]), r"must be in order, received \[5, 2\]: sort them"),
        (lambda: PiecewiseConstantDecay([np.inf], [0.1, 0.2]), "each of boundaries must be one finite"),
        (lambda: PiecewiseConstantDecay([1], [0.1, "x"]), "each of values must be one finite"),
        (lambda: CosineDecayRestarts(0.1, 0), "first_decay_steps must be greater than 0"),
        (lambda: CosineDecayRestarts(0.1, 10, t_mul=0), "t_mul must be greater than 0"),
        (lambda: CosineDecayRestarts(0.1, 10, m_mul=-1), "m_mul must be at least 0"),
        (lambda: Warmup(None, 10), "schedule must be one finite real number, received None"),
        (lambda: Warmup(0.1, -1), "warmup_steps must be at least 0"),
        (lambda: Warmup(0.1, 10, start=np.nan), "start must be one finite"),
        (lambda: CosineDecay(0.1, 10, name="mine", alpha=float("inf")), "mine: alpha must be one finite"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()
