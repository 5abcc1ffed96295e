"""``setup``: what to paste into a Hasura project, into ServiceNow, and into Slack."""

import os

import click

from function.cli import business_rule, slack_manifest
from function.cli.business_rule import NotificationSetup
from function.cli.group import commands, open_settings
from function.hasura import views as setup_hasura
from function.hasura import way_back
from function.rules.loader import RulesError
from function.settings import MAKE_SECRET, Settings
from function.wiring import read_rules


@commands.group()
def setup() -> None:
    """Print what to paste elsewhere; changes nothing."""


@setup.command("hasura")
def print_hasura() -> None:
    """Print, for each rule about rows, a view of its tickets and the relationship to them, for a
    Hasura project; and the triggers that rules from servicenow/TABLE need.

    The row's columns are read from DATABASE_URL, which must be the PostgreSQL that holds both the
    ledger and the rows.
    """
    settings = open_settings()
    try:
        rules = read_rules(settings.rules_file, os.environ)
        rows = {row for row in map(setup_hasura.row_table, rules.rules) if row is not None}
        tables = setup_hasura.read_tables(settings.database_url, rows)
    except (RulesError, setup_hasura.DatabaseUnreadable) as error:
        raise click.ClickException(str(error)) from error
    views, missing = setup_hasura.views(rules.rules, tables)
    click.echo(setup_hasura.printed(views, missing), nl=False)
    if rules.hears_tickets or rules.hears_slack:
        click.echo(f"\n{way_back.printed()}", nl=False)
    faulty = [
        f"rule {none.rule}: {none.why}: check DATABASE_URL" for none in missing if none.faulty
    ]
    if faulty:
        raise click.ClickException("\n".join(faulty))


@setup.command("business-rule")
@click.option(
    "--scope",
    default="",
    metavar="SCOPE",
    help="The application that the rules are part of, such as x_acme_app. Otherwise global.",
)
@click.option(
    "--user",
    default="",
    metavar="NAME",
    help="The User ID that the function signs in with, where SERVICENOW_USERNAME does not say it. "
    "What it changes is not told.",
)
def print_business_rule(scope: str, user: str) -> None:
    """Print the business rules with which ServiceNow tells the function that a ticket changed:
    their script, two system properties, and the steps."""
    settings = open_settings()
    try:
        rules = read_rules(settings.rules_file, os.environ).rules
        tables = business_rule.watched_tables(rules)
        if not tables:
            raise click.ClickException(
                f"no rule of {settings.rules_file} is from servicenow/TABLE: there is nothing that "
                "ServiceNow has to tell"
            )
        told = notification_setup(settings, scope, user)
        text = business_rule.printed(tables, told, settings.servicenow_webhook_secrets[0])
    except (RulesError, business_rule.UnfitName) as error:
        raise click.ClickException(str(error)) from error
    click.echo(text, nl=False)


@setup.command("slack")
def print_slack() -> None:
    """Print the manifest of the Slack app that has the commands, to be pasted where a new app is
    made from a manifest."""
    settings = open_settings()
    try:
        rules = read_rules(settings.rules_file, os.environ)
    except RulesError as error:
        raise click.ClickException(str(error)) from error
    if not rules.hears_slack:
        raise click.ClickException(
            f"no rule of {settings.rules_file} is from slack/COMMAND: there is nothing that Slack "
            "has to send"
        )
    if not settings.public_url.startswith("https://"):
        raise click.ClickException(
            "PUBLIC_URL must be set, and begin with https://: where Slack reaches the function"
        )
    click.echo(slack_manifest.printed(rules, settings.source_name, settings.public_url), nl=False)


def notification_setup(settings: Settings, scope: str, user: str) -> NotificationSetup:
    """Who is told, by the settings and the options. Raises ClickException where one is missing."""
    scope = "" if scope == "global" else scope
    if scope and not business_rule.SCOPE.fullmatch(scope):
        raise click.ClickException("--scope must be the scope of an application, as x_acme_app")
    user = user or settings.servicenow_username
    if not user:
        raise click.ClickException(
            "say --user: the User ID that the function signs in with, whose changes are not told"
        )
    if not settings.public_url:
        raise click.ClickException("PUBLIC_URL must be set: where ServiceNow reaches the function")
    if not settings.servicenow_webhook_secrets:
        raise click.ClickException(
            "SERVICENOW_WEBHOOK_SECRETS must be set: what ServiceNow signs with; this prints one: "
            f"{MAKE_SECRET}"
        )
    return NotificationSetup(settings.source_name, user, settings.public_url, scope)
