"""Each name of upstream's base classes is called, or refused by name, or nobody's: the table says which."""

import functools

import pytest
from unit.optimizers.keras3.upstream_names import CALLED, ENTRY, KERAS_2_15, KERAS_3_15, LOSS_SCALE_3_15, REFUSED

from distopt import Variable
from distopt.optimizers import SGD, Adafactor, LossScaleOptimizer, Muon, Optimizer
from distopt.optimizers.schedules import ExponentialDecay


class Former(Optimizer):
    """As of Keras 2.11 to 2.15."""

    def __init__(self, learning_rate=0.5, name="former", **kwargs):
        super().__init__(name, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, var_list):
        super().build(var_list)
        if hasattr(self, "_built") and self._built:
            return
        self._built = True
        self.sums = [self.add_variable_from_reference(model_variable=v, variable_name="m") for v in var_list]

    def update_step(self, gradient, variable):
        self.sums[self._index_dict[self._var_key(variable)]].assign_add(gradient)
        variable.assign_sub(gradient * self.learning_rate)


def spying(base, name, calls):
    """Return a subclass that overrides a name, notes each use, and goes on as its base."""
    above = getattr(base, name, None)
    if isinstance(above, property):

        def read(self):
            calls.append(name)
            return above.fget(self)

        attribute = property(read, above.fset)
    elif name == "update_step" and base is Former:

        def attribute(self, gradient, variable):
            calls.append(name)
            above(self, gradient, variable)

    else:

        def attribute(self, *args, **kwargs):
            calls.append(name)
            return above(self, *args, **kwargs)

    return type("Mine", (base,), {name: attribute})


def run(optimizer, **arguments):
    """Do what a training does."""
    x, y = Variable([1.0, 2.0], name="x"), Variable([1.0], name="y")
    for _ in range(2):
        optimizer.apply_gradients([([1.0, 1.0], x), ([1.0], y)])
    optimizer.minimize(lambda: (x * 1.0).sum() + (y * 1.0).sum(), [x, y])
    optimizer.set_weights(optimizer.get_weights())
    if not isinstance(optimizer, LossScaleOptimizer):
        optimizer.learning_rate = ExponentialDecay(0.1, 1, 0.5)


CASES = {
    "Keras 3.15": (KERAS_3_15, SGD, functools.partial(dict, momentum=0.5, weight_decay=0.1, clipnorm=1.0)),
    "LossScaleOptimizer": (LOSS_SCALE_3_15, LossScaleOptimizer, lambda: {"inner_optimizer": SGD(0.1)}),
    "Keras 2.15": (KERAS_2_15, Former, functools.partial(dict, weight_decay=0.1, clipnorm=1.0)),
}
EACH = [(case, name) for case, (names, *_) in CASES.items() for name in names]


@pytest.mark.parametrize(("case", "name"), EACH)
def test_an_override_is_called_or_refused(case, name):
    names, base, arguments = CASES[case]
    calls = []
    if names[name] == REFUSED:
        with pytest.raises(NotImplementedError, match=rf"Mine overrides {name}, which distopt does not call"):
            spying(base, name, calls)(**arguments())
    elif names[name] == CALLED:
        run(spying(base, name, calls)(**arguments()))
        assert calls
    elif names[name] == ENTRY:
        assert hasattr(base, name), "users call it"


@pytest.mark.parametrize("name", [name for name, what in KERAS_3_15.items() if what == REFUSED])
def test_what_a_rule_does_not_call_may_stand_beside_an_update_of_the_users(name):
    class Own(Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            self.assign(variable, variable - gradient)
            self.assign_add(variable, gradient)
            self.assign_sub(variable, gradient)
            self.add_variable(())

    calls = []
    if name in ("iterations", "assign", "assign_add", "assign_sub", "add_variable"):
        run(spying(Own, name, calls)())
        assert calls or name == "iterations"
    else:
        with pytest.raises(NotImplementedError, match=f"overrides {name}"):
            spying(Own, name, calls)()


@pytest.mark.parametrize(
    ("base", "name"),
    [(Muon, "lr_adjust"), (Muon, "zeropower_via_newtonschulz5"), (Muon, "_adamw_update_step"), (Adafactor, "_rms")],
)
def test_what_is_called_inside_of_a_built_in_class_upstream_is_refused(base, name):
    with pytest.raises(NotImplementedError, match=f"Mine overrides {name}"):
        spying(base, name, [])()


def test_muon_asks_which_variables_adam_updates():
    calls = []
    run(spying(Muon, "_should_use_adamw", calls)())
    assert calls
