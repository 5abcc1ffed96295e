"""`make soak`: thousands of rows live through faults at every step, and at the end everything is
counted.

Functions, Hasura's delivery and PostgreSQL are real processes and a real database; rows are written
by SQL. The seed decides what happens to each row and which faults there are; how processes
interleave is the machine's own.

python -m tests.faults.soak [--rows 10000] [--events 30000] [--seed N] [--functions 3] [--no-faults]
[--wipe]

The exit status is 1 when something was lost, duplicated or stale (with --wipe: duplicated).
"""

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import psycopg

from function.failpoints import FAILPOINTS
from sandbox.postgresql import PostgreSQL
from tests.faults.audit import Audit, audit
from tests.faults.site import COMMITS_WITHIN_SECONDS, Site
from tests.processes import HERE

ROWS: Final = 10_000
EVENTS_A_ROW: Final = 3
# So many rows are in the middle of their lives at one time.
ROWS_AT_ONCE: Final = 400
# Writers wait while so many events are due, or are put off for later: what is measured is the
# function, not a queue.
DUE_MAX: Final = 150
WAITING_MAX: Final = 1000
# On average, one fault in so many events.
EVENTS_A_FAULT: Final = 12
# Faults that met their calls all at once would look like one outage.
ARMED_MAX: Final = 2
DEADLINE_SECONDS: Final = "20"
TABLES: Final = ("ticket", "delivery", "alert", "hold", "table_traits")

# What ServiceNow does wrong, with weights, on the next call that it concerns.
CALL_FAULTS: Final[tuple[tuple[str, float, int], ...]] = (
    ("reset", 0, 6),
    ("commit_then_reset", 0, 10),
    ("commit_then_hang", 3, 3),
    ("commit_late", COMMITS_WITHIN_SECONDS, 8),
    ("commit_then_500", 0, 8),
    ("commit_then_403", 0, 6),
    ("error_500", 0, 6),
    ("adc_502", 0, 4),
    ("unavailable_503", 0, 3),
    ("semaphore_429", 0, 4),
    ("rate_limit_429", 20, 1),
    ("session_sync_202", 0, 4),
    ("truncated_200", 0, 6),
    ("partial_200", 0, 6),
    ("hibernating_html_200", 0, 1),
    ("sso_html_200", 0, 1),
    ("created_without_sys_id", 0, 2),
    ("another_record", 0, 4),
    ("slow", 0.5, 4),
    ("stale_read", 0, 3),
)
# What rows do, with weights.
CHANGES: Final = {
    "title": 28,
    "severity": 14,
    "fix": 28,
    "twice": 7,
    "touch": 7,
    "delete": 5,
    "replace": 8,
    "swap": 5,
}
# Two rows cannot exchange their keys in one statement while each is checked by itself; and a
# foreign key cannot point to what is checked later.
SWAPPABLE: Final = (
    "ALTER TABLE outage_comments DROP CONSTRAINT outage_comments_outage_id_fkey",
    (
        "ALTER TABLE outages DROP CONSTRAINT outages_pkey, ADD PRIMARY KEY (id) DEFERRABLE "
        "INITIALLY IMMEDIATE"
    ),
)
# What else goes wrong, with weights.
SITE_FAULTS: Final[tuple[tuple[str, int], ...]] = (
    ("a worker killed at a step", 14),
    ("a function killed whole, and started again", 2),
    ("the database's connections cut", 4),
    ("a Hasura engine killed", 1),
    ("a Hasura engine shut down, its events unlocked", 2),
    ("a delivered event sent again (Redeliver)", 8),
    ("somebody closes a resolved ticket", 4),
)


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    rows: int
    events: int
    seed: int
    functions: int
    faults: bool
    wipe: bool
    restarts: int
    freezes: int
    events_a_fault: float = EVENTS_A_FAULT
    due_max: int = DUE_MAX


@dataclass(frozen=True)
class Change:
    """One transaction of the app: its SQL, how many events it makes, and a condition that holds
    once it is committed.

    *deserves*: from now on, at the latest, the row deserves a ticket.
    """

    statement: str
    events: int
    done: str
    deserves: bool = False


@dataclass
class Row:
    """A row's life still to come."""

    id: int
    steps: deque[Change] = field(default_factory=deque)


def lives(plan: Plan) -> Iterator[Row]:
    """Each row's life, from the seed: the events of all together are about *plan.events*."""
    draw = random.Random(plan.seed)
    left = plan.events
    for number in range(1, plan.rows + 1):
        wanted = min(
            left, max(1, round(left / (plan.rows - number + 1) + draw.choice((-1, 0, 0, 1))))
        )
        left -= wanted
        yield _life(number, wanted, draw, last=number == plan.rows)


