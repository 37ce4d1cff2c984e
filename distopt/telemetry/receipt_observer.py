"""Writes receipts: an observer of steps."""

from __future__ import annotations

from distopt.distribute.strategy import Strategy
from distopt.process.moments import Moment
from distopt.process.observers import add_observer
from distopt.slabs.report import StepReport
from distopt.telemetry.receipt import Receipt


def observe_for_receipt(strategy: Strategy) -> None:
    """Write a receipt of a strategy's steps from now on, if the strategy has a directory for receipts."""
    if strategy.receipt is not None:
        add_observer(write_receipt, Moment.GRADIENTS, Moment.UPDATED)


def write_receipt(moment: Moment, report: StepReport) -> None:
    """Note a step in the receipt of its strategy; a step whose gradient norm was not computed gets no line."""
    strategy = report.strategy
    if strategy.receipt is None:
        return
    receipt = Receipt.of(strategy.receipt, strategy.replica_index, strategy.num_replicas_in_sync)
    if moment is Moment.GRADIENTS:
        receipt.note_gradients(report.step, report.items, report.names, report.by_variable)
    elif report.norm is not None:
        receipt.note_update(report.step, report.total_items, report.norm, report.names, report.parameters)
