"""The one place where objects are put together: the function, from its settings and its rules."""

import logging
import random
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING

from function import secretmanager
from function.app import App
from function.connection.active import ConnectionProvider
from function.connection.credentials import CredentialProvider, CredentialUnreadable
from function.connection.probe import ConnectionTester
from function.connection.store import ConnectionStore
from function.core.finding import Finding, Level
from function.engine import Engine
from function.http.network import NetworkSettings, read_network
from function.http.session import Resolver
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.notices.mailer import AlertMailer
from function.rule_variables import RuleVariables, read_variables
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
    missing_for_data,
    missing_for_mutate,
    missing_for_slack,
)
from function.targets.base import Target
from function.targets.ticket.target import TicketTarget

if TYPE_CHECKING:
    from function.connection.guarded_hasura import GuardedGraphql
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
    if _fetches_data(rules) and (missing := missing_for_data(settings)):
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


def _fetches_data(rules: Rules) -> bool:
    if not rules.has_kind("post"):
        return False
    from function.rules.post import fetches_data  # noqa: PLC0415  # for those who have posts

    return fetches_data(rules)


def create_app(
    settings: Settings,
    rules: Rules,
    ledger: Ledger,
    environ: Mapping[str, str],
    *,
    read_secret: Callable[[str], str] = secretmanager.read_secret,
    resolve: Resolver = socket.getaddrinfo,
) -> App:
    """The same from parts that are there already. *resolve* looks up the names of posts'
    targets."""

    notices = AlertMailer(
        ledger,
        server=settings.smtp_url,
        sender=settings.notify_from,
        recipients=settings.notify_to,
        every_seconds=settings.notify_every_seconds,
    )

    network = read_network(environ)
    opened = ExitStack()
    graphql = cache(partial(_make_graphql, settings, ledger, network, opened))
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
    # Also for targets that send secrets, and are refused.
    variables = RuleVariables(rules.env, environ, read_secret=read_secret)

    @cache
    def replies() -> "ReplyClient":
        from function.targets.reply.client import ReplyClient  # noqa: PLC0415  # for those who have Slack

        client = ReplyClient(network, sandbox_url=settings.slack_sandbox_url)
        opened.callback(client.close)
        return client

    targets = _make_targets(settings, rules, connections, ledger, replies)
    if rules.has_kind("post"):
        from function.targets.post.target import PostTarget  # noqa: PLC0415  # for those who have posts

        posts = PostTarget(
            ledger.holds,
            graphql=graphql,
            network=network,
            settings_digest=settings.mutate_digest,
            resolve=resolve,
            variables=variables,
        )
        opened.callback(posts.close)
        targets[posts.kind] = posts
    engine = Engine(
        settings=settings,
        rules=rules,
        ledger=ledger,
        targets=targets,
        notices=notices,
        draw=random.SystemRandom().random,
    )

    @cache
    def inbound() -> "InboundWork":
        from function.inbound.work import build_inbound  # noqa: PLC0415  # for those whom ServiceNow answers

        return build_inbound(engine, connections, graphql(), commands)

    @cache
    def commands() -> "CommandWorker":
        from function.inbound.commands import CommandWorker  # noqa: PLC0415  # for those who have Slack

        return CommandWorker(engine, replies())

    return App(
        settings, engine, connections, ledger, configurations, tester, inbound, variables, opened
    )


def _make_targets(
    settings: Settings,
    rules: Rules,
    connections: ConnectionProvider,
    ledger: Ledger,
    replies: Callable[[], "ReplyClient"],
) -> dict[str, Target]:
    """One for each kind that rules have but posts, and tickets in any case."""
    targets: dict[str, Target] = {
        "ticket": TicketTarget(
            connections,
            ledger,
            source_name=settings.source_name,
            lease_seconds=settings.lease_seconds,
        )
    }
    if rules.has_kind("note"):
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


def _make_graphql(
    settings: Settings, ledger: Ledger, network: NetworkSettings, opened: ExitStack
) -> "GuardedGraphql":
    """Hasura's GraphQL, for mutations and the `data` of posts; *opened* closes it."""
    from function.connection.guarded_hasura import GuardedGraphql  # noqa: PLC0415  # for those who have `data`
    from function.hasura.graphql import GraphqlClient  # noqa: PLC0415

    client = GraphqlClient(
        settings.hasura_graphql_url,
        admin_secret=settings.hasura_admin_secret,
        role=settings.hasura_role,
        timeout_seconds=settings.hasura_timeout_seconds,
        network=network,
    )
    opened.callback(client.close)
    return GuardedGraphql(
        client,
        ledger.holds,
        admin_secret=settings.hasura_admin_secret,
        auth_hold_seconds=settings.auth_hold_seconds,
    )


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


def read_rules(
    path: str,
    environ: Mapping[str, str],
    *,
    read_secret: Callable[[str], str] = secretmanager.read_secret,
) -> Rules:
    """Read and check the rules file, and the secrets that its variables name. Raises RulesError,
    also where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        what = "there is no such file; set RULES_FILE to the rules"
        raise rules_file.RulesError(Finding(Level.FAULT, path, what, end="")) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {type(error).__name__}"
        raise rules_file.RulesError(Finding(Level.FAULT, path, what, end="")) from error
    return parse_rules(text, path.rpartition("/")[2], environ, read_secret=read_secret)


def parse_rules(
    text: str, name: str, environ: Mapping[str, str], *, read_secret: Callable[[str], str]
) -> Rules:
    """The same of a file's *text*; *name* is what faults call it."""
    # To look for the variables takes time at each start, and few files name a secret.
    has_secrets = any(
        secretmanager.is_reference(value) and name in text for name, value in environ.items()
    )
    names = rules_file.list_variables(text) if has_secrets else ()
    read = read_variables(names, environ, read_secret=read_secret)
    return rules_file.load_rules(
        text,
        name=name,
        environ={**environ, **read.values},
        references=read.references,
        unread=read.unread,
    )
