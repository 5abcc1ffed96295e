"""``check``: settings, rules, triggers and the instance, every fault at once."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from function.cli.group import commands, counted
from function.connection.preflight import examine
from function.connection.probe import TestReport
from function.core.finding import Finding, Level
from function.core.outcome import Reason
from function.hasura import metadata, triggers
from function.hasura.column_types import key_warnings, read_migrations
from function.ledger.backend import LedgerUnavailable, LedgerUnfit
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.log import start_logging
from function.notices.message import compose_trial
from function.notices.smtp import MailNotSent, send
from function.rules.command import CommandRule
from function.rules.loader import RulesError
from function.rules.model import Rule, Rules
from function.rules.mutate import MutateRule
from function.rules.note import NoteRule, rules_with_notes
from function.rules.post import PostRule, fetches_data
from function.rules.reply import ReplyRule
from function.rules.ticket import rules_with_tickets
from function.servicenow import ServiceNowError
from function.settings import (
    SLACK_UNSET,
    Settings,
    SettingsError,
    load_settings,
    missing_for_data,
    missing_for_mutate,
    missing_for_slack,
)
from function.wiring import create_app, read_rules

# Longer than a server takes that asks others about us first.
MAIL_SECONDS = 30.0


@commands.command()
@click.option(
    "--offline",
    is_flag=True,
    help="Nothing is asked of ServiceNow and of the ledger (secrets are read).",
)
@click.option(
    "--hasura", "project", metavar="DIR", help="The Hasura project; ./hasura where that is one."
)
@click.option("--write-probe", is_flag=True, help="Also write a record into each table.")
@click.option("--send-mail", is_flag=True, help="Also send a mail to NOTIFY_TO.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def check(
    *, offline: bool, project: str | None, write_probe: bool, send_mail: bool, as_json: bool
) -> None:
    """Check settings, rules, Hasura's triggers and the ServiceNow instance, every fault at once.

    The exit status is 1 when there is a fault: something that keeps tickets from being as the rules
    say.
    """
    if offline and (write_probe or send_mail):
        flag = (
            "--write-probe asks the instance" if write_probe else "--send-mail asks the mail server"
        )
        raise click.UsageError(f"{flag}, and --offline asks nobody: leave out one of them")
    report = CheckReport(as_json=as_json)
    settings: Settings | None = None
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        report.add_findings(error.faults)
    rules_file = settings.rules_file if settings else os.environ.get("RULES_FILE") or "rules.yaml"
    rules: Rules | None = None
    try:
        rules = read_rules(rules_file, os.environ)
    except RulesError as error:
        report.add_findings(error.faults)
    report.add_findings(rules.warnings if rules else ())
    folder = Path(project or "hasura")
    found = (
        _check_triggers(folder, rules, settings)
        if project or (folder / "config.yaml").is_file()
        else None
    )
    if found is not None:
        report.add_findings(found.faults)
        report.add_findings(found.warnings)
    report.source = settings.source_name if settings else ""
    missing = list(_list_missing(settings, rules))
    report.add_findings(missing)
    if settings is None or rules is None or missing:
        if not offline:
            report.print_line(
                "the ServiceNow instance was not asked: settings and rules come first"
            )
        report.print_summary()
        return
    report.add_findings(_warn_of_unset(settings, rules))
    report.print_line(
        f"settings: in order ({settings.source_name} to "
        f"{settings.servicenow_instance_url or 'what is stored'})"
    )
    written = [rule for rule in rules.rules if not rule.after]
    report.print_line(f"{rules_file}: in order, {counted(len(written), 'rule')}")
    for rule in rules.rules:
        of_type = f" ({', '.join(rule.event_types)})" if rule.event_types else ""
        report.print_line(f"  {rule.id}: {rule.source}{of_type} -> {_name_target(rule)}")
    if found is not None and found.faults:
        pass  # printed already
    elif found is None:
        report.print_line(
            "Hasura's triggers: not checked; name the folder of your Hasura "
            "project with --hasura DIR"
        )
    else:
        events, crons = found.event_triggers, found.cron_triggers
        report.print_line(
            f"{folder}: in order, {counted(events, 'event trigger')}, "
            f"{counted(crons, 'cron trigger')}"
        )
    if send_mail:
        report.add_findings(_check_mail_server(settings))
    if not offline:
        report.add_findings(_check_instance(settings, rules, write_probe=write_probe))
    report.print_summary()


class CheckReport:
    """What a check found: printed as it comes, or as JSON at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[Finding] = []
        self.source = ""

    def print_line(self, line: str) -> None:
        if not self._as_json:
            click.echo(line)

    def add_findings(self, found: Iterable[Finding]) -> None:
        for finding in found:
            self._found.append(finding)
            if not self._as_json:
                label = "warning: " if finding.level is Level.WARNING else ""
                click.echo(f"{label}{finding}", err=finding.level is Level.FAULT)

    def print_summary(self) -> None:
        """Sum up, and exit with status 1 where there is a fault."""
        faults = sum(found.level is Level.FAULT for found in self._found)
        if self._as_json:
            warnings = sum(found.level is Level.WARNING for found in self._found)
            summary = {
                "source": self.source,
                "faults": faults,
                "warnings": warnings,
                "findings": [found.to_json() for found in self._found],
            }
            click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        elif faults:
            click.echo(f"{faults} to put right", err=True)
        if faults:
            sys.exit(1)


