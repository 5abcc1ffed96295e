"""python -m function …: what operators do from a shell."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from function.app import HOUSEKEEPING, App
from function.connection.preflight import Finding, Level, examine
from function.connection.probe import TestReport
from function.core.event import Event, Op
from function.core.outcome import Failure, Reason, Status
from function.core.values import instant
from function.hasura import metadata
from function.hasura import views as setup_hasura
from function.hasura.column_types import key_warnings, read_migrations
from function.ledger.backend import LedgerUnavailable, LedgerUnfit
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.log import start_logging
from function.notices.mail import MailNotSent, compose_trial, replay_command, send
from function.rules.evaluate import evaluate
from function.rules.loader import RulesError
from function.rules.model import Rule, Rules
from function.servicenow import ServiceNowError
from function.settings import Settings, SettingsError, load
from function.sources import hasura
from function.targets.ticket.address import address, correlation_id
from function.wiring import build, create_app, read_rules

# Longer than a server takes that asks others about us first.
MAIL_SECONDS = 30.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Rows in, tickets out: the function between Hasura and ServiceNow."""


@commands.command()
def migrate() -> None:
    """Bring the ledger's tables up to date."""
    settings = _settings()
    database = Database(settings.database_url, pool_size=1)
    try:
        applied = database.migrate()
    except LedgerUnfit as error:
        raise click.ClickException(str(error)) from error
    except LedgerUnavailable as error:
        raise click.ClickException(f"{error}: check DATABASE_URL") from error
    finally:
        database.close()
    done = ", ".join(f"{number:04}" for number in applied)
    click.echo(f"applied migration {done}" if applied else "the ledger is up to date")


