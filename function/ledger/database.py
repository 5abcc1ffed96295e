"""Transactions on SQLite or PostgreSQL through the same SQL.

Statements are written once: ``servicenow.`` before every table, ``:name`` for a parameter, ``{now}`` for the
database's clock in UNIX seconds. SQLite has no schemas: there the prefix is dropped.
"""

import os
import queue
import re
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from function.deadline import answer_within, seconds_left

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
Record: TypeAlias = dict[str, Any]

# A statement here is short, and a ledger that does not answer is better told to Hasura than waited for.
STATEMENT_SECONDS: Final = 10
CONNECT_SECONDS: Final = 5
# The server ends a statement itself; one that has not by then is frozen, or the network lost it.
ANSWER_SECONDS: Final = STATEMENT_SECONDS + 2.0
# A connection that rested for so long may have been dropped by a firewall without a word: it is asked first.
REST_SECONDS: Final = 30.0
CHECK_SECONDS: Final = 2.0
# Who comes right after a failure is told so at once, not after a wait of its own.
FAIL_FAST_SECONDS: Final = 1.0
# A second try on a new connection is enough; two that met in a deadlock may meet others.
TRIES_MAX: Final = 3
# Any number, as long as it is always the same one.
MIGRATION_LOCK: Final = 5_227_931


class LedgerUnavailable(Exception):  # noqa: N818  # a state to answer 503 for, not a mistake
    """The database cannot be reached or does not answer; this transaction changed nothing, or its end is not known."""


class LedgerNotMigrated(LedgerUnavailable):
    """The database lacks what this version needs, and LEDGER_MIGRATE is off."""


class LedgerUnfit(LedgerUnavailable):
    """The database cannot hold the ledger; the text says what to do."""


class LedgerRefused(Exception):  # noqa: N818  # what happened
    """The database is there and did not take a statement, or its values; nothing was changed by this transaction.

    The text names the error and quotes no value.
    """


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
        self._failed: LedgerUnavailable | None = None
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
                    raise self._unavailable(error) from error
        raise AssertionError("unreachable")

    def ready(self) -> None:
        """Raise LedgerUnavailable unless a transaction could be made now. Creates nothing and changes nothing."""
        try:
            with self._backend.reading() as execute:
                missing = self._missing(execute) if execute is not None else []
        except self._backend.gone() as error:
            raise self._unavailable(error) from error
        self._demand(missing)

    def _missing(self, execute: "_Execute") -> list[tuple[int, str]]:
        """The migrations that a database lacks. Raises LedgerUnfit where none would help."""
        self._backend.demand_fit(execute)
        return _missing(_Statements(self._backend.dialect, execute, None), self._backend)

    def _unavailable(self, error: Exception) -> LedgerUnavailable:
        return LedgerUnavailable(f"the ledger is unavailable: {self._backend.words(error)}")

    def _demand(self, missing: list[tuple[int, str]]) -> None:
        """Raise LedgerNotMigrated where something is missing that is not ours to make."""
        if missing and not self._migrate:
            numbers = ", ".join(f"{number:04}" for number, _ in missing)
            raise LedgerNotMigrated(
                f"the ledger lacks migration {numbers} and LEDGER_MIGRATE is off: run `python -m function migrate`"
            )

    def migrate(self) -> list[int]:
        """Bring the database up to date; give the numbers of the migrations that were applied now."""
        try:
            with self._backend.transaction(migrating=True) as execute:
                self._backend.demand_fit(execute)
                return _migrate(_Statements(self._backend.dialect, execute, None), self._backend)
        except self._backend.gone() as error:
            raise self._unavailable(error) from error

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
                raise type(self._failed)(str(self._failed))
            try:
                self._bring_up_to_date()
            except LedgerUnavailable as error:
                if seconds_left() > 0:
                    # Else it is this request's own time that ran out, and says nothing of the database.
                    self._failed, self._failed_at = type(error)(str(error)), time.monotonic()
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


_Execute: TypeAlias = Callable[[str, Record], list[Record]]


class _Statements:
    def __init__(self, dialect: str, execute: _Execute, clock_ahead_seconds: Callable[[], float] | None) -> None:
        self._dialect = dialect
        self._execute = execute
        self._ahead = clock_ahead_seconds

    def execute(self, sql: str, /, **values: object) -> list[Record]:
        ahead = self._ahead() if self._ahead and "{now}" in sql else 0.0
        return self._execute(_spelled(sql, self._dialect, ahead), values)


class _Late(Exception):  # noqa: N818  # what happened
    """The time was up before the database answered; the text says what was waited for."""


