"""An app and its service desk: Hasura's GraphQL and triggers on a PostgreSQL, a ServiceNow, and the
function between them. A test decides which event and which notification arrives, and when."""

import base64
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from sandbox.catalog import migrate
from sandbox.graphql import GraphQLServer
from sandbox.hasura import Hasura
from tests.processes import HERE
from tests.world import SECRET, Answered, World

PROJECT = HERE / "examples" / "two-way"
RULES = (HERE / "examples" / "two-way.yaml").read_text()
WEBHOOK_SECRET = "planted-notification-secret"
ADMIN_SECRET = "planted-admin-secret"
# Rounds in which all that waits is delivered; a good history needs three or four.
ROUNDS_MAX = 40
# Longer than a write may commit after its time-out, and a hold of Hasura's lasts.
SKIP_SECONDS = 70.0


class Desk(World):
    """A world whose app answers; *database_url* is an empty PostgreSQL database.

    Events wait in Hasura's log until they are delivered.
    """

    def __init__(
        self, database_url: str, *, rules: str = RULES, project: Path = PROJECT, **settings: str
    ) -> None:
        super().__init__(
            rules=rules,
            database_url=database_url,
            SERVICENOW_WEBHOOK_SECRETS=WEBHOOK_SECRET,
            HASURA_ADMIN_SECRET=ADMIN_SECRET,
            HASURA_GRAPHQL_URL="http://127.0.0.1:1/v1/graphql",
        )
        self._settings |= settings
        self._app_database_url = database_url
        self._project = project

    def __enter__(self) -> Self:
        super().__enter__()
        # Its tables first: the views, and the inbox's trigger, read the ledger's.
        self.ledger.database.migrate()
        migrate(self._app_database_url, self._project)
        self.hasura = Hasura(
            database_url=self._app_database_url,
            project=self._project,
            environ={
                "SERVICENOW_FUNCTION_URL": "http://127.0.0.1:1",
                "SERVICENOW_FUNCTION_SECRET": SECRET,
            },
            fetch_interval_seconds=1e6,
            cron_interval_seconds=1e6,
            shutdown_seconds=1.0,
            graphql_port=0,
            admin_secret=ADMIN_SECRET,
        )
        self.hasura.__enter__()
        self._open.callback(self.hasura.kill)
        self.start(HASURA_GRAPHQL_URL=self.graphql.url)
        return self

    @property
    def graphql(self) -> GraphQLServer:
        return self.hasura.graphql

    # The app

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        with psycopg.connect(self._app_database_url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def row(self, id: object = 1) -> dict[str, Any]:
        [row] = self.sql("SELECT * FROM outages WHERE id = %s", id)
        return row

    def comments(self) -> list[tuple[str, str]]:
        """Author and body of each comment in the app, oldest first."""
        rows = self.sql("SELECT author, body FROM outage_comments ORDER BY id")
        return [(row["author"], row["body"]) for row in rows]

    def events(self) -> list[dict[str, Any]]:
        """What Hasura has not delivered, oldest first."""
        return self.sql(
            "SELECT * FROM hdb_catalog.event_log WHERE NOT delivered AND NOT error "
            "ORDER BY created_at, id"
        )

    def deliver(self, event: dict[str, Any], *, instance: int = 0) -> Answered:
        """Post one event, as Hasura does, and log what became of it."""
        body = {
            "id": event["id"],
            "created_at": event["created_at"].isoformat(),
            "delivery_info": {"current_retry": event["tries"], "max_retries": 60},
            "event": event["payload"],
            "table": {"schema": event["schema_name"], "name": event["table_name"]},
            "trigger": {"name": event["trigger_name"]},
        }
        answer = self.send(json.dumps(body).encode(), instance=instance)
        self.sql(
            "UPDATE hdb_catalog.event_log SET tries = tries + 1, delivered = %s, error = %s "
            "WHERE id = %s",
            answer.status == 200,
            answer.status == 422,
            event["id"],
        )
        return answer

    def deliver_all(self) -> list[Answered]:
        """Post each event that waits, once."""
        return [self.deliver(event) for event in self.events()]

    # ServiceNow

    def person(self, sys_id: str | None = None, **values: str) -> str:
        """A person edits a ticket; its sys_id."""
        sys_id = sys_id or self.incident["sys_id"]
        self.servicenow.change("incident", sys_id, **values)
        return sys_id

    def notify(
        self,
        sys_id: str | None = None,
        *,
        mod_count: int | None = None,
        instance: int = 0,
        table: str = "incident",
    ) -> Answered:
        """The business rule says that the ticket changed."""
        sys_id = sys_id or self.incident["sys_id"]
        row = self.servicenow.row(table, sys_id)
        count = mod_count if mod_count is not None else int(row["sys_mod_count"] if row else 0)
        body = {"version": 1, "table": table, "sys_id": sys_id, "mod_count": count}
        return self.post_notification(json.dumps(body).encode(), instance=instance)

    def post_notification(
        self,
        body: bytes,
        *,
        instance: int = 0,
        secret: str = WEBHOOK_SECRET,
        at: float | None = None,
        signed: bytes | None = None,
    ) -> Answered:
        """Post *body* with the signature of *signed*, by default of itself."""
        stamp = str(int(time.time() if at is None else at))
        text = stamp.encode() + b"." + (body if signed is None else signed)
        mac = hmac.new(secret.encode(), text, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "X-ServiceNow-Timestamp": stamp,
            "X-ServiceNow-Signature": f"v1={base64.b64encode(mac).decode()}",
        }
        return self._request("POST", "/servicenow", body, headers, instance=instance)

    def command(self, *arguments: str) -> tuple[int, str]:
        """``python -m function …``: its exit code, and what it said."""
        with self.start_command(*arguments) as ran:
            out, err = ran.communicate(timeout=60)
            return ran.returncode, out + err

    def start_command(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same, while it runs."""
        rules = Path(self._folder.name) / "rules.yaml"
        rules.write_text(self._rules)
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "function", *arguments],
            cwd=HERE,
            env={**os.environ, **self.environ, "RULES_FILE": str(rules)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # Time

    def settle(self) -> None:
        """Deliver all that waits, again and again until nothing does; waiting is skipped."""
        for _ in range(ROUNDS_MAX):
            answers = self.deliver_all()
            if not self.events():
                return
            if any(answer.status == 503 for answer in answers):
                self.servicenow.commit_now()
                self.servicenow.catch_up()
                self.clock.advance(SKIP_SECONDS)
        raise AssertionError(f"not settled: {self.events()}")

    def sync(self) -> None:
        """Have every ticket looked at, as `sync` does."""
        for row in self.servicenow.rows("incident"):
            self.notify(row["sys_id"])


def without(rules: str, *names: str) -> str:
    """*rules* without those that are called *names*."""
    parts = re.split(r"(?m)^(?=  (?:# .*\n  )*- name: )", rules)
    return "".join(part for part in parts if not any(f"- name: {name}\n" in part for name in names))
