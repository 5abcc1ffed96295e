"""A whole site as processes: functions behind Hasura's delivery, on one PostgreSQL, with a
ServiceNow and a mailbox.

Rows are written by SQL; Hasura's triggers, engines and retries do the rest. Everything goes by one
shared clock, and `settle` skips what would only be waiting: it moves the clock on to the next thing
that is due, whenever nothing is under way.
"""

import json
import os
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import psycopg.rows

from function.ledger.database import Database
from sandbox.catalog import migrate
from sandbox.hasura import Hasura
from sandbox.mailbox import Mailbox
from sandbox.servicenow import ServiceNow
from tests.faults.clock import SharedClock
from tests.processes import HERE, Function, serve_one_who_left
from tests.world import PASSWORD, SECRET, Answered

PROJECT = HERE / "hasura"
KILLABLE = "tests/faults/killable.py"
# Of the settings below: DEADLINE_SECONDS, SERVICENOW_TIMEOUT_SECONDS and ten.
LEASE_SECONDS = 62.0
# The most that ServiceNow takes to commit what it was sent: its limit for a transaction (facts:
# KB0546297).
COMMITS_WITHIN_SECONDS = 59.0
# Skipping goes in steps, for what is due at the same time may have a reason to come later.
JUMP_SECONDS = 0.01


def project_with(folder: Path, *, num_retries: int) -> Path:
    """The shipped project with other retries for its table triggers, in *folder*."""
    project = folder / "hasura"
    shutil.copytree(PROJECT, project, dirs_exist_ok=True)
    for file in (project / "metadata" / "databases").rglob("*.yaml"):
        file.write_text(
            re.sub(r"num_retries: \d+", f"num_retries: {num_retries}", file.read_text())
        )
    return project


