"""The Keras adapter on one or several replicas.

test_on_ranks.py runs it for each backend under mpirun, tests/on_ray/test_parallel.py in processes of Ray.
"""

import keras
import numpy as np
import pytest

import distopt
from distopt.adapters.keras import DistributedOptimizer, ReplicaCallback, Shares
from distopt.errors import InvalidArgumentError
from distopt.optimizers import SGD, Adam, legacy, schedules
from distopt.process.launcher import launched

# Keras' own
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
if launched() is not None:
    pytestmark.append(pytest.mark.mpi)
JAX = keras.backend.backend() == "jax"
on_torch = pytest.mark.skipif(JAX, reason="the same on both backends, and JAX compiles for a second or more")
EXAMPLES, BATCH, FEATURES, CLASSES = 15, 7, 6, 4
"""Two replicas have shares of 4 and 3 examples, and of the last batch one and none."""


def data():
    random = np.random.default_rng(1)
    return random.normal(size=(EXAMPLES, FEATURES)).astype(np.float32), random.integers(CLASSES, size=EXAMPLES)


def model(seed=0, constrained=not JAX):
    bounded, regularised = keras.constraints.MaxNorm(1), keras.regularizers.L2(0.01)
    hidden = keras.layers.Dense(
        8, activation="tanh", kernel_regularizer=regularised, kernel_constraint=bounded if constrained else None
    )
    made = keras.Sequential([keras.Input([FEATURES]), hidden, keras.layers.Dense(CLASSES)])
    random = np.random.default_rng(seed)
    made.set_weights([random.normal(0, 0.4, weight.shape) for weight in made.get_weights()])
    hidden.kernel.assign(bounded(hidden.kernel))  # Keras applies it after each micro-step, distopt after each step
    return made


def fit(made, optimizer, epochs=2, callbacks=(), **options):
    made.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    own = [ReplicaCallback()] if isinstance(optimizer, DistributedOptimizer) else []
    return made.fit(Shares(*data(), global_batch_size=BATCH), epochs=epochs, verbose=0, callbacks=[*own, *callbacks])


def trained(optimizer, **options):
    made = model(**options)
    fit(made, optimizer)
    return made.get_weights()


def alone(function, *arguments, **options):
    """What one process has."""
    with distopt.Strategy(distopt.distribute.LocalCommunicator()).scope():
        return function(*arguments, **options)


def assert_close(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 1e-5} | tolerance))


def same(results):
    return len({distopt.digest(result) for result in results}) == 1


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.05, global_clipnorm=0.5, weight_decay=0.1),
    "SGD": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9),
    "averaged": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, global_clipnorm=0.5), initial_scale=8.0, dynamic_growth_steps=2
    ),
    "several": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Lion(0.01), {".*kernel": keras.optimizers.Lamb(0.05)})
    ),
    "accumulated": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}
if JAX:
    OPTIMIZERS = {"Adam": OPTIMIZERS["Adam"]}


@pytest.mark.parametrize("maker", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_replicas_train_as_keras_does_in_one_process(replicas, maker):
    results = replicas(lambda: trained(DistributedOptimizer(maker())))
    assert same(results)
    assert_close(results[0], alone(trained, maker()))


@on_torch
@pytest.mark.parametrize("maker", [lambda: Adam(0.05), lambda: SGD(schedules.CosineDecay(0.1, 6))])
def test_modes_end_alike(several, monkeypatch, maker):
    results = several(lambda: trained(DistributedOptimizer(maker()), constrained=False))
    monkeypatch.setenv("DISTOPT_UPDATE", "shared")
    assert same([*results, *several(lambda: trained(DistributedOptimizer(maker()), constrained=False))])


@on_torch
def test_all_start_from_replica_0(several):
    def run():
        made = model(seed=distopt.replica_index())
        fit(made, DistributedOptimizer("sgd"), epochs=0)
        return made.get_weights()

    results = several(run)
    assert same(results)
    assert_close(results[0], model(seed=0).get_weights(), rtol=0)


@on_torch
def test_replicas_decide_alike(several):
    """By the mean of what they see, though each validates on something else."""

    def run():
        made, plateau = model(), keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=9)
        x, y = data()
        made.compile(optimizer=DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="sparse_categorical_crossentropy")
        history = made.fit(
            Shares(x, y, global_batch_size=BATCH),
            epochs=3,
            verbose=0,
            validation_data=(x[distopt.replica_index() :], y[distopt.replica_index() :]),
            callbacks=[ReplicaCallback(), plateau, keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.9)],
        ).history
        assert float(made.optimizer.learning_rate) == pytest.approx(0.1 * 0.9**3 * 0.5**2)
        assert int(made.optimizer.iterations) == 9
        return [np.array(history["val_loss"]), *made.get_weights()]

    assert same(several(run))


