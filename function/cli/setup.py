"""``setup``: what to paste into a Hasura project."""

import os

import click

from function.cli.group import commands, open_settings
from function.hasura import views as setup_hasura
from function.rules.loader import RulesError
from function.wiring import read_rules


@commands.group()
def setup() -> None:
    """Print what to paste elsewhere; changes nothing."""


@setup.command("hasura")
def print_hasura() -> None:
    """Print, for each rule about rows, a view of its tickets and the relationship to them, for a
    Hasura project.

    The row's columns are read from DATABASE_URL, which must be the PostgreSQL that holds both the
    ledger and the rows.
    """
    settings = open_settings()
    try:
        rules = read_rules(settings.rules_file, os.environ).rules
        rows = {row for row in map(setup_hasura.row_table, rules) if row is not None}
        tables = setup_hasura.read_tables(settings.database_url, rows)
    except (RulesError, setup_hasura.DatabaseUnreadable) as error:
        raise click.ClickException(str(error)) from error
    views, missing = setup_hasura.views(rules, tables)
    click.echo(setup_hasura.printed(views, missing), nl=False)
    faulty = [
        f"rule {none.rule}: {none.why}: check DATABASE_URL" for none in missing if none.faulty
    ]
    if faulty:
        raise click.ClickException("\n".join(faulty))
