"""The one place where objects are put together: the function, from its settings and its rules."""

import logging
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from function import secretmanager
from function.app import App
from function.connection.active import ConnectionProvider
from function.connection.credentials import CredentialProvider, CredentialUnreadable
from function.connection.probe import ConnectionTester
from function.connection.store import ConnectionStore
from function.core.finding import Finding, Level
from function.engine import Engine
from function.http.network import read_network
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.notices.mailer import AlertMailer
from function.rules import loader as rules_file
from function.rules.model import Rules
from function.rules.ticket import rules_with_tickets, ticket_of
from function.servicenow import Credential
from function.settings import (
    SLACK_UNSET,
    Settings,
    SettingsError,
    credential,
    load_settings,
    missing_for_mutate,
    missing_for_slack,
)
from function.targets.base import Target
from function.targets.ticket.target import TicketTarget

if TYPE_CHECKING:
    from function.inbound.commands import CommandWorker
    from function.inbound.work import InboundWork
    from function.targets.reply.client import ReplyClient

log = logging.getLogger(__name__)


def build(environ: Mapping[str, str]) -> App:
    """Put the function together from its settings; opens nothing yet.

    Raises SettingsError or RulesError, whose text says all that is wrong, and FileNotFoundError for
    the rules file.
    """
    settings = load_settings(environ)
    rules = read_rules(settings.rules_file, environ)
    mutates = rules.hears_tickets
    if mutates and (missing := missing_for_mutate(settings)):
        raise SettingsError(*missing)
    if not settings.hasura_event_secrets:
        log.warning("HASURA_EVENT_SECRETS is not set: every event is answered 401")
    if not settings.servicenow_webhook_secrets:
        log.warning(
            "SERVICENOW_WEBHOOK_SECRETS is not set: every notification of ServiceNow's is answered "
            "401"
        )
    for name in missing_for_slack(settings) if rules.hears_slack else ():
        log.warning("%s is not set: %s", name, SLACK_UNSET[name])
    if settings.slack_sandbox_url:
        log.warning("SLACK_SANDBOX_URL is set: replies may go to this machine instead of Slack")
    if not settings.console_token:
        log.warning(
            "CONSOLE_TOKEN is not set: /api/servicenow/config and "
            "/api/servicenow/test are answered 401"
        )
    elif not settings.config_key:
        log.warning("CONFIG_KEY is not set: no configuration can be stored over HTTP")
    if not settings.smtp_url:
        log.warning("SMTP_URL is not set: no notice is mailed; failures are kept in the ledger")
    for warning in rules.warnings:
        log.warning("%s", warning)
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        migrate=settings.ledger_migrate,
    )
    log.info(
        "ready: %d rules of %s, to %s unless another instance is stored, ledger on %s",
        sum(not rule.after for rule in rules.rules),
        settings.rules_file,
        settings.servicenow_instance_url or "no instance",
        settings.database_url.partition(":")[0],
    )
    return create_app(settings, rules, Ledger(database), environ)


def create_app(
    settings: Settings,
    rules: Rules,
    ledger: Ledger,
    environ: Mapping[str, str],
    *,
    read_secret: Callable[[str], str] = secretmanager.read_secret,
) -> App:
    """The same from parts that are there already."""

    notices = AlertMailer(
        ledger,
        server=settings.smtp_url,
        sender=settings.notify_from,
        recipients=settings.notify_to,
        every_seconds=settings.notify_every_seconds,
    )

    network = read_network(environ)
    configurations = ConnectionStore(ledger.database, settings.config_key)
    connections = ConnectionProvider(
        settings=settings,
        ledger=ledger,
        configurations=configurations,
        environment=_credentials(settings, environ, read_secret),
        network=network,
    )
    tables = dict.fromkeys(ticket_of(rule).table for rule in rules_with_tickets(rules))
    tester = ConnectionTester(
        settings, ledger, configurations, tables=list(tables) or ["incident"], network=network
    )

    @cache
    def replies() -> "ReplyClient":
        from function.targets.reply.client import ReplyClient  # noqa: PLC0415  # for those who have Slack

        return ReplyClient(network, sandbox_url=settings.slack_sandbox_url)

    engine = Engine(
        settings=settings,
        rules=rules,
        ledger=ledger,
        targets=_make_targets(settings, rules, connections, ledger, replies),
        notices=notices,
        draw=random.SystemRandom().random,
    )

    @cache
    def inbound() -> "InboundWork":
        from function.inbound.work import build_inbound  # noqa: PLC0415  # for those whom ServiceNow answers

        return build_inbound(engine, connections, network, commands)

    @cache
    def commands() -> "CommandWorker":
        from function.inbound.commands import CommandWorker  # noqa: PLC0415  # for those who have Slack

        return CommandWorker(engine, replies())

    return App(settings, engine, connections, ledger, configurations, tester, inbound)


def _make_targets(
    settings: Settings,
    rules: Rules,
    connections: ConnectionProvider,
    ledger: Ledger,
    replies: Callable[[], "ReplyClient"],
) -> dict[str, Target]:
    """One for each kind that rules have, and tickets in any case."""
    targets: dict[str, Target] = {
        "ticket": TicketTarget(
            connections,
            ledger,
            source_name=settings.source_name,
            lease_seconds=settings.lease_seconds,
        )
    }
    if any(rule.target.kind == "note" for rule in rules.rules):
        from function.targets.note.target import NoteTarget  # noqa: PLC0415  # for those who have notes

        targets["note"] = NoteTarget(connections, ledger, source_name=settings.source_name)
    if rules.hears_slack:
        from function.targets.command.target import CommandTarget  # noqa: PLC0415  # for those who have Slack
        from function.targets.reply.target import ReplyTarget  # noqa: PLC0415  # likewise

        sources = (rule.ticket_source for rule in rules.rules)
        targets["command"] = CommandTarget(
            connections,
            ledger,
            lease_seconds=settings.lease_seconds,
            heard_tables=frozenset(source.table for source in sources if source is not None),
        )
        targets["reply"] = ReplyTarget(replies(), ledger, settings_digest=settings.digest)
    return targets


def _credentials(
    settings: Settings, environ: Mapping[str, str], read_secret: Callable[[str], str]
) -> CredentialProvider | None:
    """Who we are by the environment; None where it does not say."""
    if not settings.servicenow_instance_url:
        return None

    def read_credential() -> Credential:
        try:
            return credential(environ, read_secret=read_secret)
        except SettingsError as error:
            raise CredentialUnreadable(str(error)) from error

    return CredentialProvider(
        settings.credential, read_credential, settings.servicenow_instance_url
    )


def read_rules(path: str, environ: Mapping[str, str]) -> Rules:
    """Read and check the rules file. Raises RulesError, also where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        what = "there is no such file; set RULES_FILE to the rules"
        raise rules_file.RulesError(Finding(Level.FAULT, path, what, end="")) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {type(error).__name__}"
        raise rules_file.RulesError(Finding(Level.FAULT, path, what, end="")) from error
    return rules_file.load_rules(text, name=path.rpartition("/")[2], environ=environ)
