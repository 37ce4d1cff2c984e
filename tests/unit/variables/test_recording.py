"""What a tape records: pauses, beginning anew, and values that are watched later."""

from __future__ import annotations

import numpy as np
import pytest

from distopt import GradientTape, Variable


class TestRecording:
    def test_stop_recording(self):
        x = Variable(3.0)
        with GradientTape(persistent=True) as tape:
            y = x * x
            with tape.stop_recording():
                assert type(x * x) is np.float32
                constant = y * 2
                total = np.add.reduce([y, y])
                assert float(tape.gradient(y, x)) == 6
            z = y * constant
        assert total == 18
        assert float(tape.gradient(z, x)) == 18 * 6
        assert tape.gradient(constant, x) is None
        assert tape.watched_variables() == (x,)
        with pytest.raises(RuntimeError, match=r"tape\.stop_recording outside"), tape.stop_recording():
            pass

    def test_stop_recording_leaves_other_tapes_alone(self):
        x = Variable(3.0)
        with GradientTape() as outer, GradientTape(persistent=True) as inner:
            with outer.stop_recording():
                y = x * x
            z = x * y
            with inner.stop_recording():
                u = x * z
        assert inner.gradient(u, x) is None
        assert float(inner.gradient(z, x)) == 27
        assert float(outer.gradient(u, x)) == 54

    def test_reset(self):
        x, other = Variable(3.0), Variable(2.0)
        with GradientTape(persistent=True) as tape:
            y = x * x
            tape.reset()
            assert tape.watched_variables() == ()
            z = other * y
        assert tape.gradient([y, z], x) is None
        assert float(tape.gradient(z, other)) == 9
        with pytest.raises(RuntimeError, match=r"tape\.reset outside"):
            tape.reset()

    def test_a_value_that_was_not_recorded_can_be_watched(self):
        x = Variable(3.0)
        with GradientTape() as tape:
            y = x * x
            tape.reset()
            y = tape.watch(y)
            z = y * y
        assert float(tape.gradient(z, y)) == 18