def _life(number: int, events: int, draw: random.Random, *, last: bool) -> Row:
    severity = draw.choices(("critical", "major", "minor"), (5, 4, 1))[0]
    row = Row(number)
    row.steps.append(_insert(number, f"Outage {number}.0", severity))
    made, exists, fixed = 1, True, False
    while made < events:
        what, weights = zip(*CHANGES.items(), strict=True)
        what = draw.choices(what, weights)[0]
        title = f"Outage {number}.{made}"
        there = f"EXISTS (SELECT 1 FROM outages WHERE id = {number} AND title = '{title}')"
        change = Change(f"UPDATE outages SET title = '{title}' WHERE id = {number}", 1, there)
        if not exists:
            change, exists, fixed = (
                _insert(number, title, draw.choice(("critical", "major", "minor"))),
                True,
                False,
            )
        elif what == "fix":
            fixed = not fixed
            status = "fixed" if fixed else "open"
            statement = (
                f"UPDATE outages SET status = '{status}', title = '{title}' WHERE id = {number}"
            )
            change = Change(statement, 1, there)
        elif what == "severity":
            severity = draw.choice([s for s in ("critical", "major", "minor") if s != severity])
            statement = (
                f"UPDATE outages SET severity = '{severity}', title = '{title}' WHERE id = {number}"
            )
            change = Change(statement, 1, there)
        elif what == "twice" and made + 2 <= events:
            once = f"UPDATE outages SET title = '{title}, at first' WHERE id = {number}"
            change = Change(f"{once}; {change.statement}", 2, there)
        elif what == "touch" and not fixed:
            # Read only when the ticket is resolved: until then, an event that changes nothing.
            note = f"resolution = 'note {made}'"
            statement = f"UPDATE outages SET {note} WHERE id = {number}"
            change = Change(
                statement, 1, f"EXISTS (SELECT 1 FROM outages WHERE id = {number} AND {note})"
            )
        elif what == "delete":
            gone = f"NOT EXISTS (SELECT 1 FROM outages WHERE id = {number})"
            change, exists = Change(f"DELETE FROM outages WHERE id = {number}", 1, gone), False
        elif what == "replace" and made + 2 <= events:
            # As a row moves to another partition: deleted and inserted at one time.
            severity = draw.choices(("critical", "major", "minor"), (5, 4, 1))[0]
            born = _insert(number, title, severity)
            statement = f"DELETE FROM outages WHERE id = {number}; {born.statement}"
            change, fixed = Change(statement, 2, there, born.deserves), False
        elif what == "swap" and made + 2 <= events and not last:
            change = _swap(number, number + 1)
        row.steps.append(change)
        made += change.events
    return row


def _insert(number: int, title: str, severity: str) -> Change:
    return Change(
        f"INSERT INTO outages (id, title, severity) VALUES ({number}, '{title}', '{severity}')",
        1,
        f"EXISTS (SELECT 1 FROM outages WHERE id = {number} AND title = '{title}')",
        deserves=severity != "minor",
    )


def _swap(one: int, other: int) -> Change:
    """Two rows exchange their keys, where both are there."""
    return Change(
        f"UPDATE outages SET id = {one + other} - id WHERE id IN ({one}, {other}) "
        f"AND (SELECT count(*) FROM outages WHERE id IN ({one}, {other})) = 2",
        2,
        # where its answer was lost, it may or may not have been done: both are lives that rows live
        "true",
    )