def _wait_seconds(most: float, what: str) -> float:
    """How long to wait for *what*: *most*, or what is left. Raises _Late where nothing is."""
    seconds = min(most, seconds_left())
    if seconds <= 0:
        raise _Late(f"no time was left for {what}")
    return seconds


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
    def words(self, error: Exception) -> str: ...
    def demand_fit(self, execute: _Execute) -> None: ...  # raises LedgerUnfit
    def reading(self) -> Any: ...  # the same as transaction, for reading; None where there is no database yet
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
        return (sqlite3.OperationalError, sqlite3.DatabaseError, _Late)

    def words(self, error: Exception) -> str:
        """What is wrong. SQLite's own words name no value: a file that is locked, full, or no database."""
        return str(error)

    def demand_fit(self, execute: _Execute) -> None:
        """Any file holds any text."""

    @contextmanager
    def reading(self) -> Iterator[_Execute | None]:
        """The file as it is; None where there is none yet, and it could be made."""
        if self.identity() is None:
            folder = os.path.dirname(os.path.abspath(self.path))
            if not os.access(folder, os.W_OK | os.X_OK):
                raise sqlite3.OperationalError("its folder is not there, or not to be written to")
            yield None
            return
        connection = self._opened(_wait_seconds(STATEMENT_SECONDS, "the file"))
        try:
            connection.execute("PRAGMA query_only = ON")
            yield lambda sql, values: _sqlite_rows(connection, sql, values)
        finally:
            connection.close()

    def may_do_better(self, error: Exception) -> bool:  # noqa: ARG002  # the same for both
        """Whether another try may: a file has no connection that could be cut, and one writer meets nobody."""
        return False

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[_Execute]:  # noqa: ARG002  # the same for both
        if not self._writing.acquire(timeout=_wait_seconds(STATEMENT_SECONDS, "the ledger's turn")):
            raise sqlite3.OperationalError("too many are waiting for the ledger")
        try:
            connection = self._connection()
            try:
                milliseconds = int(_wait_seconds(STATEMENT_SECONDS, "the file") * 1000)
                connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
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
        connection = self._opened(_wait_seconds(STATEMENT_SECONDS, "the file"))
        try:
            _log_ahead(connection)
            # What we answered for must outlive the machine's power.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _opened(self, timeout_seconds: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        return connection

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name", name=name))

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. While others switch the same new file SQLite refuses at once, without its wait."""
    until = time.monotonic() + min(STATEMENT_SECONDS, seconds_left())
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
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        # The statement or its values are wrong: not a database that is away. SQLite's words may quote a value.
        if code in _SQLITE_REFUSALS:
            raise LedgerRefused(f"SQLite does not take a statement: {type(error).__name__}") from error
        raise


_SQLITE_REFUSALS: Final = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}


class _NotConnected(Exception):  # noqa: N818  # what happened
    """There is no connection to be had; the text says why, in the server's words where it said something."""


