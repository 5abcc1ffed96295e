"""The parts of `make run`: a PostgreSQL with the app's tables, Hasura's event delivery and GraphQL,
a small ServiceNow whose business rules tell of changes, a small Slack, a receiver that is several
downstream systems, a mailbox, and the function as production starts it."""

import argparse
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from function.cli.business_rule import watched_tables
from function.ledger.database import Database
from function.rules.command import command_of, rules_with_commands, write_usage
from function.rules.loader import RulesError, load_rules
from function.rules.model import Rules
from function.rules.ticket import rules_with_tickets, ticket_of
from sandbox.catalog import migrate
from sandbox.graphql import PATH
from sandbox.hasura import Hasura
from sandbox.loopback import DIRECT
from sandbox.mailbox import Mailbox
from sandbox.notifier import Notifier, SentNotification, notified_tables
from sandbox.postgresql import PostgreSQL
from sandbox.receiver import SYSTEMS, Receiver
from sandbox.servicenow import ServiceNow
from sandbox.slack import TEAM, Slack
from sandbox.stand_ins import find_systems, make_secrets
from sandbox.suggestions import read_suggestions

HERE: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = "sandbox"
LOG: Final = "function.log"
SETTINGS: Final = "settings.env"
# In a Hasura project: what a reader may try with its tables.
START_SECONDS_MAX: Final = 30.0
# A process that is killed keeps its lease for DEADLINE + TIMEOUT + 10 s: short here, so that the
# tour is.
QUICK: Final = {
    "DEADLINE_SECONDS": "4",
    "SERVICENOW_TIMEOUT_SECONDS": "2",
    "HASURA_TIMEOUT_SECONDS": "2",
}
# In a rules file: a rule that is switched off. A sentence has one blank after its number sign.
_SWITCHED_OFF: Final = re.compile(r"^( *)#(?=- |  )", re.MULTILINE)


class FunctionNotStartedError(Exception):
    """The function ended, or did not answer; the text is its log."""


class UnknownTableError(Exception):
    """The rules hear of what the sandbox's ServiceNow does not have."""


