"""The places where a fault can happen: a table, each place with its moment of a step."""

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
"""Place -> moment of a step: the fault happens when its replica next comes to this moment; None: after all steps."""

WITHOUT_STEP = ("before the first step", "at exit")