def has_stopped(pid: int) -> bool:
    """Whether that process is stopped, or ended."""
    try:
        return psutil.Process(pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    except psutil.NoSuchProcess:
        return True


class Site:
    """*functions* processes, each with a Hasura engine that posts to it; a context manager.

    *database_url* is an empty PostgreSQL database. *settings* are the functions' own, over usual
    ones; *wall_ahead_seconds* has each function's host go wrong by so much; *spare_the_first*: no
    order is for that one. The first engine answers GraphQL where *graphql_port* is given.
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        functions: int = 2,
        rules: str | None = None,
        project: Path = PROJECT,
        honours_sys_id: bool = True,
        fetch_interval_seconds: float = 0.05,
        wall_ahead_seconds: Sequence[float] = (),
        spare_the_first: bool = False,
        graphql_port: int | None = None,
        admin_secret: str | None = None,
        **settings: str,
    ) -> None:
        self.database_url = database_url
        self.folder = folder
        self.clock = SharedClock(folder / "clock")
        self.servicenow = ServiceNow(
            honours_sys_id=honours_sys_id, password=PASSWORD, clock=self.clock.now
        )
        self.mailbox = Mailbox()
        self.functions: list[Function] = []
        self.engines: list[Hasura] = []
        self._count = functions
        self._rules = rules
        self._project = project
        self._fetch_interval_seconds = fetch_interval_seconds
        self._wall_ahead_seconds = wall_ahead_seconds
        self._spare_the_first = spare_the_first
        self._graphql_port = graphql_port
        self._admin_secret = admin_secret
        self._settings = settings
        self._before: set[str] = set()
        self._resting: deque[psycopg.Connection[dict[str, Any]]] = deque()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._hang_up)
            stack.enter_context(self.servicenow)
            stack.enter_context(self.mailbox)
            database = Database(self.database_url)
            database.migrate()
            database.close()
            migrate(self.database_url, self._project)
            rules = self.folder / "rules.yaml"
            rules.write_text(
                self._rules if self._rules is not None else (HERE / "rules.yaml").read_text()
            )
            for number in range(self._count):
                ahead = self._wall_ahead_seconds[number] if self._wall_ahead_seconds else 0.0
                environ = self.environ | {"WALL_AHEAD_SECONDS": str(ahead)}
                if self._spare_the_first and number == 0:
                    environ["TRIAL_SPARED"] = "yes"
                function = Function(environ, self.folder, source=KILLABLE)
                function.start(wait=False)
                stack.callback(function.kill)
                self.functions.append(function)
            for function in self.functions:
                function.wait_until_ready()
            stack.callback(self._stop_engines)
            for function in self.functions:
                engine = self.engine(function)
                engine.__enter__()
                self.engines.append(engine)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def engine(self, function: Function) -> Hasura:
        """A Hasura that posts to *function*; not started."""
        return Hasura(
            database_url=self.database_url,
            project=self._project,
            environ={"SERVICENOW_FUNCTION_URL": function.url, "SERVICENOW_FUNCTION_SECRET": SECRET},
            fetch_interval_seconds=self._fetch_interval_seconds,
            shutdown_seconds=2.0,
            clock_ahead_seconds=self.clock.ahead,
            graphql_port=self._graphql_port if function is self.functions[0] else None,
            admin_secret=self._admin_secret,
        )

    def start_engine(self, number: int) -> None:
        """A new engine in the place of one that has ended."""
        engine = self.engine(self.functions[number])
        engine.__enter__()
        self.engines[number] = engine

    def _stop_engines(self) -> None:
        for engine in self.engines:
            engine.kill()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SOURCE_NAME": "shop",
            "SERVICENOW_INSTANCE_URL": self.servicenow.url,
            "SERVICENOW_USERNAME": "svc.hasura",
            "SERVICENOW_PASSWORD": PASSWORD,
            "SERVICENOW_TIMEOUT_SECONDS": "2",
            "HASURA_EVENT_SECRETS": SECRET,
            "DATABASE_URL": self.database_url,
            "RULES_FILE": str(self.folder / "rules.yaml"),
            "SMTP_URL": self.mailbox.url,
            "NOTIFY_FROM": "tickets@example.com",
            "NOTIFY_TO": "ops@example.com",
            "LOG_LEVEL": "WARNING",
            "TRIAL_FOLDER": str(self.folder),
            "PYTHONPATH": str(HERE),
            **self._settings,
        }

    # Rows and events

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        connection = self._connected()
        try:
            cursor = connection.execute(statement, values)
            rows = cursor.fetchall() if cursor.description else []
        except BaseException:
            connection.close()
            raise
        self._resting.append(connection)
        return rows

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        """One that rests and is still there, or a new one, which costs PostgreSQL a process.

        Nothing is prepared on it: tables are altered between statements.
        """
        while True:
            try:
                connection = self._resting.pop()
            except IndexError:
                return psycopg.connect(
                    self.database_url,
                    autocommit=True,
                    row_factory=psycopg.rows.dict_row,
                    prepare_threshold=None,
                )
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError:
                connection.close()
            else:
                return connection

    def _hang_up(self) -> None:
        while self._resting:
            self._resting.pop().close()

    def outage(self, title: str = "Checkout is down", severity: str = "critical") -> int:
        """Insert a row; its id."""
        rows = self.sql(
            "INSERT INTO outages (title, severity) VALUES (%s, %s) RETURNING id", title, severity
        )
        return int(rows[0]["id"])

    def tickets(self, key: object) -> list[dict[str, str]]:
        """The incidents of one row, oldest generation first."""
        mark = f"shop:outage:{key}"
        return [row for row in self.servicenow.rows("incident") if row["correlation_id"] == mark]

    def events(self) -> list[dict[str, Any]]:
        """Hasura's event_log, oldest first."""
        return self.sql("SELECT * FROM hdb_catalog.event_log ORDER BY created_at, id")

    def deliveries(self) -> list[dict[str, Any]]:
        """What Hasura logged of all deliveries, oldest first."""
        return self.sql("SELECT * FROM hdb_catalog.event_invocation_logs ORDER BY created_at")

    def invocations(self, event_id: str) -> list[dict[str, Any]]:
        """What Hasura logged of an event's deliveries, oldest first."""
        return self.sql(
            "SELECT * FROM hdb_catalog.event_invocation_logs WHERE event_id = %s "
            "ORDER BY created_at",
            event_id,
        )

    def in_seconds(self, seconds: float) -> datetime:
        """A moment, by the shared clock."""
        return datetime.fromtimestamp(self.clock.now() + seconds, UTC)

    def undelivered(self) -> list[dict[str, Any]]:
        """The events, since all was well last, that Hasura does not call delivered."""
        return [
            event
            for event in self.events()
            if not event["delivered"] and event["id"] not in self._before
        ]

    def calls(self) -> list[str]:
        """What ServiceNow was asked since the last time of asking, as ``METHOD table``."""
        return [f"{call.method} {call.table}" for call in self.servicenow.take_calls()]

    # Faults

    def order(self, what: str, place: str) -> Callable[[], bool]:
        """Have the next function that comes to *place* end (``kill``) or stop (``stop``) there;
        says if it has."""
        done = self.folder / f"{what}-at-{place}.done"
        done.unlink(missing_ok=True)
        (self.folder / f"{what}-at-{place}").touch()
        return done.exists

    def order_anew(self, what: str, place: str) -> bool:
        """The same, unless nobody has met the last order of that kind yet: False then."""
        if (self.folder / f"{what}-at-{place}").exists():
            return False
        self.order(what, place)
        return True

    def revoke_orders(self, what: str = "*") -> int:
        """What nobody has come to yet is not to be any more; how many orders that were."""
        revoked = [file for file in self.folder.glob(f"{what}-at-*") if file.suffix != ".done"]
        for file in revoked:
            file.unlink(missing_ok=True)
        return len(revoked)

    def wake(self) -> None:
        """Wake every function that was stopped. One that has come to its place and not stopped yet
        is waited for: woken before, it would stop for good."""
        for file in self.folder.glob("stop-at-*.done"):
            if pid := file.read_text():
                self.until(partial(has_stopped, int(pid)))
                file.write_text("")
        for function in self.functions:
            for process in [psutil.Process(function.pid), *psutil.Process(function.pid).children()]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    # Time

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until *condition* holds, in real time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "what was waited for did not come"
            time.sleep(0.01)

    def settle(self, seconds: float = 60.0) -> None:
        """Let everything go on until no event waits, in *seconds* of real time; waiting itself is
        skipped."""
        end = time.monotonic() + seconds
        while True:
            assert time.monotonic() < end, (
                f"not settled: {[e for e in self.events() if not e['delivered']][:5]}"
            )
            if self.skip_waiting():
                return
            time.sleep(0.02)

    def let_lease_end(self, seconds: float = LEASE_SECONDS) -> None:
        """Whoever was killed or stopped keeps its key's lease for *seconds*; they are over now."""
        self.until(lambda: self.servicenow.in_flight == 0)
        self._pass(seconds + 1.0)

    def _pass(self, seconds: float) -> None:
        """Time goes by: what is committed late is committed when its time comes, and reads catch up
        with writes."""
        self.servicenow.commit_now(due_by=self.clock.now() + seconds)
        self.clock.advance(seconds)
        self.servicenow.catch_up()

    def settle_until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Let everything go on, without waiting, until *condition* holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "what was waited for did not come"
            self.skip_waiting()
            time.sleep(0.01)

    def heal(self, seconds: float = 60.0) -> None:
        """No faults any more; everything comes to rest, what is in doubt is looked at. *seconds* of
        real time."""
        self._end_faults()
        self.settle(seconds)
        self._pass(900)
        self.housekeep()
        self.settle(seconds)
        self._before = {event["id"] for event in self.events()}

    def _end_faults(self) -> None:
        self.servicenow.disarm()
        self.revoke_orders()
        self.wake()

    def skip_waiting(self) -> bool:
        """Move the clock on to the next event that is due, if nothing is under way; True when none
        is left."""
        if self._engines_work():
            return False
        try:
            due = self._next_due_at()
            # Meanwhile an event may have been fetched, or fetched and finished: then its lock was
            # what we saw.
            if self._engines_work() or self._next_due_at() != due or not self._at_rest():
                return False
        except psycopg.OperationalError:  # the database is being restarted
            return False
        if due is not None and due > self.clock.now():
            self._pass(due - self.clock.now() + JUMP_SECONDS)
        return due is None

    def _engines_work(self) -> bool:
        return any(engine.in_flight for engine in self.engines)

    def _at_rest(self) -> bool:
        """Nothing is under way, be it for an engine that is gone: a function works on, and may not
        know it yet.

        Without an engine, nothing new is begun, and no event's row changes: so this is asked once,
        last. It reads the table of all sockets of the machine, which takes milliseconds.
        """
        return (
            not self._engines_work()
            and self.servicenow.in_flight == 0
            and not serve_one_who_left(self.functions)
        )

    def _next_due_at(self) -> float | None:
        """UNIX seconds, by the shared clock, of the next event that is neither delivered nor given
        up."""
        [row] = self.sql(
            """
            SELECT extract(epoch FROM min(greatest(
                coalesce(next_retry_at, 'epoch') AT TIME ZONE current_setting('TimeZone'),
                coalesce(locked + interval '30 minutes', 'epoch')
            ))) AS due FROM hdb_catalog.event_log WHERE NOT (delivered OR error OR archived)
            """
        )
        return float(row["due"]) if row["due"] is not None else None

    def housekeep(self) -> Answered:
        """The cron event of the housekeeping that is shipped in metadata, at the first function."""
        return self.send_cron("servicenow_housekeeping")

    def send_cron(self, name: str, *, function: int = 0) -> Answered:
        """A cron event, at the function of that number."""
        body = {
            "id": os.urandom(16).hex(),
            "name": name,
            "payload": None,
            "scheduled_time": "2026-01-01T00:00:00Z",
        }
        return self.functions[function].send(json.dumps(body).encode())
