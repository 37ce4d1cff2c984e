"""Fault injection: the sentences, each kind and place on simulated replicas, and the runner."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run, script_file, started

import distopt
from distopt.errors import CollectiveMismatchError, InvalidArgumentError, ReplicaError
from distopt.optimizers import SGD, legacy
from distopt.process.moments import Moment
from distopt.process.observers import is_observed
from distopt.testing.faults.injection import inject
from distopt.testing.faults.kinds import KINDS, Fault, InjectedError
from distopt.testing.faults.places import PLACES, WITHOUT_STEP
from distopt.testing.faults.sentences import parse

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
SIZE = 20_000  # every one of three replicas owns a part


def train(steps=4, optimizer=SGD, streams=False):
    """Train, and return what every replica has then."""
    w = distopt.Variable(np.linspace(0, 1, SIZE, dtype="float32"), name="w")
    sgd = optimizer(0.5, momentum=0.5)
    for _ in range(steps):
        gradient = w.numpy() * (1 + distopt.replica_index())
        if streams:
            sgd.begin_step([w])
            sgd.push(w, gradient)
            sgd.end_step()
        else:
            sgd.apply_gradients([(gradient, w)])
        distopt.barrier()
    return w.numpy()


class TestSentences:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("kill replica 2 at step 5", Fault("kill", 2, "before the header", 5)),
            ("  raise  replica 0   in the header at step 0 ", Fault("raise", 0, "in the header", 0)),
            ("delay 0.5 replica 1 at step 3", Fault("delay", 1, "before the header", 3, "0.5")),
            ("delay 2 seconds on replica 1 in the payload at step 3", Fault("delay", 1, "in the payload", 3, "2")),
            ("flip a bit on replica 1 at step 3", Fault("flip a bit", 1, "before the header", 3)),
            ("flip a bit of a slot replica 1 at step 3", Fault("flip a bit", 1, "before the header", 3, "a slot")),
            ("NaN in replica 0 at step 1", Fault("NaN", 0, "in a gradient", 1)),
            ("leave early replica 3 before the first step", Fault("leave early", 3, "before the first step")),
            ("hang replica 0 at exit", Fault("hang", 0, "at exit")),
        ],
    )
    def test_a_sentence_is_read(self, text, fault):
        assert parse(text) == fault

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("kil replica 2 at step 5", "'kil' is no kind of fault; did you mean 'kill'?"),
            ("nan replica 2 at step 5", "did you mean 'NaN'?"),
            ("explode replica 2 at step 5", "'explode' is no kind of fault. Expected"),
            ("kill replica 2 in the heder at step 5", "'in the heder' is no place; did you mean 'in the header'?"),
            ("kill replica 2 at stp 5", "did you mean 'at step 0'?"),
            ("kill rank 2 at step 5", "it does not name a replica by its number"),
            ("kill replica two at step 5", "it does not name a replica by its number"),
            ("kill replica 2", "it does not say at which step"),
            ("kill replica 2 at exit at step 5", "'at exit' belongs to no step"),
            ("NaN replica 2 in the update at step 5", "'NaN' can't happen in the update, only in a gradient"),
            ("raise replica 0 at exit", "'raise' can't happen at exit"),
            ("delay replica 1 at step 3", "'delay' needs its seconds"),
            ("kill quickly replica 1 at step 3", "'kill' takes no such addition: received 'kill quickly'"),
            ("", "it does not name a replica"),
        ],
    )
    def test_a_wrong_sentence_is_an_error_with_the_nearest_and_the_grammar(self, text, reason):
        with pytest.raises(InvalidArgumentError) as caught:
            inject(text)
        assert reason in str(caught.value)
        assert "'<kind> replica <r> [<place>] at step <n>'" in str(caught.value)

    @given(st.data())
    def test_what_a_fault_says_of_itself_is_its_sentence(self, data):
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        place = data.draw(st.sampled_from(KINDS[kind].places))
        step = None if place in WITHOUT_STEP else data.draw(st.integers(0, 10**9))
        argument = {"delay": st.sampled_from(["1", "0.25"]), "flip a bit": st.sampled_from(["", "w", "a slot"])}
        fault = Fault(kind, data.draw(st.integers(0, 99)), place, step, data.draw(argument.get(kind, st.just(""))))
        assert parse(str(fault)) == fault


def test_every_place_but_the_exit_is_a_moment_of_the_library():
    assert [place for place, moment in PLACES.items() if not isinstance(moment, Moment)] == ["at exit"]


STEP_PLACES = ["before the header", "in the header", "after the header", "in the payload", "in the update"]


class TestWhatHappens:
    @pytest.mark.parametrize("update", ["replicated", "shared"])
    @pytest.mark.parametrize("optimizer", [SGD, legacy.SGD])
    @pytest.mark.parametrize("place", STEP_PLACES)
    def test_it_happens_in_its_place_and_step_on_its_replica(self, place, optimizer, update, monkeypatch):
        monkeypatch.setenv("DISTOPT_UPDATE", update)
        sentence = f"raise replica 1 {place} at step 2"
        with inject(sentence), pytest.raises(InjectedError, match=sentence) as caught:
            distopt.simulate(3, train, optimizer=optimizer)
        assert "raised by simulated replica 1 of 3" in caught.value.__notes__

    @pytest.mark.parametrize("place", ["before the first step", *(p for p in STEP_PLACES if p != "in the payload")])
    def test_one_process_is_replica_0(self, place):  # and sends no payload
        when = "" if place == "before the first step" else "at step 2"
        with inject(f"raise replica 0 {place} {when}"), pytest.raises(InjectedError):
            train()

    def test_streamed_steps_too(self):
        for place in ("before the header", "in a gradient"):
            kind = "raise" if place == "before the header" else "wrong shape"
            with inject(f"{kind} replica 0 {place} at step 1"), pytest.raises((InjectedError, InvalidArgumentError)):
                train(streams=True)

    def test_an_exit(self):
        with inject("exit replica 2 at step 1"), pytest.raises(ReplicaError, match=r"replica 2 called sys.exit\(3\)"):
            distopt.simulate(3, train)
        with inject("leave early replica 0 at step 1"), pytest.raises(SystemExit) as caught:
            train()
        assert caught.value.code == 0

    def test_a_wrong_shape(self):
        with inject("wrong shape replica 1 at step 1"), pytest.raises(InvalidArgumentError, match=r"\(20000, 2\)"):
            distopt.simulate(2, train)

    def test_a_call_that_is_skipped(self):
        with inject("skip a call replica 1 at step 1"), pytest.raises(CollectiveMismatchError, match="1: barrier"):
            distopt.simulate(2, train)

    def test_a_delay_changes_nothing(self):
        began = time.monotonic()
        with inject("delay 0.3 replica 1 in the payload at step 1"):
            results = distopt.simulate(2, train)
        assert time.monotonic() - began >= 0.3
        np.testing.assert_array_equal(results, distopt.simulate(2, train))

    def test_nan_gradients(self):
        with inject("NaN replica 0 at step 3"):
            assert np.isnan(train()).all()
        with inject("NaN replica 0 at step 0"):
            w = distopt.Variable(np.zeros((3, 2), "float32"))
            SGD(1.0).apply_gradients([(distopt.IndexedSlices(np.ones((1, 2)), [1], (3, 2)), w)])
        np.testing.assert_array_equal(np.isnan(w.numpy()).all(1), [False, True, False])

    @pytest.mark.parametrize("what", ["", " of a parameter", " of w"])
    def test_a_flipped_bit_of_a_parameter(self, what):
        undisturbed = train()
        with inject(f"flip a bit{what} replica 0 at step 3"):
            differing = np.flatnonzero(train() != undisturbed)
        assert differing.tolist() == [0]

    def test_a_flipped_bit_of_a_slot(self):
        optimizer, w = SGD(0.5, momentum=0.5), distopt.Variable(np.ones(3, "float32"), name="w")
        optimizer.apply_gradients([(np.ones(3, "float32"), w)])
        slot = optimizer.variables[-1]
        before = slot.numpy()
        with inject("flip a bit of a slot replica 0 at step 1"):
            optimizer.apply_gradients([(np.zeros(3, "float32"), w)])
        assert (slot.numpy() != before * np.float32(0.5)).tolist() == [True, False, False]

    def test_a_bit_of_no_variable(self):
        with inject("flip a bit of v replica 0 at step 1"), pytest.raises(InvalidArgumentError, match="there are: w"):
            train()
        with inject("flip a bit replica 0 at step 0"), pytest.raises(InvalidArgumentError, match="after the first"):
            train()

    def test_several_faults_each_once(self):
        began = time.monotonic()
        with inject("delay 0.1 replica 0 at step 1", "delay 0.1 replica 0 at step 2"):
            train(2)
            with pytest.warns(UserWarning, match="has not happened"), inject("raise replica 0 at step 7"):
                train(4)
        assert time.monotonic() - began >= 0.2


class TestTheInjection:
    @pytest.mark.parametrize("kind", ["kill", "stop"])
    def test_what_acts_on_a_process_is_refused_for_simulated_replicas(self, kind):
        injection = inject(f"{kind} replica 1 at step 1")
        try:
            with pytest.raises(InvalidArgumentError, match=f"'{kind}' acts on a process"):
                distopt.simulate(2, train)
        finally:
            injection.remove()

    @pytest.mark.parametrize("sentence", ["raise replica 0 at step 9", "raise replica 5 at step 1"])
    def test_what_has_not_happened_is_said(self, sentence):
        said = f"'{sentence.replace(' at', ' before the header at')}' has not happened"
        with pytest.warns(UserWarning, match=said), inject(sentence):
            train()

    def test_the_library_is_as_before(self):
        def observed():
            return [moment for moment in Moment if is_observed(moment)]

        before = observed()
        with inject("raise replica 0 in the update at step 0"):
            during = observed()
            with pytest.raises(InjectedError):
                train()
        assert observed() == before != during


SCRIPT = """
import sys
import numpy as np, distopt
from beside import VALUE
print(sys.argv[1:], __name__, VALUE)
w = distopt.Variable(np.zeros(3, "float32"), name="w")
for k in range(3):
    distopt.optimizers.SGD().apply_gradients([(np.ones(3, "float32"), w)])
