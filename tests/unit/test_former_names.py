"""Former names of public things still work, and warn with the present name."""

import abc

import pytest

import distopt
from distopt.former_names import FormerName, adopt_former_names


class Greeter(abc.ABC):
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        adopt_former_names(cls)

    @abc.abstractmethod
    def greet(self) -> str: ...

    hail = FormerName("greet")
    label = FormerName("title")


class Polite(Greeter):
    title = "Dear"

    def greet(self) -> str:
        return f"{self.title} all"


def test_a_former_name_is_read_and_written_as_the_present_one() -> None:
    greeter = Polite()
    with pytest.warns(DeprecationWarning, match="Greeter.hail is now called greet: use that name") as caught:
        assert greeter.hail() == "Dear all"
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="label is now called title") as caught:
        greeter.label = "Hey"
    assert caught[0].filename == __file__
    assert greeter.greet() == "Hey all"


def test_a_subclass_may_still_define_a_former_name() -> None:
    with pytest.warns(DeprecationWarning, match="Old.hail is now called greet"):

        class Old(Greeter):
            def hail(self) -> str:
                return "hi"

    assert Old().greet() == "hi"
    assert Old().hail() == "hi"


def test_a_location_was_a_place() -> None:
    with pytest.warns(DeprecationWarning, match=r"distopt\.distribute\.Place is now called Location"):
        former = distopt.distribute.Place
    assert former is distopt.distribute.Location
    with pytest.warns(DeprecationWarning, match=r"Strategy\.place is now called location"):
        location = distopt.Strategy(distopt.distribute.LocalCommunicator()).place
    assert location == distopt.distribute.Location(0, 0, 1)


def test_a_transport_may_still_have_twins_and_a_line() -> None:
    with pytest.warns(DeprecationWarning, match="is now called") as caught:

        class Old(distopt.distribute.LocalCommunicator):
            def twin(self) -> "Old":
                return Old()

            def line(self) -> None:
                raise NotImplementedError("asked")

    assert {str(each.message).partition(":")[0] for each in caught} == {
        "Old.twin is now called clone", "Old.line is now called status_channel",
    }  # fmt: skip
    assert isinstance(Old().clone(), Old)
    with pytest.raises(NotImplementedError, match="asked"):
        Old().status_channel()


def test_a_transport_may_still_tell_its_watch_that_it_waits() -> None:
    communicator = distopt.distribute.LocalCommunicator()
    with pytest.warns(DeprecationWarning, match=r"Communicator\.watch is now called watchdog"):
        watch = communicator.watch
    assert watch is communicator.watchdog
    with pytest.warns(DeprecationWarning, match=r"Watchdog\.begin_wait is now called wait_started"):
        watch.begin_wait(1.0)
    assert watch.waiting_since == 1.0
    with pytest.warns(DeprecationWarning, match=r"Watchdog\.look is now called check"):
        assert watch.look(1.0) > 1.0
    with pytest.warns(DeprecationWarning, match=r"Watchdog\.end_wait is now called wait_ended"):
        watch.end_wait()
    assert not watch.waiting_since


def test_the_present_name_wins() -> None:
    class Both(Greeter):
        def greet(self) -> str:
            return "new"

        def hail(self) -> str:
            return "old"

    assert Both().greet() == "new"
