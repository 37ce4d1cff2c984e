"""What a checkpoint holds: values, rates, schedules, optimizers, generators and data of one's own."""

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from unit.checkpoint.saving import generators, saved, step

from distopt import Variable
from distopt.checkpoint import Checkpointer
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy
from distopt.optimizers.schedules import LearningRateSchedule


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint32", "int64", "float16", "bfloat16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7), (4096, 3)])
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    content = np.random.default_rng(0).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    content = (content % 2) if dtype.kind == "b" else content
    value = content.reshape(-1).view(dtype).reshape(shape)
    v, w = Variable(value, name="v"), Variable(np.zeros(shape, dtype), name="v")
    saved(tmp_path, variables=[v])
    assert Checkpointer(tmp_path, variables=[w]).restore() == 1
    assert w.numpy().tobytes() == value.tobytes()


def test_the_files_are_safetensors(tmp_path):
    w, e = Variable([[1.0, 2.0]], name="layer/w"), Variable([3.0], dtype="float64", name="e")
    optimizer = Adam(0.5)
    step(optimizer, w, e)
    saved(tmp_path, optimizer=optimizer)
    with safe_open(tmp_path / "step-00000001" / "part-00000.safetensors", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    assert sorted(tensors) == [
        "hyperparameters/learning_rate[0:1]",
        "iterations[0:1]",
        "slots/e/momentum[0:1]",
        "slots/e/velocity[0:1]",
        "slots/layer/w/momentum[0:2]",
        "slots/layer/w/velocity[0:2]",
        "variables/e[0:1]",
        "variables/layer/w[0:2]",
    ]
    np.testing.assert_array_equal(tensors["variables/layer/w[0:2]"], w.numpy().reshape(-1))
    assert tensors["iterations[0:1]"] == 1


@pytest.mark.parametrize("make", [SGD, legacy.SGD])
def test_the_learning_rate_is_part_of_the_state(tmp_path, make):
    w = Variable([1.0], name="w")
    optimizer = make(0.5)
    step(optimizer, w)
    optimizer.learning_rate = 0.125
    saved(tmp_path, optimizer=optimizer)
    other = make(0.5)
    Checkpointer(tmp_path, optimizer=other, variables=[w]).restore()
    assert float(other.learning_rate) == 0.125


class Plateau(LearningRateSchedule):
    """A schedule with a state."""

    def __init__(self):
        self.rate = Variable(1.0, name="rate", trainable=False)

    @property
    def variables(self):
        return [self.rate]

    def __call__(self, step):
        return float(self.rate)


@pytest.mark.parametrize("make", [SGD, legacy.SGD])
def test_the_state_of_a_schedule(tmp_path, make):
    w, before, after = Variable([1.0], name="w"), Plateau(), Plateau()
    optimizer = make(before)
    step(optimizer, w)
    before.rate.assign(0.25)
    saved(tmp_path, optimizer=optimizer)
    Checkpointer(tmp_path, optimizer=make(after), variables=[w]).restore()
    assert float(after.rate) == 0.25


class Odd(legacy.Optimizer):
    """A slot of another shape than its variable's."""

    def __init__(self):
        super().__init__("Odd")

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "count", shape=())
            self.add_slot(var, "sum")

    def _resource_apply_dense(self, grad, var, apply_state=None):
        self.get_slot(var, "count").assign_add(1.0)
        self.get_slot(var, "sum").assign_add(grad)
        var.assign_sub(self.get_slot(var, "sum").numpy() / self.get_slot(var, "count").numpy())


class Own(SGD):
    """Variables that belong to no parameter."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.total, self.unnamed = self.add_variable((2,), name="total"), self.add_variable((), dtype="float64")

    def update_step(self, gradient, variable, learning_rate):
        self.total.assign_add(np.full(2, np.sum(gradient)))
        self.unnamed.assign_add(1.0)
        variable.assign_sub(gradient * self.total.numpy()[0])


@pytest.mark.parametrize("make", [Odd, Own])
def test_optimizers_of_ones_own(tmp_path, make):
    def run(steps, directory=None):
        variables = [Variable([1.0, 2.0], name="w"), Variable([[3.0]], name="b")]
        optimizer = make()
        checkpointer = Checkpointer(directory or tmp_path, optimizer=optimizer, variables=variables)
        begun = checkpointer.restore() or 0
        for _ in range(steps - begun):
            step(optimizer, *variables)
        checkpointer.save()
        checkpointer.wait()
        return [v.numpy().tolist() for v in variables], [str(w) for w in optimizer.get_weights()]

    run(2)
    assert run(5) == run(5, tmp_path / "undisturbed")


def draw(generator):
    normal = getattr(generator, "normal", None) or generator.gauss
    return [float(normal(0, 1)) for _ in range(3)]  # an odd number: some keep the other half of a pair


@pytest.mark.parametrize("kind", range(8))
def test_random_states(tmp_path, kind):
    v = Variable([0.0], name="v")
    source, target = generators()[kind], generators()[kind]
    draw(source)
    saved(tmp_path, variables=[v], random=[source])
    expected = draw(source)
    draw(target)
    Checkpointer(tmp_path, variables=[v], random=[target]).restore()
    assert draw(target) == expected


class Lines:
    """Data of one's own."""

    def __init__(self):
        self.line = 0

    def state(self):
        return {"line": self.line}

    def resume(self, state):
        self.line = state["line"]


def test_data_of_ones_own(tmp_path):
    v, lines, other = Variable([0.0], name="v"), Lines(), Lines()
    lines.line = 17
    saved(tmp_path, variables=[v], data=lines)
    Checkpointer(tmp_path, variables=[v], data=other).restore()
    assert other.line == 17
    lines.line = np.int64(17)
    with pytest.raises(InvalidArgumentError, match="returned what JSON can't hold"):
        Checkpointer(tmp_path / "other", variables=[v], data=lines).save()
