"""Lamb, Adafactor and Muon: what only they have. Formulas, goldens and copies are in the tests of every optimizer."""

import ml_dtypes
import numpy as np
import pytest

from distopt import Strategy, Variable, get_strategy, simulate
from distopt.errors import InvalidArgumentError
from distopt.optimizers import Adafactor, Adam, Lamb, Muon
from distopt.optimizers.schedules import ExponentialDecay

EVERY = pytest.mark.parametrize("cls", [Lamb, Adafactor, Muon])


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def without_decay(cls, **arguments):
    return cls(weight_decay=None, **arguments | ({"adam_weight_decay": None} if cls is Muon else {}))


@EVERY
def test_zero_gradients_move_nothing(cls):
    w, bias = Variable(normal(4, 3), name="w"), Variable(np.zeros(3, np.float32), name="bias")
    optimizer, before = without_decay(cls), w.numpy()
    for _ in range(2):
        optimizer.apply_gradients([(np.zeros((4, 3)), w), (np.zeros(3), bias)])
    assert np.array_equal(w.numpy(), before)
    assert not bias.numpy().any()


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@EVERY
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_rounded_once(cls, dtype):
    start, gradient = normal(6, 4, dtype=dtype), normal(6, 4, seed=1, dtype=dtype) / dtype(1024)
    half, single = Variable(start), Variable(start.astype(np.float32))
    for variable in (half, single):
        without_decay(cls, learning_rate=0.5).apply_gradients([(gradient, variable)])
    assert np.array_equal(half.numpy(), single.numpy().astype(dtype))


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_adafactor_survives_what_float16_rounds_to_zero():
    w = Variable(np.ones((2, 3), np.float16))
    adafactor = Adafactor(learning_rate=0.5)
    for _ in range(3):
        adafactor.apply_gradients([(np.full((2, 3), 1e-6), w)])
    assert np.all((w.numpy() > 0) & (w.numpy() < 1))


@EVERY
def test_gradients_of_the_caller_stay_as_they_are(cls):
    w, gradient = Variable(normal(4, 3)), normal(4, 3, seed=1)
    before = gradient.copy()
    cls().apply_gradients([(gradient, w)])
    assert np.array_equal(gradient, before)


@EVERY
def test_shared_updates_are_refused_with_a_sentence(cls):
    def step():
        with Strategy(get_strategy().communicator, update="shared").scope():
            cls().apply_gradients([(np.ones((2, 2)), Variable(np.ones((2, 2))))])

    with pytest.raises(InvalidArgumentError, match=f"{cls.__name__}, which updates by a method of its own, needs"):
        simulate(2, step)


