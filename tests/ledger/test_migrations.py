"""Ledgers that an older version made are brought along, with nothing lost."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from psycopg.rows import dict_row

from function.ledger.database import Database

MIGRATIONS = Path(__file__).parents[2] / "function" / "migrations"
# What a later migration calls a table or a column otherwise.
TABLES = {"instance": "table_traits", "trial": "login_attempt"}
COLUMNS = {
    ("ticket", "asked"): "last_sent",
    ("ticket", "sending"): "pending_write",
    ("ticket", "late_writes"): "stale_writes",
    ("ticket", "late_seen"): "stale_writes_seen",
    ("ticket", "late_fields"): "stale_fields",
    ("ticket", "vanished_until"): "abandoned_lease_until",
    ("delivery", "words"): "remote_message",
    ("hold", "words"): "remote_message",
    ("hold", "proven_at"): "verified_at",
    ("configuration", "stamp"): "version",
    ("alert", "episode"): "state",
}


class Old(Protocol):
    """A database as an older version left it."""

    url: str

    def run(self, sql: str) -> list[dict[str, Any]]: ...
    def columns(self, table: str) -> dict[str, str]: ...


class OldSqlite:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"

    def run(self, sql: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql.replace("servicenow.", ""))]

    def columns(self, table: str) -> dict[str, str]:
        return {row["name"]: row["type"].lower() for row in self.run(f"PRAGMA table_info({table})")}


class OldPostgresql:
    def __init__(self, url: str) -> None:
        self.url = url
        self.run("CREATE SCHEMA servicenow")

    def run(self, sql: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> dict[str, str]:
        rows = self.run(
            "SELECT column_name, data_type FROM information_schema.columns "  # noqa: S608
            f"WHERE table_schema = 'servicenow' AND table_name = '{table}'"
        )
        return {row["column_name"]: row["data_type"] for row in rows}


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Old]:
    if request.param == "sqlite":
        yield OldSqlite(tmp_path / "ledger.db")
    else:
        yield OldPostgresql(str(request.getfixturevalue("postgresql")))


def make(old: Old, version: int) -> None:
    """Apply the migrations up to *version*."""
    old.run(
        "CREATE TABLE servicenow.migration "
        "(number INTEGER PRIMARY KEY, applied_at DOUBLE PRECISION NOT NULL)"
    )
    for number in range(1, version + 1):
        [file] = MIGRATIONS.glob(f"{number:04}_*.sql")
        for statement in without_comments(file.read_text("utf-8")).split(";"):
            if statement.strip():
                old.run(statement)
        old.run(f"INSERT INTO servicenow.migration VALUES ({number}, 0)")  # noqa: S608


def without_comments(sql: str) -> str:
    return "\n".join(line.partition("--")[0] for line in sql.splitlines())


def tables_of(version: int) -> list[str]:
    tables = ["ticket", "delivery", "alert", "hold", "instance"]
    return tables + (["configuration", "trial"] if version >= 3 else [])


def sample(table: str, column: str, type_: str, number: int) -> Any:
    """A value like no other of the row."""
    if (table, column) == ("configuration", "one"):
        return 1
    if (table, column) == ("alert", "episode"):
        return "told"
    if column == "instance":
        return "instance"
    if type_ == "text":
        return f"{table} {column}"
    return True if type_ == "boolean" else 1 if type_ == "integer" else float(number)


def fill(old: Old, version: int) -> dict[str, dict[str, Any]]:
    """Put a row into every table, with a value in every column; gives the rows."""
    rows = {}
    for table in tables_of(version):
        columns = old.columns(table)
        row = {
            column: sample(table, column, type_, number)
            for number, (column, type_) in enumerate(columns.items(), start=2)
        }
        names = ", ".join(f'"{column}"' for column in row)
        values = ", ".join(f"'{v}'" if isinstance(v, str) else str(v) for v in row.values())
        old.run(f"INSERT INTO servicenow.{table} ({names}) VALUES ({values})")  # noqa: S608
        rows[table] = row
    return rows


def newest() -> int:
    return max(int(file.name[:4]) for file in MIGRATIONS.glob("*.sql"))


@pytest.mark.parametrize("version", range(1, 9))
def test_a_ledger_of_any_version_is_brought_along_with_nothing_lost(old: Old, version: int) -> None:
    make(old, version)
    before = fill(old, version)

    database = Database(old.url)
    applied = database.migrate()
    database.close()

    assert applied == list(range(version + 1, newest() + 1))
    for table, row in before.items():
        [now] = old.run(f"SELECT * FROM servicenow.{TABLES.get(table, table)}")  # noqa: S608
        kept = {column: now[COLUMNS.get((table, column), column)] for column in row}
        if table == "instance" and version < 8:
            assert now["table"] == "ticket table"
        assert kept == row | ({"episode": "notified"} if table == "alert" else {})


def test_the_target_of_a_delivery_is_a_ticket_where_a_rule_wanted_the_event(old: Old) -> None:
    make(old, 8)
    for rule in ("", "outage"):
        old.run(
            "INSERT INTO servicenow.delivery "  # noqa: S608
            "(event, rule, key, content, source, status, outcome, first_seen, last_at) "
            f"VALUES ('e', '{rule}', '1', 'c', 's', 'done', 'forgiven', 1, 2)"
        )

    database = Database(old.url)
    database.migrate()
    database.close()

    rows = old.run("SELECT rule, target, outcome FROM servicenow.delivery ORDER BY rule")
    assert [tuple(row.values()) for row in rows] == [
        ("", "", "withdrawn"),
        ("outage", "ticket", "withdrawn"),
    ]
    # One rule may have several targets for one key.
    old.run(
        "INSERT INTO servicenow.delivery (event, rule, target, key, content, source, status, "
        "first_seen, last_at) VALUES ('e', 'outage', 'reply', '1', 'c', 's', 'done', 1, 2)"
    )
    assert len(old.run("SELECT rule FROM servicenow.delivery")) == 3


def test_what_an_app_reads_of_the_ledger_it_reads_afterwards(postgresql: str) -> None:
    """Its views, and the rights that it was given."""
    old = OldPostgresql(postgresql)
    make(old, 8)
    old.run("CREATE ROLE reader_of_old_ledgers")
    try:
        old.run("GRANT USAGE ON SCHEMA servicenow TO reader_of_old_ledgers")
        old.run("GRANT SELECT ON servicenow.delivery TO reader_of_old_ledgers")
        old.run("CREATE VIEW public.theirs AS SELECT key, number, state FROM servicenow.ticket")

        database = Database(old.url)
        database.migrate()
        database.close()

        [right] = old.run(
            "SELECT has_table_privilege('reader_of_old_ledgers', 'servicenow.delivery', 'SELECT') "
            "AS may"
        )
        assert right["may"]
        assert old.run("SELECT * FROM public.theirs") == []
    finally:
        old.run("DROP OWNED BY reader_of_old_ledgers")
        old.run("DROP ROLE reader_of_old_ledgers")


def test_a_view_of_deliveries_in_sqlite_reads_the_new_table(tmp_path: Path) -> None:
    old = OldSqlite(tmp_path / "ledger.db")
    make(old, 8)
    old.run("CREATE VIEW theirs AS SELECT event, status FROM delivery")
    old.run(
        "INSERT INTO delivery (event, rule, key, content, source, status, first_seen, last_at) "
        "VALUES ('e', 'r', '1', 'c', 's', 'done', 1, 2)"
    )

    database = Database(old.url)
    database.migrate()
    database.close()

    assert old.run("SELECT * FROM theirs") == [{"event": "e", "status": "done"}]
    old.run("ALTER TABLE delivery RENAME COLUMN hint TO advice")  # as a later migration may


def test_a_migration_takes_as_long_as_it_takes(postgresql: str) -> None:
    """A statement of the function's own may not."""
    old = OldPostgresql(postgresql)
    make(old, 8)
    database = Database(
        f"{postgresql}{'&' if '?' in postgresql else '?'}options=-cstatement_timeout%3D700"
    )
    with psycopg.connect(postgresql) as other:
        other.execute("LOCK TABLE servicenow.delivery")
        applied: list[int] = []
        migrating = threading.Thread(target=lambda: applied.extend(database.migrate()))
        migrating.start()
        time.sleep(1.5)
    migrating.join()
    database.close()

    assert applied == [9, 10, 11]
