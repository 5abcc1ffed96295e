"""Transactions on SQLite or PostgreSQL through the same SQL.

Statements are written once: ``servicenow.`` before every table, ``:name`` for a parameter, ``{now}`` for the
database's clock in UNIX seconds. SQLite has no schemas: there the prefix is dropped.
"""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

T = TypeVar("T")
Record: TypeAlias = dict[str, Any]

# A statement here is short, and a ledger that does not answer is better told to Hasura than waited for.
STATEMENT_SECONDS: Final = 10
CONNECT_SECONDS: Final = 5
# Who comes right after a failure is told so at once, not after a wait of its own.
FAIL_FAST_SECONDS: Final = 1.0
# A second try on a new connection is enough; two that met in a deadlock may meet others.
TRIES_MAX: Final = 3
# Any number, as long as it is always the same one.
MIGRATION_LOCK: Final = 5_227_931


class LedgerUnavailable(Exception):  # noqa: N818  # a state to answer 503 for, not a mistake
    """The database cannot be reached or does not answer; nothing was changed by this transaction."""


class LedgerNotMigrated(LedgerUnavailable):
    """The database lacks what this version needs, and LEDGER_MIGRATE is off."""


class Transaction(Protocol):
    """One transaction under way."""

    def execute(self, sql: str, /, **values: object) -> list[Record]:
        """Run one statement; give its rows, none for a statement without any."""


