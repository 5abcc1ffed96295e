"""`make rounds`: an app and its service desk edit the same tickets through faults at every step,
and whenever all has come to rest, both sides are compared.

Functions, Hasura's delivery and its GraphQL, and PostgreSQL are real processes and a real database;
the app edits by SQL, people edit in the sandbox's ServiceNow. The seed decides on the edits and the
faults; how processes interleave is the machine's own.

python -m tests.faults.round_trips [--trips 1000] [--seed N] [--functions 2] [--no-faults]

The exit status is 1 when something was lost, duplicated or unequal, or when there is no rest.
"""

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from function.failpoints import FAILPOINTS, SYNC_FAILPOINTS
from sandbox.graphql import GraphQLFault
from sandbox.hasura import Refused as RedeliveryRefused
from sandbox.notifier import DeliveryFaults
from sandbox.postgresql import PostgreSQL
from sandbox.tables import Record, Refused
from tests.faults.round_audit import (
    ENDED,
    FINAL,
    SEVERITIES,
    Edit,
    Picture,
    RoundAudit,
    audit_round,
    take_picture,
)
from tests.faults.soak import CALL_FAULTS, COMMITTING, METHODS, counted
from tests.faults.two_way_site import TwoWaySite
from tests.two_way.desk import RULES

TRIPS: Final = 1000
# So many trips are made between two times of rest.
TRIPS_A_ROUND: Final = 40
# Edits of one round are those of a few rows, so that they meet.
ROWS_A_ROUND: Final = 6
FIRST_ROWS: Final = 8
# On average, one fault in so many trips.
TRIPS_A_FAULT: Final = 2.0
# Faults that met their calls all at once would look like one outage.
ARMED_MAX: Final = 2
PAUSE_SECONDS_MAX: Final = 0.12
# A share of the trips begins when nothing is under way.
REST_SHARE: Final = 0.15
REST_SECONDS_MAX: Final = 1.0
DEADLINE_SECONDS: Final = 20.0
NOTIFICATION_FAULTS: Final = DeliveryFaults(lose=0.2, duplicate=0.2, reorder=0.2)
PEOPLE: Final = ("Beth Anglin", "David Loo", "Fred Luddy", "")
# Who edits, with weights.
SIDES: Final = {"app": 35, "person": 40, "both": 20, "a row": 3, "a ticket": 2}
# What they edit, with weights.
APP_EDITS: Final = {
    "title": 25,
    "severity": 20,
    "status": 25,
    "resolution": 8,
    "details": 8,
    "comment": 14,
    "two": 8,
}
PERSON_EDITS: Final = {
    "title": 22,
    "severity": 18,
    "status": 25,
    "assignee": 12,
    "comment": 20,
    "several": 8,
}
# What goes wrong, with weights.
FAULTS: Final = {
    "ServiceNow": 34,
    "GraphQL": 22,
    "a worker killed at a step": 32,
    "a function killed whole, and started again": 3,
    "a Hasura engine killed": 1,
    "a Hasura engine shut down, its events unlocked": 3,
    "a delivered event sent again (Redeliver)": 6,
}


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    trips: int
    seed: int
    functions: int
    faults: bool
    trips_a_round: int = TRIPS_A_ROUND
    rules: str = RULES

    @property
    def adopts(self) -> bool:
        return "sys_id: row.servicenow_sys_id" in self.rules

    @property
    def notes(self) -> bool:
        return "note:" in self.rules


