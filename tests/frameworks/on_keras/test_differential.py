"""Every optimizer of the Keras 3 family beside Keras 3 itself, to the rounding of float32.

``DISTOPT_EXAMPLES`` says how many random runs each gets; the seed in a test's name makes its run again.
"""

import os

import numpy as np
import pytest
from frameworks.on_keras.cases import SPACES, STEPS, some_case, some_config
from frameworks.on_keras.runs import DISTOPT, KERAS, Case, Run, Spec, assert_alike, make

OPTIMIZERS = [*SPACES, "LossScaleOptimizer", "MultiOptimizer"]
EXAMPLES = int(os.environ.get("DISTOPT_EXAMPLES", "1"))

DIFFERENCES = {
    "micro_steps": "a micro-step adds to the accumulators and does nothing else. Keras averages and constrains weights "
    "in each, though none has moved",
    "a_gradient_missing_in_the_last_micro_step": "what was accumulated is used in this step. In Keras it waits for the "
    "next one (JAX) or is lost (other backends)",
    "a_micro_step_without_gradients": "a replica that had no data has added nothing. Keras raises",
    "loss_scale_of_accumulated_gradients": "accumulators hold gradients as they come; their sum over the replicas is "
    "looked at, and then divided",
    "loss_scaling_with_accumulation": "whether a step is finite is asked once, of the sum; if it is not, none of its "
    "micro-steps has happened. Keras asks in each and leaves single ones out",
    "bounds_of_the_loss_scale": "it stays between 2^-126 and the largest float32. In Keras it reaches zero or "
    "infinity, and no later step is of use",
    "gradients_for_some_inner_optimizers": "the other optimizers have nothing to do. Keras raises",
    "accumulation_of_inner_optimizers": "gradients are summed once for all: MultiOptimizer itself accumulates",
    "exclusion_after_build": "refused, as the documentation of Keras says",
    "set_weights": "a list that is too short is refused. Keras sets the first and says nothing",
    "load_own_variables": "a store of another length is refused. Keras warns and loads nothing",
    "integer_learning_rates": "an integer is a number. Keras refuses it",
    "get_lamb": "every optimizer is found by its name. Keras forgets one",
    "limits_of_clipping": "negative ones are refused, and 0 leaves nothing. In Keras neither clips",
    "hyperparameters_that_can_not_be_right": "refused. Keras takes them",
}
"""What differs, and why; a test of the same name shows it. Keras on TensorFlow, which is not run here, also adds the
squares of sparse rows that stand twice (here rows are added first) and clips before replicas are summed (here after).
Schedules have a table of their own, in ``test_keras_schedules.py``.
"""


@pytest.mark.filterwarnings("ignore:.*fit no variable")  # a random pattern may leave nothing out, as in Keras
@pytest.mark.parametrize("seed", range(EXAMPLES))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_keras(name, seed):
    case = some_case(name, seed)
    theirs = Run(KERAS, case).steps()
    assert_alike(Run(DISTOPT, case).steps(), theirs)
    half = STEPS // 2
    assert_alike(Run(DISTOPT, case).resume(theirs[half]).steps(half), theirs[half:])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras reads its own variables so
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_configs_are_those_of_keras(name):
    for spec in ([Spec(name, {})] if name in SPACES else []) + [some_config(name)]:
        ours, config = make(DISTOPT, spec).get_config(), make(KERAS, spec).get_config()
        assert nameless(type(make(DISTOPT, spec)).from_config(config).get_config()) == nameless(ours)
        if name in SPACES:
            assert ours.keys() == config.keys()


def nameless(config):
    """Leave out the names, which are numbered."""
    if isinstance(config, dict):
        return {key: nameless(value) for key, value in config.items() if key != "name"}
    return config


def test_the_random_runs_try_every_argument():
    seeds = range(max(EXAMPLES, 3))
    drawn = {key for name in OPTIMIZERS for seed in seeds for key in some_case(name, seed).optimizer.arguments}
    assert drawn >= {
        *("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps"),
        *("loss_scale_factor", "clipnorm", "clipvalue", "global_clipnorm"),
    }


