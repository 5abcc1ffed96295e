"""Transactions on SQLite or PostgreSQL through the same SQL.

Statements are written once: ``servicenow.`` before every table, ``:name`` for a parameter,
``{now}`` for the database's clock in UNIX seconds. SQLite has no schemas: there the prefix is
dropped.
"""

import re
import threading
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from importlib import resources
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

from function.deadline import seconds_left
from function.ledger.backend import (
    CONNECT_SECONDS,
    DatabaseBackend,
    Execute,
    LedgerNotMigrated,
    LedgerUnavailable,
    Record,
)
from function.ledger.postgresql import PostgreSQLBackend
from function.ledger.sqlite import SQLiteBackend

T = TypeVar("T")


# Who comes right after a failure is told so at once, not after a wait of its own.
FAIL_FAST_SECONDS: Final = 1.0
# A second try on a new connection is enough; two that met in a deadlock may meet others.
TRIES_MAX: Final = 3


class Transaction(Protocol):
    """One transaction under way."""

    def execute(self, sql: str, /, **values: object) -> list[Record]:
        """Run one statement; give its rows, none for a statement without any."""


class Database:
    """A place for the ledger. Nothing is opened before the first transaction, so that a forked
    server is safe."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        migrate: bool = True,
        clock_ahead_seconds: Callable[[], float] | None = None,
    ) -> None:
        """*url* is ``sqlite:///path`` or ``postgresql://…``.

        *clock_ahead_seconds* moves the database's clock: for trials of what takes hours.
        """
        scheme = urlsplit(url).scheme
        self.url = url
        self._migrate = migrate
        self._clock_ahead_seconds = clock_ahead_seconds
        self._backend: DatabaseBackend = (
            SQLiteBackend(url.removeprefix("sqlite:///"))
            if scheme == "sqlite"
            else PostgreSQLBackend(url, pool_size)
        )
        self._ready_for: object = None
        self._preparing = threading.Lock()
        self._failed: LedgerUnavailable | None = None
        self._failed_at = float("-inf")

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Do *work* in one transaction: committed when it returns, rolled back when it raises.

        Where a connection proves dead before anything was committed, or a deadlock ends the
        transaction, it is done again, so *work* must have no effect but its statements.
        """
        self._prepare()
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                with self._backend.transaction() as execute:
                    return work(
                        _StatementRunner(self._backend.dialect, execute, self._clock_ahead_seconds)
                    )
            except self._backend.gone() as error:
                if not tries_left or not self._backend.may_do_better(error):
                    # It may have been dropped and made anew, so it is looked at before it is used
                    # again.
                    self._ready_for = None
                    raise self._unavailable(error) from error
        raise AssertionError("unreachable")

    def ready(self) -> None:
        """Raise LedgerUnavailable unless a transaction could be made now. Creates nothing and
        changes nothing."""
        try:
            with self._backend.reading() as execute:
                missing = self._missing(execute) if execute is not None else []
        except self._backend.gone() as error:
            raise self._unavailable(error) from error
        self._demand(missing)

    def _missing(self, execute: "Execute") -> list[tuple[int, str]]:
        """The migrations that a database lacks. Raises LedgerUnfit where none would help."""
        self._backend.demand_fit(execute)
        return _missing(_StatementRunner(self._backend.dialect, execute, None), self._backend)

    def _unavailable(self, error: Exception) -> LedgerUnavailable:
        return LedgerUnavailable(f"the ledger is unavailable: {self._backend.words(error)}")

    def _demand(self, missing: list[tuple[int, str]]) -> None:
        """Raise LedgerNotMigrated where something is missing that is not ours to make."""
        if missing and not self._migrate:
            numbers = ", ".join(f"{number:04}" for number, _ in missing)
            raise LedgerNotMigrated(
                f"the ledger lacks migration {numbers} and LEDGER_MIGRATE is off: run `python -m "
                "function migrate`"
            )

    def migrate(self) -> list[int]:
        """Bring the database up to date; give the numbers of the migrations that were
        applied now."""
        for last in (False, False, True):
            try:
                with self._backend.transaction(migrating=True) as execute:
                    self._backend.demand_fit(execute)
                    runner = _StatementRunner(self._backend.dialect, execute, None)
                    return _migrate(runner, self._backend)
            except self._backend.gone() as error:
                # An older version at work may have held what this one waited for.
                if last or not self._backend.may_do_better(error):
                    raise self._unavailable(error) from error
        raise AssertionError  # the last try has returned or raised

    def close(self) -> None:
        """Close every connection."""
        self._backend.close()

    def _prepare(self) -> None:
        if self._is_ready():
            return
        if not self._preparing.acquire(timeout=max(0.0, min(CONNECT_SECONDS, seconds_left()))):
            raise LedgerUnavailable("the ledger is unavailable: others wait for it already")
        try:
            if self._is_ready():
                return
            if self._failed is not None and time.monotonic() - self._failed_at < FAIL_FAST_SECONDS:
                raise type(self._failed)(*self._failed.args)
            try:
                self._bring_up_to_date()
            except LedgerUnavailable as error:
                if seconds_left() > 0:
                    # Else it is this request's own time that ran out, and says nothing of the
                    # database.
                    self._failed, self._failed_at = type(error)(*error.args), time.monotonic()
                raise
            self._ready_for = self._backend.identity()
        finally:
            self._preparing.release()

    def _is_ready(self) -> bool:
        identity = self._backend.identity()
        return identity is not None and identity == self._ready_for

    def _bring_up_to_date(self) -> None:
        try:
            with self._backend.transaction() as execute:
                missing = self._missing(execute)
        except self._backend.gone() as error:
            raise self._unavailable(error) from error
        self._demand(missing)
        if missing:
            self.migrate()