class RoundTrips:
    """One run."""

    def __init__(self, plan: Plan, site: TwoWaySite) -> None:
        self._plan = plan
        self._site = site
        self._draw = random.Random(plan.seed)
        self._places = itertools.cycle((*FAILPOINTS, *SYNC_FAILPOINTS))
        self._numbers = itertools.count(1)
        self._edits: list[Edit] = []
        self._born: list[str] = []
        self._may_skip = threading.Event()
        self._rested = threading.Event()
        self._stopped = threading.Event()
        self.trips = 0
        self.rounds = 0
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.found = RoundAudit()
        self.calls_at_rest: list[str] = []
        self.undelivered = 0
        self.trouble: list[BaseException] = []

    def go(self) -> None:
        """Make all trips, round by round; then see whether there is rest."""
        keeper = threading.Thread(target=self._keep_time, name="the time's keeper")
        keeper.start()
        try:
            self._begin()
            while self.trips < self._plan.trips and not self.trouble:
                self._make_round()
        finally:
            self._stopped.set()
            keeper.join()
        if self.trouble:
            raise self.trouble[0]
        self._rest()

    def _keep_time(self) -> None:
        """While nothing at all is under way, waiting is skipped."""
        try:
            while not self._stopped.is_set():
                if self._may_skip.is_set() and self._site.skip_waiting():
                    self._rested.set()
                self._stopped.wait(0.02)
        except BaseException as error:  # noqa: BLE001  # the run must end with it
            self.trouble.append(error)

    def _begin(self) -> None:
        self._site.sync()
        for _ in range(FIRST_ROWS):
            self._open_row()
        self._site.heal()

    # A round

    def _make_round(self) -> None:
        before = take_picture(self._site)
        self._edits = []
        rows = self._draw.sample(sorted(before.rows), min(ROWS_A_ROUND, len(before.rows)))
        self._site.notifier.faults = NOTIFICATION_FAULTS if self._plan.faults else DeliveryFaults()
        self._may_skip.set()
        for _ in range(min(self._plan.trips_a_round, self._plan.trips - self.trips)):
            if self._plan.faults and self._draw.random() < 1 / TRIPS_A_FAULT:
                self._break_something()
            self._make_trip(rows)
            self.trips += 1
            self._pause()
        self._may_skip.clear()
        self._come_to_rest(before)

    def _pause(self) -> None:
        if self._draw.random() < REST_SHARE:
            self._rested.clear()
            self._rested.wait(REST_SECONDS_MAX)
        time.sleep(self._draw.random() * PAUSE_SECONDS_MAX)

    def _come_to_rest(self, before: Picture) -> None:
        for fault in self._site.servicenow.armed():
            # It met nobody.
            self.faults[f"ServiceNow: {fault.name}"] -= 1
        self.faults["a worker killed at a step"] -= self._site.revoke_orders("kill")
        # Whoever waits for the key of one that was killed would keep the clock from moving on.
        self._site.let_lease_end()
        self._site.heal(120)
        for call in self._site.servicenow.take_calls():
            self.calls[f"{call.method} {call.table}"] += 1
        self.undelivered += len(self._site.undelivered())
        found = audit_round(
            before,
            take_picture(self._site),
            self._edits,
            born=self._born,
            adopts=self._plan.adopts,
            notes=self._plan.notes,
        )
        self.found.add(found)
        self.rounds += 1
        print(
            f"  round {self.rounds:3}: {self.trips:5} trips, {self.faults.total():4} faults; "
            f"{found.total} wrong",
            flush=True,
        )
        for sentence in (*found.lost, *found.duplicated, *found.unequal):
            print(f"    {sentence}", flush=True)

    def _rest(self) -> None:
        """Once all is said, nothing is called, and who looks at each ticket only looks."""
        self.calls_at_rest = self._site.calls_at_rest()
        asked = self._site.mutation_count
        self._site.look_at_all()
        self.calls_at_rest += [call for call in self._site.calls() if not call.startswith("GET ")]
        self.calls_at_rest += ["POST graphql"] * (self._site.mutation_count - asked)

    # Trips

    def _make_trip(self, rows: list[int]) -> None:
        match self._pick(SIDES):
            case "a row":
                rows.append(self._open_row())
            case "a ticket":
                self._open_ticket()
            case "app":
                self._edit_in_app(self._draw.choice(rows))
            case "person":
                self._edit_as_person(self._draw.choice(rows))
            case _:
                row = self._draw.choice(rows)
                edits = [self._edit_in_app, self._edit_as_person]
                self._draw.shuffle(edits)
                for edit in edits:
                    edit(row)

    def _pick(self, weights: dict[str, int]) -> str:
        return self._draw.choices(list(weights), list(weights.values()))[0]

    def _text(self) -> str:
        """One that stands nowhere yet."""
        return f"Said {next(self._numbers)}."

    def _open_row(self) -> int:
        title, severity = self._text(), self._draw.choice(list(SEVERITIES.values()))
        id = self._site.outage(title, severity)
        self._remember(id, title=title, severity=severity, status="open")
        return id

    def _open_ticket(self) -> None:
        """A person opens a ticket, of which the app does not know."""
        title, impact = self._text(), self._draw.choice("123")
        sys_id = self._site.open_ticket(short_description=title, impact=impact)
        self._born.append(sys_id)
        self._remember(sys_id, title=title, severity=SEVERITIES[impact], status="1")

    def _remember(self, of: object, **edits: str) -> None:
        self._edits += [Edit(str(of), name, value) for name, value in edits.items()]

    def _edit_in_app(self, row: int) -> None:
        what = self._pick(APP_EDITS)
        if what == "two":
            for name in ("title", "severity"):
                self._update_row(row, name)
        elif what == "comment":
            self._write_comment(row)
        else:
            self._update_row(row, what)

    def _update_row(self, row: int, column: str) -> None:
        value = {
            "severity": self._draw.choice(list(SEVERITIES.values())),
            "status": self._draw.choice(("open", "in progress", "fixed", "fixed")),
        }.get(column, self._text())
        changed = self._site.sql(
            f"UPDATE outages SET {column} = %s WHERE id = %s AND {column} IS DISTINCT FROM %s "
            "RETURNING id",
            value,
            row,
            value,
        )
        if changed:
            self._remember(row, **{column: value})

    def _write_comment(self, row: int) -> None:
        text = self._text()
        self._site.sql(
            "INSERT INTO outage_comments (outage_id, author, body) VALUES (%s, 'app', %s)",
            row,
            text,
        )
        self._remember(row, comment=text)

    def _edit_as_person(self, row: int) -> None:
        tickets = self._site.tickets(row)
        if not tickets:
            return
        what = self._pick(PERSON_EDITS)
        values = self._person_values(what, tickets[-1])
        if what == "several":
            for part in ("title", "severity", "comment"):
                values |= self._person_values(part, tickets[-1])
        self._change(tickets[-1], values)

    def _person_values(self, what: str, ticket: Record) -> dict[str, str]:
        match what:
            case "title":
                return {"short_description": self._text()}
            case "severity":
                return {"impact": self._draw.choice("123")}
            case "assignee":
                return {"assigned_to": self._draw.choice(PEOPLE)}
            case "comment":
                return {"comments": self._text()}
            case "status":
                return self._next_state(ticket["state"])
            case _:
                return {}

    def _next_state(self, state: str) -> dict[str, str]:
        close = {"close_code": "Solution provided", "close_notes": self._text()}
        resolve = {"state": "Resolved", **close}
        reopen = {"state": "In Progress"}
        hold = {"state": "On Hold", "hold_reason": "Awaiting Problem"}
        if state in FINAL:
            return {}
        if state in ENDED:
            return self._draw.choice((reopen, reopen, reopen, {"state": "Closed"}))
        return self._draw.choice((reopen, hold, resolve, resolve))

    def _change(self, ticket: Record, values: dict[str, str]) -> None:
        """A person saves the form; what was refused or is there already is no edit."""
        sys_id = ticket["sys_id"]
        before = self._site.servicenow.row("incident", sys_id) or ticket
        try:
            after = self._site.person(sys_id, **values)
        except Refused:
            return
        for name, column in (
            ("title", "short_description"),
            ("severity", "impact"),
            ("status", "state"),
            ("assignee", "assigned_to"),
            ("resolution", "close_notes"),
        ):
            if column in values and after[column] != before[column]:
                said = SEVERITIES[after[column]] if name == "severity" else after[column]
                self._remember(sys_id, **{name: said})
        if "comments" in values:
            self._remember(sys_id, comment=values["comments"])

    # Faults

    def _break_something(self) -> None:
        what = self._pick(FAULTS)
        match what:
            case "ServiceNow":
                self._break_servicenow()
            case "GraphQL":
                fault = self._draw.choice(list(GraphQLFault))
                self._site.graphql.arm(fault)
                self.faults[f"GraphQL: {fault}"] += 1
            case _:
                if self._break_site(what):
                    self.faults[what] += 1

    def _break_servicenow(self) -> None:
        weights = [weight for _, _, weight in CALL_FAULTS]
        name, seconds, _ = self._draw.choices(CALL_FAULTS, weights)[0]
        method = METHODS.get(name) or (
            self._draw.choice(("POST", "PATCH", "PATCH")) if name in COMMITTING else None
        )
        if len(self._site.servicenow.armed()) < ARMED_MAX:
            self._site.servicenow.arm(name, method=method, table="incident", seconds=seconds)
            self.faults[f"ServiceNow: {name}"] += 1

    def _break_site(self, what: str) -> bool:
        number = self._draw.randrange(len(self._site.functions))
        match what:
            case "a worker killed at a step":
                return self._site.order_anew("kill", next(self._places))
            case "a function killed whole, and started again":
                function = self._site.functions[number]
                function.kill()
                function.start(wait=False)
            case "a delivered event sent again (Redeliver)":
                return self._redeliver()
            case _:
                old = self._site.engines[number]
                old.kill() if what.endswith("killed") else old.stop()
                self._site.start_engine(number)
        return True

    def _redeliver(self) -> bool:
        rows = self._site.sql(
            "SELECT id FROM hdb_catalog.event_log WHERE delivered ORDER BY created_at DESC "
            "OFFSET %s LIMIT 1",
            self._draw.randrange(60),
        )
        with suppress(RedeliveryRefused):
            for row in rows:
                self._site.engines[0].redeliver(row["id"])
        return bool(rows)