def test_a_saved_model_goes_on(replicas, tmp_path):
    def run():
        path = tmp_path / "model.keras"
        made = model()
        fit(made, DistributedOptimizer(Adam(0.05)), epochs=1)
        made.optimizer.learning_rate = 0.02
        made.save(path)
        again = keras.models.load_model(path)
        assert_close(again.optimizer.inner.get_weights(), made.optimizer.inner.get_weights(), rtol=0)
        results = []
        for each in (made, again):
            each.fit(Shares(*data(), global_batch_size=BATCH), verbose=0, callbacks=[ReplicaCallback()])
            results.append(each.get_weights())
        assert_close(*results, rtol=0)
        assert float(again.optimizer.learning_rate) == pytest.approx(0.02)
        assert int(again.optimizer.iterations) == 6
        return results[1]

    assert same(replicas(run))


@on_torch
def test_a_keras_optimizer_hands_over_its_state():
    both = []
    for wrap in (lambda optimizer: optimizer, DistributedOptimizer):
        made = model()
        alone(fit, made, keras.optimizers.Adam(0.05), epochs=1)
        alone(fit, made, wrap(made.optimizer), epochs=1)
        both.append(made.get_weights())
    assert_close(*both)


def test_mixed_precision_of_keras_is_refused():
    made = model()
    made.dtype_policy = keras.DTypePolicy("mixed_float16")
    with pytest.raises(InvalidArgumentError, match="would leave out a step on one replica alone"):
        fit(made, DistributedOptimizer("sgd"))


@on_torch
def test_weights_are_spared_by_path():
    def run(optimizer):
        made = model(constrained=False)
        optimizer.exclude_from_weight_decay(var_list=[made.layers[1].kernel], var_names=["bias"])
        fit(made, optimizer)
        return made.get_weights()

    both = [
        alone(run, wrap(keras.optimizers.SGD(0.1, weight_decay=0.5))) for wrap in (lambda o: o, DistributedOptimizer)
    ]
    assert_close(*both)


@on_torch
@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: keras.optimizers.LossScaleOptimizer(o, initial_scale=1.0)])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_exclusions_of_a_keras_optimizer_are_kept(wrap, is_wrapped):
    bias, kernel = (keras.Variable([1.0], name=name) for name in ("bias", "kernel"))
    inner = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer = DistributedOptimizer(wrap(inner)) if is_wrapped else inner
    optimizer.exclude_from_weight_decay(var_names=["^bias$"])
    optimizer = optimizer if is_wrapped else DistributedOptimizer(wrap(inner))
    alone(optimizer.apply, [keras.ops.zeros_like(bias)] * 2, [bias, kernel])
    assert [bias.value.tolist(), kernel.value.tolist()] == [[1.0], [0.5]]


@on_torch
@pytest.mark.parametrize("recurrent", [keras.layers.SimpleRNN, keras.layers.LSTM])
def test_recurrent_kernels_which_keras_transposes(recurrent):
    made = [keras.Sequential([keras.Input([6]), keras.layers.Reshape([3, 2]), recurrent(CLASSES)]) for _ in (0, 1)]
    made[1].set_weights(made[0].get_weights())
    for each, wrap in zip(made, (lambda o: o, DistributedOptimizer), strict=True):
        alone(fit, each, wrap(keras.optimizers.SGD(0.1)))
    assert_close(*(each.get_weights() for each in made))


def layers_with(kind):
    made = {
        "own losses": keras.layers.Dense(CLASSES, activity_regularizer="l2"),
        "a mask": keras.layers.Masking(),
    }
    pooled = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(CLASSES)]
    return [keras.Input([FEATURES]), keras.layers.Reshape([3, 2]), made[kind], *pooled]


@on_torch
@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (None, {"reduction": "sum"}, r"reduction='sum'.* pass the default reduction"),
        (None, {"reduction": "mean_with_sample_weight"}, r"reduction='mean_with_sample_weight'"),
        ("own losses", {}, "losses of its own"),
        ("a mask", {}, "makes a mask"),
    ],
)
def test_what_shares_would_weigh_wrongly_is_refused_when_fit_begins(several, layers, options, message):
    def run():
        made = model(constrained=False) if layers is None else keras.Sequential(layers_with(layers))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)
        made.compile(optimizer=DistributedOptimizer("sgd"), loss=loss)
        shares = Shares(*data(), global_batch_size=BATCH)
        with pytest.raises(InvalidArgumentError, match=message):
            made.fit(shares, verbose=0, callbacks=[ReplicaCallback()])
        return 0

    several(run)