class Soak:
    """One run."""

    def __init__(self, plan: Plan, site: Site, server: PostgreSQL) -> None:
        self._plan = plan
        self._site = site
        self._server = server
        self._draw = random.Random(plan.seed + 1)
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.written_at: dict[int, float] = {}
        self.seen_at: dict[str, float] = {}
        self.memory_bytes: list[int] = []
        self.events = 0
        self.rows: set[int] = set()
        self.wiped_at_event = 0
        self._last_number = ""
        self._stopped = threading.Event()
        self.trouble: list[BaseException] = []

    def go(self) -> None:
        """Write all rows, with faults; then let everything come to rest without any."""
        watchers = [
            threading.Thread(target=self._guard(work), name=work.__name__)
            for work in (
                self._watch,
                self._keep_time,
                *((self._harm,) if self._plan.faults else ()),
            )
        ]
        for watcher in watchers:
            watcher.start()
        try:
            self._write()
        finally:
            self._stopped.set()
            for watcher in watchers:
                watcher.join()
        if self.trouble:
            raise self.trouble[0]
        self._heal()

    def _guard(self, work: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # the run must end with it
                self.trouble.append(error)

        return guarded

    # Rows

    def _write(self) -> None:
        draw = random.Random(self._plan.seed + 2)
        source = lives(self._plan)
        alive: list[Row] = []
        more = True
        while (more or alive) and not self.trouble:
            while more and len(alive) < ROWS_AT_ONCE:
                row = next(source, None)
                more = row is not None
                if row is not None:
                    alive.append(row)
            if not alive:
                break
            while self._is_too_much() and not self.trouble:
                time.sleep(0.05)
            for row in draw.sample(alive, min(len(alive), 50)):
                self._step(row)
                if not row.steps:
                    alive.remove(row)
            if self._plan.wipe and not self.wiped_at_event and self.events >= self._plan.events / 2:
                self._wipe()

    def _step(self, row: Row) -> None:
        change = row.steps.popleft()
        while True:
            try:
                with psycopg.connect(self._site.database_url) as connection:
                    connection.execute(change.statement)
                break
            except psycopg.OperationalError:
                # The app's own connection was cut, before its transaction was committed or after:
                # it looks.
                self._patience()
                if self._committed(change):
                    break
        self.events += change.events
        self.rows.add(row.id)
        if change.deserves:
            self.written_at.setdefault(row.id, self._site.clock.now())

    def _committed(self, change: Change) -> bool:
        """Whether a change whose answer was lost was committed."""
        while True:
            try:
                return bool(self._site.sql(f"SELECT 1 WHERE {change.done}"))
            except psycopg.OperationalError:
                self._patience()

    def _patience(self) -> None:
        """The database is away for a moment; for good where what should bring it back
        has failed."""
        if self.trouble:
            raise self.trouble[0]
        time.sleep(0.2)

    def _is_too_much(self) -> bool:
        waiting, due = self._waiting()
        return waiting > WAITING_MAX or due > self._plan.due_max

    def _waiting(self) -> tuple[int, int]:
        """How many events wait, and how many of them for nothing but their turn."""
        try:
            [row] = self._site.sql(
                "SELECT count(*) AS waiting, count(*) FILTER (WHERE next_retry_at IS NULL) AS due "
                "FROM hdb_catalog.event_log WHERE NOT (delivered OR error OR archived)"
            )
        except psycopg.OperationalError:
            return WAITING_MAX + 1, 0
        return int(row["waiting"]), int(row["due"])

    # Time and measure

    def _keep_time(self) -> None:
        """While nothing at all is under way, waiting is skipped."""
        while not self._stopped.is_set():
            self._site.skip_waiting()
            self._stopped.wait(0.02)

    def _watch(self) -> None:
        """See tickets come, count calls, measure memory, and show progress."""
        shown = measured = time.monotonic()
        while not self._stopped.is_set():
            self._look()
            if time.monotonic() - measured > 2.0:
                measured = time.monotonic()
                self.memory_bytes.append(memory_of(self._site.functions[0].pid))
            if time.monotonic() - shown > 10.0:
                shown = time.monotonic()
                self._show()
            self._stopped.wait(0.2)

    def _look(self) -> None:
        # Reads lag for a moment, not for hours.
        self._site.servicenow.catch_up()
        for call in self._site.servicenow.take_calls():
            self.calls[f"{call.method} {call.table}"] += 1
        new = self._site.servicenow.tables.select(
            "incident", f"number>{self._last_number}^ORDERBYnumber"
        )
        now = self._site.clock.now()
        for incident in new:
            self._last_number = incident["number"]
            self.seen_at.setdefault(incident["correlation_id"], now)

    def _show(self) -> None:
        print(
            f"  {len(self.rows):6} rows, {self.events:6} events, {self._waiting()[0]:4} of them "
            f"waiting; {len(self.seen_at):6} tickets, {self.faults.total():5} faults",
            flush=True,
        )

    # Faults

    def _harm(self) -> None:
        freezing: threading.Thread | None = None
        restarts = [
            self._plan.events * (n + 1) // (self._plan.restarts + 1)
            for n in range(self._plan.restarts)
        ]
        freezes = [
            self._plan.events * (2 * n - 1) // (2 * self._plan.freezes + 1)
            for n in range(1, self._plan.freezes + 1)
        ]
        due = self._next_fault()
        while not self._stopped.is_set():
            if restarts and self.events >= restarts[0]:
                restarts.pop(0)
                self._restart_database()
            elif freezes and self.events >= freezes[0]:
                freezes.pop(0)
                freezing = threading.Thread(target=self._guard(self._freeze))
                freezing.start()
            elif self.events >= due and len(self._site.servicenow.armed()) < ARMED_MAX:
                due = self.events + self._next_fault()
                self._one_fault()
            else:
                self._stopped.wait(0.01)
        if freezing is not None:
            freezing.join()

    def _next_fault(self) -> float:
        return self._draw.expovariate(1 / self._plan.events_a_fault)

    def _one_fault(self) -> None:
        if self._draw.random() < 0.75:
            name, seconds, _ = self._draw.choices(
                CALL_FAULTS, [weight for _, _, weight in CALL_FAULTS]
            )[0]
            method = METHODS.get(name) or (
                self._draw.choice(("POST", "PATCH")) if name in COMMITTING else None
            )
            self._site.servicenow.arm(name, method=method, table="incident", seconds=seconds)
            self.faults[f"ServiceNow: {name}"] += 1
            return
        name, _ = self._draw.choices(SITE_FAULTS, [weight for _, weight in SITE_FAULTS])[0]
        if self._site_fault(name):
            self.faults[name] += 1

    def _site_fault(self, name: str) -> bool:
        # The first function lives through all of it: its memory is what is measured.
        victims = range(1, len(self._site.functions))
        match name:
            case "a worker killed at a step":
                return self._site.order_anew("kill", self._draw.choice(FAILPOINTS))
            case "a function killed whole, and started again":
                function = self._site.functions[self._draw.choice(victims)]
                function.kill()
                function.start(wait=False)
            case "the database's connections cut":
                return self._cut()
            case "a Hasura engine killed" | "a Hasura engine shut down, its events unlocked":
                self._replace_engine(self._draw.choice(victims), killed=name.endswith("killed"))
            case "a delivered event sent again (Redeliver)":
                return self._redeliver()
            case _:
                return self._close_one()
        return True

    def _cut(self) -> bool:
        try:
            self._site.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY "
                "random() LIMIT 4"
            )
        except psycopg.OperationalError:
            return False
        return True

    def _replace_engine(self, number: int, *, killed: bool) -> None:
        old = self._site.engines[number]
        old.kill() if killed else old.stop()
        self._site.start_engine(number)

    def _redeliver(self) -> bool:
        try:
            rows = self._site.sql(
                "SELECT id FROM hdb_catalog.event_log WHERE delivered ORDER BY created_at DESC "
                "OFFSET %s LIMIT 1",
                self._draw.randrange(200),
            )
            for row in rows:
                self._site.engines[0].redeliver(row["id"])
        except psycopg.OperationalError:
            return False
        return bool(rows)

    def _close_one(self) -> bool:
        resolved = self._site.servicenow.tables.select("incident", "state=6", limit=50)
        if resolved:
            self._site.servicenow.change(
                "incident", self._draw.choice(resolved)["sys_id"], state="7"
            )
        return bool(resolved)

    def _restart_database(self) -> None:
        """PostgreSQL is ended without a shutdown, and comes back by its log."""
        self._server.restart()
        self.faults["the database restarted"] += 1

    def _freeze(self) -> None:
        """A worker is stopped in the middle of a call, for longer than its lease, and woken."""
        frozen = self._site.order("stop", "before_call")
        end = time.monotonic() + 60
        while not frozen() and time.monotonic() < end and not self._stopped.is_set():
            time.sleep(0.02)
        if frozen():
            self._stopped.wait(float(DEADLINE_SECONDS) + 2 + 10 + 3)
            self._site.wake()
            self.faults["a worker frozen past its lease, and woken"] += 1

    def _wipe(self) -> None:
        while True:
            try:
                self._site.sql(f"TRUNCATE {', '.join(f'servicenow.{table}' for table in TABLES)}")
                break
            except psycopg.OperationalError:  # a deadlock with work under way, or a connection cut
                time.sleep(0.1)
        self.wiped_at_event = self.events
        print(f"  the ledger is wiped, after {self.events} events", flush=True)

    # The end

    def _heal(self) -> None:
        print("  all rows are written; faults end, and what waits is waited for", flush=True)
        for fault in self._site.servicenow.armed():
            # It met nobody.
            self.faults[f"ServiceNow: {fault.name}"] -= 1
        self.faults["a worker killed at a step"] -= self._site.revoke_orders("kill")
        for _ in range(3):
            self._site.heal(600)
        self._look()
        self.memory_bytes.append(memory_of(self._site.functions[0].pid))


