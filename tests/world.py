"""A small world for the tests: a sandbox ServiceNow, a ledger on a real database, and functions
that share them.

The functions are in this process (fast), or processes of their own (tests/processes.py) where they
are to be killed.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import werkzeug.test
from flask import Request

from function import secretmanager
from function.app import App
from function.http.session import Resolver
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.settings import load_settings
from function.wiring import create_app, parse_rules
from sandbox.mailbox import Mailbox
from sandbox.servicenow import ServiceNow

# Planted everywhere, and looked for in every log line and answer of the whole run (conftest's
# nothing_leaks).
SECRET = "planted-webhook-secret"
PASSWORD = "planted-password"
TOKEN = "planted-console-token"
CONFIG_KEY = "cGxhbnRlZC1jb25maWcta2V5LTMyLWJ5dGVzLWxvbmc="
STORED_PASSWORD = "planted-stored-password"
SIGNING_SECRET = "planted-slack-signing-secret"
ROW_TEXT = "planted-row-text"
POST_TOKEN = "planted-post-token"
POST_SECRET = "whsec_cGxhbnRlZC1wb3N0LXNlY3JldC1vZi0zMi1ieXRlcw=="
PLANTED = (
    *(SECRET, PASSWORD, ROW_TEXT, TOKEN, CONFIG_KEY, STORED_PASSWORD),
    *(POST_TOKEN, POST_SECRET, SIGNING_SECRET),
)
TOLD: list[str] = []
MEMORY_FOLDER = "/dev/shm"  # noqa: S108  # its files have random names
RULES = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    when: row.severity in ['major', 'critical']
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
        impact: "{{ row.severity | lookup({'critical': 1, 'major': 2, 'minor': 3}) }}"
      resolve_when: row.status == 'fixed'
      close_code: Solution provided
      close_notes: "{{ row.resolution or 'Fixed in the app' }}"
"""


@dataclass(frozen=True)
class Answered:
    """An answer as Hasura sees it."""

    status: int
    body: dict[str, Any]
    retry_after: int | None

    @property
    def outcome(self) -> dict[str, Any]:
        """The only outcome."""
        [outcome] = self.body["outcomes"]
        return dict(outcome)

    @property
    def said(self) -> str:
        """The only outcome's status, and its reason where it has one."""
        return " ".join(filter(None, [self.outcome["status"], self.outcome["reason"]]))