def table(plan: Plan, trips: RoundTrips, site: TwoWaySite, seconds: float) -> list[tuple[str, str]]:
    """What is told of a run, in the order in which it is told."""
    [events] = site.sql("SELECT count(*) AS n FROM hdb_catalog.event_log")
    [deliveries] = site.sql("SELECT count(*) AS n FROM hdb_catalog.event_invocation_logs")
    dead = site.sql("SELECT rule, reason FROM servicenow.delivery WHERE status = 'dead'")
    letters = Counter(f"{one['rule']} {one['reason']}" for one in dead)
    notifier = site.notifier
    unheard = sum(sent.status == 0 for sent in notifier.sent)
    calls = trips.calls.total()
    kills = trips.faults["a worker killed at a step"]
    return [
        ("seed", str(plan.seed)),
        ("round trips", f"{trips.trips:,}, in {trips.rounds} rounds"),
        ("rows, tickets", f"{_rows(site):,}, {len(site.servicenow.rows('incident')):,}"),
        ("events", f"{events['n']:,}, in {deliveries['n']:,} deliveries"),
        (
            "notifications",
            f"{len(notifier.sent):,} sent ({notifier.doubled:,} of them twice), "
            f"{len(notifier.lost) + unheard:,} lost ({unheard:,} of them with a function)",
        ),
        ("functions killed at a step", f"{kills:,}"),
        ("faults", counted(trips.faults)),
        ("ServiceNow calls", f"{calls:,}, {calls / max(1, trips.trips):.2f} per trip"),
        (
            "GraphQL requests",
            f"{site.mutation_count:,}, {site.mutation_count / max(1, trips.trips):.2f} per trip",
        ),
        ("**lost**", f"**{len(trips.found.lost)}**"),
        ("**duplicated**", f"**{len(trips.found.duplicated)}**"),
        ("**unequal**", f"**{len(trips.found.unequal)}**"),
        ("events not delivered", f"{trips.undelivered}"),
        ("dead letters", counted(letters)),
        ("calls in 60 s of rest", f"{len(trips.calls_at_rest)}"),
        ("took", f"{seconds:.0f} s"),
    ]