class Database:
    """A place for the ledger. Nothing is opened before the first transaction, so that a forked server is safe."""

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
        self._backend: _Backend = (
            _SQLite(url.removeprefix("sqlite:///")) if scheme == "sqlite" else _PostgreSQL(url, pool_size)
        )
        self._ready_for: object = None
        self._preparing = threading.Lock()
        self._failed_at = float("-inf")

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Do *work* in one transaction: committed when it returns, rolled back when it raises.

        Where a connection proves dead before anything was committed, or a deadlock ends the transaction, it is done
        again, so *work* must have no effect but its statements.
        """
        self._prepare()
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                with self._backend.transaction() as execute:
                    return work(_Statements(self._backend.dialect, execute, self._clock_ahead_seconds))
            except self._backend.gone() as error:
                if not tries_left or not self._backend.may_do_better(error):
                    # It may have been dropped and made anew, so it is looked at before it is used again.
                    self._ready_for = None
                    raise LedgerUnavailable(f"the ledger is unavailable: {type(error).__name__}") from error
        raise AssertionError("unreachable")

    def migrate(self) -> list[int]:
        """Bring the database up to date; give the numbers of the migrations that were applied now."""
        try:
            with self._backend.transaction(migrating=True) as execute:
                return _migrate(_Statements(self._backend.dialect, execute, None), self._backend)
        except self._backend.gone() as error:
            raise LedgerUnavailable(f"the ledger is unavailable: {type(error).__name__}") from error

    def close(self) -> None:
        """Close every connection."""
        self._backend.close()

    def _prepare(self) -> None:
        if self._is_ready():
            return
        if not self._preparing.acquire(timeout=CONNECT_SECONDS):
            raise LedgerUnavailable("the ledger is unavailable: others wait for it already")
        try:
            if self._is_ready():
                return
            if time.monotonic() - self._failed_at < FAIL_FAST_SECONDS:
                raise LedgerUnavailable("the ledger is unavailable: it was so a moment ago")
            try:
                self._bring_up_to_date()
            except LedgerUnavailable:
                self._failed_at = time.monotonic()
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
                missing = _missing(_Statements(self._backend.dialect, execute, None), self._backend)
        except self._backend.gone() as error:
            raise LedgerUnavailable(f"the ledger is unavailable: {type(error).__name__}") from error
        if missing and self._migrate:
            self.migrate()
        elif missing:
            numbers = ", ".join(f"{number:04}" for number, _ in missing)
            raise LedgerNotMigrated(
                f"the ledger lacks migration {numbers} and LEDGER_MIGRATE is off: run `python -m function migrate`"
            )


_Execute: TypeAlias = Callable[[str, Record], list[Record]]


class _Statements:
    def __init__(self, dialect: str, execute: _Execute, clock_ahead_seconds: Callable[[], float] | None) -> None:
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


class _Backend(Protocol):
    dialect: str

    def identity(self) -> object: ...
    def gone(self) -> tuple[type[Exception], ...]: ...
    def may_do_better(self, error: Exception) -> bool: ...
    def transaction(self, *, migrating: bool = False) -> Any: ...  # a context manager giving an _Execute
    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool: ...
    def close(self) -> None: ...


class _SQLite:
    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self.path = path
        self._idle: list[tuple[object, sqlite3.Connection]] = []
        # SQLite has one writer; among our own threads a lock is fairer than its polling.
        self._writing = threading.Lock()

    def identity(self) -> object:
        """Which file it is: a ledger that was deleted under us is a new one."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return (os.getpid(), status.st_dev, status.st_ino)

    def gone(self) -> tuple[type[Exception], ...]:
        return (sqlite3.OperationalError, sqlite3.DatabaseError)

    def may_do_better(self, error: Exception) -> bool:  # noqa: ARG002  # the same for both
        """Whether another try may: a file has no connection that could be cut, and one writer meets nobody."""
        return False

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[_Execute]:  # noqa: ARG002  # the same for both
        if not self._writing.acquire(timeout=STATEMENT_SECONDS):
            raise sqlite3.OperationalError("too many are waiting for the ledger")
        try:
            connection = self._connection()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield lambda sql, values: _sqlite_rows(connection, sql, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.close()
                raise
            self._idle.append((self.identity(), connection))
        finally:
            self._writing.release()

    def _connection(self) -> sqlite3.Connection:
        identity = self.identity()
        while self._idle:
            known, connection = self._idle.pop()
            if known == identity and identity is not None:
                return connection
            connection.close()
        connection = sqlite3.connect(
            self.path, timeout=STATEMENT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            _log_ahead(connection)
            # What we answered for must outlive the machine's power.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name", name=name))

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. While others switch the same new file SQLite refuses at once, without its wait."""
    until = time.monotonic() + STATEMENT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def _sqlite_rows(connection: sqlite3.Connection, sql: str, values: Record) -> list[Record]:
    try:
        return [dict(row) for row in connection.execute(sql, values)]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            # The statement is wrong: a fault of ours, not a database that is away.
            raise RuntimeError(f"SQLite does not take a statement: {error}") from error
        raise


class _PostgreSQL:
    dialect = "postgresql"

    def __init__(self, url: str, pool_size: int) -> None:
        self._url = url
        self._size = pool_size
        self._pool: ConnectionPool[psycopg.Connection[Record]] | None = None
        self._pid = 0
        self._opening = threading.Lock()

    def identity(self) -> object:
        return os.getpid()

    def gone(self) -> tuple[type[Exception], ...]:
        import psycopg  # noqa: PLC0415  # 60 ms that SQLite's users need not pay
        from psycopg_pool import PoolTimeout  # noqa: PLC0415

        errors = psycopg.errors
        # Down or cut off; a standby after a fail-over; dropped or being restored; rights taken away.
        return (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            PoolTimeout,
            errors.ReadOnlySqlTransaction,
            errors.UndefinedTable,
            errors.InvalidSchemaName,
            errors.InsufficientPrivilege,
        )

    def may_do_better(self, error: Exception) -> bool:
        """Whether another try may: the connection died, or a deadlock's other side has gone on by now.

        Where a lock or a full pool was waited for in vain it would only take longer.
        """
        import psycopg  # noqa: PLC0415  # see gone()
        from psycopg_pool import PoolTimeout  # noqa: PLC0415

        if isinstance(error, PoolTimeout):
            return False
        lost = psycopg.InterfaceError | psycopg.errors.AdminShutdown | psycopg.errors.DeadlockDetected
        return isinstance(error, lost) or (isinstance(error, psycopg.OperationalError) and error.sqlstate is None)

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[_Execute]:
        with self._connections().connection() as connection:
            if migrating:
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
                # Not CREATE SCHEMA IF NOT EXISTS: that wants the right to create even where there is one.
                if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'servicenow'").fetchall():
                    connection.execute("CREATE SCHEMA servicenow")

            def execute(sql: str, values: Record) -> list[Record]:
                # Without values psycopg sends several statements at once, as a migration holds.
                done = connection.execute(sql, values) if values else connection.execute(sql)
                return list(done.fetchall()) if done.description else []

            yield execute

    def _connections(self) -> "ConnectionPool[psycopg.Connection[Record]]":
        with self._opening:
            if self._pool is None or self._pid != os.getpid():
                from psycopg.rows import dict_row  # noqa: PLC0415
                from psycopg_pool import ConnectionPool  # noqa: PLC0415

                settings: dict[str, Any] = {
                    "row_factory": dict_row,
                    # A pooler between us and the server need not keep our prepared statements.
                    "prepare_threshold": None,
                    "connect_timeout": CONNECT_SECONDS,
                    "keepalives_idle": 10,
                    "tcp_user_timeout": STATEMENT_SECONDS * 1000,
                    "application_name": "hasura-servicenow",
                }
                if "options=" not in self._url:
                    settings["options"] = (
                        f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s"
                    )
                self._pool = ConnectionPool(
                    self._url,
                    kwargs=settings,
                    min_size=1,
                    max_size=self._size,
                    timeout=CONNECT_SECONDS,
                    check=ConnectionPool.check_connection,
                    open=True,
                    name="ledger",
                )
                self._pid = os.getpid()
            return self._pool

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(execute("SELECT 1 WHERE to_regclass(:name) IS NOT NULL", name=f"servicenow.{name}"))

    def close(self) -> None:
        if self._pool is not None and self._pid == os.getpid():
            self._pool.close()
        self._pool = None


def _migrations() -> list[tuple[int, str]]:
    folder = resources.files("function") / "migrations"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )


def _missing(transaction: Transaction, backend: _Backend) -> list[tuple[int, str]]:
    applied: set[int] = set()
    if backend.has_table(transaction.execute, "migration"):
        applied = {row["number"] for row in transaction.execute("SELECT number FROM servicenow.migration")}
    return [(number, sql) for number, sql in _migrations() if number not in applied]


def _migrate(transaction: Transaction, backend: _Backend) -> list[int]:
    if not backend.has_table(transaction.execute, "migration"):
        transaction.execute(
            "CREATE TABLE servicenow.migration (number INTEGER PRIMARY KEY, applied_at DOUBLE PRECISION NOT NULL)"
        )
    missing = _missing(transaction, backend)
    for number, sql in missing:
        # Comments hold colons and semicolons that are not SQL's.
        for statement in re.sub(r"--[^\n]*", "", sql).split(";"):
            if statement.strip():
                transaction.execute(statement)
        transaction.execute(
            "INSERT INTO servicenow.migration (number, applied_at) VALUES (:number, {now})", number=number
        )
    return [number for number, _ in missing]