def _name_target(rule: Rule) -> str:
    """What the rule writes to."""
    if isinstance(rule.target, NoteRule):
        return f"{rule.target.table}.{rule.target.journal}, on the tickets of {rule.target.ticket}"
    if isinstance(rule.target, PostRule):
        return f"a post to {' and '.join(rule.target.url_variables) or 'its URL'}"
    if isinstance(rule.target, CommandRule):
        done = "resolve" if rule.target.resolves else "look up"
        return f"{done} {rule.target.table}" if rule.target.table else "no ticket"
    if isinstance(rule.target, ReplyRule):
        return "reply in the channel" if rule.target.in_channel else "reply"
    if isinstance(rule.target, MutateRule):
        return f"mutation {rule.target.operation_name}".rstrip()
    return rule.target.table


def _list_missing(settings: Settings | None, rules: Rules | None) -> Iterator[Finding]:
    """Settings that rules need, and without which the function does not start."""
    if settings is not None and rules is not None and rules.hears_tickets:
        yield from missing_for_mutate(settings)
    elif settings is not None and rules is not None and fetches_data(rules):
        yield from missing_for_data(settings)


def _warn_of_unset(settings: Settings, rules: Rules) -> Iterator[Finding]:
    """Settings that may be left out, and seldom are."""
    for name, is_set, what in (
        (
            "HASURA_EVENT_SECRETS",
            settings.hasura_event_secrets,
            "is not set: every event will be answered 401",
        ),
        (
            "SMTP_URL",
            settings.smtp_url,
            "is not set: failures will be kept, but nobody is mailed",
        ),
        (
            "SERVICENOW_WEBHOOK_SECRETS",
            settings.servicenow_webhook_secrets or not rules.hears_tickets,
            "is not set: every notification of ServiceNow's will be answered 401",
        ),
        (
            "PUBLIC_URL",
            settings.public_url or not rules.hears_slack,
            "is not set: `setup slack` cannot say where commands go",
        ),
    ):
        if not is_set:
            yield Finding(Level.WARNING, name, what, sep=" ", end="")
    for name in missing_for_slack(settings) if rules.hears_slack else ():
        yield Finding(Level.WARNING, name, f"is not set: {SLACK_UNSET[name]}", sep=" ", end="")
    if rules.hears_slack and settings.database_url.startswith("sqlite:"):
        what = (
            "is SQLite's, which sends no events of its inbox: a command of Slack's waits for the "
            "housekeeping"
        )
        yield Finding(Level.WARNING, "DATABASE_URL", what, sep=" ", end="")