def _rows(site: TwoWaySite) -> int:
    return int(site.sql("SELECT count(*) AS n FROM outages")[0]["n"])


def run(plan: Plan) -> tuple[RoundTrips, list[tuple[str, str]]]:
    """Do a run and count what came of it."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="rounds-") as folder,
        PostgreSQL() as server,
        TwoWaySite(
            server.url,
            Path(folder),
            functions=plan.functions,
            rules=plan.rules,
            seed=plan.seed,
            fetch_interval_seconds=0.1,
            deadline_seconds=DEADLINE_SECONDS,
        ) as site,
    ):
        trips = RoundTrips(plan, site)
        trips.go()
        return trips, table(plan, trips, site, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make rounds", description=__doc__)
    parser.add_argument("--trips", type=int, default=TRIPS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--functions", type=int, default=2, help="instances of the function")
    parser.add_argument("--no-faults", action="store_true")
    asked = parser.parse_args()
    if asked.functions < 2:
        parser.error("--functions must be 2 or more: one is killed, and another goes on")
    plan = Plan(asked.trips, asked.seed, asked.functions, not asked.no_faults)
    print(f"{plan.trips} trips, {plan.functions} functions, seed {plan.seed}", flush=True)
    trips, lines = run(plan)
    print(f"\n| `make rounds`, {time.strftime('%Y-%m-%d')} | |\n|---|---|")
    for name, value in lines:
        print(f"| {name} | {value} |")
    return 1 if trips.found.total or trips.undelivered or trips.calls_at_rest else 0


if __name__ == "__main__":
    sys.exit(main())
