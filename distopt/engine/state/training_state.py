"""The training state that an optimizer's steps leave: the count, what is accumulated, the loss scale, damage."""

from __future__ import annotations

from distopt.engine.state.accumulation import Accumulation
from distopt.engine.state.loss_scale import LossScale
from distopt.errors import DamagedOptimizerError
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe
from distopt.slabs.gradients import Gradients
from distopt.variables.variable import Variable


class TrainingState:
    """The training state of one optimizer; only ``step.py`` and who restores it write it."""

    def __init__(self) -> None:
        self.iterations: Variable
        """The counter of calls, int64; ``count_with`` sets it."""
        self.accumulation: Accumulation | None = None
        self.loss_scale: LossScale | None = None
        self.skips_nonfinite = False
        """True where a step is left out, on all replicas, when the sum of its gradients is not finite."""
        self.damage: str | None = None
        """The damage that a failed step has left, as a message says it, or None."""

    @property
    def calls(self) -> int:
        """Return how many calls were counted: with accumulation, micro-steps."""
        return int(self.iterations.storage.array)

    @property
    def micro_steps(self) -> int:
        """Return how many calls make a step."""
        return 1 if self.accumulation is None else self.accumulation.steps

    @property
    def steps(self) -> int:
        """Return how many steps were done."""
        calls, accumulation = int(self.iterations.storage.array), self.accumulation
        return calls if accumulation is None else calls // accumulation.steps

    def count_with(self, iterations: Variable) -> None:
        """Count in this variable from now on."""
        self.iterations = iterations

    def accumulate_in(self, accumulation: Accumulation | None) -> None:
        """Add up micro-steps from now on."""
        self.accumulation = accumulation

    def scale_by(self, loss_scale: LossScale | None) -> None:
        """Divide by this loss scale from now on."""
        self.loss_scale = loss_scale
        self.skips_nonfinite = loss_scale is not None and loss_scale.is_dynamic

    def divisor(self, items: float | None) -> float | None:
        """Return what the sum is divided by: its items, or the number of micro-steps; and the loss scale."""
        if items == 0:  # all gradients are zero: the header saw to that
            return None
        scale = 1.0 if self.loss_scale is None else self.loss_scale.factor
        divisor = (self.micro_steps if items is None else items) * scale
        return None if divisor == 1 else divisor

    def accumulate(self, gradients: Gradients) -> bool:
        """Add up a micro-step; return whether it was the last one, whose total is in the slab then.

        Args:
            gradients: those of this call; with the last one the items become those of all micro-steps.
        """
        if self.accumulation is None:
            return True
        if not self.accumulation.add_micro_step(self.iterations, gradients):
            self.iterations.storage.array += 1
            return False
        gradients.items = self.accumulation.total_items(gradients.items)
        return True

    def count(self) -> None:
        """Count a step that was done."""
        self.iterations.storage.array += 1
        self._end_step(is_finite=True)

    def skip(self, found: str) -> str | None:
        """Count back a step that was left out, with its micro-steps.

        Args:
            found: what was not finite.

        Returns:
            What the user should know.
        """
        step, scale = self.calls, self.loss_scale
        factor = 1.0 if scale is None else float(scale.scale.storage.array)
        self.iterations.storage.array += 1 - self.micro_steps
        self._end_step(is_finite=False)
        if scale is None or not scale.tells_of_end():
            return None
        return (
            f"step {step}: the loss scale is down at {factor:g}, and steps are still left out: "
            f"the sum of the gradients is not finite: {found}. A smaller scale does not help: look at that batch, at "
            "the loss and at the learning rate"
        )

    def _end_step(self, *, is_finite: bool) -> None:
        if self.accumulation is not None:
            self.accumulation.clear()
        if self.loss_scale is not None:
            self.loss_scale.note(is_finite=is_finite)
        if ACTIVE:
            observe(Moment.STEP_DONE)

    def forget_micro_steps(self) -> None:
        """Give up the micro-steps since the last step: what lost replicas had added up is gone."""
        if self.accumulation is not None:
            self.iterations.storage.array -= self.iterations.storage.array % self.micro_steps
            self.accumulation.clear()

    def note_damage(self, error: BaseException) -> None:
        """Note that a step, or a restore, failed after it had begun to write."""
        self.damage = f"step {self.calls}: {type(error).__name__}: {error}"

    def note_restored(self) -> None:
        """Note that nothing is left of what a failure had broken."""
        self.damage = None

    def refuse_if_damaged(self, name: str) -> None:
        """Refuse a step after one that failed in the middle.

        Raises:
            DamagedOptimizerError: there was one.
        """
        if self.damage is not None:
            raise DamagedOptimizerError(
                f"optimizer {name!r} failed in an earlier step after it had begun to write ({self.damage}): its "
                "variables can't be trusted. Restore the last checkpoint (Checkpointer.restore), or make both anew"
            )
