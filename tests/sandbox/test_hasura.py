"""The sandbox's Hasura delivers as Hasura's documentation and source say."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from sandbox.catalog import InconsistentMetadata, migrate
from sandbox.cron import Cron
from sandbox.hasura import Hasura, LoggedEvent, Refused
from sandbox.loopback import Loopback
from sandbox.webhook import (
    Answer,
    Connections,
    Header,
    NoAnswer,
    encode,
    local_time,
    parse,
    retry_after_seconds,
)

HERE = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS_MAX = 10.0
UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


# --- the other ends
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """The client's port: which connection it came by."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b'{"outcomes":[]}'


RAW = tuple[bytes, bool]
"""Bytes as they are to be written, and whether the connection stays open."""
HANG_UP: RAW = (b"", False)


class Webhook:
    """A threaded HTTP server that answers what a test says, and keeps what it was sent."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Reply | RAW] = lambda _: Reply()
        self.most_at_once = 0
        self._held = threading.Event()
        self._now = 0
        self._lock = threading.Lock()
        self._server = Loopback("the webhook", 0, type("Handler", (_Handler,), {"webhook": self}))
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def answers(self, *answers: Reply | RAW) -> None:
        """One after the other; the last one for ever."""
        left = list(answers)
        self.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def hold(self) -> threading.Event:
        """Keep callers waiting until the event is set, and answer then."""
        self.answer = lambda _: Reply() if self._held.wait(WAIT_SECONDS_MAX) else HANG_UP
        return self._held

    def take(self, received: Received) -> Reply | RAW:
        with self._lock:
            self.received.append(received)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(received)
        finally:
            with self._lock:
                self._now -= 1

    def stop(self) -> None:
        self._held.set()
        self._server.stop()


class _Handler(BaseHTTPRequestHandler):
    webhook: Webhook
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        received = Received(
            self.command, self.path, dict(self.headers.items()), body, self.client_address[1]
        )
        answer = self.webhook.take(received)
        if isinstance(answer, tuple):
            self.close_connection = not answer[1]
            self.wfile.write(answer[0])
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.status != 204:
            self.wfile.write(answer.body)

    do_GET = do_POST = _serve  # noqa: N815  # http.server's names

    def log_message(self, *_: object) -> None:
        pass


def eventually(truth: Callable[[], Any]) -> Any:
    """The first value of *truth* that is true."""
    until = time.monotonic() + WAIT_SECONDS_MAX
    while not (value := truth()):
        if time.monotonic() > until:
            raise AssertionError("it did not come true")
        time.sleep(0.01)
    return value


class Site:
    """An app: its database, its Hasura project, and the webhook that its triggers name."""

    def __init__(self, database_url: str, folder: Path, webhook: Webhook) -> None:
        self.database_url = database_url
        self.project = folder / "hasura"
        self.webhook = webhook
        self.environ = {"WEBHOOK_URL": webhook.url, "WEBHOOK_SECRET": "s3cret"}
        self.ahead_seconds = 0.0
        self._database = psycopg.connect(database_url, autocommit=True)
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.crons: list[dict[str, Any]] = []
        self.write()

    def close(self) -> None:
        self._database.close()

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._database.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def table(self, columns: str, name: str = "outages", /, **trigger: Any) -> None:
        """Make a table and a trigger of it."""
        self.sql(f"CREATE TABLE {name} ({columns})")
        self.trigger(name, **trigger)

    def trigger(self, table: str = "outages", /, **entry: Any) -> None:
        """Put a trigger into the metadata, in the place of one of the same name."""
        every = {"columns": "*"}
        usual = {
            "name": f"{table}_to_servicenow",
            "definition": {
                "enable_manual": True,
                "insert": every,
                "update": every,
                "delete": every,
            },
            "retry_conf": {"num_retries": 3, "interval_sec": 10, "timeout_sec": 5},
            "webhook": "{{WEBHOOK_URL}}/hasura",
        }
        entries = self.tables.setdefault(table, [])
        entries[:] = [one for one in entries if one["name"] != {**usual, **entry}["name"]] + [
            {**usual, **entry}
        ]
        self.write()

    def write(self) -> None:
        databases = self.project / "metadata" / "databases"
        tables = databases / "default" / "tables"
        tables.mkdir(parents=True, exist_ok=True)
        (self.project / "config.yaml").write_text("version: 3\nmetadata_directory: metadata\n")
        (self.project / "metadata" / "version.yaml").write_text("version: 3\n")
        (self.project / "metadata" / "cron_triggers.yaml").write_text(yaml.safe_dump(self.crons))
        (databases / "databases.yaml").write_text(
            '- {name: default, kind: postgres, tables: "!include default/tables/tables.yaml"}\n'
        )
        (tables / "tables.yaml").write_text(
            yaml.safe_dump(
                [f"!include public_{name}.yaml" for name in self.tables], default_style='"'
            )
        )
        for name, entries in self.tables.items():
            content = {"table": {"schema": "public", "name": name}, "event_triggers": entries}
            (tables / f"public_{name}.yaml").write_text(yaml.safe_dump(content))

    def hasura(self, **options: Any) -> Hasura:
        return Hasura(
            **{
                "database_url": self.database_url,
                "project": self.project,
                "environ": self.environ,
                "fetch_interval_seconds": 0.02,
                "cron_interval_seconds": 0.02,
                "clock_ahead_seconds": lambda: self.ahead_seconds,
                **options,
            }
        )

    def installed(self) -> Hasura:
        """An engine whose triggers are there, and which delivers nothing."""
        hasura = self.hasura()
        hasura.apply_metadata()
        return hasura

    def heard(self, count: int = 1) -> list[Received]:
        eventually(lambda: len(self.webhook.received) >= count)
        return list(self.webhook.received)

    def settled(self, hasura: Hasura, *, tries: int = 1) -> LoggedEvent:
        """The one event, when it has been tried so often and is in nobody's hands."""

        def look() -> LoggedEvent | None:
            [event] = hasura.events()
            return event if event.tries >= tries and event.locked is None else None

        found: LoggedEvent = eventually(look)
        return found


@pytest.fixture(scope="module")
def database(postgresql_server: str) -> Iterator[str]:
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE hasura")
        connection.execute(
            "ALTER DATABASE hasura SET synchronous_commit = off"
        )  # no test pulls the plug
    yield postgresql_server.replace("/postgres?", "/hasura?")
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE hasura WITH (FORCE)")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    server = Webhook()
    yield server
    server.stop()


@pytest.fixture
def site(database: str, tmp_path: Path, webhook: Webhook) -> Iterator[Site]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA IF EXISTS hdb_catalog, public CASCADE")
        connection.execute("CREATE SCHEMA public")
    app = Site(database, tmp_path, webhook)
    yield app
    app.close()


# --- what is written
# -----------------------------------------------------------------------------------------------


class TestNumbersAndTexts:
    @pytest.mark.parametrize(
        ("written", "sent"),
        [
            ("0", "0"),
            ("-7", "-7"),
            ("9223372036854775807", "9223372036854775807"),
            ("1" + "0" * 5000, "1" + "0" * 5000),
            ("0.0", "0.0"),
            ("0.1", "0.1"),
            ("0.100", "0.1"),
            ("0.05", "5.0e-2"),
            ("-0.0123", "-1.23e-2"),
            ("1500.0000", "1500.0"),
            ("9999999.5", "9999999.5"),
            ("10000000.00", "1.0e7"),
            ("12345678.90", "1.23456789e7"),
            ("-12345678.90", "-1.23456789e7"),
            ("100000000000000000000.5", "1.000000000000000000005e20"),
        ],
    )
    def test_a_number_is_sent_as_aeson_writes_it(self, written: str, sent: str) -> None:
        assert encode(parse(written)) == sent

    @pytest.mark.parametrize(
        ("text", "sent"),
        [
            ('say "hi"', r'"say \"hi\""'),
            ("back\\slash", r'"back\\slash"'),
            ("a\nb\rc\td", r'"a\nb\rc\td"'),
            ("\b\f\x00\x1f", r'"\u0008\u000c\u0000\u001f"'),
            ("\x7f\u2028ü😀/<>", '"\x7f\u2028ü😀/<>"'),
        ],
    )
    def test_a_text_is_escaped_only_where_it_must_be(self, text: str, sent: str) -> None:
        assert encode(text) == sent

    def test_keys_are_in_code_point_order(self) -> None:
        assert (
            encode({"\U0001f600": 1, "\ufffd": 2, "b": 3, "B": 4})
            == '{"B":4,"b":3,"\ufffd":2,"\U0001f600":1}'
        )

    @pytest.mark.parametrize(
        ("microsecond", "sent"),
        [
            (0, "2024-01-02T03:04:05"),
            (500_000, "2024-01-02T03:04:05.5"),
            (307_020, "2024-01-02T03:04:05.30702"),
            (1, "2024-01-02T03:04:05.000001"),
        ],
    )
    def test_a_time_has_no_zone_and_no_trailing_zeros(self, microsecond: int, sent: str) -> None:
        assert local_time(datetime(2024, 1, 2, 3, 4, 5, microsecond)) == sent  # noqa: DTZ001  # it has none