@commands.command()
@click.option("--offline", is_flag=True, help="Nothing is asked of ServiceNow and of the ledger (secrets are read).")
@click.option("--hasura", "project", metavar="DIR", help="The Hasura project; ./hasura where that is one.")
@click.option("--write-probe", is_flag=True, help="Also write a record into each table.")
@click.option("--send-mail", is_flag=True, help="Also send a mail to NOTIFY_TO.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def check(*, offline: bool, project: str | None, write_probe: bool, send_mail: bool, as_json: bool) -> None:
    """Check settings, rules, Hasura's triggers and the ServiceNow instance, every fault at once.

    The exit status is 1 when there is a fault: something that keeps tickets from being as the rules say.
    """
    if offline and (write_probe or send_mail):
        flag = "--write-probe asks the instance" if write_probe else "--send-mail asks the mail server"
        raise click.UsageError(f"{flag}, and --offline asks nobody: leave out one of them")
    report = _Report(as_json=as_json)
    settings: Settings | None = None
    try:
        settings = load(os.environ)
    except SettingsError as error:
        report.faults(error.faults)
    rules_file = settings.rules_file if settings else os.environ.get("RULES_FILE") or "rules.yaml"
    rules: Rules | None = None
    try:
        rules = read_rules(rules_file, os.environ)
    except RulesError as error:
        report.faults(error.faults)
    report.warnings(rules.warnings if rules else ())
    folder = Path(project or "hasura")
    triggers = _checked_triggers(folder, rules, settings) if project or (folder / "config.yaml").is_file() else None
    if triggers is not None:
        report.faults(triggers.faults)
        report.warnings(triggers.warnings)
    report.source = settings.source_name if settings else ""
    if settings is None or rules is None:
        if not offline:
            report.say("the ServiceNow instance was not asked: settings and rules come first")
        report.end()
        return
    if not settings.hasura_event_secrets:
        report.warnings(["HASURA_EVENT_SECRETS is not set: every event will be answered 401"])
    if not settings.smtp_url:
        report.warnings(["SMTP_URL is not set: failures will be kept, but nobody is mailed"])
    report.say(f"settings: in order ({settings.source_name} to {settings.servicenow_instance_url or 'what is stored'})")
    report.say(f"{rules_file}: in order, {_counted(len(rules.rules), 'rule')}")
    for rule in rules.rules:
        report.say(f"  {rule.id}: {rule.source} -> {rule.ticket.table}")
    if triggers is not None and triggers.faults:
        pass  # told already
    elif triggers is None:
        report.say("Hasura's triggers: not checked; name the folder of your Hasura project with --hasura DIR")
    else:
        events, crons = triggers.event_triggers, triggers.cron_triggers
        report.say(f"{folder}: in order, {_counted(events, 'event trigger')}, {_counted(crons, 'cron trigger')}")
    if send_mail:
        report.findings(_mail_server(settings))
    if not offline:
        report.findings(_instance(settings, rules, write_probe=write_probe))
    report.end()


class _Report:
    """What a check found: printed as it comes, or as JSON at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[Finding] = []
        self.source = ""

    def say(self, line: str) -> None:
        if not self._as_json:
            click.echo(line)

    def faults(self, sentences: Iterable[str]) -> None:
        self.findings(Finding.read(Level.FAULT, sentence) for sentence in sentences)

    def warnings(self, sentences: Iterable[str]) -> None:
        self.findings(Finding.read(Level.WARNING, sentence) for sentence in sentences)

    def findings(self, found: Iterable[Finding]) -> None:
        for each in found:
            self._found.append(each)
            if not self._as_json:
                shown = each.said or str(each)
                shown = f"warning: {shown}" if each.level is Level.WARNING else shown
                click.echo(shown, err=each.level is Level.FAULT)

    def end(self) -> None:
        """Sum up; a fault is exit status 1."""
        faults = sum(found.level is Level.FAULT for found in self._found)
        if self._as_json:
            warnings = sum(found.level is Level.WARNING for found in self._found)
            told = [found.told() for found in self._found]
            summary = {"source": self.source, "faults": faults, "warnings": warnings, "findings": told}
            click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        elif faults:
            click.echo(f"{faults} to put right", err=True)
        if faults:
            sys.exit(1)


def _mail_server(settings: Settings) -> Iterator[Finding]:
    """What the mail server says to a mail for everybody in NOTIFY_TO."""
    where, server, recipients = "SMTP_URL", settings.smtp_url, settings.notify_to
    if server is None:
        yield Finding(Level.FAULT, where, "it is not set, so there is no mail server to try", "Set it")
        return
    message = compose_trial(
        settings.source_name, sender=settings.notify_from, recipients=recipients, now=datetime.now(UTC)
    )
    try:
        refused = send(message, server, timeout_seconds=MAIL_SECONDS)
    except MailNotSent as error:
        yield Finding(Level.FAULT, where, str(error), "")
        return
    for recipient, code in refused.items():
        if code >= 500:
            what = f"{server.host} takes no mail for {recipient} ({code})"
            yield Finding(Level.FAULT, "NOTIFY_TO", what, "Correct the address, or ask whoever runs the server")
        else:
            what = f"{server.host} takes no mail for {recipient} for the time being ({code}); it would be sent again"
            yield Finding(Level.WARNING, "NOTIFY_TO", what, "")
    taken = ", ".join(recipient for recipient in recipients if recipient not in refused)
    yield Finding(Level.NOTE, where, f"{server.host} took a mail for {taken}: see whether it arrives")


def _instance(settings: Settings, rules: Rules, *, write_probe: bool) -> Iterator[Finding]:
    """What is found of the instance that events go to now: the stored connection's, or the environment's.

    Nobody signs in without the ledger, which counts refused passwords, so that no account is locked by checking.
    """
    start_logging("ERROR", sys.stderr)
    database = Database(settings.database_url, pool_size=1, migrate=settings.ledger_migrate)
    app = create_app(settings, rules, Ledger(database), os.environ)
    try:
        told = app.test_connection()
        instance_url, client = told.instance_url, app.connection.client
        where = instance_url or "ServiceNow"
        yield from _signed_in(told, where, rules, write_probe=write_probe)
        # Nothing more is asked with a credential that was refused.
        if not told.signed_in or client is None:
            return
        examined = examine(
            client,
            rules.rules,
            traits=lambda table: app.ledger.tickets.traits(instance_url, table),
            write_probe=write_probe,
            progress=_asking(instance_url),
        )
        yield from examined.findings
        for table, traits in examined.traits.items():
            app.ledger.tickets.learn_traits(instance_url, table, traits)
    except LedgerUnfit as error:
        what, _, do = str(error).partition(": ")
        yield Finding(Level.FAULT, "DATABASE_URL", what, do)
    except LedgerUnavailable as error:
        what = f"{error}, and nobody signs in to ServiceNow without it"
        do = "Check DATABASE_URL; where the ledger is out of reach, as in CI, sqlite:///check.db serves"
        yield Finding(Level.FAULT, "DATABASE_URL", what, do)
    except ServiceNowError as error:
        yield Finding(Level.FAULT, where, "the rest could not be asked", error.hint.rstrip("."))
    finally:
        app.close()


def _signed_in(told: TestReport, where: str, rules: Rules, *, write_probe: bool) -> Iterator[Finding]:
    """What the connection test says: of a table that is not there, examine() says it with its line."""
    if not told.tables:
        yield Finding(Level.NOTE if told.success else Level.FAULT, where, told.message.rstrip("."))
        return
    welcome, _, _ = told.message.partition(f" {next(iter(told.tables))}: ")
    yield Finding(Level.NOTE, where, welcome.rstrip("."))
    for table, tried in told.tables.items():
        if tried.success and not write_probe:  # which says whether a record can be made
            yield Finding(Level.NOTE, where, tried.message.rstrip("."))
        elif not tried.success and (tried.failure is None or tried.failure.reason is not Reason.REFUSED):
            rule = next((rule for rule in rules.rules if rule.ticket.table == table), None)
            yield Finding(Level.FAULT, rule.ticket.where["table"] if rule else where, tried.message.rstrip("."))


def _asking(instance_url: str) -> Callable[[str], None]:
    """Tells who waits what is being asked."""

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"asking {instance_url} about {what} …", err=True)

    return progress


def _checked_triggers(folder: Path, rules: Rules | None, settings: Settings | None) -> metadata.Findings:
    try:
        found = metadata.read(folder)
    except metadata.MetadataError as error:
        return metadata.Findings(faults=list(error.faults))
    findings = metadata.check(found, rules, deadline_seconds=settings.deadline_seconds if settings else None)
    if rules is not None:
        findings.warnings += key_warnings(rules.rules, read_migrations(folder))
    return findings


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@commands.group()
def setup() -> None:
    """Print what to paste elsewhere; changes nothing."""


@setup.command("hasura")
def print_hasura() -> None:
    """Print, for each rule about rows, a view of its tickets and the relationship to them, for a Hasura project.

    The row's columns are read from DATABASE_URL, which must be the PostgreSQL that holds both the ledger and the rows.
    """
    settings = _settings()
    try:
        rules = read_rules(settings.rules_file, os.environ).rules
        rows = {row for row in map(setup_hasura.row_table, rules) if row is not None}
        tables = setup_hasura.read_tables(settings.database_url, rows)
    except (RulesError, setup_hasura.DatabaseUnreadable) as error:
        raise click.ClickException(str(error)) from error
    views, missing = setup_hasura.views(rules, tables)
    click.echo(setup_hasura.printed(views, missing), nl=False)
    faulty = [f"rule {none.rule}: {none.why}: check DATABASE_URL" for none in missing if none.faulty]
    if faulty:
        raise click.ClickException("\n".join(faulty))


@commands.command()
@click.argument("event_file", type=click.File("rb"), metavar="EVENT.json")
def explain(event_file: BinaryIO) -> None:
    """Say what each rule would do with the event in EVENT.json (`-` for standard input); sends nothing."""
    environ = os.environ
    try:
        rules = read_rules(environ.get("RULES_FILE") or "rules.yaml", environ)
    except RulesError as error:
        raise click.ClickException(str(error)) from error
    try:
        event = hasura.parse(event_file.read())
    except hasura.InvalidRequest as error:
        raise click.ClickException(f"this would be answered 400: {error.message}") from error
    click.echo(f"event {event.id}: {event.op.value} from {event.source}")
    concerned = rules.concerning(event)
    if event.source == HOUSEKEEPING:
        click.echo("this wakes the housekeeping; no rule is asked")
    elif not concerned:
        click.echo("no rule wants it: it would be answered 422, kept as a dead letter and mailed")
    else:
        for rule in concerned:
            _explain_rule(rule, event, environ.get("SOURCE_NAME", "").strip())


def _explain_rule(rule: Rule, event: Event, source_name: str) -> None:
    click.echo(f"\nrule {rule.id} (line {rule.line})")
    if event.op not in rule.ops:
        click.echo(f"  nothing: its ops do not name {event.op.value}")
        return
    steps = evaluate(rule, event)
    if not steps:
        click.echo("  nothing: its each gives no element")
    for step in steps:
        if isinstance(step.wants, Failure):
            of_key = f"key {step.key}: " if step.key else ""
            click.echo(f"  {of_key}dead letter ({step.wants.reason.value}): {step.wants.hint}")
            continue
        wants, ticket = step.wants, rule.ticket
        correlation = correlation_id(source_name or "SOURCE_NAME", rule.id, step.key)
        click.echo(f"  key {step.key}: {step.op.value}, {ticket.table} {correlation}")
        if source_name:
            click.echo(f"    sys_id {address(ticket.table, correlation, 0)} (its first ticket)")
        if wants.gone and step.op is Op.DELETE:
            click.echo(f"    the row is gone: on_delete is {ticket.on_delete}")
            continue
        if not wants.when:
            click.echo("    when is false: opens no ticket; one that exists is kept in step")
        elif step.op not in ticket.creates:
            click.echo(f"    {step.op.value} opens no ticket here (creates); one that exists is kept in step")
        if wants.resolved:
            by_steps = ", by the states between" if ticket.states.paths else ""
            click.echo(f"    resolve_when is true: the ticket is resolved{by_steps}")
            for field, value in wants.close.items():
                click.echo(f"    {field}: {_shown(value)}")
        for field, value in wants.fields.items():
            click.echo(f"    {field}: {_shown(value)}")


def _shown(value: str) -> str:
    lines = value.splitlines() or [""]
    return lines[0] + (f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else "")


@commands.command()
@click.argument("events", nargs=-1, metavar="ID…")
@click.option("--failed", is_flag=True, help="Every dead letter.")
@click.option("--since", metavar="T", help="Of --failed: those that died at or after this ISO time (UTC).")
@click.option("--rule", metavar="R", help="Of this rule only.")
def replay(events: tuple[str, ...], *, failed: bool, since: str | None, rule: str | None) -> None:
    """Deliver dead letters again, by the rules as they are now. Safe to repeat: what is done is not done twice."""
    if bool(events) == failed:
        raise click.UsageError("name the events to replay, or give --failed (and not both)")
    if events and since:
        raise click.UsageError("--since goes with --failed")
    moment = (instant(since) or instant(f"{since}T00:00:00")) if since else None
    if since and moment is None:
        raise click.UsageError("--since takes an ISO time such as 2026-11-21T08:00:00Z")
    app = _app()
    try:
        tally = _replay(app, events, since=moment.timestamp() if moment else None, rule=rule)
    except LedgerUnavailable as error:
        raise click.ClickException(f"{error}: check DATABASE_URL; nothing was lost, replay again") from error
    finally:
        app.close()
    click.echo(", ".join(f"{count} {what}" for what, count in tally.items()) or "nothing to replay")
    if tally["dead"] or tally["retrying"] or tally["unknown"]:
        sys.exit(1)


def _replay(app: App, events: tuple[str, ...], *, since: float | None, rule: str | None) -> Counter[str]:
    tally: Counter[str] = Counter()
    letters = app.ledger.deliveries.dead_letters(events=events, since=since, rule=rule)
    for event in events:
        if not any(letter.event == event for letter in letters):
            known = app.ledger.deliveries.is_known(event)
            click.echo(f"{event}: " + ("already done" if known else "not in the ledger"), err=not known)
            tally["already done" if known else "unknown"] += 1
    # An id that was used again is another event.
    bodies = {(letter.event, letter.content): letter.body for letter in letters}
    waiting: list[str] = []
    for number, ((event_id, _), body) in enumerate(bodies.items(), start=1):
        delivered = app.engine.deliver(hasura.parse(body.encode()), fresh=True, only_rules=rule and [rule])
        for outcome in delivered.outcomes:
            tally[outcome.status.value] += 1
            said = [outcome.status.value, outcome.ticket, outcome.reason.value if outcome.reason else ""]
            if outcome.status is Status.RETRYING and outcome.retry_at:
                said.append(f"after {datetime.fromtimestamp(outcome.retry_at, UTC):%Y-%m-%dT%H:%M:%SZ}")
                waiting.append(event_id)
            where = f"{outcome.rule or 'no rule'}/{outcome.key}" if outcome.key else outcome.rule or "no rule"
            click.echo(f"[{number}/{len(bodies)}] {event_id} {where}: {' '.join(filter(None, said))}")
            if outcome.hint:
                click.echo(f"    {outcome.hint}")
    if waiting:
        # Hasura has given these up: nobody but the operator sends them again.
        click.echo(f"to try again: {replay_command(list(dict.fromkeys(waiting)))}")
    return tally


def _settings() -> Settings:
    try:
        return load(os.environ)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _app() -> App:
    start_logging("ERROR", sys.stderr)
    try:
        return build(os.environ)
    except (SettingsError, RulesError) as error:
        raise click.ClickException(str(error)) from error