class Clock:
    """How far the database's clock is ahead of the wall's; a test moves it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


def folder_in_memory() -> str | None:
    """Where files cost no disk, if this machine has such a place with room; a container's may
    have little.

    A ledger syncs each commit to its disk, and thousands of events would wait for little else. What
    that is good for, a machine that loses its power, is not tried here.
    """
    if os.access(MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(MEMORY_FOLDER).free > 2**30:
        return MEMORY_FOLDER
    return None


class World:
    """Everything outside one or more functions; a context manager."""

    def __init__(
        self,
        *,
        rules: str = RULES,
        database_url: str | None = None,
        honours_sys_id: bool = True,
        instances: int = 1,
        **settings: str,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder_in_memory())
        self.ledger_file = Path(self._folder.name) / "ledger.db"
        self._database_url = database_url or f"sqlite:///{self.ledger_file}"
        self._rules = rules
        self._settings = settings
        self._instances = instances
        self.read_secret: Callable[[str], str] = secretmanager.read_secret
        self.resolve: Resolver = socket.getaddrinfo
        self.clock = Clock()
        self.servicenow = ServiceNow(honours_sys_id=honours_sys_id, password=PASSWORD)
        self.mailbox = Mailbox()
        self.apps: list[App] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._folder)
            stack.enter_context(self.servicenow)
            stack.enter_context(self.mailbox)
            stack.callback(self.stop)
            self.start()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SOURCE_NAME": "shop",
            "SERVICENOW_INSTANCE_URL": self.servicenow.url,
            "SERVICENOW_USERNAME": "svc.hasura",
            "SERVICENOW_PASSWORD": PASSWORD,
            "HASURA_EVENT_SECRETS": SECRET,
            "CONSOLE_TOKEN": TOKEN,
            "CONFIG_KEY": CONFIG_KEY,
            "DATABASE_URL": self._database_url,
            "SMTP_URL": self.mailbox.url,
            "NOTIFY_FROM": "tickets@example.com",
            "NOTIFY_TO": "ops@example.com",
            **self._settings,
        }

    def start(self, *, rules: str | None = None, **settings: str) -> None:
        """Start the functions (anew, with what is given)."""
        self.stop()
        self._rules = rules or self._rules
        self._settings |= settings
        environ = self.environ
        for _ in range(self._instances):
            database = Database(self._database_url, clock_ahead_seconds=self.clock)
            self.apps.append(
                create_app(
                    load_settings(environ, read_secret=self.read_secret),
                    parse_rules(self._rules, "rules.yaml", environ, read_secret=self.read_secret),
                    Ledger(database),
                    environ,
                    read_secret=self.read_secret,
                    resolve=self.resolve,
                )
            )

    def stop(self) -> None:
        for app in self.apps:
            app.close()
        self.apps = []

    def forget(self) -> None:
        """Lose the ledger, as a disk that is gone with its instance."""
        if self._database_url.startswith("sqlite"):
            self.stop()
            for file in self.ledger_file.parent.glob("ledger.db*"):
                file.unlink()
            self.start()
        else:
            for table in (
                "ticket",
                "delivery",
                "alert",
                "hold",
                "table_traits",
                "configuration",
                "login_attempt",
                "shadow",
                "inbox",
                "watermark",
            ):
                self.query(f"DELETE FROM servicenow.{table}")  # noqa: S608  # our own names

    def send(self, body: bytes, *, instance: int = 0, secret: str | None = SECRET) -> Answered:
        """Post *body* as Hasura does."""
        return self.request("POST", "/hasura", body, instance=instance, secret=secret)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        instance: int = 0,
        secret: str | None = SECRET,
    ) -> Answered:
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            headers["X-Webhook-Secret"] = secret
        return self._request(method, path, body, headers, instance=instance)

    def operate(
        self,
        method: str,
        path: str,
        sent: object = None,
        *,
        instance: int = 0,
        token: str | None = TOKEN,
        content_type: str = "application/json",
    ) -> Answered:
        """Ask ``/api/servicenow/PATH`` as an operator does; *sent* is bytes, or becomes JSON."""
        body = (
            sent if isinstance(sent, bytes) else b"" if sent is None else json.dumps(sent).encode()
        )
        headers = {"Content-Type": content_type}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._request(method, f"/api/servicenow/{path}", body, headers, instance=instance)

    def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], *, instance: int
    ) -> Answered:
        environ = werkzeug.test.EnvironBuilder(
            method=method, path=path, data=body, headers=[*headers.items()]
        ).get_environ()
        answer = self.apps[instance].handle(Request(environ))
        TOLD.append(f"{answer.headers}{answer.get_data(as_text=True)}")
        retry_after = answer.headers.get("Retry-After")
        return Answered(
            answer.status_code,
            json.loads(answer.get_data() or b"{}"),
            int(retry_after) if retry_after is not None else None,
        )

    @property
    def ledger(self) -> Ledger:
        return self.apps[0].ledger

    def query(self, sql: str, **values: object) -> list[dict[str, Any]]:
        return self.ledger.database.run(lambda transaction: transaction.execute(sql, **values))

    @property
    def incidents(self) -> list[dict[str, str]]:
        return self.servicenow.rows("incident")

    @property
    def incident(self) -> dict[str, str]:
        """The only incident."""
        [incident] = self.incidents
        return incident

    def calls(self) -> list[str]:
        """What was called since the last time of asking, as ``METHOD table``."""
        calls = [f"{call.method} {call.table}" for call in self.servicenow.calls]
        self.servicenow.forget()
        return calls

    @property
    def mails(self) -> Sequence[EmailMessage]:
        return self.mailbox.messages


def leaks(told: Sequence[str]) -> list[str]:
    """Of log lines and answers, those that hold something planted."""
    return [line for line in told if any(planted in line for planted in PLANTED)]


def outage(id: object = 1, **columns: object) -> dict[str, object]:
    """A row of public.outages."""
    row: dict[str, object] = {
        "id": id,
        "title": f"Checkout is down {ROW_TEXT}",
        "severity": "critical",
        "status": "open",
        "resolution": None,
    }
    return row | columns


def said(row: Mapping[str, str]) -> tuple[str, str]:
    """What people see first of an incident."""
    return row["short_description"], row["state"]