def test_each_difference_is_shown():
    assert [name.removeprefix("test_difference_") for name in globals() if name.startswith("test_difference_")] == list(
        DIFFERENCES
    )


SGD = {"learning_rate": 1.0}
TWO = SGD | {"gradient_accumulation_steps": 2}


def history(library, optimizer, gradients, values, **options):
    """The moments of a run on variables w0, w1, ..."""
    named = {f"w{k}": np.array(value, np.float32) for k, value in enumerate(values)}
    arrays = [[None if g is None else np.array(g, np.float32) for g in step] for step in gradients]
    return Run(library, Case(optimizer, named, arrays, **options)).steps()


def keras_then_distopt(*run, of=lambda moment: moment.variables[0], **options):
    """A number of each moment, in Keras and in distopt."""
    return tuple([float(of(moment)) for moment in history(library, *run, **options)] for library in (KERAS, DISTOPT))


def test_difference_micro_steps():
    averaging = Spec("SGD", TWO | {"use_ema": True, "ema_momentum": 0.5})
    run = averaging, [[1.0]] * 6, [4.0]
    assert keras_then_distopt(*run) == ([4, 4, 3, 3, 2, 2, 1], [4, 4, 3, 3, 2, 2, 1])
    averages = keras_then_distopt(*run, of=lambda moment: moment.state[2])
    assert averages == ([0, 4, 3, 3, 2.5, 2.25, 1.625], [0, 0, 3, 3, 2.5, 2.5, 1.75])
    constrained = keras_then_distopt(Spec("SGD", TWO), [[1.0]] * 2, [-4.0], non_negative=("w0",))
    assert constrained == ([-4, 0, 0], [-4, -4, 0])


def test_difference_a_gradient_missing_in_the_last_micro_step():
    run = Spec("SGD", TWO), [[1.0, 1.0], [1.0, None], [1.0, 1.0], [1.0, 1.0]], [4.0, 4.0]
    assert keras_then_distopt(*run, of=lambda moment: moment.variables[1]) == ([4, 4, 4, 4, 2.5], [4, 4, 3.5, 3.5, 2.5])


def test_difference_a_micro_step_without_gradients():
    run = Spec("SGD", TWO), [[1.0], [None]], [4.0]
    with pytest.raises(ValueError, match="No gradients"):
        history(KERAS, *run)
    assert history(DISTOPT, *run)[-1].variables == [3.5]


def test_difference_loss_scale_of_accumulated_gradients():
    run = Spec("SGD", TWO | {"loss_scale_factor": 4.0}), [[4.0], [4.0]], [4.0]
    assert keras_then_distopt(*run) == ([4, 4, 3], [4, 4, 3])
    assert keras_then_distopt(*run, of=lambda moment: moment.state[2]) == ([0, 1, 0], [0, 4, 0])


def test_difference_loss_scaling_with_accumulation():
    scaled = Spec("LossScaleOptimizer", {"inner_optimizer": Spec("SGD", TWO), "initial_scale": 4.0})
    run = scaled, [[4.0], [np.inf], [4.0], [4.0]], [4.0]
    assert keras_then_distopt(*run) == ([4, 4, 4, 2.5, 2.5], [4, 4, 4, 4, 2])
    assert keras_then_distopt(*run, of=lambda moment: moment.state[3]) == ([4, 4, 2, 2, 2], [4, 4, 2, 2, 2])


def test_difference_bounds_of_the_loss_scale():
    large, small = 2.0**127, 2.0**-126
    for start, gradient, reached in [(large, 1.0, np.inf), (small, np.inf, 0.0)]:
        growing = {"initial_scale": start, "dynamic_growth_steps": 1}
        scaled = Spec("LossScaleOptimizer", {"inner_optimizer": Spec("SGD", SGD), **growing})
        scales = keras_then_distopt(scaled, [[gradient]], [4.0], of=lambda moment: moment.state[3])
        assert scales == ([start, reached], [start, start])


