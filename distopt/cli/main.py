"""The command ``distopt``."""

from __future__ import annotations

import click

from distopt.cli.doctor import doctor
from distopt.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="distopt")
def main() -> None:
    """Data-parallel training with the semantics of Keras optimizers."""


main.add_command(run)
main.add_command(doctor)