class _PostgreSQL:
    """At most *pool_size* connections at a time, each used by one thread; those that rest are kept open.

    No wait depends on the server: one whose processes are stopped, or that the network lost, gives neither an answer
    nor an error.
    """

    dialect = "postgresql"

    def __init__(self, url: str, pool_size: int) -> None:
        self._url = url
        self._size = pool_size
        self._forking = threading.Lock()
        self._pid = 0
        self._slots = threading.BoundedSemaphore(pool_size)
        # (since when, on the monotonic clock; the connection), the last used at the end.
        self._resting: list[tuple[float, psycopg.Connection[Record]]] = []

    def identity(self) -> object:
        return os.getpid()

    def gone(self) -> tuple[type[Exception], ...]:
        import psycopg  # noqa: PLC0415  # 60 ms that SQLite's users need not pay

        errors = psycopg.errors
        # Down or cut off; a standby after a fail-over; dropped or being restored; rights taken away.
        return (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            _Late,
            _NotConnected,
            errors.ReadOnlySqlTransaction,
            errors.UndefinedTable,
            errors.InvalidSchemaName,
            errors.InsufficientPrivilege,
        )

    def words(self, error: Exception) -> str:
        """What is wrong, in a line: SQLSTATE and what the server said. Its further lines may hold values."""
        if isinstance(error, _Late | _NotConnected):
            return str(error)
        state, diagnosis = getattr(error, "sqlstate", None), getattr(error, "diag", None)
        primary = diagnosis.message_primary if diagnosis is not None else None
        return f"{state} {primary}" if state and primary else f"the connection was lost ({type(error).__name__})"

    def may_do_better(self, error: Exception) -> bool:
        """Whether another try may: the connection died, or a deadlock's other side has gone on by now.

        Where a lock, a connection or an answer was waited for in vain it would only take longer.
        """
        import psycopg  # noqa: PLC0415  # see gone()

        lost = psycopg.InterfaceError | psycopg.errors.AdminShutdown | psycopg.errors.DeadlockDetected
        return isinstance(error, lost) or (isinstance(error, psycopg.OperationalError) and error.sqlstate is None)

    def demand_fit(self, execute: _Execute) -> None:
        [row] = execute("SELECT current_setting('server_encoding') AS encoding", {})
        if row["encoding"] != "UTF8":
            raise LedgerUnfit(
                f"the database's encoding is {row['encoding']}, which cannot hold every text that a row may: make one "
                "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name that in DATABASE_URL"
            )

    @contextmanager
    def reading(self) -> Iterator[_Execute | None]:
        with self.transaction() as execute:
            yield execute

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[_Execute]:
        with self._connection() as connection:
            if migrating:
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
                # Not CREATE SCHEMA IF NOT EXISTS: that wants the right to create even where there is one.
                if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'servicenow'").fetchall():
                    connection.execute("CREATE SCHEMA servicenow")
            yield lambda sql, values: _postgresql_rows(connection, sql, values)

    @contextmanager
    def _connection(self) -> "Iterator[psycopg.Connection[Record]]":
        slots, resting = self._of_this_process()
        if not slots.acquire(timeout=_wait_seconds(CONNECT_SECONDS, "a connection")):
            raise _Late("all DATABASE_POOL_SIZE connections are in use")
        try:
            connection = _rested(resting) or self._connect()
            try:
                yield connection
                connection.commit()
            except BaseException:
                # The server rolls back when it notices. To ask it for that may take as long as what has failed.
                connection.close()
                raise
            resting.append((time.monotonic(), connection))
        finally:
            slots.release()

    def _of_this_process(self) -> "tuple[threading.BoundedSemaphore, list[tuple[float, psycopg.Connection[Record]]]]":
        with self._forking:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._slots, self._resting = threading.BoundedSemaphore(self._size), []
            return self._slots, self._resting

    def _connect(self) -> "psycopg.Connection[Record]":
        """A new connection. Made by a thread of its own, for neither the name service nor libpq keeps to our time."""
        seconds = _wait_seconds(CONNECT_SECONDS, "a connection")
        made: queue.SimpleQueue[psycopg.Connection[Record] | Exception] = queue.SimpleQueue()
        left_alone = threading.Event()

        def connect() -> None:
            try:
                made.put(self._connected())
            except Exception as error:  # noqa: BLE001  # whatever it is, the thread that waits is told
                made.put(error)
            if left_alone.is_set():
                _drop(made)

        threading.Thread(target=connect, name="ledger-connect", daemon=True).start()
        try:
            found = made.get(timeout=seconds)
        except queue.Empty:
            left_alone.set()
            _drop(made)
            raise _Late("the database did not answer in time") from None
        if isinstance(found, Exception):
            raise _NotConnected(_connecting_words(found, self._url)) from None
        return found

    def _connected(self) -> "psycopg.Connection[Record]":
        settings: dict[str, Any] = {
            # A pooler between us and the server need not keep our prepared statements.
            "prepare_threshold": None,
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "tcp_user_timeout": STATEMENT_SECONDS * 1000,
            "application_name": "hasura-servicenow",
            # Whatever PGCLIENTENCODING or the database's own may be.
            "client_encoding": "UTF8",
        }
        if "options=" not in self._url:
            settings["options"] = f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s"
        return _bounded_connection().connect(self._url, **settings)

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(execute("SELECT 1 WHERE to_regclass(:name) IS NOT NULL", name=f"servicenow.{name}"))

    def close(self) -> None:
        _, resting = self._of_this_process()
        while resting:
            resting.pop()[1].close()


@lru_cache(maxsize=1)
def _bounded_connection() -> "type[psycopg.Connection[Record]]":
    """psycopg's connection, but each of its waits ends when the time is up."""
    import psycopg  # noqa: PLC0415  # see _PostgreSQL.gone
    from psycopg.rows import dict_row  # noqa: PLC0415

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            seconds = _wait_seconds(ANSWER_SECONDS, "the database")
            if not args:
                # How long psycopg waits before it looks up.
                kwargs.setdefault("interval", min(0.1, max(0.01, seconds / 20)))
            return super().wait(_until_late(gen, time.monotonic() + seconds), *args, **kwargs)

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            return super().connect(conninfo, row_factory=dict_row, **kwargs)

    return Bounded


