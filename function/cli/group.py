"""What all commands share: their group, the settings, the function."""

import os
import sys

import click

from function.app import App
from function.log import start_logging
from function.rules.loader import RulesError
from function.settings import Settings, SettingsError, load_settings
from function.wiring import build


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Rows in, tickets out: the function between Hasura and ServiceNow."""


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def open_settings() -> Settings:
    try:
        return load_settings(os.environ)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def open_app() -> App:
    start_logging("ERROR", sys.stderr)
    try:
        return build(os.environ)
    except (SettingsError, RulesError) as error:
        raise click.ClickException(str(error)) from error
