"""Hasura's event delivery over a real PostgreSQL: what is written to a tracked table is posted to
its webhook.

    with Hasura(database_url=…, project=Path("hasura"), environ={…}) as hasura:
        connection.execute("INSERT INTO outages …")

Written from the source of Hasura v2.48 (EventTrigger.hs, ScheduledTrigger.hs,
Backends/Postgres/DDL/EventTrigger.hs); no engine was run. The catalog and the triggers are in
catalog.py, what goes over the wire in webhook.py, its GraphQL in graphql.py. One-off scheduled
events, request transforms and geometry columns are not here.
"""

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, LiteralString, Self, TypeAlias, TypeVar

import psycopg
from psycopg.rows import class_row
from psycopg_pool import ConnectionPool, PoolClosed

from function.hasura.metadata import MetadataError
from sandbox.catalog import (
    Connection,
    CronTrigger,
    InconsistentMetadata,
    Trigger,
    Triggers,
    install,
    migrate,
    read,
)
from sandbox.graphql import GraphQLServer
from sandbox.graphql_schema import TableSchema, read_schema
from sandbox.webhook import (
    Connections,
    NoAnswer,
    encode,
    local_time,
    parse,
    retry_after_seconds,
    utc_time,
    with_own_headers,
)

log = logging.getLogger(__name__)
Row = TypeVar("Row")

# A record of an attempt is one short statement, so a few connections serve a hundred deliveries.
_DATABASE_CONNECTIONS: Final = 8
# Longer than a busy database keeps a record waiting, because an event that is not recorded is sent
# again.
_DATABASE_SECONDS_MAX: Final = 30.0
# For an event of a trigger or table that this engine does not know.
UNKNOWN_SECONDS: Final = 60
# How many future events a cron trigger has in its table.
_CRON_PLANNED: Final = 100


Outcome: TypeAlias = Literal["delivered", "error", "retry"]


class Refused(Exception):  # noqa: N818  # the API's answer
    """What was asked for is not done; the text begins with the code that Hasura's API gives."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A row of hdb_catalog.event_log."""

    id: str
    schema_name: str
    table_name: str
    trigger_name: str
    payload: dict[str, Any]
    delivered: bool
    error: bool
    tries: int
    created_at: datetime
    locked: datetime | None
    next_retry_at: datetime | None
    archived: bool


@dataclass(frozen=True, slots=True)
class Invocation:
    """A row of an invocation log; *status* is None where there was no answer."""

    event_id: str
    status: int | None
    request: dict[str, Any]
    response: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CronEvent:
    """A row of hdb_catalog.hdb_cron_events."""

    id: str
    trigger_name: str
    scheduled_time: datetime
    status: str
    tries: int
    next_retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An event that is locked for this engine. *payload* is JSON's text."""

    id: str
    schema_name: str
    table_name: str
    trigger_name: str
    payload: str
    tries: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Due:
    """A cron event that is locked for this engine."""

    id: str
    trigger_name: str
    scheduled_time: datetime
    tries: int
    late_seconds: float


class _Ended(Exception):  # noqa: N818  # a state, not a mistake
    """This engine runs no statement any more."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What became of one delivery. *values* are for the statement that records it."""

    outcome: Outcome
    values: Mapping[str, object]


# --- statements
# --------------------------------------------------------------------------------------------------
# %(ahead)s is how far the engine's clock is ahead of the database's.

_NOW: Final = "now() + make_interval(secs => %(ahead)s)"

_FETCH: Final = f"""
UPDATE hdb_catalog.event_log SET locked = {_NOW}
WHERE id IN (
    SELECT id FROM hdb_catalog.event_log
    WHERE NOT delivered AND NOT error AND NOT archived
      AND (locked IS NULL OR locked < {_NOW} - interval '30 minutes')
      AND (next_retry_at IS NULL OR next_retry_at <= {_NOW})
      AND trigger_name = ANY(%(triggers)s)
    ORDER BY locked NULLS FIRST, next_retry_at NULLS FIRST, created_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING id, schema_name, table_name, trigger_name, payload::text AS payload, tries, created_at
"""  # noqa: S608  # our own text