def _until_late(gen: Generator[Any, Any, T], until: float) -> Generator[Any, Any, T]:
    """*gen*, a dialogue with the server, given up at *until*: psycopg looks up from waiting now and then."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() >= until:
                raise _Late("the database did not answer in time")
            wanted = gen.send(ready)
    except StopIteration as end:
        value: T = end.value
        return value


def _postgresql_rows(connection: "psycopg.Connection[Record]", sql: str, values: Record) -> list[Record]:
    import psycopg  # noqa: PLC0415  # see _PostgreSQL.gone

    errors = psycopg.errors
    away = (
        errors.UndefinedTable,
        errors.InvalidSchemaName,
        errors.InsufficientPrivilege,
        errors.ReadOnlySqlTransaction,
    )
    try:
        # Without values psycopg sends several statements at once, as a migration holds.
        done = connection.execute(sql, values) if values else connection.execute(sql)
        return list(done.fetchall()) if done.description else []
    except (psycopg.Error, UnicodeError, OverflowError) as error:
        state = getattr(error, "sqlstate", None) or ""
        # 54: more than PostgreSQL takes, such as a text too long for an index; psycopg counts that as operational.
        is_away = isinstance(error, away) or (
            isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state.startswith("54")
        )
        if is_away:
            raise
        raise LedgerRefused(" ".join(["PostgreSQL does not take a statement:", type(error).__name__, state])) from error


def _rested(resting: "list[tuple[float, psycopg.Connection[Record]]]") -> "psycopg.Connection[Record] | None":
    """One of the connections that rest, closing those that are dead; None without any."""
    while True:
        try:
            since, connection = resting.pop()
        except IndexError:
            return None
        if _is_alive(connection, rested_seconds=time.monotonic() - since):
            return connection
        connection.close()


def _is_alive(connection: "psycopg.Connection[Record]", *, rested_seconds: float) -> bool:
    if connection.closed:
        return False
    # Without having been asked a server speaks only to say that it ends.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        return False
    if rested_seconds < REST_SECONDS:
        return True
    try:
        with answer_within(CHECK_SECONDS):
            connection.execute("SELECT 1")
            connection.rollback()
    except Exception:  # noqa: BLE001  # whatever it is, another connection is made
        return False
    return True


def _drop(made: "queue.SimpleQueue[psycopg.Connection[Record] | Exception]") -> None:
    """Close a connection that nobody waits for any more."""
    with suppress(queue.Empty):
        found = made.get_nowait()
        if not isinstance(found, Exception):
            found.close()


# psycopg has no SQLSTATE of a connection that the server refused. By the words of PostgreSQL's own source.
_CONNECTING: Final = (
    (re.compile(r"password authentication failed"), "28P01"),
    (re.compile(r"no pg_hba\.conf entry|role .* does not exist|.* authentication failed"), "28000"),
    (re.compile(r"database .* does not exist"), "3D000"),
    (re.compile(r"sorry, too many clients|remaining connection slots|too many connections"), "53300"),
    (re.compile(r"the database system is|cannot connect now"), "57P03"),
    (re.compile(r"permission denied"), "42501"),
)
_SERVER_SAID: Final = re.compile(r"(?:FATAL|ERROR|PANIC):\s+(.*)")
# Only what follows these is passed on: before it stands what was asked for, which may be misspelled, with a password.
_SYSTEM_SAID: Final = re.compile(r"(?:server at|on socket) .* failed: (.*)|failed to resolve host .*?: \[[^\]]*\] (.*)")


def _connecting_words(error: Exception, url: str) -> str:
    """Why there is no connection, in a line. Never a password, nor a part of one that was not percent-encoded."""
    lines = str(error).splitlines() or [""]
    if said := _SERVER_SAID.search(lines[0]):
        words = said[1]
        state = next((state for pattern, state in _CONNECTING if pattern.match(words)), "")
        words = f"{state} {words}".strip()
    elif said := _SYSTEM_SAID.search(lines[0]):
        words = said[1] or said[2]
    else:
        words = "connection timeout expired" if "timeout expired" in lines[0] else ""
    login = urlsplit(url)
    secrets = {login.password or "", unquote(login.password or ""), *parse_qs(login.query).get("password", [])} - {""}
    if not words or any(secret in words for secret in secrets):
        return f"no connection ({type(error).__name__})"
    return words[:200]


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
