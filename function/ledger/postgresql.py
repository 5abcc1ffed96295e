"""The ledger in PostgreSQL: connections that never make an answer late."""

import os
import queue
import re
import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from function.deadline import answer_within

if TYPE_CHECKING:
    import psycopg

from function.ledger.backend import (
    CONNECT_SECONDS,
    STATEMENT_SECONDS,
    Execute,
    LedgerRefused,
    LedgerUnfit,
    OutOfTime,
    Record,
    bounded_wait,
)

T = TypeVar("T")
# The server ends a statement itself; one that has not by then is frozen, or the network lost it.
ANSWER_SECONDS: Final = STATEMENT_SECONDS + 2.0
# One statement of a migration: a key over millions of rows.
MIGRATION_SECONDS: Final = 3600.0
_patience_seconds: ContextVar[float] = ContextVar("patience_seconds", default=ANSWER_SECONDS)
# A connection that rested for so long may have been dropped by a firewall without a word: it is
# asked first.
REST_SECONDS: Final = 30.0
CHECK_SECONDS: Final = 2.0
# Any number, as long as it is always the same one.
MIGRATION_LOCK: Final = 5_227_931


class NotConnected(Exception):  # noqa: N818  # what happened
    """There is no connection to be had; the text says why, in the server's words where it said
    something."""


class PostgreSQLBackend:
    """At most *pool_size* connections at a time, each used by one thread; those that rest are kept
    open.

    No wait depends on the server: one whose processes are stopped, or that the network lost, gives
    neither an answer nor an error.
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
        # Down or cut off; a standby after a fail-over; dropped or being restored; rights taken
        # away.
        return (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            OutOfTime,
            NotConnected,
            errors.ReadOnlySqlTransaction,
            errors.UndefinedTable,
            errors.InvalidSchemaName,
            errors.InsufficientPrivilege,
        )

    def words(self, error: Exception) -> str:
        """What is wrong, in a line: SQLSTATE and what the server said. Its further lines may hold
        values."""
        if isinstance(error, OutOfTime | NotConnected):
            return str(error)
        state, diagnosis = getattr(error, "sqlstate", None), getattr(error, "diag", None)
        primary = diagnosis.message_primary if diagnosis is not None else None
        return (
            f"{state} {primary}"
            if state and primary
            else f"the connection was lost ({type(error).__name__})"
        )

    def may_do_better(self, error: Exception) -> bool:
        """Whether another try may: the connection died, or a deadlock's other side has gone on by
        now.

        Where a lock, a connection or an answer was waited for in vain it would only take longer.
        """
        import psycopg  # noqa: PLC0415  # see gone()

        lost = (
            psycopg.InterfaceError | psycopg.errors.AdminShutdown | psycopg.errors.DeadlockDetected
        )
        return isinstance(error, lost) or (
            isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        )

    def demand_fit(self, execute: Execute) -> None:
        [row] = execute("SELECT current_setting('server_encoding') AS encoding", {})
        if row["encoding"] != "UTF8":
            raise LedgerUnfit(
                f"the database's encoding is {row['encoding']}, which cannot hold every text that "
                "a row may",
                "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, "
                "and name that in DATABASE_URL",
            )

    @contextmanager
    def reading(self) -> Iterator[Execute | None]:
        with self.transaction() as execute:
            yield execute

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[Execute]:
        patience = _patience_seconds.set(MIGRATION_SECONDS if migrating else ANSWER_SECONDS)
        try:
            with self._transaction(migrating=migrating) as execute:
                yield execute
        finally:
            _patience_seconds.reset(patience)

    @contextmanager
    def _transaction(self, *, migrating: bool) -> Iterator[Execute]:
        with self._connection() as connection:
            if migrating:
                # A key over millions of rows takes its time; a lock that is not to be had does not.
                connection.execute("SET LOCAL statement_timeout = 0")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
                # Not CREATE SCHEMA IF NOT EXISTS: that wants the right to create even where there
                # is one.
                if not connection.execute(
                    "SELECT 1 FROM pg_namespace WHERE nspname = 'servicenow'"
                ).fetchall():
                    connection.execute("CREATE SCHEMA servicenow")
            yield lambda sql, values: _postgresql_rows(connection, sql, values)

    @contextmanager
    def _connection(self) -> "Iterator[psycopg.Connection[Record]]":
        slots, resting = self._of_this_process()
        if not slots.acquire(timeout=bounded_wait(CONNECT_SECONDS, "a connection")):
            raise OutOfTime("all DATABASE_POOL_SIZE connections are in use")
        try:
            connection = _rested(resting) or self._connect()
            try:
                yield connection
                connection.commit()
            except BaseException:
                # The server rolls back when it notices. To ask it for that may take as long as what
                # has failed.
                connection.close()
                raise
            resting.append((time.monotonic(), connection))
        finally:
            slots.release()

    def _of_this_process(
        self,
    ) -> "tuple[threading.BoundedSemaphore, list[tuple[float, psycopg.Connection[Record]]]]":
        with self._forking:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._slots, self._resting = threading.BoundedSemaphore(self._size), []
            return self._slots, self._resting

    def _connect(self) -> "psycopg.Connection[Record]":
        """A new connection. Made by a thread of its own, for neither the name service nor libpq
        keeps to our time."""
        seconds = bounded_wait(CONNECT_SECONDS, "a connection")
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
            raise OutOfTime("the database did not answer in time") from None
        if isinstance(found, Exception):
            raise NotConnected(_connecting_words(found, self._url)) from None
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
            settings["options"] = (
                f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s"
            )
        return _bounded_connection().connect(self._url, **settings)

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(
            execute("SELECT 1 WHERE to_regclass(:name) IS NOT NULL", name=f"servicenow.{name}")
        )

    def close(self) -> None:
        _, resting = self._of_this_process()
        while resting:
            resting.pop()[1].close()


@lru_cache(maxsize=1)
def _bounded_connection() -> "type[psycopg.Connection[Record]]":
    """psycopg's connection, but each of its waits ends when the time is up."""
    import psycopg  # noqa: PLC0415  # see PostgreSQLBackend.gone
    from psycopg.rows import dict_row  # noqa: PLC0415

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            seconds = bounded_wait(_patience_seconds.get(), "the database")
            if not args:
                # How long psycopg waits before it looks up.
                kwargs.setdefault("interval", min(0.1, max(0.01, seconds / 20)))
            return super().wait(_until_late(gen, time.monotonic() + seconds), *args, **kwargs)

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            return super().connect(conninfo, row_factory=dict_row, **kwargs)

    return Bounded