# Hasura's transaction of three statements, in one.
_ATTEMPT: Final = """
WITH invocation AS (
    INSERT INTO hdb_catalog.event_invocation_logs
        (trigger_name, event_id, status, request, response)
    VALUES (%(trigger)s, %(id)s, %(status)s, %(request)s::json, %(response)s::json)
)
UPDATE hdb_catalog.event_log SET tries = tries + 1, locked = NULL, {} WHERE id = %(id)s
"""
_LATER: Final = f"next_retry_at = {_NOW} + make_interval(secs => %(wait)s)"
_RECORD: Final[Mapping[Outcome, str]] = {
    "delivered": _ATTEMPT.format("delivered = true, next_retry_at = NULL"),
    "error": _ATTEMPT.format("error = true, next_retry_at = NULL"),
    "retry": _ATTEMPT.format(_LATER),
}

_POSTPONE: Final = f"UPDATE hdb_catalog.event_log SET locked = NULL, {_LATER} WHERE id = %(id)s"  # noqa: S608

_UNLOCK: Final = (
    "UPDATE hdb_catalog.event_log SET locked = NULL WHERE id = ANY(%(ids)s) AND locked IS NOT NULL"
)

_CRON_PLAN: Final = f"""
SELECT count(*) FILTER (WHERE status = 'scheduled' AND scheduled_time > {_NOW}),
       coalesce(max(scheduled_time), {_NOW})
FROM hdb_catalog.hdb_cron_events WHERE trigger_name = %(trigger)s
"""  # noqa: S608

_CRON_INSERT: Final = """
INSERT INTO hdb_catalog.hdb_cron_events (trigger_name, scheduled_time)
SELECT %(trigger)s, unnest(%(times)s::timestamptz[]) ON CONFLICT DO NOTHING
"""

_CRON_FETCH: Final = f"""
UPDATE hdb_catalog.hdb_cron_events SET status = 'locked'
WHERE id IN (
    SELECT id FROM hdb_catalog.hdb_cron_events
    WHERE status = 'scheduled' AND coalesce(next_retry_at, scheduled_time) <= {_NOW}
      AND trigger_name = ANY(%(triggers)s)
    FOR UPDATE SKIP LOCKED
)
RETURNING id, trigger_name, scheduled_time AT TIME ZONE 'UTC' AS scheduled_time, tries,
          extract(epoch FROM {_NOW} - scheduled_time)::float AS late_seconds
"""  # noqa: S608

_CRON_ATTEMPT: Final = """
WITH invocation AS (
    INSERT INTO hdb_catalog.hdb_cron_event_invocation_logs (event_id, status, request, response)
    VALUES (%(id)s, %(status)s, %(request)s::json, %(response)s::json)
)
UPDATE hdb_catalog.hdb_cron_events SET tries = tries + 1, {} WHERE id = %(id)s
"""
_CRON_RECORD: Final[Mapping[Outcome, str]] = {
    "delivered": _CRON_ATTEMPT.format("status = 'delivered', next_retry_at = NULL"),
    "error": _CRON_ATTEMPT.format("status = 'error', next_retry_at = NULL"),
    "retry": _CRON_ATTEMPT.format(f"status = 'scheduled', {_LATER}"),
}

_CRON_DEAD: Final = "UPDATE hdb_catalog.hdb_cron_events SET status = 'dead' WHERE id = %(id)s"

_CRON_UNLOCK: Final = """
UPDATE hdb_catalog.hdb_cron_events SET status = 'scheduled' WHERE id = ANY(%(ids)s)
    AND status = 'locked'
"""
_CRON_UNLOCK_ALL: Final = (
    "UPDATE hdb_catalog.hdb_cron_events SET status = 'scheduled' WHERE status = 'locked'"
)

_NEXT_DUE: Final = """
SELECT extract(epoch FROM min(greatest(
    coalesce(next_retry_at, created_at)::timestamptz,
    locked + interval '30 minutes'
)))::float
FROM hdb_catalog.event_log
WHERE NOT delivered AND NOT error AND NOT archived AND trigger_name = ANY(%(triggers)s)
"""


# --- the engine
# --------------------------------------------------------------------------------------------------