class World:
    """Everything that `make run` starts, from enter to exit."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.port: int = asked.port
        self.instance = ServiceNow(port=asked.servicenow_port)
        self.mailbox = Mailbox(port=asked.mail_port)
        self.secret = secrets.token_hex(16)
        self._webhook_secret = secrets.token_hex(16)
        self._admin_secret = secrets.token_hex(16)
        # The function is told where it is before Hasura is there.
        self._graphql_port: int = asked.hasura_port or _free_port()
        # Where the rules hear of commands.
        self.slack: Slack | None = None
        self._slack_port: int = asked.slack_port
        self._own_rules = Path(asked.rules).resolve() if asked.rules else None
        self._project = Path(asked.project).resolve() if asked.project else HERE / "hasura"
        text = _read(self._own_rules) if self._own_rules else ""
        own = [f"SYSTEM_{name.upper()}_URL" for name in SYSTEMS]
        # By variable, the system of the receiver that stands in for a target of the rules.
        self.stand_ins = find_systems(text, {**dict.fromkeys(own, ""), **os.environ})
        self._made_secrets = make_secrets(text, os.environ)
        systems = dict.fromkeys([*SYSTEMS, *self.stand_ins.values()])
        self.receiver = Receiver(list(systems), port=asked.receiver_port)
        self._open = ExitStack()

    def __enter__(self) -> "World":
        with ExitStack() as stack:
            stack.enter_context(self.instance)
            stack.enter_context(self.mailbox)
            stack.enter_context(self.receiver)
            self.folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hasura-servicenow-"))
            )
            self._rules = self._own_rules or self._write_rules()
            if self.commands:
                slack = Slack(port=self._slack_port, function_url=f"{self.url}/slack")
                self.slack = stack.enter_context(slack)
            server = stack.enter_context(PostgreSQL())
            self.database_url = server.url
            self._write_psql(server.psql)
            ledger = Database(self.database_url)
            ledger.migrate()
            ledger.close()
            migrate(self.database_url, self._project)
            self.function = self._start()
            stack.callback(self._end)
            self.wait_until_ready()
            self._switch_notifications_on()
            self.hasura = stack.enter_context(
                Hasura(
                    database_url=self.database_url,
                    project=self._project,
                    environ={
                        **os.environ,
                        "SERVICENOW_FUNCTION_URL": self.url,
                        "SERVICENOW_FUNCTION_SECRET": self.secret,
                    },
                    fetch_interval_seconds=0.2,
                    shutdown_seconds=5.0,
                    graphql_port=self._graphql_port,
                    admin_secret=self._admin_secret,
                )
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def graphql_url(self) -> str:
        return f"http://127.0.0.1:{self._graphql_port}{PATH}"

    @property
    def environ(self) -> dict[str, str]:
        """What rules may name under `env:`: this shell's variables, and what stands in for those
        that it does not set."""
        return {**self._stand_in_environ, **os.environ}

    @property
    def _stand_in_environ(self) -> dict[str, str]:
        systems = {name: self.receiver.url_of(system) for name, system in self.stand_ins.items()}
        return {**self.receiver.environ, **systems, **self._made_secrets}

    @property
    def commands(self) -> list[str]:
        """How each slash command of the rules is written; none where they cannot be read, which the
        function says."""
        rules = self._read_rules()
        return [write_usage(command_of(rule)) for rule in rules_with_commands(rules)]

    @property
    def suggestions(self) -> list[str]:
        """What the project says is to be tried here, line by line."""
        return read_suggestions(
            self._project,
            {
                "psql": str(self.folder / "psql"),
                "incidents": f"{self.instance.url}/incidents",
                "receiver": self.receiver.url,
                "slack": f"{self.slack.url}/" if self.slack else "",
                "graphql": self.graphql_url,
                "admin_secret": self._admin_secret,
            },
        )

    @property
    def other_tables(self) -> list[str]:
        """The tables, beside incidents, in which the rules make tickets: these have no pages."""
        tables = {ticket_of(rule).table for rule in rules_with_tickets(self._read_rules())}
        return sorted(tables - {"incident"})

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def notifications(self) -> Sequence[SentNotification]:
        """What ServiceNow has told the function so far."""
        return self.instance.notifier.sent if self.instance.notifier else ()

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def kill_function(self) -> None:
        """kill -9 the server and its worker, and start another."""
        os.killpg(self.function.pid, signal.SIGKILL)
        self.function.wait()
        self.function = self._start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for the function to answer; a function that ends instead has said why in its log."""
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until:
            if self.function.poll() is not None:
                log = self.log.read_text("utf-8", "replace").strip()
                raise FunctionNotStartedError(f"The function did not start:\n{log}")
            try:
                with DIRECT.open(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise FunctionNotStartedError(
            f"The function did not answer within {START_SECONDS_MAX:.0f} s."
        )

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the function as production does; its log and its settings go to files that are
        named to the reader."""
        settings = {
            "SOURCE_NAME": SOURCE,
            "SERVICENOW_INSTANCE_URL": self.instance.url,
            "SERVICENOW_USERNAME": self.instance.username,
            "SERVICENOW_PASSWORD": self.instance.password,
            "SERVICENOW_WEBHOOK_SECRETS": self._webhook_secret,
            "PUBLIC_URL": self.url,
            "HASURA_EVENT_SECRETS": self.secret,
            "HASURA_GRAPHQL_URL": self.graphql_url,
            "HASURA_ADMIN_SECRET": self._admin_secret,
            "DATABASE_URL": self.database_url,
            "RULES_FILE": str(self._rules),
            "SMTP_URL": self.mailbox.url,
            "NOTIFY_FROM": "tickets@sandbox.example",
            "NOTIFY_TO": "you@sandbox.example",
            **self._slack_settings(),
            **QUICK,
        }
        shown = {**self._stand_in_environ, **settings}
        (self.folder / SETTINGS).write_text(
            "".join(f"{name}={shlex.quote(value)}\n" for name, value in shown.items())
        )
        # What rules of one's own name under `env:` is this shell's to say; the settings are the
        # sandbox's.
        environ = {**self.environ, **settings}
        command = [
            str(Path(sys.executable).parent / "functions-framework"),
            "--target=handle",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=HERE, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def _read_rules(self) -> Rules:
        """Without any where they cannot be read, which the function says."""
        try:
            return load_rules(self._rules.read_text("utf-8"), environ=self.environ)
        except (RulesError, OSError):
            return Rules((), "")

    def _slack_settings(self) -> dict[str, str]:
        if self.slack is None:
            return {}
        return {
            "SLACK_SIGNING_SECRET": self.slack.signing_secret,
            "SLACK_ALLOWED_TEAMS": TEAM,
            "SLACK_SANDBOX_URL": self.slack.url,
        }

    def _end(self) -> None:
        if self.function.poll() is None:
            self.function.terminate()
            try:
                self.function.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.function.kill()
                self.function.wait()

    def _switch_notifications_on(self) -> None:
        """Have ServiceNow tell of what the rules hear, if they hear anything. Raises
        UnknownTableError."""
        rules = load_rules(self._rules.read_text("utf-8"), environ=self.environ).rules
        if tables := notified_tables(watched_tables(rules), SOURCE):
            notifier = Notifier(f"{self.url}/servicenow", self._webhook_secret, tables=tables)
            try:
                self.instance.start_notifying(notifier)
            except ValueError as error:
                raise UnknownTableError(
                    f"The sandbox's ServiceNow cannot tell of what the rules hear: {error}."
                ) from error

    def _write_rules(self) -> Path:
        """The shipped rules, those that are switched off there too."""
        rules = self.folder / "rules.yaml"
        rules.write_text(switch_on((HERE / "rules.yaml").read_text("utf-8")), "utf-8")
        return rules

    def _write_psql(self, psql: Path) -> None:
        """A psql that knows the way, to be pasted."""
        script = self.folder / "psql"
        script.write_text(
            f'#!/bin/sh\nexec {shlex.quote(str(psql))} {shlex.quote(self.database_url)} "$@"\n'
        )
        script.chmod(0o755)


def switch_on(rules: str) -> str:
    """The text of a rules file with the number sign taken away before each line of a rule."""
    return _SWITCHED_OFF.sub(r"\1", rules)


def _read(rules: Path) -> str:
    """The text of a rules file; of one that cannot be read, which the function says, nothing."""
    try:
        return rules.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