def name_values(values: Collection[str]) -> tuple[str, dict[str, str]]:
    """What to write for *values* in ``IN (…)``, and the parameters that it names."""
    # A parameter's name has letters only.
    letters = str.maketrans("0123456789", "abcdefghij")
    named = {f"v_{str(number).translate(letters)}": value for number, value in enumerate(values)}
    return ", ".join(f":{name}" for name in named), named


class _StatementRunner:
    def __init__(
        self, dialect: str, execute: Execute, clock_ahead_seconds: Callable[[], float] | None
    ) -> None:
        self._dialect = dialect
        self._execute = execute
        self._ahead = clock_ahead_seconds

    def execute(self, sql: str, /, **values: object) -> list[Record]:
        ahead = self._ahead() if self._ahead and "{now}" in sql else 0.0
        return self._execute(_spelled(sql, self._dialect, ahead), values)


_NOW: Final = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
}


@lru_cache(maxsize=512)
def _spelled(sql: str, dialect: str, ahead: float) -> str:
    now = f"({_NOW[dialect]} + {ahead!r})" if ahead else _NOW[dialect]
    sql = sql.replace("{now}", now)
    if dialect == "sqlite":
        return sql.replace("servicenow.", "").replace("{for_update}", "")
    return re.sub(r"(?<![:\w]):([a-z_]+)", r"%(\1)s", sql.replace("{for_update}", "FOR UPDATE"))


def _migrations(dialect: str) -> list[tuple[int, str]]:
    """By number: ``0001_name.sql`` for every database, ``0001_name.sqlite.sql`` for that one."""
    folder = resources.files("function") / "migrations"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql") and file.name.split(".")[1:-1] in ([], [dialect])
    )


def _missing(transaction: Transaction, backend: DatabaseBackend) -> list[tuple[int, str]]:
    applied: set[int] = set()
    if backend.has_table(transaction.execute, "migration"):
        applied = {
            row["number"] for row in transaction.execute("SELECT number FROM servicenow.migration")
        }
    return [(number, sql) for number, sql in _migrations(backend.dialect) if number not in applied]


def _migrate(transaction: Transaction, backend: DatabaseBackend) -> list[int]:
    if not backend.has_table(transaction.execute, "migration"):
        transaction.execute(
            "CREATE TABLE servicenow.migration (number INTEGER PRIMARY KEY, applied_at DOUBLE "
            "PRECISION NOT NULL)"
        )
    missing = _missing(transaction, backend)
    for number, sql in missing:
        # Comments hold colons and semicolons that are not SQL's.
        for statement in re.sub(r"--[^\n]*", "", sql).split(";"):
            if statement.strip():
                transaction.execute(statement)
        transaction.execute(
            "INSERT INTO servicenow.migration (number, applied_at) VALUES (:number, {now})",
            number=number,
        )
    return [number for number, _ in missing]