class Hasura:
    """An engine, from enter to exit. Several can work on one database, in this process or in
    others.

    *clock_ahead_seconds* moves its clock, for trials of what takes hours; it is asked each time.
    The database's own now(), in created_at, is not moved.

    It answers GraphQL where *graphql_port* is given, 0 being a free one; *admin_secret* None lets
    everybody in.
    """

    def __init__(
        self,
        *,
        database_url: str,
        project: Path,
        environ: Mapping[str, str],
        fetch_interval_seconds: float = 1.0,
        pool_size: int = 100,
        batch_size: int = 100,
        shutdown_seconds: float = 60.0,
        cron_interval_seconds: float = 10.0,
        clock_ahead_seconds: Callable[[], float] = lambda: 0.0,
        graphql_port: int | None = None,
        admin_secret: str | None = None,
    ) -> None:
        self._database_url = database_url
        self._project = project
        self._environ = environ
        self._fetch_interval_seconds = fetch_interval_seconds
        self._pool_size = pool_size
        self._batch_size = batch_size
        self._shutdown_seconds = shutdown_seconds
        self._cron_interval_seconds = cron_interval_seconds
        self._clock_ahead_seconds = clock_ahead_seconds
        self._graphql_port = graphql_port
        self._admin_secret = admin_secret
        self._graphql: GraphQLServer | None = None
        self._schema = TableSchema({})
        self._triggers = Triggers({}, {}, {})
        self._http = Connections(idle_max=pool_size)
        self._stopping = threading.Event()
        self._gate = threading.Condition()
        self._ended = False  # under _gate, as is the next
        self._statements = 0
        self._changed = threading.Condition()
        self._delivering = 0  # under _changed, as is the next
        self._locked: set[str] = (
            set()
        )  # fetched and not finished: to be unlocked by a graceful shutdown
        self._workers = ThreadPoolExecutor(pool_size, "hasura-delivery")
        self._prefetcher = ThreadPoolExecutor(1, "hasura-prefetch")
        self._loops = [
            threading.Thread(target=loop, name=f"hasura-{loop.__name__}", daemon=True)
            for loop in (self._deliver_events, self._deliver_cron_events)
        ]
        # The pool's own warnings of a database that is away say nothing that is not said here.
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            database_url,
            min_size=1,
            max_size=_DATABASE_CONNECTIONS,
            timeout=_DATABASE_SECONDS_MAX,
            kwargs={"autocommit": True},
            open=False,
        )

    def __enter__(self) -> Self:
        self.apply_metadata()
        if self._graphql_port is not None:
            self._graphql = GraphQLServer(
                self._database_url,
                self._schema,
                port=self._graphql_port,
                admin_secret=self._admin_secret,
            )
            self._graphql.start()
        self._pool.open()
        # Hasura's, at every start: what another engine has in its hands is unlocked too.
        self._run(_CRON_UNLOCK_ALL)
        for loop in self._loops:
            loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def apply_metadata(self) -> None:
        """Read the project anew, and bring the database to it. Raises InconsistentMetadata or
        MetadataError.

        Another engine on the same database goes on with what it read itself.
        """
        triggers = read(self._project, self._environ)
        with self._connected() as connection:
            if self._graphql_port is not None:
                self._schema = read_schema(connection, triggers.metadata)
            install(connection, triggers)
        self._triggers = triggers
        if self._graphql is not None:
            self._graphql.schema = self._schema

    @property
    def graphql(self) -> GraphQLServer:
        """Its GraphQL, from enter to exit."""
        if self._graphql is None:
            raise RuntimeError("this engine answers no GraphQL: it was given no graphql_port")
        return self._graphql

    def stop(self) -> None:
        """Shut down gracefully: fetch no more, wait for what is in flight, then unlock what is not
        done by then.

        That will be delivered again, perhaps while the first delivery is still being worked on.
        """
        until = time.monotonic() + self._shutdown_seconds
        self._answer_no_more()
        self._fetch_no_more()
        _join(self._loops[0], _DATABASE_SECONDS_MAX)
        with self._changed:
            self._changed.wait_for(lambda: not self._delivering, until - time.monotonic())
        _join(self._loops[1], until - time.monotonic())
        with self._changed:
            left = list(self._locked)
        with suppress(psycopg.Error, _Ended):
            if left:
                self._run(_UNLOCK, ids=left)
                self._run(_CRON_UNLOCK, ids=left)
        self.kill()

    def kill(self) -> None:
        """End as by kill -9: nothing in flight is recorded or unlocked, and no statement runs once
        this returns."""
        self._answer_no_more()
        self._fetch_no_more()
        with self._gate:
            self._ended = True
            self._gate.wait_for(lambda: not self._statements, _DATABASE_SECONDS_MAX)
        self._http.abort()
        self._pool.close()
        for loop in self._loops:
            _join(loop, _DATABASE_SECONDS_MAX)
        self._workers.shutdown(wait=False)
        self._prefetcher.shutdown(wait=False)

    def _answer_no_more(self) -> None:
        if self._graphql is not None:
            self._graphql.stop()

    def _fetch_no_more(self) -> None:
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()

    # What people do in the console.

    def redeliver(self, event_id: str) -> None:
        """Have an event delivered anew, also one that was delivered. Raises Refused while it is in
        somebody's hands."""
        with self._connected() as connection, connection.transaction():
            found = connection.execute(
                f"SELECT coalesce(locked >= {_NOW} - interval '30 minutes', false)"  # noqa: S608
                " FROM hdb_catalog.event_log WHERE id = %(id)s",
                {"id": event_id, "ahead": self._clock_ahead_seconds()},
            ).fetchone()
            match found:
                case None:
                    raise Refused("not-exists: event not found")
                case (True,):
                    raise Refused("busy: event is already being processed")
            connection.execute(
                "UPDATE hdb_catalog.event_log SET delivered = false, error = false, "
                "tries = 0 WHERE id = %s",
                [event_id],
            )

    def invoke(self, trigger: str, payload: object) -> str:
        """Invoke *trigger* by hand, as the admin, with any JSON: the new event's id."""
        known = self._triggers.events.get(trigger)
        if known is None:
            raise Refused(f"not-exists: event trigger {trigger} does not exist")
        if not known.enable_manual:
            raise Refused(f"unexpected: manual mode is not enabled for event trigger {trigger}")
        trace_context = {"trace_id": secrets.token_hex(16), "span_id": secrets.token_hex(8)}
        with self._connected() as connection, connection.transaction():
            connection.execute(
                "SELECT set_config('hasura.user', %s, true), "
                "set_config('hasura.tracecontext', %s, true)",
                [json.dumps({"x-hasura-role": "admin"}), json.dumps(trace_context)],
            )
            [(event_id,)] = connection.execute(
                "SELECT hdb_catalog.insert_event_log(%s, %s, %s, 'MANUAL', %s::json)",
                [*known.table, trigger, json.dumps({"old": None, "new": payload})],
            ).fetchall()
        return str(event_id)

    # What can be seen; also after the end.

    def events(self) -> list[LoggedEvent]:
        """The event log, oldest first."""
        return self._seen(
            LoggedEvent,
            "SELECT id, schema_name, table_name, trigger_name, payload, delivered, error, tries, "
            "created_at, locked,"
            " next_retry_at, archived FROM hdb_catalog.event_log ORDER BY created_at, id",
        )

    def invocations(self) -> list[Invocation]:
        """The attempts at events of tables, oldest first."""
        return self._seen(
            Invocation,
            "SELECT event_id, status, request, response, created_at"
            " FROM hdb_catalog.event_invocation_logs ORDER BY created_at",
        )

    def cron_events(self) -> list[CronEvent]:
        """What cron triggers did and plan, in the order of its times."""
        return self._seen(
            CronEvent,
            "SELECT id, trigger_name, scheduled_time, status, tries, next_retry_at"
            " FROM hdb_catalog.hdb_cron_events ORDER BY scheduled_time",
        )

    def cron_invocations(self) -> list[Invocation]:
        """The attempts at cron events, oldest first."""
        return self._seen(
            Invocation,
            "SELECT event_id, status, request, response, created_at"
            " FROM hdb_catalog.hdb_cron_event_invocation_logs ORDER BY created_at",
        )

    @property
    def in_flight(self) -> int:
        """How many events this engine has fetched and not finished."""
        with self._changed:
            return len(self._locked)

    def idle(self) -> bool:
        """Whether this engine has nothing in flight, and no engine, living or dead,
        holds a lock."""
        if self.in_flight:
            return False
        with self._connected() as connection:
            [(idle,)] = connection.execute(
                "SELECT NOT EXISTS (SELECT FROM hdb_catalog.event_log"
                " WHERE locked IS NOT NULL AND NOT delivered AND NOT error AND NOT archived)"
            ).fetchall()
        return bool(idle)

    def next_due_at(self) -> float | None:
        """UNIX seconds, by its clock, from when the earliest undelivered event may be fetched: a
        locked one when its lock expires. None: none waits."""
        with self._connected() as connection:
            [(due_at,)] = connection.execute(
                _NEXT_DUE, {"triggers": list(self._triggers.events)}
            ).fetchall()
        return None if due_at is None else float(due_at)

    # Events of tables.

    def _deliver_events(self) -> None:
        batch = self._fetched()
        while not self._stopping.is_set():
            if not batch:
                self._stopping.wait(self._fetch_interval_seconds)
            # The next is fetched while this one is worked on, so that up to twice the batch is
            # locked.
            upcoming = self._prefetcher.submit(self._fetched)
            for event in batch:
                if not self._slot_taken():
                    break
                self._workers.submit(self._worked, event)
            batch = upcoming.result()

    def _slot_taken(self) -> bool:
        """Wait for a place in the pool. False: this engine stops."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or self._delivering < self._pool_size
            )
            if self._stopping.is_set():
                return False
            self._delivering += 1
            return True

    def _fetched(self) -> Sequence[_Fetched]:
        triggers = list(self._triggers.events)
        if not triggers or self._stopping.is_set():
            return ()
        try:
            with (
                self._statement() as connection,
                connection.cursor(row_factory=class_row(_Fetched)) as cursor,
            ):
                cursor.execute(
                    _FETCH,
                    {
                        "ahead": self._clock_ahead_seconds(),
                        "limit": self._batch_size,
                        "triggers": triggers,
                    },
                )
                batch = cursor.fetchall()
                with self._changed:
                    self._locked.update(event.id for event in batch)
        except _Ended:
            return ()
        except psycopg.Error as error:
            log.warning("events could not be fetched: %s", error)
            return ()
        return batch

    def _worked(self, event: _Fetched) -> None:
        try:
            with self._finishing(event.id):
                self._deliver(event)
        finally:
            with self._changed:
                self._delivering -= 1
                self._changed.notify_all()

    def _deliver(self, event: _Fetched) -> None:
        trigger = self._triggers.events.get(event.trigger_name)
        if trigger is None or trigger.table != (event.schema_name, event.table_name):
            self._run(_POSTPONE, id=event.id, wait=UNKNOWN_SECONDS)
            return
        body = encode(
            {
                "created_at": local_time(event.created_at),
                "delivery_info": {"current_retry": event.tries, "max_retries": trigger.num_retries},
                "event": parse(event.payload),
                "id": event.id,
                "table": {"name": event.table_name, "schema": event.schema_name},
                "trigger": {"name": trigger.name},
            }
        )
        attempt = self._attempted(trigger, body, event.tries, version="2")
        self._run(_RECORD[attempt.outcome], id=event.id, trigger=trigger.name, **attempt.values)

    # Cron events.

    def _deliver_cron_events(self) -> None:
        while not self._stopping.is_set():
            try:
                self._plan_cron_events()
                for due in self._due():
                    if not self._stopping.is_set():
                        with self._finishing(due.id):
                            self._deliver_due(due)
            except _Ended:
                return
            except psycopg.Error as error:
                log.warning("cron events could not be delivered: %s", error)
            self._stopping.wait(self._cron_interval_seconds)

    def _plan_cron_events(self) -> None:
        for trigger in self._triggers.crons.values():
            [(planned, last)] = self._run(_CRON_PLAN, trigger=trigger.name)
            if planned < _CRON_PLANNED:
                self._run(_CRON_INSERT, trigger=trigger.name, times=list(_times(trigger, last)))

    def _due(self) -> Sequence[_Due]:
        triggers = list(self._triggers.crons)
        if not triggers:
            return ()
        with (
            self._statement() as connection,
            connection.cursor(row_factory=class_row(_Due)) as cursor,
        ):
            cursor.execute(
                _CRON_FETCH, {"ahead": self._clock_ahead_seconds(), "triggers": triggers}
            )
            batch = cursor.fetchall()
            with self._changed:
                self._locked.update(due.id for due in batch)
        return batch

    def _deliver_due(self, due: _Due) -> None:
        trigger = self._triggers.crons.get(due.trigger_name)
        if trigger is None:
            return
        if due.late_seconds > trigger.tolerance_seconds:
            self._run(_CRON_DEAD, id=due.id)
            return
        body = encode(
            {
                "id": due.id,
                "name": trigger.name,
                "payload": parse(json.dumps(trigger.payload)),
                "scheduled_time": utc_time(due.scheduled_time),
            }
            | ({} if trigger.comment is None else {"comment": trigger.comment})
        )
        attempt = self._attempted(trigger, body, due.tries, version="1")
        self._run(_CRON_RECORD[attempt.outcome], id=due.id, **attempt.values)

    # Both.

    def _attempted(
        self, trigger: Trigger | CronTrigger, body: str, tries: int, *, version: str
    ) -> _Attempt:
        """Post *body* once. *tries* are those before this one; *version* is that of the invocation
        log."""
        headers = with_own_headers(trigger.headers)
        request = json.dumps([header.logged() for header in headers])
        values: dict[str, object] = {
            "request": f'{{"headers":{request},"payload":{body},"version":"{version}"}}'
        }
        asked_seconds = None
        try:
            answer = self._http.post(
                trigger.webhook, headers, body.encode(), timeout_seconds=trigger.timeout_seconds
            )
        except NoAnswer as why:
            message = json.dumps({"message": str(why), "type": "http_exception"})
            values |= {
                "status": None,
                "response": _logged("client_error", {"message": message}, version),
            }
        else:
            told = answer.logged_body()
            values["status"] = answer.status
            if answer.delivered:
                headers_told = [{"name": name, "value": value} for name, value in answer.headers]
                response = {"body": told, "headers": headers_told, "status": answer.status}
                return _Attempt(
                    "delivered",
                    values | {"response": _logged("webhook_response", response, version)},
                )
            values["response"] = _logged("client_error", {"message": told}, version)
            asked_seconds = retry_after_seconds(answer)
        # What the webhook asks for counts also when the retries are used up.
        if asked_seconds is None and tries >= trigger.num_retries:
            return _Attempt("error", values)
        return _Attempt("retry", values | {"wait": asked_seconds or trigger.interval_seconds})

    @contextmanager
    def _finishing(self, event_id: str) -> Iterator[None]:
        """Work on an event, which is out of this engine's hands afterwards, whatever
        became of it."""
        try:
            yield
        except _Ended:
            pass
        except psycopg.Error as error:
            # It stays locked: an event of a table until its lock expires, a cron event until an
            # engine starts.
            log.warning("event %s could not be recorded: %s", event_id, error)
        except Exception:
            log.exception("event %s could not be delivered", event_id)
        finally:
            with self._changed:
                self._locked.discard(event_id)

    def _run(self, statement: str, /, **values: object) -> list[tuple[Any, ...]]:
        """Run one statement, by this engine's clock."""
        with self._statement() as connection:
            cursor = connection.execute(statement, {"ahead": self._clock_ahead_seconds(), **values})
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        """A connection, to run one statement on, unless this engine has ended."""
        try:
            connection = self._lent()
        except PoolClosed:
            raise _Ended from None
        try:
            with self._gate:
                if self._ended:
                    raise _Ended
                self._statements += 1
            try:
                yield connection
            finally:
                with self._gate:
                    self._statements -= 1
                    self._gate.notify_all()
        finally:
            self._pool.putconn(connection)

    def _lent(self) -> Connection:
        """A connection of the pool's whose server has not hung up.

        The pool's own check sleeps a second after each one that is gone, and then waits on when it
        has been closed meanwhile.
        """
        until = time.monotonic() + _DATABASE_SECONDS_MAX
        while True:
            connection = self._pool.getconn(until - time.monotonic())
            try:
                _still_there(connection)
            except psycopg.OperationalError:
                connection.close()
                self._pool.putconn(connection)  # which puts a new one in its place
            else:
                return connection

    def _connected(self) -> Connection:
        return psycopg.connect(self._database_url, autocommit=True)

    def _seen(self, row: type[Row], query: LiteralString) -> list[Row]:
        with (
            self._connected() as connection,
            connection.cursor(row_factory=class_row(row)) as cursor,
        ):
            return cursor.execute(query).fetchall()


