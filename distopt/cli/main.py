"""The command ``distopt``."""

from __future__ import annotations

import importlib

import click

_COMMANDS = ("run", "verify", "diff", "doctor")


class _Commands(click.Group):
    """Imports each command when it is called, so that ``distopt run`` does not load the rooms of ``distopt verify``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"distopt.cli.{cmd_name}"), cmd_name)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="distopt")
def main() -> None:
    """Data-parallel training with the semantics of Keras optimizers."""
