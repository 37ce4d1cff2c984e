"""Where a fault can happen: a table of places, each with the moment of a step that it stands for."""

from __future__ import annotations

from distopt.process.moments import Moment

PLACES: dict[str, Moment | None] = {
    "before the first step": Moment.STEP,
    "before the header": Moment.STEP,
    "in a gradient": Moment.GRADIENT,
    "in the header": Moment.HEADER,
    "after the header": Moment.AGREED,
    "in the payload": Moment.SUM,
    "in the update": Moment.UPDATE,
    "in a checkpoint": Moment.CHECKPOINT,
    "at exit": None,
}
"""Place -> the moment whose next coming, on that replica in that step, is that of the fault; None is after all."""

WITHOUT_STEP = ("before the first step", "at exit")