print("finished")
"""


def faulty(*arguments):
    with script_file(SCRIPT) as path:
        path.with_name("beside.py").write_text("VALUE = 'beside'\n")
        command = [path if part == "SCRIPT" else part for part in arguments]
        return run([sys.executable, "-m", "distopt.testing.faults.script", *command], env=ENVIRONMENT)


class TestTheRunner:
    def test_the_script_runs_as_python_would_run_it(self):
        result = faulty("delay 0.01 replica 0 at step 0", "SCRIPT", "-i", "2")
        assert result.status == 0, result.text
        assert result.output.splitlines() == ["['-i', '2'] __main__ beside", "finished"]

    def test_the_process_is_killed(self):
        result = faulty("-i", "delay 0.01 replica 0 at step 0", "-i", "kill replica 0 before the first step", "SCRIPT")
        assert result.status == -signal.SIGKILL, result.text
        assert "finished" not in result.output

    def test_at_exit(self):
        result = faulty("kill replica 0 at exit", "SCRIPT")
        assert result.status == -signal.SIGKILL, result.text
        assert "finished" in result.output

    def test_a_fault_that_has_not_happened(self):
        result = faulty("raise replica 1 at step 0", "SCRIPT")
        assert result.status == 0
        assert "has not happened" in result.errors

    @pytest.mark.parametrize("arguments", [(), ("kill replica 0 at step 1",), ("-i", "kill replica 0 at step 1")])
    def test_a_script_is_needed(self, arguments):
        result = faulty(*arguments)
        assert result.status == 1
        assert "then the script and its arguments" in result.errors.splitlines()[-1]


def test_a_stopped_process_goes_on_when_it_is_continued():
    with script_file(SCRIPT) as path:
        path.with_name("beside.py").write_text("VALUE = 1\n")
        command = [sys.executable, "-m", "distopt.testing.faults.script", "stop replica 0 before the first step", path]
        with started(command, env=ENVIRONMENT) as job:
            assert os.WIFSTOPPED(os.waitpid(job.process.pid, os.WUNTRACED)[1])
            assert "finished" not in job.output
            job.process.send_signal(signal.SIGCONT)
            result = job.wait()
    assert result.status == 0, result.text
    assert "finished" in result.output


def test_a_hang_heeds_signals():
    def interrupt(*_):
        raise TimeoutError("that was long enough")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with inject("hang replica 0 at step 1"), pytest.raises(TimeoutError):
            train()
    finally:
        signal.signal(signal.SIGALRM, previous)
