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


def test_the_present_name_wins() -> None:
    class Both(Greeter):
        def greet(self) -> str:
            return "new"

        def hail(self) -> str:
            return "old"

    assert Both().greet() == "new"