def _check_mail_server(settings: Settings) -> Iterator[Finding]:
    """What the mail server says to a mail for everybody in NOTIFY_TO."""
    where, server, recipients = "SMTP_URL", settings.smtp_url, settings.notify_to
    if server is None:
        yield Finding(
            Level.FAULT, where, "it is not set, so there is no mail server to try", "Set it"
        )
        return
    message = compose_trial(
        settings.source_name,
        sender=settings.notify_from,
        recipients=recipients,
        now=datetime.now(UTC),
    )
    try:
        refused = send(message, server, timeout_seconds=MAIL_SECONDS)
    except MailNotSent as error:
        yield Finding(Level.FAULT, where, str(error), "")
        return
    for recipient, code in refused.items():
        if code >= 500:
            what = f"{server.host} takes no mail for {recipient} ({code})"
            yield Finding(
                Level.FAULT,
                "NOTIFY_TO",
                what,
                "Correct the address, or ask whoever runs the server",
            )
        else:
            what = (
                f"{server.host} takes no mail for {recipient} for the time being ({code}); it "
                "would be sent again"
            )
            yield Finding(Level.WARNING, "NOTIFY_TO", what, "")
    taken = ", ".join(recipient for recipient in recipients if recipient not in refused)
    yield Finding(
        Level.NOTE, where, f"{server.host} took a mail for {taken}: see whether it arrives"
    )


def _check_instance(settings: Settings, rules: Rules, *, write_probe: bool) -> Iterator[Finding]:
    """What is found of the instance that events go to now: the stored connection's, or the
    environment's.

    Nobody signs in without the ledger, which counts refused passwords, so that no account is locked
    by checking.
    """
    start_logging("ERROR", sys.stderr)
    database = Database(settings.database_url, pool_size=1, migrate=settings.ledger_migrate)
    app = create_app(settings, rules, Ledger(database), os.environ)
    try:
        report = app.test_connection()
        instance_url, client = report.instance_url, app.connection.client
        where = instance_url or "ServiceNow"
        yield from _list_test_findings(report, where, rules, write_probe=write_probe)
        # Nothing more is asked with a credential that was refused.
        if not report.signed_in or client is None:
            return
        examined = examine(
            client,
            rules_with_tickets(rules),
            traits=lambda table: app.ledger.tickets.traits(instance_url, table),
            notes=rules_with_notes(rules),
            write_probe=write_probe,
            progress=_progress_printer(instance_url),
            reads_changes=rules.hears_tickets,
        )
        yield from examined.findings
        for table, traits in examined.traits.items():
            app.ledger.tickets.learn_traits(instance_url, table, traits)
    except LedgerUnfit as error:
        yield Finding(Level.FAULT, "DATABASE_URL", error.problem, error.remedy)
    except LedgerUnavailable as error:
        what = f"{error}, and nobody signs in to ServiceNow without it"
        do = (
            "Check DATABASE_URL; where the ledger is out of reach, as in CI, "
            "sqlite:///check.db serves"
        )
        yield Finding(Level.FAULT, "DATABASE_URL", what, do)
    except ServiceNowError as error:
        yield Finding(Level.FAULT, where, "the rest could not be asked", error.hint)
    finally:
        app.close()


def _list_test_findings(
    report: TestReport, where: str, rules: Rules, *, write_probe: bool
) -> Iterator[Finding]:
    """What the connection test says: of a table that is not there, examine() says it
    with its line."""
    if not report.tables:
        yield Finding(Level.NOTE if report.success else Level.FAULT, where, report.message)
        return
    yield Finding(Level.NOTE, where, report.summary)
    for table, of_table in report.tables.items():
        if of_table.success and not write_probe:  # which says whether a record can be made
            yield Finding(Level.NOTE, where, of_table.message)
        elif not of_table.success and (
            of_table.failure is None or of_table.failure.reason is not Reason.REFUSED
        ):
            rule = next(
                (rule for rule in rules_with_tickets(rules) if rule.target.table == table), None
            )
            yield Finding(
                Level.FAULT,
                rule.target.locations["table"] if rule else where,
                of_table.message,
            )


def _progress_printer(instance_url: str) -> Callable[[str], None]:
    """Tells who waits what is being asked."""

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"asking {instance_url} about {what} …", err=True)

    return progress


def _check_triggers(
    folder: Path, rules: Rules | None, settings: Settings | None
) -> triggers.TriggerReport:
    try:
        found = metadata.read_metadata(folder)
    except metadata.MetadataError as error:
        return triggers.TriggerReport(faults=list(error.faults))
    report = triggers.check_triggers(
        found, rules, deadline_seconds=settings.deadline_seconds if settings else None
    )
    if rules is not None:
        report.warnings += key_warnings(rules.rules, read_migrations(folder))
    return report
