"""Optimizers by name, as dictionaries, and custom classes."""

import json

import numpy as np
import pytest

from distopt import Variable, optimizers
from distopt.errors import InvalidArgumentError, UnknownArgumentError
from distopt.optimizers import SGD, Adam, legacy
from distopt.optimizers.schedules import CosineDecay, LearningRateSchedule, Warmup
from distopt.registry import built_in

COMPOSITE = {
    "LossScaleOptimizer": lambda cls, inner: cls(inner()),
    "MultiOptimizer": lambda cls, inner: cls(optimizers.OptimizerMap(inner(), {"w": SGD(0.5)})),
}
CLASSES = [*built_in("distopt.optimizers", optimizers.Optimizer).values()]
CLASSES += built_in("distopt.optimizers.legacy", legacy.Optimizer).values()


def make(cls):
    inner = legacy.Adam if issubclass(cls, legacy.Optimizer) else Adam
    return COMPOSITE[cls.__name__](cls, inner) if cls.__name__ in COMPOSITE else cls()


def family(cls):
    return "distopt.optimizers" + (".legacy" if issubclass(cls, legacy.Optimizer) else "")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{family(cls)}.{cls.__name__}")
def test_every_optimizer_comes_back_from_json_after_a_step(cls):
    optimizer, w = make(cls), Variable(np.ones((2, 2), np.float32), name="w")
    optimizer.minimize(lambda: w * w, [w])
    described = optimizers.serialize(optimizer)
    assert (described["module"], described["registered_name"]) == (family(cls), None)
    twin = optimizers.deserialize(json.loads(json.dumps(described)))
    assert type(twin) is cls
    assert twin.get_config() == optimizer.get_config()


def test_every_optimizer_has_a_name():
    for cls in CLASSES:
        if cls.__name__ not in COMPOSITE:
            get = legacy.get if issubclass(cls, legacy.Optimizer) else optimizers.get
            assert {type(get(name)) for name in (cls.__name__, cls.__name__.lower(), cls.__name__.upper())} == {cls}


def test_names():
    assert type(optimizers.get("rm_sprop")) is type(optimizers.get("RMSprop")) is optimizers.RMSprop
    assert type(optimizers.get("adam_w")) is optimizers.AdamW
    assert type(optimizers.get("lamb")) is optimizers.Lamb
    assert type(legacy.get("adam")) is legacy.Adam


@pytest.mark.parametrize("module", [optimizers, legacy])
def test_misspelt_names_get_the_nearest_match(module):
    with pytest.raises(InvalidArgumentError, match=r"Unknown optimizer 'rmspop'; .* Did you mean 'RMSprop'\?"):
        module.get("rmspop")
    with pytest.raises(InvalidArgumentError, match=r"Unknown optimizer 'xyz'; known are .*SGD.*\. Make a class"):
        module.get("xyz")