def _still_there(connection: Connection) -> None:
    """Raise where the server has hung up; a look at the socket, no question."""
    connection.pgconn.consume_input()  # its last words, if any
    connection.pgconn.consume_input()


def _join(loop: threading.Thread, seconds: float) -> None:
    if loop.is_alive():
        loop.join(max(0.0, seconds))


def _logged(kind: str, content: Mapping[str, object], version: str) -> str:
    return json.dumps({"type": kind, "data": content, "version": version})


def _times(trigger: CronTrigger, after: datetime) -> Iterator[datetime]:
    """The next times of *trigger*."""
    for _ in range(_CRON_PLANNED):
        after = trigger.cron.after(after)
        yield after


class _ClockFile:
    """How far to be ahead, as a file says; as it said last while it is being written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._said_seconds = 0.0

    def __call__(self) -> float:
        with suppress(OSError, ValueError):
            self._said_seconds = float(self._file.read_text("ascii"))
        return self._said_seconds


def main() -> int:
    """Run it alone until SIGTERM or Ctrl-C, which shut it down gracefully."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.hasura", description="Hasura's event delivery."
    )
    parser.add_argument("--database-url", required=True, help="postgresql://…")
    parser.add_argument(
        "--project", required=True, type=Path, help="the folder of a Hasura CLI project"
    )
    parser.add_argument("--migrate", action="store_true", help="apply its migrations first")
    parser.add_argument(
        "--fetch-interval", type=float, default=1.0, metavar="SECONDS", help="default: 1"
    )
    parser.add_argument(
        "--pool-size", type=int, default=100, help="deliveries at a time (default: 100)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=100, help="events fetched at a time (default: 100)"
    )
    parser.add_argument(
        "--shutdown-timeout", type=float, default=60.0, metavar="SECONDS", help="default: 60"
    )
    parser.add_argument(
        "--clock-ahead",
        type=Path,
        metavar="FILE",
        help="holds how many seconds to be ahead; read whenever time counts",
    )
    parser.add_argument(
        "--graphql-port",
        type=int,
        metavar="PORT",
        help="answer GraphQL there, 0 being a free one (default: nowhere); the admin's secret is "
        "HASURA_GRAPHQL_ADMIN_SECRET of the environment",
    )
    asked = parser.parse_args()
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    try:
        if asked.migrate:
            for name in migrate(asked.database_url, asked.project):
                print(f"applied {name}", flush=True)
        with Hasura(
            database_url=asked.database_url,
            project=asked.project,
            environ=os.environ,
            fetch_interval_seconds=asked.fetch_interval,
            pool_size=asked.pool_size,
            batch_size=asked.batch_size,
            shutdown_seconds=asked.shutdown_timeout,
            clock_ahead_seconds=_ClockFile(asked.clock_ahead) if asked.clock_ahead else lambda: 0.0,
            graphql_port=asked.graphql_port,
            admin_secret=os.environ.get("HASURA_GRAPHQL_ADMIN_SECRET"),
        ) as hasura:
            print(f"Hasura's event delivery, for {asked.project}", flush=True)
            if asked.graphql_port is not None:
                print(f"GraphQL: {hasura.graphql.url}", flush=True)
            ended.wait()
    except (InconsistentMetadata, MetadataError) as faults:
        print(faults, file=sys.stderr)
        return 1
    except psycopg.Error as error:
        print(f"The database cannot be used: {str(error).strip()}", file=sys.stderr)
        return 1
    except OSError as taken:
        print(f"{taken.strerror}. Give another one with --graphql-port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
