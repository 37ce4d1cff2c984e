"""What must be said comes out where anything can, and never raises."""

import io
import os
import sys
from contextlib import suppress

import pytest

from distopt import speaking
from distopt.telemetry import Progress


class Raising:
    def write(self, text):
        raise RuntimeError("no writing")

    flush = isatty = write


class WithoutFlush:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def full():
    return open("/dev/full", "w")


def without_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


BROKEN = {
    "None": lambda: None,
    "closed": closed,
    "raising": Raising,
    "full": full,
    "without reader": without_reader,
    "no stream": object,
}


@pytest.fixture(params=BROKEN.values(), ids=BROKEN)
def broken(request):
    stream = request.param()
    yield stream
    if isinstance(stream, io.TextIOWrapper):
        with suppress(OSError):
            stream.close()


def test_nothing_is_written_to_a_broken_stream(broken):
    assert not speaking.write(broken, "said\n")
    assert not speaking.is_terminal(broken)


def test_another_way_is_found_past_a_broken_stream(broken, monkeypatch, capfd):
    whole = io.StringIO()
    monkeypatch.setattr(sys, "stderr", broken)
    monkeypatch.setattr(sys, "__stderr__", whole)
    assert speaking.say("said")
    assert speaking.say("at the end", past_wrappers=True)
    assert whole.getvalue() == "said\nat the end\n"
    if broken is None:
        return
    monkeypatch.setattr(sys, "__stderr__", broken)
    assert speaking.say("past both")
    assert capfd.readouterr().err == "past both\n"


def test_another_file_may_have_the_number_of_a_standard_error_that_was_closed_at_the_start(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "__stderr__", None)
    assert not speaking.say("said")
    assert not capfd.readouterr().err


def test_broken_streams_are_flushed_as_far_as_that_goes(broken, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", broken)
    monkeypatch.setattr(sys, "stderr", broken)
    speaking.flush()


def test_progress_that_can_not_be_shown_does_not_end_training(broken):
    with Progress(2, file=broken) as progress:
        progress.advance(2, loss=0.5)
    assert progress.done == 2


def test_there_may_be_no_standard_error_for_progress(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(1) as progress:
        progress.advance()


def test_a_stream_needs_no_flush():
    stream = WithoutFlush()
    assert speaking.write(stream, "said\n")
    assert stream.text == "said\n"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", r"b\xf6\u3042 \udc80"), ("latin-1", "b\xf6\\u3042 \\udc80"), ("utf-8", "b\xf6\u3042 \\udc80")],
)
def test_what_an_encoding_does_not_know_is_spelt_out(encoding, written):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert speaking.write(stream, "b\xf6\u3042 \udc80")
    assert stream.buffer.getvalue().decode(encoding) == written