# Every type that PostgreSQL alone can do: what a column holds, and what is sent of it.
TYPES = [
    ("smallint", "-32768", "-32768"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("numeric(12,4)", "1500.0000", "1500.0"),
    ("numeric", "12345678.90", "1.23456789e7"),
    ("numeric", "0.05", "5.0e-2"),
    ("numeric", "'NaN'", '"NaN"'),
    ("numeric", "'-Infinity'", '"-Infinity"'),
    ("real", "1.1", "1.1"),
    ("double precision", "1e30", "1" + "0" * 30),
    ("double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    ("double precision", "'Infinity'", '"Infinity"'),
    ("boolean", "true", "true"),
    ("text", "E'a\"b\\n'", r'"a\"b\n"'),
    ("char(5)", "'ab'", '"ab   "'),
    ("severity", "'major'", '"major"'),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    ("int4range", "'[1,4]'", '"[1,5)"'),
    ("point", "'(1,2)'", '"(1,2)"'),
    ("bit(3)", "B'101'", '"101"'),
    ("money", "1234567.89", '"$1,234,567.89"'),
    ("interval", "'1 month 2 days 3 hours'", '"1 mon 2 days 03:00:00"'),
    ("bytea", r"'\xdeadbeef00'", r'"\\xdeadbeef00"'),
    ("timestamp", "'2024-01-02 03:04:05.600'", '"2024-01-02T03:04:05.6"'),
    ("timestamptz", "'2024-01-02 03:04:05.678901+02'", '"2024-01-02T01:04:05.678901+00:00"'),
    ("date", "'2024-02-29'", '"2024-02-29"'),
    ("time", "'13:14:15'", '"13:14:15"'),
    ("timetz", "'13:14:15+03'", '"13:14:15+03"'),
    ("json", """'{"b": 1, "a": {"z": null}, "b": 2.50}'""", '{"a":{"z":null},"b":2.5}'),
    ("jsonb", "'[1, \"x\", []]'", '[1,"x",[]]'),
    ("jsonb", "'null'", "null"),
    ("text", "NULL", "null"),
    ("int[]", "'{{1,2},{3,NULL}}'", "[[1,2],[3,null]]"),
    ("text[]", "'{}'", "[]"),
]


@pytest.fixture(scope="module")
def of_every_type(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The body that was posted for a row with a column of each."""
    webhook = Webhook()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "DROP SCHEMA IF EXISTS hdb_catalog, public CASCADE; CREATE SCHEMA public"
        )
    app = Site(database, tmp_path_factory.mktemp("types"), webhook)
    app.sql(
        "SET lc_monetary = 'C'; SET TIME ZONE 'UTC'; CREATE TYPE severity AS ENUM "
        "('minor', 'major')"
    )
    app.table(", ".join(f"c{number} {type_}" for number, (type_, _, _) in enumerate(TYPES)))
    with app.hasura():
        app.sql(("INSERT INTO outages VALUES (") + ", ".join(value for _, value, _ in TYPES) + ")")  # noqa: S608  # our own
        [received] = app.heard()
    yield received.body.decode()
    app.close()
    webhook.stop()


class TestBody:
    @pytest.mark.parametrize(
        "number", range(len(TYPES)), ids=lambda number: f"{TYPES[number][0]} {TYPES[number][1]}"
    )
    def test_a_column_is_sent_as_its_type_is_written(self, of_every_type: str, number: int) -> None:
        found = re.search(f'"c{number}":(.*?)(?:,"c[0-9]+":|}},"old")', of_every_type)

        assert found is not None
        assert found[1] == TYPES[number][2]

    def test_a_whole_body_of_a_plain_write(self, site: Site) -> None:
        site.table("id int PRIMARY KEY, title text")

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (42, 'Checkout is down')")
            [received] = site.heard()

        [event] = hasura.events()
        assert UUID.fullmatch(event.id)
        assert received.body.decode() == (
            f'{{"created_at":"{local_time(event.created_at)}","delivery_info":{{"current_retry":0,"max_retries":3}},'
            '"event":{"data":{"new":{"id":42,"title":"Checkout is down"},"old":null},"op":"INSERT",'
            f'"session_variables":null,"trace_context":null}},"id":"{event.id}",'
            '"table":{"name":"outages","schema":"public"},"trigger":{"name":"outages_to_servicenow"}}'
        )

    def test_an_update_carries_both_images_and_a_delete_the_old_one(self, site: Site) -> None:
        site.table("id int, title text")
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1, 'a')")
        site.sql("UPDATE outages SET title = 'b'")
        site.sql("DELETE FROM outages")

        assert [(event.payload["op"], event.payload["data"]) for event in hasura.events()] == [
            ("INSERT", {"old": None, "new": {"id": 1, "title": "a"}}),
            ("UPDATE", {"old": {"id": 1, "title": "a"}, "new": {"id": 1, "title": "b"}}),
            ("DELETE", {"old": {"id": 1, "title": "b"}, "new": None}),
        ]

    def test_a_write_through_graphql_carries_its_session_and_trace(self, site: Site) -> None:
        site.table("id int")
        hasura = site.installed()

        site.sql(
            """BEGIN; SET LOCAL "hasura.user" = '{"x-hasura-role":"admin"}';
            SET LOCAL "hasura.tracecontext" = '{"trace_id":"1","span_id":"2"}';
            INSERT INTO outages VALUES (1); COMMIT"""
        )

        [event] = hasura.events()
        assert event.payload["session_variables"] == {"x-hasura-role": "admin"}
        assert event.payload["trace_context"] == {"trace_id": "1", "span_id": "2"}

    def test_an_empty_session_setting_is_null(self, site: Site) -> None:
        site.table("id int")
        hasura = site.installed()

        site.sql("""SET "hasura.user" = ''; INSERT INTO outages VALUES (1); RESET "hasura.user" """)

        [event] = hasura.events()
        assert event.payload["session_variables"] is None

    def test_created_at_is_in_the_time_zone_of_the_session_that_wrote(self, site: Site) -> None:
        site.table("id int")
        hasura = site.installed()

        site.sql("SET TIME ZONE 'Asia/Kolkata'; INSERT INTO outages VALUES (1); RESET TIME ZONE")

        [event] = hasura.events()
        ahead = event.created_at.replace(tzinfo=UTC) - datetime.now(UTC)
        assert timedelta(hours=5, minutes=29) < ahead <= timedelta(hours=5, minutes=30)

    def test_all_rows_of_a_transaction_share_created_at(self, site: Site) -> None:
        site.table("id int")
        hasura = site.installed()

        site.sql(
            "BEGIN; INSERT INTO outages VALUES (1); SELECT pg_sleep(0.01); "
            "INSERT INTO outages VALUES (2); COMMIT"
        )

        first, second = hasura.events()
        assert first.created_at == second.created_at

    def test_payload_restricts_the_columns_that_are_sent(self, site: Site) -> None:
        site.table(
            "id int, title text, secret text",
            definition={"insert": {"columns": "*", "payload": ["id", "title"]}},
        )
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1, 'a', 'b')")

        [event] = hasura.events()
        assert event.payload["data"]["new"] == {"id": 1, "title": "a"}

    def test_names_that_must_be_quoted_are_sent_as_they_are(self, site: Site) -> None:
        site.sql("""CREATE TABLE "Out'ages" ("Id" int, "a.b" text, "x'{y}%s\\z" text)""")
        site.trigger("Out'ages", name="T-1")
        hasura = site.installed()

        site.sql("""INSERT INTO "Out'ages" VALUES (1, 'a', 'b')""")

        [event] = hasura.events()
        assert (event.table_name, event.trigger_name) == ("Out'ages", "T-1")
        assert event.payload["data"]["new"] == {"Id": 1, "a.b": "a", "x'{y}%s\\z": "b"}

    def test_a_partitioned_table_is_named_and_not_its_partition(self, site: Site) -> None:
        site.sql("CREATE TABLE outages (id int) PARTITION BY RANGE (id)")
        site.sql("CREATE TABLE outages_1 PARTITION OF outages FOR VALUES FROM (0) TO (100)")
        site.trigger()
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1)")

        [event] = hasura.events()
        assert event.table_name == "outages"


class TestFiring:
    """When a write is an event."""

    @pytest.mark.parametrize(
        ("change", "fires"),
        [
            ("severity = 'major'", True),
            ("severity = NULL", True),
            ("details = 'not listened to'", False),
            ("severity = severity", False),
            ("amount = 1500.0000", False),
            ("amount = 1500.01", True),
        ],
    )
    def test_an_update_fires_when_a_listened_column_differs(
        self, site: Site, change: str, *, fires: bool
    ) -> None:
        site.table(
            "id int, severity text, amount numeric, details text",
            definition={"update": {"columns": ["severity", "amount"]}},
        )
        hasura = site.installed()
        site.sql("INSERT INTO outages VALUES (1, 'minor', 1500.00, NULL)")

        site.sql(f"UPDATE outages SET {change}")  # noqa: S608  # our own

        assert len(hasura.events()) == fires

    def test_a_null_that_becomes_a_value_fires(self, site: Site) -> None:
        site.table("id int, severity text", definition={"update": {"columns": ["severity"]}})
        hasura = site.installed()
        site.sql("INSERT INTO outages VALUES (1, NULL)")

        site.sql("UPDATE outages SET severity = 'minor'")

        assert len(hasura.events()) == 1

    @pytest.mark.parametrize(
        ("change", "fires"),
        [("data = '{\"a\":1}'", False), ("data = '{\"a\":2}'", True), ("amount = 1500.0000", True)],
    )
    def test_beside_a_type_without_equality_columns_are_compared_as_stored(
        self, site: Site, change: str, *, fires: bool
    ) -> None:
        site.table("id int, data json, amount numeric", definition={"update": {"columns": "*"}})
        hasura = site.installed()
        site.sql("INSERT INTO outages VALUES (1, '{\"a\":1}', 1500.00)")

        site.sql(f"UPDATE outages SET {change}")  # noqa: S608  # our own

        assert len(hasura.events()) == fires

    def test_only_the_operations_that_are_defined_fire(self, site: Site) -> None:
        site.table("id int", definition={"delete": {"columns": "*"}})
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1); UPDATE outages SET id = 2; DELETE FROM outages")

        assert [event.payload["op"] for event in hasura.events()] == ["DELETE"]

    def test_a_transaction_that_is_rolled_back_leaves_no_event(self, site: Site) -> None:
        site.table("id int")
        hasura = site.installed()

        site.sql("BEGIN; INSERT INTO outages VALUES (1); ROLLBACK")

        assert hasura.events() == []

    def test_truncate_fires_nothing(self, site: Site) -> None:
        site.table("id int", definition={"delete": {"columns": "*"}})
        hasura = site.installed()
        site.sql("INSERT INTO outages VALUES (1)")

        site.sql("TRUNCATE outages")

        assert hasura.events() == []

    def test_an_upsert_of_what_is_there_fires_update(self, site: Site) -> None:
        site.table("id int PRIMARY KEY, title text")
        hasura = site.installed()
        site.sql("INSERT INTO outages VALUES (1, 'a')")

        site.sql(
            "INSERT INTO outages VALUES (1, 'b') "
            "ON CONFLICT (id) DO UPDATE SET title = EXCLUDED.title"
        )

        assert [event.payload["op"] for event in hasura.events()] == ["INSERT", "UPDATE"]

    def test_a_cascaded_delete_fires(self, site: Site) -> None:
        site.table("id int PRIMARY KEY", "accounts")
        site.table("id int REFERENCES accounts ON DELETE CASCADE")
        hasura = site.installed()
        site.sql("INSERT INTO accounts VALUES (1); INSERT INTO outages VALUES (1)")

        site.sql("DELETE FROM accounts")

        assert ("outages", "DELETE") in [
            (event.table_name, event.payload["op"]) for event in hasura.events()
        ]

    @pytest.mark.parametrize("on_replication", [False, True])
    def test_a_replicated_row_fires_only_where_it_is_asked_for(
        self, site: Site, *, on_replication: bool
    ) -> None:
        site.table("id int", trigger_on_replication=on_replication)
        hasura = site.installed()

        site.sql(
            "SET session_replication_role = replica; INSERT INTO outages VALUES (1); "
            "RESET session_replication_role"
        )

        assert len(hasura.events()) == on_replication

    def test_a_column_named_e_breaks_the_users_write(self, site: Site) -> None:
        site.table("id int, e text")
        site.installed()

        with pytest.raises(psycopg.errors.UndefinedFunction, match=re.escape("row_to_json(text)")):
            site.sql("INSERT INTO outages VALUES (1, 'a')")

    def test_a_nul_in_a_json_column_breaks_the_users_write(self, site: Site) -> None:
        site.table("id int, data json")
        site.installed()

        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            site.sql("""INSERT INTO outages VALUES (1, '"\\u0000"')""")

    def test_a_new_column_is_sent_only_after_the_metadata_is_applied_again(
        self, site: Site
    ) -> None:
        site.table("id int")
        hasura = site.installed()
        site.sql("ALTER TABLE outages ADD COLUMN title text; INSERT INTO outages VALUES (1, 'a')")

        hasura.apply_metadata()
        site.sql("INSERT INTO outages VALUES (2, 'b')")

        assert [event.payload["data"]["new"] for event in hasura.events()] == [
            {"id": 1},
            {"id": 2, "title": "b"},
        ]

    def test_a_dropped_column_breaks_every_write_until_then(self, site: Site) -> None:
        site.table("id int, title text")
        site.installed()
        site.sql("ALTER TABLE outages DROP COLUMN title")

        with pytest.raises(psycopg.errors.UndefinedColumn):
            site.sql("INSERT INTO outages VALUES (1)")


# --- the metadata
# --------------------------------------------------------------------------------------------------


class TestMetadata:
    @pytest.mark.parametrize(
        ("entry", "fault"),
        [
            ({"webhook": "{{NOWHERE}}/hasura"}, "the environment variable NOWHERE is not set"),
            (
                {"headers": [{"name": "X", "value": "{{NOWHERE}}"}]},
                "the environment variable NOWHERE is not set",
            ),
            (
                {"headers": [{"name": "X", "value_from_env": "NOWHERE"}]},
                "the environment variable NOWHERE is not set",
            ),
            (
                {"headers": [{"name": "X", "value_from_env": "HASURA_GRAPHQL_X"}]},
                "header X may not be taken from HASURA",
            ),
            (
                {"headers": [{"name": "X"}]},
                "header X needs exactly one of value and value_from_env",
            ),
            (
                {"webhook_from_env": "WEBHOOK_URL"},
                "exactly one of webhook and webhook_from_env is needed",
            ),
            ({"retry_conf": None}, "retry_conf.num_retries is missing"),
            ({"retry_conf": {"num_retries": 1}}, "retry_conf.interval_sec is missing"),
            ({"name": "1st"}, "is no name for a trigger"),
            ({"name": "x" * 43}, "is no name for a trigger"),
            ({"definition": {"update": {"columns": ["nowhere"]}}}, "nowhere does not exist"),
            (
                {"request_transform": {"version": 2}},
                "request_transform is nothing this engine does",
            ),
        ],
    )
    def test_a_trigger_that_cannot_work_is_inconsistent(
        self, site: Site, entry: dict[str, Any], fault: str
    ) -> None:
        site.table("id int", **entry)

        with pytest.raises(InconsistentMetadata, match=re.escape(fault)) as raised:
            site.hasura().apply_metadata()

        assert (
            f"event trigger {entry.get('name', 'outages_to_servicenow')} on public.outages"
            in str(raised.value)
        )

    def test_a_trigger_of_a_table_that_is_not_there_is_inconsistent(self, site: Site) -> None:
        site.trigger("nowhere")

        with pytest.raises(
            InconsistentMetadata, match=r"on public\.nowhere: the table does not exist"
        ):
            site.hasura().apply_metadata()

    def test_the_longest_name_that_is_allowed_works(self, site: Site) -> None:
        site.table("id int", name="x" * 42)
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1); UPDATE outages SET id = 2; DELETE FROM outages")

        assert len(hasura.events()) == 3

    def test_a_trigger_that_is_gone_fires_no_more(self, site: Site) -> None:
        site.table("id int")
        site.installed()
        site.tables.clear()
        site.write()
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1)")

        assert hasura.events() == []

    def test_the_events_of_a_trigger_that_was_dropped_are_never_sent_though_it_comes_back(
        self, site: Site
    ) -> None:
        site.table("id int")
        site.installed()
        site.sql("INSERT INTO outages VALUES (1)")
        site.tables.clear()
        site.write()
        site.installed()
        site.trigger()

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (2)")
            eventually(lambda: hasura.events()[1].delivered)

        assert [(event.archived, event.tries) for event in hasura.events()] == [
            (True, 0),
            (False, 1),
        ]

    def test_a_second_engine_leaves_the_triggers_alone_that_are_as_they_should_be(
        self, site: Site
    ) -> None:
        site.table("id int")
        site.installed()
        before = site.sql("SELECT oid FROM pg_trigger ORDER BY oid")

        site.installed()

        assert site.sql("SELECT oid FROM pg_trigger ORDER BY oid") == before

    def test_a_trigger_moves_with_its_table(self, site: Site) -> None:
        site.table("id int", name="it")
        site.installed()
        site.tables.clear()
        site.table("id int", "accounts", name="it")
        hasura = site.installed()

        site.sql("INSERT INTO outages VALUES (1); INSERT INTO accounts VALUES (1)")

        assert [event.table_name for event in hasura.events()] == ["accounts"]


class TestRequest:
    def test_it_has_these_headers_and_no_others(self, site: Site) -> None:
        site.table(
            "id int",
            headers=[
                {"name": "X-Webhook-Secret", "value_from_env": "WEBHOOK_SECRET"},
                {"name": "X-Static", "value": "a {{WEBHOOK_SECRET}}"},
            ],
        )

        with site.hasura():
            site.sql("INSERT INTO outages VALUES (1)")
            [received] = site.heard()

        assert (received.method, received.path) == ("POST", "/hasura")
        assert received.headers == {
            "Host": site.webhook.url.removeprefix("http://"),
            "Accept-Encoding": "gzip",
            "Content-Length": str(len(received.body)),
            "Content-Type": "application/json",
            "User-Agent": "hasura-graphql-engine/v2.48.0",
            "X-Webhook-Secret": "s3cret",
            "X-Static": "a s3cret",
        }

    @pytest.mark.parametrize("name", ["Content-Type", "user-agent"])
    def test_its_own_headers_stand_in_the_place_of_configured_ones(
        self, site: Site, name: str
    ) -> None:
        site.table("id int", headers=[{"name": name, "value": "mine"}])

        with site.hasura():
            site.sql("INSERT INTO outages VALUES (1)")
            [received] = site.heard()

        assert "mine" not in received.headers.values()

    def test_the_address_may_come_from_one_variable(self, site: Site) -> None:
        site.table("id int", webhook=None, webhook_from_env="WEBHOOK_URL")

        with site.hasura():
            site.sql("INSERT INTO outages VALUES (1)")
            [received] = site.heard()

        assert received.path == "/"

    def test_the_log_keeps_the_name_of_a_variable_and_the_text_of_a_static_value(
        self, site: Site
    ) -> None:
        site.table(
            "id int",
            headers=[
                {"name": "X-A", "value_from_env": "WEBHOOK_SECRET"},
                {"name": "X-B", "value": "in clear"},
            ],
        )

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.settled(hasura)

        [invocation] = hasura.invocations()
        assert invocation.request == {
            "headers": [
                {"name": "Content-Type", "value": "application/json"},
                {"name": "User-Agent", "value": "hasura-graphql-engine/v2.48.0"},
                {"name": "X-A", "value_from_env": "WEBHOOK_SECRET"},
                {"name": "X-B", "value": "in clear"},
            ],
            "payload": site.webhook.received[0].json,
            "version": "2",
        }


# --- connections
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def connections() -> Iterator[Connections]:
    pool = Connections(idle_max=2)
    yield pool
    pool.abort()


def post(
    connections: Connections, url: str, *, body: bytes = b"{}", timeout_seconds: float = 5.0
) -> Answer:
    return connections.post(
        url, [Header("Content-Type", "application/json")], body, timeout_seconds=timeout_seconds
    )


def raw(status: str = "200 OK", *headers: str, body: bytes = b"", keep: bool = True) -> RAW:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body, keep


class TestConnections:
    """As http-client has them."""

    @pytest.mark.parametrize("status", [301, 307, 308])
    def test_these_redirects_keep_the_post(
        self, connections: Connections, webhook: Webhook, status: int
    ) -> None:
        webhook.answers(Reply(status, (("Location", "/there?a=b"),)), Reply(204))

        answer = post(connections, webhook.url + "/here", body=b"[1]")

        assert answer.status == 204
        assert [(one.method, one.path, one.body) for one in webhook.received] == [
            ("POST", "/here", b"[1]"),
            ("POST", "/there?a=b", b"[1]"),
        ]

    @pytest.mark.parametrize("status", [302, 303])
    def test_these_redirects_turn_the_post_into_a_get_without_a_body(
        self, connections: Connections, webhook: Webhook, status: int
    ) -> None:
        webhook.answers(Reply(status, (("Location", webhook.url + "/login"),)), Reply())

        answer = post(connections, webhook.url)

        last = webhook.received[-1]
        assert answer.delivered
        assert (last.method, last.path, last.body) == ("GET", "/login", b"")
        assert not last.headers.keys() & {"Content-Type", "Content-Length"}

    def test_it_follows_ten_redirects(self, connections: Connections, webhook: Webhook) -> None:
        webhook.answers(*[Reply(307, (("Location", "/again"),))] * 10, Reply())

        answer = post(connections, webhook.url)

        assert (answer.status, len(webhook.received)) == (200, 11)

    def test_it_does_not_follow_an_eleventh(
        self, connections: Connections, webhook: Webhook
    ) -> None:
        webhook.answers(Reply(307, (("Location", "/again"),)))

        with pytest.raises(NoAnswer, match="Too many redirects"):
            post(connections, webhook.url)

        assert len(webhook.received) == 11

    def test_a_redirect_that_says_not_where_to_is_the_answer(
        self, connections: Connections, webhook: Webhook
    ) -> None:
        webhook.answers(Reply(302))

        assert post(connections, webhook.url).status == 302

    def test_a_connection_is_used_again(self, connections: Connections, webhook: Webhook) -> None:
        post(connections, webhook.url)
        post(connections, webhook.url)

        first, second = webhook.received
        assert first.connection == second.connection

    @pytest.mark.parametrize(
        "ending", [HANG_UP, raw("200 OK", "Content-Length: 0", "Connection: close", keep=False)]
    )
    def test_a_connection_that_was_closed_is_not_used_again(
        self, connections: Connections, webhook: Webhook, ending: RAW
    ) -> None:
        webhook.answers(ending, Reply())
        with suppress(NoAnswer):
            post(connections, webhook.url)

        post(connections, webhook.url)

        assert len(webhook.received) == 2

    def test_a_post_is_sent_again_when_a_reused_connection_dies(
        self, connections: Connections, webhook: Webhook
    ) -> None:
        webhook.answers(Reply(), HANG_UP, Reply(201))
        post(connections, webhook.url, body=b"[1]")

        answer = post(connections, webhook.url, body=b"[2]")

        assert answer.status == 201
        assert [one.body for one in webhook.received] == [b"[1]", b"[2]", b"[2]"]

    def test_it_is_sent_again_only_once(self, connections: Connections, webhook: Webhook) -> None:
        webhook.answers(Reply(), HANG_UP)
        post(connections, webhook.url)

        with pytest.raises(NoAnswer):
            post(connections, webhook.url)

        assert len(webhook.received) == 3

    def test_a_post_on_a_new_connection_that_dies_is_not_sent_again(
        self, connections: Connections, webhook: Webhook
    ) -> None:
        webhook.answers(HANG_UP)

        with pytest.raises(NoAnswer, match="No response data received"):
            post(connections, webhook.url)

        assert len(webhook.received) == 1

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            ((b"HTTP/1.1 200 OK\r\nContent-Le", False), "Incomplete headers"),
            (
                raw("200 OK", "Content-Length: 9", body=b"short", keep=False),
                "Response body too short",
            ),
            (
                raw("200 OK", "Transfer-Encoding: chunked", body=b"5\r\nab", keep=False),
                "Response body too short",
            ),
            (
                raw("200 OK", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n", keep=False),
                "Incomplete chunk",
            ),
            (
                raw("200 OK", "Transfer-Encoding: chunked", body=b"x\r\nab\r\n"),
                "Invalid chunk headers",
            ),
            ((b"SSH-2.0-OpenSSH\r\n\r\n", False), "Invalid status line"),
            (
                raw("200 OK", "Content-Encoding: gzip", "Content-Length: 2", body=b"no"),
                "Invalid gzip",
            ),
        ],
    )
    def test_half_an_answer_is_none_and_is_not_asked_for_again(
        self, connections: Connections, webhook: Webhook, answer: RAW, why: str
    ) -> None:
        webhook.answers(Reply(), answer)
        post(connections, webhook.url)

        with pytest.raises(NoAnswer, match=why):
            post(connections, webhook.url)

        assert len(webhook.received) == 2

    @pytest.mark.parametrize(
        "answer",
        [
            raw("200 OK", "Content-Length: 4", body=b"done"),
            raw(
                "200 OK",
                "Transfer-Encoding: chunked",
                body=b"2;x=y\r\ndo\r\n2\r\nne\r\n0\r\nA: b\r\n\r\n",
            ),
            raw("200 OK", body=b"done", keep=False),
            (raw("100 Continue")[0] + raw("200 OK", "Content-Length: 4", body=b"done")[0], True),
            raw(
                "200 OK",
                "Content-Encoding: gzip",
                f"Content-Length: {len(gzip.compress(b'done'))}",
                body=gzip.compress(b"done"),
            ),
        ],
        ids=["length", "chunks", "end", "continue", "gzip"],
    )
    def test_a_whole_answer_is_read_however_it_is_framed(
        self, connections: Connections, webhook: Webhook, answer: RAW
    ) -> None:
        webhook.answers(answer)

        assert post(connections, webhook.url).body == b"done"

    @pytest.mark.parametrize(
        "answer",
        [(b"", True), raw("200 OK", "Content-Length: 9", body=b"short")],
        ids=["nothing", "half a body"],
    )
    def test_an_answer_that_does_not_come_is_given_up(
        self, connections: Connections, webhook: Webhook, answer: RAW
    ) -> None:
        webhook.answers(answer)

        with pytest.raises(NoAnswer, match="Response timeout"):
            post(connections, webhook.url, timeout_seconds=0.05)

    def test_nobody_listening_is_a_connection_failure(self, connections: Connections) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))

            with pytest.raises(NoAnswer, match="Connection failure"):
                post(connections, f"http://127.0.0.1:{free.getsockname()[1]}/")

    @pytest.mark.parametrize(
        "url", ["", "/hasura", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:99999/"]
    )
    def test_an_address_that_is_none_is_no_answer(self, connections: Connections, url: str) -> None:
        with pytest.raises(NoAnswer, match="Invalid URL"):
            post(connections, url)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("said", "seconds"),
        [
            ("1", 1),
            ("120", 120),
            (" 120 ", 120),
            ("007", 7),
            ("0x10", 16),
            ("86400000", 86_400_000),
            ("0", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("120s", None),
            ("1_0", None),
            ("1e3", None),
            ("\u0661", None),
            ("", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ],
    )
    def test_it_is_whole_seconds_above_zero_or_ignored(
        self, said: str, seconds: int | None
    ) -> None:
        assert retry_after_seconds(Answer(503, (("retry-AFTER", said),), b"")) == seconds

    def test_it_counts_with_every_failure(self) -> None:
        assert retry_after_seconds(Answer(422, (("Retry-After", "5"),), b"")) == 5

    def test_it_is_not_read_of_a_success(self) -> None:
        assert retry_after_seconds(Answer(200, (("Retry-After", "5"),), b"")) is None


# --- what follows
# --------------------------------------------------------------------------------------------------

BUSY = Reply(503, (("Retry-After", "7"),))


def waits_seconds(event: LoggedEvent) -> float:
    """How long it was from now to its next attempt."""
    assert event.next_retry_at is not None
    return (event.next_retry_at.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


class TestOutcome:
    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_every_2xx_is_delivered(self, site: Site, status: int) -> None:
        site.table("id int")
        site.webhook.answers(Reply(status))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        assert (event.delivered, event.error, event.tries, event.next_retry_at) == (
            True,
            False,
            1,
            None,
        )

    @pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 422, 500])
    def test_everything_else_is_tried_again_after_the_interval(
        self, site: Site, status: int
    ) -> None:
        site.table("id int", retry_conf={"num_retries": 1, "interval_sec": 30})
        site.webhook.answers(Reply(status))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        assert (event.delivered, event.error, event.tries) == (False, False, 1)
        assert 29 < waits_seconds(event) <= 30

    def test_there_are_as_many_attempts_as_retries_and_one_more(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 4, "interval_sec": 0})
        site.webhook.answers(Reply(500))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            eventually(lambda: hasura.events()[0].error)

        [event] = hasura.events()
        assert (event.delivered, event.tries, event.locked, event.next_retry_at) == (
            False,
            5,
            None,
            None,
        )
        assert [one.json["delivery_info"] for one in site.webhook.received] == [
            {"current_retry": retry, "max_retries": 4} for retry in range(5)
        ]

    def test_a_trigger_without_retries_tries_once(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 0, "interval_sec": 0})
        site.webhook.answers(Reply(500))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        assert (event.error, event.tries) == (True, 1)

    def test_a_retry_differs_from_the_first_attempt_in_its_count_alone(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 1, "interval_sec": 0})
        site.webhook.answers(Reply(500), Reply())

        with site.hasura():
            site.sql("INSERT INTO outages VALUES (1)")
            first, second = site.heard(2)

        assert second.body == first.body.replace(b'"current_retry":0', b'"current_retry":1')

    def test_retry_after_is_waited_for_in_the_place_of_the_interval(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(Reply(503, (("Retry-After", "600"),)))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        assert 599 < waits_seconds(event) <= 600

    def test_retry_after_is_honoured_past_the_retries(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 0, "interval_sec": 0})
        site.webhook.answers(BUSY)

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            for tries in range(1, 4):
                event = site.settled(hasura, tries=tries)
                site.ahead_seconds += 8

        assert (event.tries, event.error) == (3, False)
        assert site.webhook.received[2].json["delivery_info"] == {
            "current_retry": 2,
            "max_retries": 0,
        }

    def test_without_retry_after_an_event_past_its_retries_is_an_error(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 0, "interval_sec": 0})
        site.webhook.answers(BUSY, Reply(503))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.settled(hasura)
            site.ahead_seconds = 8
            event = site.settled(hasura, tries=2)

        assert event.error

    def test_a_lower_number_of_retries_counts_at_once(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 9, "interval_sec": 60})
        site.webhook.answers(Reply(500))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            for tries in range(1, 4):
                site.settled(hasura, tries=tries)
                site.ahead_seconds += 61
            site.settled(hasura, tries=4)
            site.trigger(retry_conf={"num_retries": 1, "interval_sec": 60})
            hasura.apply_metadata()
            site.ahead_seconds += 61
            event = site.settled(hasura, tries=5)

        assert event.error
        assert site.webhook.received[-1].json["delivery_info"] == {
            "current_retry": 4,
            "max_retries": 1,
        }

    def test_no_answer_has_no_status_and_is_tried_again(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(HANG_UP)

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        [invocation] = hasura.invocations()
        assert (event.tries, event.error, invocation.status) == (1, False, None)
        assert 9 < waits_seconds(event) <= 10

    def test_an_answer_later_than_timeout_sec_is_none(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 1, "interval_sec": 10, "timeout_sec": 1})
        site.webhook.hold()

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.settled(hasura)

        [invocation] = hasura.invocations()
        assert (
            invocation.status,
            "Response timeout" in invocation.response["data"]["message"],
        ) == (None, True)

    def test_a_login_page_behind_a_redirect_counts_as_delivered(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(Reply(302, (("Location", "/login"),)), Reply(200, body=b"<html>"))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        assert event.delivered
        assert site.webhook.received[-1].method == "GET"

    def test_a_success_is_logged_with_its_body_headers_and_status(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(Reply(201, (("X-A", "b"),), b'{"a":"\xc3\xbc"}'))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)

        [invocation] = hasura.invocations()
        assert (invocation.event_id, invocation.status) == (event.id, 201)
        assert invocation.response == {
            "type": "webhook_response",
            "version": "2",
            "data": {
                "body": '{"a":"ü"}',
                "headers": [
                    {"name": "X-A", "value": "b"},
                    {"name": "Content-Length", "value": "10"},
                ],
                "status": 201,
            },
        }

    @pytest.mark.parametrize(
        ("body", "message"),
        [(b"no rule", "no rule"), (b"\xff\x00", ["Base64", "/wA="]), (b"a\x00b", "a\x00b")],
    )
    def test_a_failure_is_logged_with_its_body(
        self, site: Site, body: bytes, message: str | list[str]
    ) -> None:
        site.table("id int")
        site.webhook.answers(Reply(422, body=body))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.settled(hasura)

        [invocation] = hasura.invocations()
        assert invocation.response == {
            "type": "client_error",
            "version": "2",
            "data": {"message": message},
        }

    def test_every_attempt_is_logged(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 2, "interval_sec": 0})
        site.webhook.answers(HANG_UP, Reply(500), Reply())

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            eventually(lambda: hasura.events()[0].delivered)

        assert [invocation.status for invocation in hasura.invocations()] == [None, 500, 200]

    def test_what_the_client_sent_again_by_itself_is_one_attempt(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 1, "interval_sec": 0})
        site.webhook.answers(Reply(500), HANG_UP, Reply())

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            eventually(lambda: hasura.events()[0].delivered)

        assert [invocation.status for invocation in hasura.invocations()] == [500, 200]
        assert len(site.webhook.received) == 3

    def test_an_event_of_an_unknown_table_waits_a_minute_and_counts_no_try(
        self, site: Site
    ) -> None:
        site.table("id int")

        with site.hasura() as hasura:
            site.sql(
                "SELECT hdb_catalog.insert_event_log("
                "'public', 'others', 'outages_to_servicenow', 'INSERT', '{}')"
            )
            event = eventually(
                lambda: next((one for one in hasura.events() if one.next_retry_at), None)
            )

        assert (event.tries, event.locked, hasura.invocations(), site.webhook.received) == (
            0,
            None,
            [],
            [],
        )
        assert 59 < waits_seconds(event) <= 60

    def test_an_event_of_a_trigger_that_this_engine_has_not_heard_of_is_left_alone(
        self, site: Site
    ) -> None:
        site.table("id int")

        with site.hasura() as hasura:
            site.sql(
                "SELECT hdb_catalog.insert_event_log('public', 'outages', 'others', 'INSERT', '{}')"
            )
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            eventually(hasura.idle)

        [left] = [event for event in hasura.events() if event.trigger_name == "others"]
        assert (left.tries, left.locked, left.next_retry_at) == (0, None, None)

    def test_an_attempt_that_cannot_be_recorded_leaves_the_event_locked(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(Reply(503, (("Retry-After", "9" * 18),)))  # later than any timestamp

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            eventually(lambda: not hasura.in_flight)

        [event] = hasura.events()
        assert (event.locked is not None, event.tries, hasura.invocations()) == (True, 0, [])


# --- engines
# --------------------------------------------------------------------------------------------------


class TestEngines:
    def test_two_engines_never_deliver_the_same_event(self, site: Site) -> None:
        site.table("id int")

        with site.hasura(batch_size=10) as one, site.hasura(batch_size=10) as other:
            site.sql("INSERT INTO outages SELECT generate_series(1, 400)")
            eventually(lambda: one.idle() and other.idle() and len(site.webhook.received) >= 400)

        assert Counter(
            Counter(received.json["id"] for received in site.webhook.received).values()
        ) == {1: 400}
        assert {(event.delivered, event.tries) for event in one.events()} == {(True, 1)}

    def test_at_most_a_pool_is_delivered_at_a_time_and_two_batches_are_locked(
        self, site: Site
    ) -> None:
        site.table("id int")
        held = site.webhook.hold()

        with site.hasura(pool_size=3, batch_size=5) as hasura:
            site.sql("INSERT INTO outages SELECT generate_series(1, 20)")
            eventually(lambda: hasura.in_flight == 10)
            site.heard(3)
            time.sleep(0.05)
            locked = sum(event.locked is not None for event in hasura.events())
            held.set()
            eventually(lambda: len(site.webhook.received) == 20)

        assert (locked, site.webhook.most_at_once) == (10, 3)

    def test_it_sleeps_only_after_an_empty_batch(self, site: Site) -> None:
        site.table("id int")
        site.installed()
        site.sql("INSERT INTO outages SELECT generate_series(1, 6)")

        with site.hasura(batch_size=2, fetch_interval_seconds=3600.0):
            heard = site.heard(6)

        assert len(heard) == 6

    def test_a_lock_of_an_engine_that_was_killed_holds_for_half_an_hour(self, site: Site) -> None:
        site.table("id int")
        held = site.webhook.hold()
        with site.hasura() as dead:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            dead.kill()
        held.set()

        with site.hasura() as hasura:
            site.ahead_seconds = 29 * 60
            time.sleep(0.1)
            before = len(site.webhook.received)
            site.ahead_seconds = 31 * 60
            event = site.settled(hasura)

        assert (before, event.delivered, event.tries) == (1, True, 1)
        first, second = site.webhook.received
        assert first.body == second.body

    def test_an_engine_that_was_killed_records_nothing(self, site: Site) -> None:
        site.table("id int")
        held = site.webhook.hold()
        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()

            hasura.kill()
            held.set()
            time.sleep(0.1)

        [event] = hasura.events()
        assert (event.locked is not None, event.tries, hasura.invocations()) == (True, 0, [])

    def test_a_shutdown_waits_for_what_is_in_flight(self, site: Site) -> None:
        site.table("id int")
        held = site.webhook.hold()
        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            threading.Timer(0.1, held.set).start()

            hasura.stop()

        [event] = hasura.events()
        assert (event.delivered, event.locked) == (True, None)

    def test_a_shutdown_unlocks_what_takes_longer_and_it_is_delivered_again_byte_for_byte(
        self, site: Site
    ) -> None:
        site.table("id int")
        held = site.webhook.hold()
        with site.hasura(shutdown_seconds=0.05) as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
        [unlocked] = hasura.events()

        with site.hasura() as hasura:
            site.heard(2)
            held.set()
            event = site.settled(hasura)

        first, second = site.webhook.received
        assert (unlocked.locked, unlocked.tries, event.tries) == (None, 0, 1)
        assert first.body == second.body
        assert site.webhook.most_at_once == 2

    def test_a_shutdown_unlocks_what_was_fetched_and_not_begun(self, site: Site) -> None:
        site.table("id int")
        held = site.webhook.hold()

        with site.hasura(pool_size=1, batch_size=5) as hasura:
            site.sql("INSERT INTO outages SELECT generate_series(1, 20)")
            eventually(lambda: hasura.in_flight == 10)
            threading.Timer(0.1, held.set).start()

        assert [event.locked for event in hasura.events() if event.locked] == []
        assert sum(event.delivered for event in hasura.events()) == len(site.webhook.received) == 1

    def test_an_attempt_is_recorded_though_the_database_has_hung_up_meanwhile(
        self, site: Site
    ) -> None:
        site.table("id int")
        site.installed()
        site.sql("INSERT INTO outages VALUES (1)")
        held = site.webhook.hold()

        with site.hasura(fetch_interval_seconds=3600.0) as hasura:
            site.heard()
            site.sql(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            held.set()
            event = site.settled(hasura)

        assert event.delivered

    def test_next_due_at_is_when_the_earliest_waiting_event_may_be_fetched(
        self, site: Site
    ) -> None:
        site.table("id int")
        site.webhook.answers(
            Reply(503, (("Retry-After", "600"),)), Reply(503, (("Retry-After", "300"),))
        )

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1), (2)")
            eventually(lambda: all(event.tries for event in hasura.events()) and hasura.idle())
            due_at = hasura.next_due_at()

        assert due_at == pytest.approx(time.time() + 300, abs=2)

    def test_next_due_at_of_a_locked_event_is_when_its_lock_expires(self, site: Site) -> None:
        site.table("id int")
        site.webhook.hold()
        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            hasura.kill()

        assert hasura.next_due_at() == pytest.approx(time.time() + 1800, abs=2)
        assert not hasura.idle()

    def test_nothing_is_due_when_all_is_delivered(self, site: Site) -> None:
        site.table("id int")

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.settled(hasura)

        assert (hasura.next_due_at(), hasura.idle()) == (None, True)


class TestConsole:
    def test_a_delivered_event_can_be_redelivered_and_looks_like_the_first_time(
        self, site: Site
    ) -> None:
        site.table("id int")

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)
            hasura.redeliver(event.id)
            first, second = site.heard(2)

        assert first.body == second.body

    def test_a_redelivered_error_has_all_its_retries_again(self, site: Site) -> None:
        site.table("id int", retry_conf={"num_retries": 1, "interval_sec": 0})
        site.webhook.answers(Reply(422))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = eventually(lambda: next((one for one in hasura.events() if one.error), None))
            hasura.redeliver(event.id)
            received = site.heard(4)

        assert [one.json["delivery_info"]["current_retry"] for one in received] == [0, 1, 0, 1]

    def test_an_event_in_somebodys_hands_is_not_redelivered(self, site: Site) -> None:
        site.table("id int")
        held = site.webhook.hold()

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            with pytest.raises(Refused, match="busy"):
                hasura.redeliver(hasura.events()[0].id)
            held.set()

        assert len(site.webhook.received) == 1

    def test_a_lock_older_than_half_an_hour_is_nobodys(self, site: Site) -> None:
        site.table("id int")
        site.webhook.hold()
        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            hasura.kill()
        site.sql("UPDATE hdb_catalog.event_log SET tries = 2")

        site.ahead_seconds = 31 * 60
        hasura.redeliver(hasura.events()[0].id)

        assert hasura.events()[0].tries == 0

    def test_a_redelivered_event_still_waits_for_its_next_retry(self, site: Site) -> None:
        site.table("id int")
        site.webhook.answers(Reply(500))

        with site.hasura() as hasura:
            site.sql("INSERT INTO outages VALUES (1)")
            event = site.settled(hasura)
            hasura.redeliver(event.id)
            time.sleep(0.1)

        assert hasura.events()[0].next_retry_at == event.next_retry_at
        assert len(site.webhook.received) == 1

    def test_an_event_that_is_not_there_cannot_be_redelivered(self, site: Site) -> None:
        site.table("id int")

        with pytest.raises(Refused, match="not-exists"):
            site.installed().redeliver("nowhere")

    @pytest.mark.parametrize("payload", [{"id": 7, "title": "by hand"}, "any", [1, None], None])
    def test_a_trigger_invoked_by_hand_carries_any_json_and_the_admins_session(
        self, site: Site, payload: object
    ) -> None:
        site.table("id int")

        with site.hasura() as hasura:
            event_id = hasura.invoke("outages_to_servicenow", payload)
            [received] = site.heard()

        body = received.json
        assert body["id"] == event_id
        assert body["event"]["op"] == "MANUAL"
        assert body["event"]["data"] == {"old": None, "new": payload}
        assert body["event"]["session_variables"] == {"x-hasura-role": "admin"}
        assert body["event"]["trace_context"].keys() == {"trace_id", "span_id"}

    def test_a_trigger_that_is_not_manual_cannot_be_invoked(self, site: Site) -> None:
        site.table("id int", definition={"insert": {"columns": "*"}})

        with pytest.raises(Refused, match="manual mode is not enabled"):
            site.installed().invoke("outages_to_servicenow", {})

    def test_a_trigger_that_is_not_there_cannot_be_invoked(self, site: Site) -> None:
        with pytest.raises(Refused, match="not-exists"):
            site.installed().invoke("nowhere", {})


# --- the clock
# --------------------------------------------------------------------------------------------------


class TestCronExpression:
    @pytest.mark.parametrize(
        ("expression", "after", "due"),
        [
            ("* * * * *", "2026-03-04T05:06:07", "2026-03-04T05:07:00"),
            ("*/10 * * * *", "2026-03-04T05:50:00", "2026-03-04T06:00:00"),
            ("5,35 * * * *", "2026-03-04T05:06:00", "2026-03-04T05:35:00"),
            ("0 9-17 * * *", "2026-03-04T17:00:00", "2026-03-05T09:00:00"),
            ("0 1-10/4 * * *", "2026-03-04T05:00:00", "2026-03-04T09:00:00"),
            ("0 0 1 * *", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
            ("0 0 29 2 *", "2026-03-04T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 * * 1-5", "2026-03-06T00:00:00", "2026-03-09T00:00:00"),
            ("0 0 * * 0", "2026-03-04T00:00:00", "2026-03-08T00:00:00"),
            ("0 0 * * 7", "2026-03-04T00:00:00", "2026-03-08T00:00:00"),
            ("0 0 13 * 5", "2026-03-04T00:00:00", "2026-03-06T00:00:00"),
            ("0 0 5/10 * *", "2026-03-16T00:00:00", "2026-03-25T00:00:00"),
        ],
    )
    def test_the_next_time_is_what_the_expression_means(
        self, expression: str, after: str, due: str
    ) -> None:
        found = Cron(expression).after(datetime.fromisoformat(after).replace(tzinfo=UTC))

        assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "a * * * *",
            "@daily",
        ],
    )
    def test_what_is_no_expression_is_refused(self, expression: str) -> None:
        with pytest.raises(ValueError, match=r"field|outside|expression"):
            Cron(expression)

    def test_a_date_that_never_comes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no date"):
            Cron("0 0 30 2 *")


HOUSEKEEPING = {
    "name": "servicenow_housekeeping",
    "webhook": "{{WEBHOOK_URL}}/cron",
    "schedule": "*/10 * * * *",
    "include_in_metadata": True,
    "payload": {"b": 1.5, "a": []},
    "headers": [{"name": "X-Webhook-Secret", "value_from_env": "WEBHOOK_SECRET"}],
    "retry_conf": {
        "num_retries": 1,
        "retry_interval_seconds": 30,
        "timeout_seconds": 5,
        "tolerance_seconds": 3600,
    },
}


class TestCron:
    def due(self, site: Site, **entry: Any) -> Hasura:
        """An engine with a hundred planned events, which has just come to the time of the first."""
        site.crons = [{**HOUSEKEEPING, **entry}]
        site.write()
        with site.hasura() as hasura:
            planned = eventually(hasura.cron_events)
        site.ahead_seconds = planned[0].scheduled_time.timestamp() - time.time() + 1
        return site.hasura()

    def tried(self, hasura: Hasura) -> Any:
        return eventually(
            lambda: next(
                (e for e in hasura.cron_events() if e.status in {"delivered", "error"}), None
            )
        )

    def test_a_hundred_events_are_planned(self, site: Site) -> None:
        hasura = self.due(site)

        planned = hasura.cron_events()
        assert {event.status for event in planned} == {"scheduled"}
        assert [
            later.scheduled_time - event.scheduled_time for event, later in pairwise(planned)
        ] == [timedelta(minutes=10)] * 99
        assert planned[0].scheduled_time > datetime.now(UTC)

    def test_the_body_holds_no_table_and_no_counter(self, site: Site) -> None:
        with self.due(site) as hasura:
            [received] = site.heard()
            event = self.tried(hasura)

        at = event.scheduled_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert received.path == "/cron"
        assert received.headers["X-Webhook-Secret"] == "s3cret"
        assert received.body.decode() == (
            f'{{"id":"{event.id}","name":"servicenow_housekeeping","payload":{{"a":[],"b":1.5}},"scheduled_time":"{at}"}}'
        )

    def test_a_comment_is_sent_and_no_payload_is_null(self, site: Site) -> None:
        with self.due(site, comment="every ten minutes", payload=None):
            [received] = site.heard()

        assert (received.json["comment"], received.json["payload"]) == ("every ten minutes", None)

    def test_a_success_is_recorded_under_version_1(self, site: Site) -> None:
        with self.due(site) as hasura:
            event = self.tried(hasura)

        [invocation] = hasura.cron_invocations()
        assert (event.status, event.tries) == ("delivered", 1)
        assert (invocation.event_id, invocation.status) == (event.id, 200)
        assert (invocation.request["version"], invocation.response["version"]) == ("1", "1")

    def test_a_failure_is_tried_again_after_its_interval_and_then_is_an_error(
        self, site: Site
    ) -> None:
        site.webhook.answers(Reply(500))
        with self.due(site) as hasura:
            site.heard()
            time.sleep(0.1)
            before = len(site.webhook.received)
            site.ahead_seconds += 31
            event = self.tried(hasura)

        assert (before, event.status, event.tries) == (1, "error", 2)

    def test_an_event_that_is_too_late_is_dead(self, site: Site) -> None:
        hasura = self.due(site)
        site.ahead_seconds += 3601
        with hasura:
            eventually(lambda: hasura.cron_events()[0].status == "dead")
            site.heard()

        late = hasura.cron_events()[0]
        assert late.id not in [received.json["id"] for received in site.webhook.received]

    def test_an_event_that_a_dead_engine_held_is_sent_again_at_the_next_start(
        self, site: Site
    ) -> None:
        held = site.webhook.hold()
        with self.due(site) as dead:
            site.heard()
            dead.kill()
        assert dead.cron_events()[0].status == "locked"
        held.set()

        with site.hasura() as hasura:
            self.tried(hasura)

        first, second = site.webhook.received
        assert first.body == second.body

    def test_a_shutdown_unlocks_an_event_that_takes_longer(self, site: Site) -> None:
        site.webhook.hold()
        self.due(site)
        with site.hasura(shutdown_seconds=0.05) as hasura:
            site.heard()

        assert hasura.cron_events()[0].status == "scheduled"

    def test_a_new_schedule_takes_back_what_was_planned(self, site: Site) -> None:
        hasura = self.due(site)
        site.crons[0]["schedule"] = "0 0 1 * *"
        site.write()

        hasura.apply_metadata()

        assert hasura.cron_events() == []

    def test_a_schedule_that_is_none_is_inconsistent(self, site: Site) -> None:
        site.crons = [{**HOUSEKEEPING, "schedule": "@daily"}]
        site.write()

        with pytest.raises(InconsistentMetadata, match="cron trigger servicenow_housekeeping"):
            site.installed()


# --- the command line
# ----------------------------------------------------------------------------------------------


def migration(site: Site, version: int, name: str, up: str) -> str:
    folder = site.project / "migrations" / "default" / f"{version}_{name}"
    folder.mkdir(parents=True)
    (folder / "up.sql").write_text(up)
    return folder.name


class TestMigrate:
    def test_migrations_are_applied_in_order_and_once(self, site: Site) -> None:
        second = migration(
            site, 1700000000001, "a", "ALTER TABLE outages ADD title text; SELECT '50%'"
        )
        first = migration(site, 1700000000000, "z", "CREATE TABLE outages (id int);")

        applied = migrate(site.database_url, site.project)
        again = migrate(site.database_url, site.project)

        assert (applied, again) == ([first, second], [])

    def test_a_migration_that_fails_leaves_nothing_of_itself_and_all_before_it(
        self, site: Site
    ) -> None:
        migration(site, 1, "good", "CREATE TABLE outages (id int)")
        migration(site, 2, "bad", "CREATE TABLE accounts (id int); SELECT nonsense")

        with pytest.raises(psycopg.errors.UndefinedColumn):
            migrate(site.database_url, site.project)

        assert site.sql(
            "SELECT to_regclass('outages') IS NOT NULL, to_regclass('accounts') IS NOT NULL"
        ) == [(True, False)]


class TestProcess:
    def start(self, site: Site, *more: str) -> subprocess.Popen[str]:
        command = [
            *(sys.executable, "-m", "sandbox.hasura", "--database-url", site.database_url),
            *("--project", str(site.project), "--fetch-interval", "0.02", "--migrate", *more),
        ]
        return subprocess.Popen(
            command,
            cwd=HERE,
            env={"PATH": os.environ["PATH"], **site.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_it_runs_alone_until_sigterm_which_is_a_graceful_shutdown(self, site: Site) -> None:
        migration(site, 1, "init", "CREATE TABLE outages (id int)")
        site.trigger()
        held = site.webhook.hold()
        with self.start(site) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            held.set()
            status = process.wait(WAIT_SECONDS_MAX)

        [event] = site.installed().events()
        assert (lines[0], status, event.delivered) == ("applied 1_init\n", 0, True)

    def test_killed_it_leaves_its_lock_and_another_goes_on_when_its_clock_says_so(
        self, site: Site, tmp_path: Path
    ) -> None:
        site.table("id int")
        held = site.webhook.hold()
        with self.start(site) as process:
            assert process.stdout is not None
            process.stdout.readline()
            site.sql("INSERT INTO outages VALUES (1)")
            site.heard()
            process.kill()
        [left] = site.installed().events()
        held.set()
        clock = tmp_path / "ahead"
        clock.write_text("1860")

        with self.start(site, "--clock-ahead", str(clock)) as process:
            event = site.settled(site.hasura())
            process.terminate()

        first, second = site.webhook.received
        assert (left.locked is not None, left.tries, event.delivered) == (True, 0, True)
        assert first.body == second.body

    def test_metadata_that_cannot_work_ends_it_with_a_sentence(self, site: Site) -> None:
        site.table("id int", webhook="{{NOWHERE}}")

        with self.start(site) as process:
            _, told = process.communicate(timeout=WAIT_SECONDS_MAX)

        assert process.returncode == 1
        assert told == (
            "event trigger outages_to_servicenow on public.outages: "
            "the environment variable NOWHERE is not set\n"
        )

    def test_a_database_that_is_not_there_ends_it_with_a_sentence(self, site: Site) -> None:
        site.database_url = site.database_url.replace("/hasura?", "/nowhere?")

        with self.start(site) as process:
            _, told = process.communicate(timeout=WAIT_SECONDS_MAX)

        assert process.returncode == 1
        assert told.startswith("The database cannot be used: ")
