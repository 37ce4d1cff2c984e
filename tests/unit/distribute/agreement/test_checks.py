"""What a strategy looks after and how long it waits: options, their defaults, and those of the environment."""

import math

import numpy as np
import pytest

import distopt
from distopt import Checks, Deadlines, Strategy
from distopt.errors import InvalidArgumentError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for variable in ("DISTOPT_CHECKS", "DISTOPT_DEADLINES"):
        monkeypatch.delenv(variable, raising=False)


def test_defaults():
    assert Strategy().checks == Checks(state_every=50, on_divergence="raise", on_nonfinite=None)
    assert Strategy().deadlines == Deadlines(warn=10.0, silent=60.0, end=1800.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Checks()),
        ("state_every=10", Checks(state_every=10)),
        ("state_every=0", Checks(state_every=0)),
        ("on_nonfinite=skip", Checks(on_nonfinite="skip")),
        (" state_every = 2 , on_divergence=resync,, on_nonfinite=raise,", Checks(2, "resync", "raise")),
    ],
)
def test_checks_of_the_environment(monkeypatch, text, expected):
    monkeypatch.setenv("DISTOPT_CHECKS", text)
    assert Strategy().checks == expected
    assert isinstance(Strategy().checks.state_every, int)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warn=2,silent=5,end=7", Deadlines(2, 5, 7)),
        ("warn=0.25", Deadlines(warn=0.25)),
        ("end=inf", Deadlines(end=math.inf)),
        ("end=1e4", Deadlines(end=10_000)),
    ],
)
def test_deadlines_of_the_environment(monkeypatch, text, expected):
    monkeypatch.setenv("DISTOPT_DEADLINES", text)
    assert Strategy().deadlines == expected


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("DISTOPT_CHECKS", "stat_every=10", "unknown option 'stat_every': known are state_every, on_divergence"),
        ("DISTOPT_CHECKS", "10", "unknown option '10'"),
        ("DISTOPT_CHECKS", "state_every", "state_every='': expected a number"),
        ("DISTOPT_CHECKS", "state_every=often", "state_every='often': expected a number"),
        ("DISTOPT_CHECKS", "state_every=-1", "state_every=-1: expected a number of steps"),
        ("DISTOPT_CHECKS", "state_every=2.5", "state_every=2.5: expected a number of steps"),
        ("DISTOPT_CHECKS", "state_every=nan", "state_every=nan: expected a number of steps"),
        ("DISTOPT_CHECKS", "state_every=inf", "state_every=inf: expected a number of steps"),
        ("DISTOPT_CHECKS", "on_divergence=ignore", "on_divergence='ignore': expected 'raise' or 'resync'"),
        ("DISTOPT_CHECKS", "on_nonfinite=", "on_nonfinite='': expected None, 'raise' or 'skip'"),
        ("DISTOPT_CHECKS", "on_nonfinite=Skip", "on_nonfinite='Skip': expected None, 'raise' or 'skip'"),
        ("DISTOPT_DEADLINES", "warn=0", "warn=0: expected a time in seconds"),
        ("DISTOPT_DEADLINES", "silent=-3", "silent=-3: expected a time in seconds"),
        ("DISTOPT_DEADLINES", "end=nan", "end=nan: expected a time in seconds"),
        ("DISTOPT_DEADLINES", "end=1800s", "end='1800s': expected a number"),
        ("DISTOPT_DEADLINES", "warn=1=2", "warn='1=2': expected a number"),
        ("DISTOPT_DEADLINES", "timeout=5", "unknown option 'timeout': known are warn, silent, end"),
    ],
)
def test_a_bad_environment_is_an_error_that_names_the_variable(monkeypatch, variable, text, reason):
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidArgumentError) as caught:
        Strategy()
    assert str(caught.value).startswith(f"{variable}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Checks(state_every=True),
        lambda: Checks(state_every="10"),
        lambda: Checks(state_every=None),
        lambda: Checks(on_divergence=None),
        lambda: Checks(on_nonfinite="warn"),
        lambda: Deadlines(warn=True),
        lambda: Deadlines(silent="60"),
        lambda: Deadlines(end=None),
        lambda: Deadlines(end=math.nan),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(InvalidArgumentError, match="expected"):
        make()


def test_numbers_of_numpy_are_numbers():
    assert Checks(state_every=np.int64(5)) == Checks(state_every=5)
    assert Deadlines(warn=np.float32(0.5)) == Deadlines(warn=0.5)


def test_arguments_come_before_the_environment(monkeypatch):
    monkeypatch.setenv("DISTOPT_CHECKS", "state_every=10")
    monkeypatch.setenv("DISTOPT_DEADLINES", "no such thing")
    strategy = Strategy(checks=Checks(state_every=3), deadlines=Deadlines(warn=1))
    assert (strategy.checks, strategy.deadlines) == (Checks(state_every=3), Deadlines(warn=1))


def test_simulated_replicas_read_the_environment_too(monkeypatch):
    monkeypatch.setenv("DISTOPT_CHECKS", "state_every=7")
    assert distopt.simulate(2, lambda: distopt.get_strategy().checks.state_every) == [7, 7]