def _until_late(gen: Generator[Any, Any, T], until: float) -> Generator[Any, Any, T]:
    """*gen*, a dialogue with the server, given up at *until*: psycopg looks up from waiting now and
    then."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() >= until:
                raise OutOfTime("the database did not answer in time")
            wanted = gen.send(ready)
    except StopIteration as end:
        value: T = end.value
        return value


def _postgresql_rows(
    connection: "psycopg.Connection[Record]", sql: str, values: Record
) -> list[Record]:
    import psycopg  # noqa: PLC0415  # see PostgreSQLBackend.gone

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
        # 54: more than PostgreSQL takes, such as a text too long for an index; psycopg counts that
        # as operational.
        is_away = isinstance(error, away) or (
            isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            and not state.startswith("54")
        )
        if is_away:
            raise
        raise LedgerRefused(
            " ".join(["PostgreSQL does not take a statement:", type(error).__name__, state])
        ) from error


def _rested(
    resting: "list[tuple[float, psycopg.Connection[Record]]]",
) -> "psycopg.Connection[Record] | None":
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


# psycopg has no SQLSTATE of a connection that the server refused. By the words of PostgreSQL's own
# source.
_CONNECTING: Final = (
    (re.compile(r"password authentication failed"), "28P01"),
    (re.compile(r"no pg_hba\.conf entry|role .* does not exist|.* authentication failed"), "28000"),
    (re.compile(r"database .* does not exist"), "3D000"),
    (
        re.compile(r"sorry, too many clients|remaining connection slots|too many connections"),
        "53300",
    ),
    (re.compile(r"the database system is|cannot connect now"), "57P03"),
    (re.compile(r"permission denied"), "42501"),
)
_SERVER_SAID: Final = re.compile(r"(?:FATAL|ERROR|PANIC):\s+(.*)")
# Only what follows these is passed on: before it stands what was asked for, which may be
# misspelled, with a password.
_SYSTEM_SAID: Final = re.compile(
    r"(?:server at|on socket) .* failed: (.*)|failed to resolve host .*?: \[[^\]]*\] (.*)"
)


def _connecting_words(error: Exception, url: str) -> str:
    """Why there is no connection, in a line. Never a password, nor a part of one that was not
    percent-encoded."""
    lines = str(error).splitlines() or [""]
    if found := _SERVER_SAID.search(lines[0]):
        words = found[1]
        state = next((state for pattern, state in _CONNECTING if pattern.match(words)), "")
        words = f"{state} {words}".strip()
    elif found := _SYSTEM_SAID.search(lines[0]):
        words = found[1] or found[2]
    else:
        words = "connection timeout expired" if "timeout expired" in lines[0] else ""
    login = urlsplit(url)
    secrets = {
        login.password or "",
        unquote(login.password or ""),
        *parse_qs(login.query).get("password", []),
    } - {""}
    if not words or any(secret in words for secret in secrets):
        return f"no connection ({type(error).__name__})"
    return words[:200]
