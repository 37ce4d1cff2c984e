"""What methods of the user's get is theirs: it does not change, and a step inside of them has the sum already."""

import numpy as np

from distopt import IndexedSlices, Variable, simulate
from distopt.optimizers import SGD, Muon, Optimizer


class Differences(Optimizer):
    """Steps by the difference to the last gradient, which it keeps."""

    last = 0.0

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, learning_rate * (gradient - self.last))
        self.last = gradient


def test_a_gradient_that_is_kept_does_not_change():
    x = Variable([0.0])
    optimizer = Differences(1.0)
    for g in (1.0, 3.0, 6.0):
        optimizer.apply_gradients([([g], x)])
    assert float(x[0]) == -6.0
    y, values = Variable([[0.0], [0.0]]), np.float32([[1.0]])
    sparse = Differences(1.0)
    kept = []
    sparse.update_step = lambda gradient, variable, learning_rate: kept.append(gradient)
    sparse.apply_gradients([(IndexedSlices(values, [1], (2, 1)), y)])
    values[...] = 7
    assert kept[0].values.tolist() == [[1.0]]


def test_a_wrapper_may_leave_the_step_to_its_inner_optimizer():
    class Wrapper(Optimizer):
        def __init__(self, inner):
            super().__init__(0.0)
            self.inner = inner

        @property
        def iterations(self):
            return self.inner.iterations

        def apply(self, grads, trainable_variables=None):
            self.inner.apply([g / 2 for g in grads], trainable_variables)

    def train():
        x, wrapper = Variable(0.0), Wrapper(SGD(1.0))
        wrapper.apply_gradients([(1.0, x)])
        return float(x), int(wrapper.iterations)

    assert train() == (-0.5, 1)
    assert simulate(2, train) == [(-1.0, 1)] * 2


def test_a_step_inside_of_an_update_has_the_sum_already():
    class Wrapper(Optimizer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = SGD(1.0)

        def update_step(self, gradient, variable, learning_rate):
            self.inner.apply_gradients([(gradient, variable)])

    def train():
        x, wrapper = Variable(0.0), Wrapper()
        values = []
        for _ in range(2):
            wrapper.apply_gradients([(1.0, x)])
            values.append(float(x))
        SGD(1.0).apply_gradients([(1.0, x)])
        return [*values, float(x), x.storage.may_differ]

    assert simulate(2, train) == [[-2.0, -4.0, -6.0, False]] * 2


def test_what_is_computed_in_place_is_a_new_value():
    class InPlace(SGD):
        def apply(self, grads, trainable_variables=None):
            first = grads[0]
            first *= 10
            return super().apply(grads, trainable_variables)

        def _clip_gradients(self, grads):
            for g in grads:
                g += 5
            return grads

        def update_step(self, gradient, variable, learning_rate):
            change = gradient
            change -= 1
            self.assign_sub(variable, gradient * learning_rate)

    x, given = Variable([0.0]), np.float32([1.0])
    InPlace(1.0).apply_gradients([(given, x)])
    assert (float(x[0]), float(given[0])) == (-1.0, 1.0)


def test_the_learning_rate_that_an_update_gets_can_be_assigned():
    class Slower(SGD):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, gradient * learning_rate)
            learning_rate.assign(learning_rate / 2)

    x, slower = Variable(0.0), Slower(1.0)
    for _ in range(3):
        slower.apply_gradients([(1.0, x)])
    assert float(x) == -1.75


def test_decay_by_hand_needs_no_build():
    x, y = Variable([[1.0]]), Variable(1.0)
    Muon(1.0, weight_decay=0.5, adam_weight_decay=0.25)._apply_weight_decay([x, y])
    assert (float(x[0, 0]), float(y)) == (0.5, 0.75)