# Faults that make sense on one method only.
METHODS: Final = {"stale_read": "GET", "created_without_sys_id": "POST"}
# What was asked for is done, and the answer is wrong: something must have been asked for.
COMMITTING: Final = {
    "commit_then_reset",
    "commit_then_hang",
    "commit_late",
    "commit_then_500",
    "commit_then_403",
    "partial_200",
    "truncated_200",
    "another_record",
}


def memory_of(pid: int) -> int:
    """Bytes of a server and its workers, each shared page counted once (Pss)."""
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def percentile(values: list[float], share: float) -> float:
    """The value below which *share* of *values* lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def without_order_by(rules: str) -> str:
    """The shipped rules without the help of a column: the trail alone tells where a row is."""
    return re.sub(r"^ *order_by:.*\n", "", rules, flags=re.MULTILINE)


def counted(kinds: Counter[str]) -> str:
    """``3: b 2, a 1``."""
    each = ", ".join(f"{name} {count}" for name, count in kinds.most_common() if count)
    return f"{kinds.total():,}" + (f": {each}" if each else "")


def table(plan: Plan, soak: Soak, found: Audit, seconds: float) -> list[tuple[str, str]]:
    """What is told of a run, in the order in which it is told."""
    waits = [
        soak.seen_at[mark] - at
        for id, at in soak.written_at.items()
        if (mark := f"shop:outage:{id}") in soak.seen_at
    ]
    calls = soak.calls.total()
    lines = [
        ("seed", str(plan.seed)),
        ("rows", f"{len(soak.rows):,}"),
        ("events", f"{found.events:,}"),
        ("deliveries", f"{found.deliveries:,}"),
        ("faults", counted(soak.faults)),
        ("tickets", f"{found.tickets:,}"),
        ("**lost**", f"**{len(found.lost)}**"),
        ("**duplicated**", f"**{len(found.duplicated)}**"),
        ("**stale**", f"**{len(found.stale)}**"),
        ("dead letters, told by mail", counted(found.dead_letters)),
        ("mails", f"{len(found.mails)}"),
        ("ServiceNow calls", f"{calls:,}, {calls / max(1, found.tickets):.2f} per ticket"),
        (
            "of these, creates",
            (
                f"{soak.calls['POST incident']:,}, "
                f"{soak.calls['POST incident'] / max(1, found.tickets):.3f} per ticket"
            ),
        ),
        (
            "time to ticket, p50 / p99",
            f"{percentile(waits, 0.5):.1f} s / {percentile(waits, 0.99):.1f} s",
        ),
        (
            "memory of an instance, start / end",
            f"{soak.memory_bytes[0] / 2**20:.0f} MB / {soak.memory_bytes[-1] / 2**20:.0f} MB",
        ),
        ("took", f"{seconds:.0f} s"),
    ]
    if soak.wiped_at_event:
        lines.insert(5, ("ledger wiped", f"after {soak.wiped_at_event:,} events"))
    return lines


def run(plan: Plan) -> tuple[Soak, Audit, list[tuple[str, str]]]:
    """Do a run and count what came of it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, PostgreSQL() as server:
        with Site(
            server.url,
            Path(folder),
            functions=plan.functions,
            fetch_interval_seconds=0.2,
            rules=without_order_by((HERE / "rules.yaml").read_text()),
            spare_the_first=True,
            DEADLINE_SECONDS=DEADLINE_SECONDS,
        ) as site:
            for statement in SWAPPABLE:
                site.sql(statement)
            soak = Soak(plan, site, server)
            soak.go()
            found = audit(site)
        return soak, found, table(plan, soak, found, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument(
        "--events", type=int, default=0, help=f"all together; {EVENTS_A_ROW} a row by default"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--functions", type=int, default=3, help="instances of the function")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--wipe", action="store_true", help="empty the ledger half-way")
    asked = parser.parse_args()
    if asked.functions < 2:
        parser.error("--functions must be 2 or more: one is spared, and the others are killed")
    plan = Plan(
        rows=asked.rows,
        events=asked.events or asked.rows * EVENTS_A_ROW,
        seed=asked.seed,
        functions=asked.functions,
        faults=not asked.no_faults,
        wipe=asked.wipe,
        restarts=2,
        freezes=2,
    )
    print(
        f"{plan.rows} rows, {plan.events} events, {plan.functions} functions, seed {plan.seed}",
        flush=True,
    )
    _, found, lines = run(plan)
    for kind, cases in (
        ("lost", found.lost),
        ("duplicated", found.duplicated),
        ("stale", found.stale),
    ):
        for case in cases[:20]:
            print(f"{kind}: {case}")
    print(f"\n| `make soak`, {time.strftime('%Y-%m-%d')} | |\n|---|---|")
    for name, value in lines:
        print(f"| {name} | {value} |")
    return 1 if found.duplicated or (not plan.wipe and (found.lost or found.stale)) else 0


if __name__ == "__main__":
    sys.exit(main())