def test_an_optimizer_is_returned_as_it_is():
    for optimizer in (Adam(), legacy.Adam()):
        assert optimizers.get(optimizer) is optimizer
    old = legacy.Adam()
    assert legacy.get(old) is old


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.get(Adam), r"get received <class .*Adam'>: pass an optimizer, Adam\(\)"),
        (lambda: optimizers.get(lambda: Adam()), "get received <function .*expected a name, a dictionary"),
        (lambda: optimizers.get(None), "get received None: expected a name"),
        (
            lambda: legacy.get(Adam()),
            r"get received Adam\(.*\) of distopt.optimizers.adam: expected .* of distopt.optimizers.legacy",
        ),
        (lambda: optimizers.get({"name": "adam"}), "an optimizer has the keys 'class_name' and 'config', received"),
        (
            lambda: optimizers.deserialize("adam"),
            "an optimizer has the keys 'class_name' and 'config', received 'adam'",
        ),
        (lambda: optimizers.deserialize({"class_name": "Adam", "config": None}), "keys 'class_name' and 'config'"),
        (lambda: optimizers.serialize("adam"), "serialize received 'adam': expected an optimizer"),
        (
            lambda: optimizers.serialize(SGD(lambda: 0.1)),
            "config of SGD can't be written as JSON.*LearningRateSchedule",
        ),
    ],
)
def test_what_is_no_optimizer(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


@pytest.mark.parametrize(
    ("described", "cls"),
    [
        ({"class_name": "adam", "config": {}}, Adam),
        ({"class_name": "SGD", "config": {"learning_rate": 0.5}}, SGD),
        ({"class_name": "SGD", "config": {"name": "SGD", "learning_rate": 0.5, "decay": 0.0}}, legacy.SGD),
        ({"class_name": "SGD", "config": {"lr": 0.5}}, legacy.SGD),
        ({"module": "keras.optimizers", "class_name": "Adam", "config": {}, "registered_name": "Adam"}, Adam),
        ({"module": "keras.optimizers.legacy", "class_name": "Adam", "config": {}}, legacy.Adam),
        ({"module": "tf_keras.src.optimizers.legacy.adam", "class_name": "Adam", "config": {}}, legacy.Adam),
        ({"module": "keras.optimizers", "class_name": "Adam", "config": {"is_legacy_optimizer": True}}, legacy.Adam),
        ({"class_name": "Adam", "config": {"is_legacy_optimizer": False, "jit_compile": True}}, Adam),
    ],
)
def test_the_family_that_a_dictionary_means(described, cls):
    before = json.dumps(described)
    assert type(optimizers.deserialize(described)) is type(optimizers.get(described)) is cls
    assert json.dumps(described) == before, "the dictionary is not changed"


def test_the_legacy_functions_stay_in_their_family():
    assert type(legacy.deserialize({"class_name": "Adam", "config": {"learning_rate": 0.5}})) is legacy.Adam
    with pytest.raises(UnknownArgumentError, match="weight_decay"):
        legacy.deserialize(optimizers.serialize(Adam()))


class Halves(LearningRateSchedule):
    def __call__(self, step):
        return 0.5 ** int(step)

    def get_config(self):
        return {}


class Mine(SGD):
    @classmethod
    def from_config(cls, config):
        return cls(**config | {"learning_rate": optimizers.schedules.deserialize(config["learning_rate"])})


class MineOfOld(legacy.SGD):
    pass


def test_custom_classes_are_passed():
    custom = {"Mine": Mine, "Halves": Halves, "MineOfOld": MineOfOld}
    mine = Mine(Warmup(Halves(), 0))
    described = json.loads(json.dumps(optimizers.serialize(mine)))
    assert (described["module"], described["registered_name"]) == (__name__, "Mine")
    twin = optimizers.deserialize(described, custom)
    assert type(twin) is Mine
    assert type(twin._learning_rate.schedule) is Halves, "custom_objects reach a from_config that does not take them"
    with pytest.raises(InvalidArgumentError, match=r"Unknown optimizer 'Mine'.*@distopt.optimizers.register"):
        optimizers.deserialize(described)
    with pytest.raises(InvalidArgumentError, match="Unknown learning rate schedule 'Halves'"):
        optimizers.deserialize(described, {"Mine": Mine})
    old = optimizers.serialize(MineOfOld(0.5))
    assert type(optimizers.deserialize(old, custom)) is type(legacy.deserialize(old, custom)) is MineOfOld


def test_custom_classes_are_registered():
    @optimizers.register
    class Registered(legacy.SGD):
        pass

    described = optimizers.serialize(Registered(0.5))
    assert type(optimizers.deserialize(described)) is type(legacy.get("registered")) is Registered


def test_a_registered_class_of_a_built_in_name_takes_the_place_of_none():
    namesake = optimizers.register(type("Lion", (SGD,), {}))
    assert type(optimizers.get("lion")) is optimizers.Lion
    assert type(optimizers.deserialize(optimizers.serialize(optimizers.Lion()))) is optimizers.Lion
    assert type(optimizers.deserialize(optimizers.serialize(namesake()))) is namesake
    assert type(optimizers.get("lion", {"Lion": namesake})) is namesake


def test_a_schedule_of_keras_comes_with_its_optimizer():
    rate = {
        "module": "keras.optimizers.schedules",
        "class_name": "CosineDecay",
        "config": CosineDecay(0.1, 10).get_config(),
        "registered_name": None,
    }
    described = {"module": "keras.optimizers", "class_name": "SGD", "config": {"learning_rate": rate, "momentum": 0.5}}
    sgd = optimizers.deserialize(described)
    assert (float(sgd.learning_rate), sgd.momentum) == (np.float32(0.1), 0.5)


def lamb(package):
    """A class LAMB of a package; all of them have the same name."""
    made = type("LAMB", (SGD,), {"__module__": f"{package}.lamb", "__qualname__": "LAMB"})
    return optimizers.register(package=package)(made)


def test_classes_of_one_name_are_told_apart_by_their_packages():
    addons, models = lamb("Addons"), lamb("Models")
    for cls in (addons, models):
        described = optimizers.serialize(cls(0.5))
        assert described["registered_name"] == f"{cls.__module__.split('.')[0]}>LAMB"
        assert type(optimizers.deserialize(described)) is cls
        short = {"class_name": described["registered_name"], "config": {"learning_rate": 0.5}}
        assert type(optimizers.deserialize(short)) is cls, "as tf_keras writes it"
    with pytest.raises(InvalidArgumentError, match=r"'LAMB' is the name of several.*'Addons>LAMB', 'Models>LAMB'"):
        optimizers.deserialize({"class_name": "LAMB", "config": {}})
    with pytest.raises(InvalidArgumentError, match="registered under this name"):
        optimizers.register(package="Addons")(type("LAMB", (SGD,), {"__module__": "other"}))


def test_a_class_of_another_package_is_not_taken_for_the_one_that_is_asked_for():
    optimizers.register(package="Here")(type("OnlyHere", (SGD,), {"__module__": "here"}))
    found = {"class_name": "OnlyHere", "config": {}}
    assert type(optimizers.deserialize(found)).__name__ == "OnlyHere"
    with pytest.raises(InvalidArgumentError, match="Unknown optimizer 'OnlyHere'"):
        optimizers.deserialize(found | {"registered_name": "There>OnlyHere"})


def test_a_name_may_be_given():
    cls = optimizers.register(package="Mine", name="Renamed")(type("Original", (SGD,), {"__module__": "mine"}))
    described = optimizers.serialize(cls(0.5))
    assert described["registered_name"] == "Mine>Renamed"
    assert type(optimizers.deserialize(described)) is cls