def two_optimizers(**options):
    routes = {"default_optimizer": Spec("SGD", SGD | options), "optimizer_map": {"w1": Spec("SGD", SGD | options)}}
    return Spec("MultiOptimizer", {"optimizer_map": Spec("OptimizerMap", routes)})


def test_difference_gradients_for_some_inner_optimizers():
    run = two_optimizers(), [[1.0, None]], [4.0, 4.0]
    with pytest.raises(ValueError, match="No gradients"):
        history(KERAS, *run)
    assert history(DISTOPT, *run)[-1].variables == [3, 4]


def test_difference_accumulation_of_inner_optimizers():
    make(KERAS, two_optimizers(gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="give them to MultiOptimizer"):
        make(DISTOPT, two_optimizers(gradient_accumulation_steps=2))
    whole = Spec("MultiOptimizer", two_optimizers().arguments | {"gradient_accumulation_steps": 2})
    assert history(DISTOPT, whole, [[1.0, 1.0], [2.0, 2.0]], [4.0, 4.0])[-1].variables == [2.5, 2.5]


def built(library, name, **arguments):
    """An optimizer of one variable."""
    return Run(library, Case(Spec(name, SGD | arguments), {"w0": np.ones(2, np.float32)}, [])).optimizer


def test_difference_exclusion_after_build():
    built(KERAS, "SGD", weight_decay=0.5).exclude_from_weight_decay(var_names=["w0"])
    with pytest.raises(ValueError, match="built already"):
        built(DISTOPT, "SGD", weight_decay=0.5).exclude_from_weight_decay(var_names=["w0"])


def test_difference_set_weights():
    weights = [np.array(3), np.array(0.25)]  # and no momentum
    theirs = built(KERAS, "SGD", momentum=0.5)
    theirs.set_weights(weights)
    assert float(theirs.learning_rate.value) == 0.25
    with pytest.raises(ValueError, match="received 2 arrays"):
        built(DISTOPT, "SGD", momentum=0.5).set_weights(weights)


def test_difference_load_own_variables():
    store = {"0": np.array(3), "1": np.array(0.25)}
    theirs = built(KERAS, "SGD", momentum=0.5)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        theirs.load_own_variables(store)
    assert int(theirs.iterations.value) == 0
    with pytest.raises(ValueError, match="the store has 2 values"):
        built(DISTOPT, "SGD", momentum=0.5).load_own_variables(store)


def test_difference_integer_learning_rates():
    with pytest.raises(ValueError, match="should be float"):
        make(KERAS, Spec("SGD", {"learning_rate": 1}))
    assert float(make(DISTOPT, Spec("SGD", {"learning_rate": 1})).learning_rate) == 1


def test_difference_get_lamb():
    with pytest.raises(ValueError, match="Could not interpret"):
        KERAS.optimizers.get("lamb")
    assert isinstance(DISTOPT.optimizers.get("lamb"), DISTOPT.optimizers.Lamb)


@pytest.mark.parametrize("limit", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_difference_limits_of_clipping(limit):
    assert keras_then_distopt(Spec("SGD", SGD | {limit: 0.0}), [[3.0]], [4.0]) == ([4, 1], [4, 4])
    assert history(KERAS, Spec("SGD", SGD | {limit: -1.0}), [[3.0]], [4.0])[-1].variables == [1]
    with pytest.raises(ValueError, match=f"Expected {limit} >= 0"):
        make(DISTOPT, Spec("SGD", {limit: -1.0}))


@pytest.mark.parametrize(
    "spec",
    [
        Spec("Adam", {"beta_1": 1.0}),
        Spec("Adam", {"epsilon": -1.0}),
        Spec("SGD", {"loss_scale_factor": 0.0}),
        Spec("SGD", {"weight_decay": -1.0}),
        Spec("SGD", {"learning_rate": float("nan")}),
    ],
)
def test_difference_hyperparameters_that_can_not_be_right(spec):
    make(KERAS, spec)
    with pytest.raises(ValueError, match="expected a"):
        make(DISTOPT, spec)