def test_lamb_steps_as_far_as_the_variable_is_long():
    w = Variable(normal(70, 90))
    before = w.numpy()
    Lamb(learning_rate=0.25).apply_gradients([(1e-3 * normal(70, 90, seed=1), w)])
    assert np.linalg.norm(w.numpy() - before) == pytest.approx(0.25 * np.linalg.norm(before), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
def test_adafactor_keeps_means_of_rows_and_columns():
    variables = [Variable(np.ones(shape, np.float16), name="w") for shape in [(), (3,), (4, 3), (5, 4, 3)]]
    adafactor = Adafactor()
    adafactor.build(variables)
    kept = [(slot.shape, slot.dtype.name) for slot in adafactor.variables[2:]]
    of_scalar, of_vector = ([((), "int32"), ((), "int32"), (shape, "float16")] for shape in [(), (3,)])
    of_matrix = [((4,), "float16"), ((3,), "float16"), ((4, 3), "float16")]
    of_cube = [((5, 4), "float16"), ((5, 3), "float16"), ((5, 4, 3), "float16")]
    assert kept == [*of_scalar, *of_vector, *of_matrix, *of_cube]


def test_adafactor_takes_large_matrices_in_parts():
    gradient = normal(2, 300, 700)
    w = Variable(np.ones((2, 300, 700), np.float32))
    adafactor = Adafactor()
    adafactor.apply_gradients([(gradient, w)])
    rows, columns, _ = (slot.numpy() for slot in adafactor.variables[2:])
    squares = gradient.astype(np.float64) ** 2
    np.testing.assert_allclose(rows, squares.mean(axis=-1), rtol=1e-5)
    np.testing.assert_allclose(columns, squares.mean(axis=-2), rtol=1e-5)


def test_adafactor_is_capped_whatever_gives_the_learning_rate():
    """As in Keras, ``relative_step`` caps what is capped anyway, and schedules are capped too."""
    constant = ExponentialDecay(2.0, 1, 1.0)
    ends = []
    for rate, relative in [(2.0, True), (2.0, False), (constant, True), (constant, False), (1.0, False)]:
        w = Variable(normal(4, 3))
        Adafactor(rate, relative_step=relative).apply_gradients([(normal(4, 3, seed=1), w)])
        ends.append(w.numpy())
    assert all(np.array_equal(end, ends[0]) for end in ends)


def muons(**arguments):
    """Return which of some variables Muon updates as matrices, by their slots."""
    shapes = {
        "dense/kernel": (3, 2),
        "dense/bias": (2,),
        "Embedding_1": (4, 2),
        "head/kernel": (2, 3),
        "conv": (2, 2, 2),
    }
    variables = [Variable(np.ones(shape, np.float32), name=name) for name, shape in shapes.items()]
    muon = Muon(**arguments)
    muon.build(variables)
    owners = [slot.name.partition("/")[2] for slot in muon.variables]
    return [name for name in shapes if name.replace("/", "_") + "_velocity" not in owners]


def test_muon_leaves_to_adam_what_is_no_matrix_an_embedding_or_excluded():
    assert muons() == ["dense/kernel", "head/kernel"]
    assert muons(exclude_embeddings=False) == ["dense/kernel", "Embedding_1", "head/kernel"]
    assert muons(exclude_layers=["h.*d/"]) == ["dense/kernel"]


def test_a_pattern_of_muon_that_excludes_no_variable_is_a_warning():
    with pytest.warns(UserWarning, match=r"the patterns \['haed'\] fit no variable.*such as 'dense/kernel'"):
        assert muons(exclude_layers=["haed"]) == ["dense/kernel", "head/kernel"]


def test_muons_adam_is_adam_at_its_own_rate_and_decay():
    ours, other = (Variable(normal(5), name="bias") for _ in range(2))
    muon = Muon(learning_rate=0.25, adam_lr_ratio=0.5, adam_weight_decay=0.125)
    adam = Adam(learning_rate=0.125, weight_decay=0.25)
    for k in range(3):
        muon.apply_gradients([(normal(5, seed=k), ours)])
        adam.apply_gradients([(normal(5, seed=k), other)])
    assert np.array_equal(ours.numpy(), other.numpy())


def test_muon_decays_each_branch_by_its_own_number():
    def after(**arguments):
        matrix, bias = Variable(np.ones((2, 2), np.float32), name="matrix"), Variable([1.0, 1.0], name="bias")
        muon = Muon(learning_rate=0.5, **arguments)
        if not arguments:
            muon.exclude_from_weight_decay([matrix], ["bi.s"])
        muon.apply_gradients([(np.zeros((2, 2)), matrix), (np.zeros(2), bias)])
        return float(matrix[0, 0]), float(bias[0])

    assert after(weight_decay=0.5, adam_weight_decay=0.25) == (0.75, 0.875)
    assert after(weight_decay=None, adam_weight_decay=0.25) == (1.0, 0.875)
    assert after(weight_decay=0.5, adam_weight_decay=None) == (0.75, 1.0)
    assert after() == (1.0, 1.0)


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_muon_makes_the_singular_values_alike(shape):
    w = Variable(np.zeros(shape, np.float32))
    Muon(learning_rate=1.0, rms_rate=None, ns_steps=6).apply_gradients([(normal(*shape), w)])
    values = np.linalg.svd(w.numpy(), compute_uv=False)
    assert np.all((values > 0.6) & (values < 1.3))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Lamb(beta_1=1.0), r"Lamb\(beta_1=1.0\)"),
        (lambda: Adafactor(beta_2_decay=0.5), r"beta_2_decay=0.5"),
        (lambda: Adafactor(clip_threshold=0), r"clip_threshold=0"),
        (lambda: Muon(ns_steps=2.5), r"ns_steps=2.5\): expected a whole number"),
        (lambda: Muon(exclude_layers="head"), "expected a list of strings"),
        (lambda: Muon(exclude_layers=["("]), r"'\(' is no regular expression"),
    ],
)
def test_arguments_that_can_not_be_right_are_refused(make, text):
    with pytest.raises(InvalidArgumentError, match=text):
        make()