@on_torch
def test_what_can_not_be_carried_over_is_refused():
    update = {"update_step": lambda self, gradient, variable, learning_rate: None}
    impostor = type("Adam", (keras.optimizers.SGD,), update)(0.1)
    for optimizer in (impostor, keras.optimizers.LossScaleOptimizer(impostor)):
        with pytest.raises(InvalidArgumentError, match="a class of your own with the name of one of Keras"):
            DistributedOptimizer(optimizer)
    inner = keras.optimizers.SGD(1.0, weight_decay=0.5)
    inner.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(InvalidArgumentError, match="MultiOptimizer of Keras whose parts exclude weights"):
        DistributedOptimizer(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(inner)))
    together = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    with pytest.raises(InvalidArgumentError, match="call exclude_from_weight_decay on them"):
        DistributedOptimizer(together).exclude_from_weight_decay(var_names=["bias"])


def test_other_steps_than_those_of_fit(several):
    def run():
        made = model()
        made.compile(optimizer=DistributedOptimizer("adam"), loss="mse", run_eagerly=True)
        x, _ = data()
        for k in range(2):
            made.train_on_batch(x[k + distopt.replica_index() :: 2][:4], np.ones((4, CLASSES)))
        made.set_weights([2 * weight for weight in made.get_weights()])
        made.fit(x[:4], np.ones((4, CLASSES)), verbose=0)
        assert int(made.optimizer.iterations) == 3
        return made.get_weights()

    assert same(several(run))


@pytest.mark.skipif(not JAX, reason="PyTorch's step is not compiled")
def test_a_compiled_step_needs_the_callback():
    x, y = data()
    made = model()
    made.compile(optimizer=DistributedOptimizer("sgd"), loss="sparse_categorical_crossentropy")
    with pytest.raises(InvalidArgumentError, match=r"fit\(..., callbacks=\[distopt.adapters.keras.ReplicaCallback"):
        made.fit(x, y, verbose=0)
    made = model()
    fit(made, DistributedOptimizer("sgd"), epochs=1)
    with pytest.raises(InvalidArgumentError, match="3 steps were computed and none was made"):
        made.fit(Shares(x, y, global_batch_size=BATCH), verbose=0)
    with pytest.raises(InvalidArgumentError, match=r"gradients of 2 batches .* steps_per_execution above 1"):
        fit(model(), DistributedOptimizer("sgd"), steps_per_execution=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistributedOptimizer(legacy.SGD()), r"of the legacy family: .* distopt.optimizers.SGD\(...\)"),
        (lambda: DistributedOptimizer("adan"), "Unknown optimizer 'adan'"),
        (lambda: DistributedOptimizer(SGD), r"pass an optimizer, SGD\(\)"),
        (lambda: fit(model(), keras.optimizers.SGD(), callbacks=[ReplicaCallback()]), "would train each replica apart"),
        (lambda: setattr(DistributedOptimizer("sgd"), "learning_rate", abs), "schedules neither set nor replaced"),
        (lambda: Shares(*data(), global_batch_size=0), "global_batch_size must be an integer >= 1"),
        (lambda: Shares(*data(), np.ones((EXAMPLES, 2)), global_batch_size=BATCH), "one weight for each example"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_what_is_trained_must_not_change():
    made = model()
    optimizer = DistributedOptimizer("sgd")
    optimizer.build(made.trainable_variables)
    with pytest.raises(InvalidArgumentError, match="is none of those that this optimizer was built for"):
        fit(model(), optimizer)


def test_shares_weigh_examples(replicas):
    x, y = data()
    shares = Shares({"a": x, "b": x}, y, np.arange(EXAMPLES), global_batch_size=BATCH, shuffle=False)
    parts = replicas(lambda: [shares[k] for k in range(len(shares))])
    means = [np.mean([np.mean(weights) for _, _, weights in batch]) for batch in zip(*parts, strict=True)]
    np.testing.assert_allclose(means, [np.mean(batch) for batch in np.split(np.arange(EXAMPLES), [BATCH, 2 * BATCH])])
    assert all(len(inputs["a"]) == len(labels) == len(weights) for inputs, labels, weights in parts[-1])
