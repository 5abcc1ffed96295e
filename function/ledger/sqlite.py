"""The ledger in a SQLite file."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from function.deadline import seconds_left
from function.ledger.backend import (
    STATEMENT_SECONDS,
    Execute,
    LedgerRefused,
    OutOfTime,
    Record,
    bounded_wait,
)


class SQLiteBackend:
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
        return (sqlite3.OperationalError, sqlite3.DatabaseError, OutOfTime)

    def words(self, error: Exception) -> str:
        """What is wrong. SQLite's own words name no value: a file that is locked, full, or no
        database."""
        return str(error)

    def demand_fit(self, execute: Execute) -> None:
        """Any file holds any text."""

    @contextmanager
    def reading(self) -> Iterator[Execute | None]:
        """The file as it is; None where there is none yet, and it could be made."""
        if self.identity() is None:
            folder = os.path.dirname(os.path.abspath(self.path))
            if not os.access(folder, os.W_OK | os.X_OK):
                raise sqlite3.OperationalError("its folder is not there, or not to be written to")
            yield None
            return
        connection = self._opened(bounded_wait(STATEMENT_SECONDS, "the file"))
        try:
            connection.execute("PRAGMA query_only = ON")
            yield lambda sql, values: _sqlite_rows(connection, sql, values)
        finally:
            connection.close()

    def may_do_better(self, error: Exception) -> bool:  # noqa: ARG002  # the same for both
        """Whether another try may: a file has no connection that could be cut, and one writer meets
        nobody."""
        return False

    @contextmanager
    def transaction(self, *, migrating: bool = False) -> Iterator[Execute]:  # noqa: ARG002  # the same for both
        if not self._writing.acquire(timeout=bounded_wait(STATEMENT_SECONDS, "the ledger's turn")):
            raise sqlite3.OperationalError("too many are waiting for the ledger")
        try:
            connection = self._connection()
            try:
                milliseconds = int(bounded_wait(STATEMENT_SECONDS, "the file") * 1000)
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
        connection = self._opened(bounded_wait(STATEMENT_SECONDS, "the file"))
        try:
            _log_ahead(connection)
            # What we answered for must outlive the machine's power.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _opened(self, timeout_seconds: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool:
        return bool(
            execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name", name=name)
        )

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. While others switch the same new file SQLite refuses at once,
    without its wait."""
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
        # The statement or its values are wrong: not a database that is away. SQLite's words may
        # quote a value.
        if code in _SQLITE_REFUSALS:
            raise LedgerRefused(
                f"SQLite does not take a statement: {type(error).__name__}"
            ) from error
        raise


_SQLITE_REFUSALS: Final = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}
