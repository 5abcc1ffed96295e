"""The ledger on SQLite and on PostgreSQL, through the same SQL."""

import json
import random
import socket
import sqlite3
import string
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

from function.core.event import Event, Op
from function.core.outcome import Failure, Outcome, Reason, Retryability, Status
from function.core.step import STATE, DesiredState, Step
from function.core.trail import NOT_YET, current_place
from function.deadline import answer_within
from function.ledger.backend import LedgerNotMigrated, LedgerRefused, LedgerUnavailable, LedgerUnfit
from function.ledger.database import Database, Transaction
from function.ledger.deliveries import UNRULED_SAMPLES_MAX
from function.ledger.ledger import FORGET_MAX, Ledger
from function.ledger.records import (
    IN_DOUBT_SECONDS,
    Acquired,
    Alert,
    AlertKind,
    AlreadyDead,
    AlreadyDone,
    BeginResult,
    DeliveryId,
    DueMail,
    KeyBusy,
    PendingWrite,
    TableTraits,
    Ticket,
)
from tests.world import Clock

WANTS = DesiredState(when=True, resolved=False, gone=False, fields={}, close={})
MIGRATIONS = Path(__file__).parents[2] / "function" / "migrations"
NUMBERS = sorted({int(file.name[:4]) for file in MIGRATIONS.glob("*.sql")})
ME, OTHER = "me", "another instance"
NAMED = "ab" * 16
LEASE = 80.0


def event(id: str = "e", content: str = "c") -> Event:
    return Event(id, "hasura/public.outages", Op.INSERT, None, {"id": 1}, content, '{"id": "e"}')


def step(key: str = "1", left: str | None = NOT_YET, entered: str = "a") -> Step:
    return Step(key, Op.INSERT, left, entered, WANTS)


def delivery_id(one: Event, key: str = "1", rule: str = "r") -> DeliveryId:
    return DeliveryId(one.id, one.content, rule, "ticket", key)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    database = Database(url, clock_ahead_seconds=clock)
    yield Ledger(database)
    database.close()


Begin = Callable[..., BeginResult]


@pytest.fixture
def begin(ledger: Ledger) -> Begin:
    def begin(
        one: Event | None = None,
        what: Step | None = None,
        *,
        owner: str = ME,
        digest: str = "d",
        fresh: bool = False,
    ) -> BeginResult:
        return ledger.deliveries.begin(
            one or event(),
            what or step(),
            "{}",
            delivery=delivery_id(one or event(), (what or step()).key),
            instance="sn",
            owner=owner,
            lease_seconds=LEASE,
            digest=digest,
            fresh=fresh,
            table="incident",
            version="",
        )

    return begin


def begun(beginning: BeginResult) -> Acquired:
    assert isinstance(beginning, Acquired)
    return beginning


def finish(
    ledger: Ledger,
    work: Acquired,
    status: Status,
    *,
    owner: str = ME,
    alert: Alert | None = None,
) -> bool:
    failure = (
        Failure(Retryability.PERMANENT, Reason.BAD_MAPPING, "a hint")
        if status is Status.DEAD
        else None
    )
    return ledger.deliveries.finish(
        work.ticket,
        owner=owner,
        delivery=work.delivery.id,
        outcome=Outcome(
            "r", work.ticket.key, status, "INC1", Reason.BAD_MAPPING if failure else None
        ),
        failure=failure,
        duration_seconds=0.1,
        fingerprint=alert.fingerprint if alert else "",
        alerts=[alert] if alert else [],
    ).stands


def test_a_key_is_one_holders_until_it_is_finished(ledger: Ledger, begin: Begin) -> None:
    mine = begun(begin())
    busy = begin(event("f"), owner=OTHER)
    finish(ledger, mine, Status.CREATED)

    assert isinstance(busy, KeyBusy)
    assert 0 < busy.seconds <= LEASE
    assert isinstance(begin(event("f"), owner=OTHER), Acquired)


def test_a_ticket_is_found_without_its_lease_and_under_way_until_it_is_made(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    def found() -> tuple[str | None, bool]:
        known = ledger.tickets.find(instance="sn", rule="r", key="1", target="ticket")
        return (known.ticket.sys_id if known.ticket else None), known.under_way

    before = found()
    work = begun(begin())
    leased = found()
    finish(ledger, work, Status.RETRYING)
    waiting = found()
    work = begun(begin())
    made = replace(work, ticket=replace(work.ticket, sys_id="a1b2"))
    finish(ledger, made, Status.CREATED)
    there = found()
    work = begun(begin(event("f"), step(left="a", entered="b")))
    again = found()
    clock.advance(LEASE + 1)

    assert (before, leased, waiting) == ((None, False), ("", True), ("", True))
    assert (there, again) == (("a1b2", False), ("a1b2", True))
    assert found() == ("a1b2", False)


def test_a_ticket_that_nobody_makes_is_not_under_way(ledger: Ledger, begin: Begin) -> None:
    finish(ledger, begun(begin()), Status.SKIPPED)
    known = ledger.tickets.find(instance="sn", rule="r", key="1", target="ticket")

    assert known.ticket is not None
    assert (known.ticket.sys_id, known.under_way) == ("", False)


def test_a_doubt_outlives_a_transaction_that_is_repeated(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    """Its commit was answered by a cut connection: it takes the same lease again, for the same
    holder."""
    work = begun(begin(event(), owner=OTHER))
    ledger.tickets.save(
        replace(work.ticket, pending_write=PendingWrite("create", (), 0.0)), owner=OTHER
    )
    clock.advance(LEASE + 1)
    begin(event(), owner=ME)
    again = begun(begin(event(), owner=ME))

    assert again.ticket.pending_write is not None
    assert again.ticket.pending_write.in_doubt


def test_what_the_housekeeping_leaves_for_later_keeps_its_holder(
    ledger: Ledger, begin: Begin
) -> None:
    begin()
    ledger.tickets.defer("sn", "r", "1")

    assert isinstance(begin(event("f"), owner=OTHER), KeyBusy)


def test_another_key_is_free(begin: Begin) -> None:
    begin()

    assert isinstance(begin(event("f"), step("2"), owner=OTHER), Acquired)


def test_a_lease_ends_by_the_databases_clock(begin: Begin, clock: Clock) -> None:
    begin()
    clock.advance(LEASE + 1)

    assert isinstance(begin(event("f"), owner=OTHER), Acquired)


def test_a_holder_that_wakes_up_without_its_lease_writes_down_nothing_but_suspect(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    slept = begun(begin())
    clock.advance(LEASE + 1)
    now = begun(begin(event("f"), owner=OTHER))
    written_fields = Acquired(
        replace(slept.ticket, written_fields=frozenset({"state"})),
        slept.delivery,
        slept.now,
        slept.status,
    )
    stands = finish(ledger, written_fields, Status.CREATED)
    finish(ledger, now, Status.CREATED, owner=OTHER)
    [kept] = ledger.database.run(
        lambda t: t.execute("SELECT status FROM servicenow.delivery WHERE event = 'e'")
    )

    assert not stands
    assert ledger.tickets.suspects("sn", most=10) == [("r", "1")]
    assert begun(begin(event("g"))).ticket.suspect_until is not None
    assert kept["status"] == "waiting"


def test_a_done_event_is_done_and_a_dead_one_stays_dead_under_the_same_digest(
    ledger: Ledger, begin: Begin
) -> None:
    finish(ledger, begun(begin()), Status.CREATED)
    finish(ledger, begun(begin(event("f"))), Status.DEAD)

    assert isinstance(begin(), AlreadyDone)
    assert isinstance(begin(event("f")), AlreadyDead)
    assert isinstance(begin(event("f"), digest="other"), Acquired)


def test_a_dead_one_is_a_new_attempt_with_a_new_clock_when_asked_anew(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    first = begun(begin())
    finish(ledger, first, Status.DEAD)
    clock.advance(1000)
    fresh = begun(begin(fresh=True))

    assert fresh.delivery.attempts == 1
    assert fresh.delivery.first_seen >= first.delivery.first_seen + 1000


def test_an_event_is_counted_into_the_trail_once_however_often_it_arrives(
    ledger: Ledger, begin: Begin
) -> None:
    for _ in range(3):
        trail = begun(begin()).ticket.trail

    assert [(known.digest, known.balance) for known in trail.places] == [(NOT_YET, -1), ("a", 1)]


def test_the_same_id_with_other_content_is_another_event(ledger: Ledger, begin: Begin) -> None:
    finish(ledger, begun(begin()), Status.CREATED)
    other = begun(begin(event("e", "other"), step(left="a", entered="b")))

    reached = current_place(other.ticket.trail)
    assert reached is not None
    assert reached.digest == "b"


@pytest.mark.parametrize("key", ["1", "2"])
def test_a_dead_letter_outlives_another_event_under_its_id(
    ledger: Ledger, begin: Begin, key: str
) -> None:
    finish(ledger, begun(begin()), Status.DEAD)
    other = event("e", "other")
    work = begun(begin(other, step(key, left="a", entered="b")))
    ledger.deliveries.withdraw(other, rules=["", "r"], but=[delivery_id(other, key)])
    ledger.deliveries.finish(
        work.ticket,
        owner=ME,
        delivery=delivery_id(other, key),
        outcome=Outcome("r", key, Status.CREATED),
        failure=None,
        duration_seconds=0.1,
    )

    [letter] = ledger.deliveries.dead_letters(events=["e"])
    assert (letter.content, letter.status, letter.body) == ("c", "dead", '{"id": "e"}')
    assert isinstance(begin(), AlreadyDead)
    assert isinstance(begin(other, step(key, left="a", entered="b")), AlreadyDone)


def test_two_events_under_one_id_may_both_be_dead(ledger: Ledger, begin: Begin) -> None:
    for content in ("c", "other"):
        one = event("e", content)
        work = begun(begin(one))
        dead = Outcome("r", "1", Status.DEAD)
        ledger.deliveries.finish(
            work.ticket,
            owner=ME,
            delivery=delivery_id(one),
            outcome=dead,
            failure=None,
            duration_seconds=0.1,
        )

    assert [letter.content for letter in ledger.deliveries.dead_letters(events=["e"])] == [
        "c",
        "other",
    ]
    assert [letter.content for letter in ledger.deliveries.dead_letters()] == ["c", "other"]


def test_what_is_known_of_an_adoption_is_kept(ledger: Ledger, begin: Begin) -> None:
    adopting = PendingWrite("adopt", ("correlation_id",), 5.0, in_doubt=True, sys_id=NAMED)
    ticket = replace(
        begun(begin()).ticket,
        named_sys_id=NAMED,
        taken_fields=frozenset({"impact", STATE}),
        pending_write=adopting,
    )
    assert ledger.tickets.save(ticket, owner=ME)

    kept = begun(begin()).ticket
    assert kept.named_sys_id == NAMED
    assert kept.taken_fields == {"impact", STATE}
    assert kept.pending_write == adopting
    # The housekeeping looks when nothing that was sent can commit any more.
    assert kept.suspect_until == 5.0 + IN_DOUBT_SECONDS


@pytest.mark.parametrize("column", ["sys_id", "named_sys_id"])
def test_the_rows_that_have_a_ticket_are_found_by_its_sys_id(
    ledger: Ledger, begin: Begin, column: str
) -> None:
    there = begun(begin()).ticket
    one = replace(there, sys_id=NAMED) if column == "sys_id" else replace(there, named_sys_id=NAMED)
    ledger.tickets.save(one, owner=ME)
    other = begun(begin(what=step("2"))).ticket

    assert [holder.key for holder in ledger.tickets.holders(other, NAMED)] == ["1"]
    assert ledger.tickets.holders(one, NAMED) == []
    assert ledger.tickets.holders(replace(other, instance="another"), NAMED) == []


def test_a_ledger_of_before_is_brought_along(url: str, tmp_path: Path) -> None:
    written = (
        "INSERT INTO servicenow.delivery (event, rule, key, content, source, status, "
        "first_seen, last_at, body) "
    )
    written += "VALUES ('e', 'r', '1', 'c', 's', 'dead', 1, 2, '{}')"
    before = [file.read_text("utf-8") for file in sorted(MIGRATIONS.glob("000[123]_*.sql"))]
    before += [
        (
            "CREATE TABLE servicenow.migration (number INTEGER PRIMARY KEY, applied_at DOUBLE "
            "PRECISION NOT NULL)"
        ),
        "INSERT INTO servicenow.migration VALUES (1, 0), (2, 0), (3, 0)",
        written,
        "INSERT INTO servicenow.instance (instance, honours_sys_id) VALUES ('sn', TRUE)",
        'INSERT INTO servicenow.ticket (instance, rule, key, "table", created_at, updated_at) '
        "VALUES ('sn', 'r', '1', 'incident', 1, 2), ('sn', 'r', '2', '', 1, 2)",
    ]
    if url.startswith("sqlite"):
        file = sqlite3.connect(tmp_path / "ledger.db")
        file.executescript(";".join(before).replace("servicenow.", ""))
        file.close()
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA servicenow")
            for sql in before:
                connection.execute(sql)

    database = Database(url)
    applied = database.migrate()
    [letter] = Ledger(database).deliveries.dead_letters()
    known = Ledger(database).tickets.traits("sn", "incident")
    database.close()

    assert applied == NUMBERS[3:]
    assert (letter.event, letter.key, letter.content, letter.first_seen, letter.body) == (
        "e",
        "1",
        "c",
        1.0,
        "{}",
    )
    assert known == TableTraits(honours_sys_id=True)


def test_the_event_is_kept_until_it_is_done(ledger: Ledger, begin: Begin) -> None:
    work = begun(begin())
    waiting = [letter.body for letter in ledger.deliveries.dead_letters(events=["e"])]
    finish(ledger, work, Status.CREATED)

    assert waiting == ['{"id": "e"}']
    assert ledger.deliveries.dead_letters(events=["e"]) == []
    assert ledger.database.run(lambda t: t.execute("SELECT body FROM servicenow.delivery")) == [
        {"body": ""}
    ]


def alert(
    fingerprint: str = "f",
    kind: AlertKind = AlertKind.DEAD,
    *,
    since: float = 0.0,
    wait: float = 0.0,
) -> Alert:
    return Alert(
        fingerprint=fingerprint,
        kind=kind,
        since=since,
        wait_seconds=wait,
        source_name="shop",
        system="ServiceNow",
        instance="https://dev12345.service-now.com",
        rule="r",
        reason=Reason.BAD_MAPPING.value,
        hint="a hint",
    )


def test_one_mail_is_claimed_by_one_of_many(ledger: Ledger) -> None:
    ledger.alerts.raise_alert(alert())
    with ThreadPoolExecutor(8) as pool:
        claimed = list(
            pool.map(lambda _: ledger.alerts.claim_due_mail(every_seconds=900), range(16))
        )

    assert len([mail for mail in claimed if mail]) == 1


def test_a_mail_whose_sender_vanished_is_claimed_again(ledger: Ledger, clock: Clock) -> None:
    ledger.alerts.raise_alert(alert())
    ledger.alerts.claim_due_mail(every_seconds=900)
    clock.advance(31)

    assert ledger.alerts.claim_due_mail(every_seconds=900) is not None


def test_the_next_mail_waits_and_counts(ledger: Ledger, clock: Clock) -> None:
    ledger.alerts.raise_alert(alert())
    first = ledger.alerts.claim_due_mail(every_seconds=900)
    assert first is not None
    ledger.alerts.mark_sent(first)
    for _ in range(5):
        ledger.alerts.raise_alert(alert())
    early = ledger.alerts.claim_due_mail(every_seconds=900)
    clock.advance(901)
    late = ledger.alerts.claim_due_mail(every_seconds=900)

    assert early is None
    assert late is not None
    assert (first.count, late.count) == (1, 5)


def test_an_alert_that_an_older_version_raised_is_still_mailed(ledger: Ledger) -> None:
    facts = {
        "source_name": "shop",
        "instance": "https://dev12345.service-now.com",
        "rule": "r",
        "table": "public.outages",
        "key": "1",
        "event": "e",
        "reason": "a_reason_of_before",
        "hint": "a hint",
        "words": "their words",
        "attempts": 3,
        "fields": ["impact"],
    }
    ledger.database.run(
        lambda transaction: transaction.execute(
            "INSERT INTO servicenow.alert (fingerprint, kind, facts, since, last_at, due_at, "
            "unsent, state) VALUES ('f', 'field', :facts, 0, 5, 0, 2, 'pending')",
            facts=json.dumps(facts),
        )
    )
    mail = ledger.alerts.claim_due_mail(every_seconds=900)

    assert mail is not None
    assert (mail.count, mail.lasted_seconds, mail.recovered) == (2, 5.0, False)
    assert mail.alert == Alert(
        fingerprint="f",
        kind=AlertKind.FIELD,
        since=0.0,
        system="ServiceNow",
        remote_message=facts.pop("words"),  # type: ignore[arg-type]  # as the next
        **{**facts, "fields": ("impact",)},  # type: ignore[arg-type]  # each has its type
    )


def test_an_alert_of_a_kind_that_only_a_newer_version_knows_is_mailed_too(ledger: Ledger) -> None:
    ledger.alerts.raise_alert(replace(alert(), fingerprint="f"))
    ledger.database.run(lambda t: t.execute("UPDATE servicenow.alert SET kind = 'later'"))
    mail = ledger.alerts.claim_due_mail(every_seconds=900)

    assert mail is not None
    assert (mail.alert.fingerprint, mail.alert.kind) == ("f", AlertKind.UPSTREAM)


def test_a_mail_is_of_the_alert_that_was_raised(ledger: Ledger) -> None:
    raised = replace(
        alert(wait=0.0), ticket="INC1", fields=("a", "b"), remote_message="w", attempts=7
    )
    ledger.alerts.raise_alert(raised)
    mail = ledger.alerts.claim_due_mail(every_seconds=900)

    assert mail is not None
    assert mail.alert == raised


def test_an_episode_is_told_once_while_it_lasts(ledger: Ledger, clock: Clock) -> None:
    now = ledger.now()
    ledger.alerts.raise_alert(alert(kind=AlertKind.WAITING, since=now, wait=600))
    early = ledger.alerts.claim_due_mail(every_seconds=900)
    clock.advance(601)
    told = ledger.alerts.claim_due_mail(every_seconds=900)
    assert told is not None
    ledger.alerts.mark_sent(told)
    clock.advance(10_000)
    ledger.alerts.raise_alert(alert(kind=AlertKind.WAITING, since=now, wait=600))

    assert early is None
    assert ledger.alerts.claim_due_mail(every_seconds=900) is None


def test_a_dead_letter_that_is_done_after_all_is_told_to_be_over(
    ledger: Ledger, begin: Begin
) -> None:
    finish(ledger, begun(begin()), Status.DEAD, alert=alert())
    mail = ledger.alerts.claim_due_mail(every_seconds=900)
    assert mail is not None
    ledger.alerts.mark_sent(mail)
    finish(ledger, begun(begin(fresh=True)), Status.CREATED)
    over = ledger.alerts.claim_due_mail(every_seconds=900)

    assert over is not None
    assert over.recovered


def test_only_a_sample_of_a_table_no_rule_wants_is_kept(ledger: Ledger) -> None:
    failure = Failure(Retryability.PERMANENT, Reason.NO_RULE, "h")
    for number in range(UNRULED_SAMPLES_MAX + 5):
        ledger.deliveries.record_without_ticket(
            event(f"e{number}"),
            Outcome("", "", Status.DEAD, reason=Reason.NO_RULE),
            failure,
            delivery=DeliveryId(f"e{number}", "c", "", "", ""),
            digest="d",
            fresh=False,
            alert=alert(kind=AlertKind.UNRULED),
            samples_max=UNRULED_SAMPLES_MAX,
        )

    assert len(ledger.deliveries.dead_letters()) == UNRULED_SAMPLES_MAX


def test_what_is_old_is_forgotten_but_not_a_ticket(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    work = begun(begin())
    ledger.tickets.save(_with_ticket(work), owner=ME)
    finish(
        ledger, Acquired(_with_ticket(work), work.delivery, work.now, work.status), Status.CREATED
    )
    finish(ledger, begun(begin(event("f"), step("2"))), Status.UNCHANGED)
    clock.advance(91 * 86400)
    ledger.forget_older_than(90 * 86400)

    assert ledger.database.run(lambda t: t.execute("SELECT key FROM servicenow.ticket")) == [
        {"key": "1"}
    ]
    assert ledger.database.run(lambda t: t.execute("SELECT event FROM servicenow.delivery")) == []


def _with_ticket(work: Acquired) -> Ticket:
    return replace(work.ticket, sys_id="x" * 32)


def test_many_instances_bring_the_ledger_up_to_date_at_once(url: str) -> None:
    databases = [Database(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        applied = [
            number
            for numbers in pool.map(lambda database: database.migrate(), databases)
            for number in numbers
        ]
    for database in databases:
        database.close()

    assert applied == NUMBERS


def test_a_new_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    for number in range(60):
        databases = [Database(f"sqlite:///{tmp_path}/{number}.db") for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            applied = list(pool.map(lambda database: database.migrate(), databases))
        for database in databases:
            database.close()

        assert sorted(applied) == [*[[]] * 7, NUMBERS]


def test_two_that_meet_in_a_deadlock_are_both_done(postgresql: str) -> None:
    database = Database(postgresql)
    ledger = Ledger(database)
    for name in ("one", "two"):
        ledger.alerts.raise_alert(alert(name))
    both_hold_one = threading.Barrier(2, timeout=30)
    begun: list[str] = []

    def touch_both(transaction: Transaction, first: str, second: str) -> None:
        begun.append(first)
        for fingerprint in (first, second):
            transaction.execute(
                "UPDATE servicenow.alert SET unsent = unsent + 1 WHERE fingerprint = :fingerprint",
                fingerprint=fingerprint,
            )
            if fingerprint == first and len(begun) <= 2:
                both_hold_one.wait()

    with ThreadPoolExecutor(2) as pool:
        for names in (("one", "two"), ("two", "one")):
            pool.submit(
                database.run, lambda transaction, names=names: touch_both(transaction, *names)
            )
    unsent = database.run(lambda t: t.execute("SELECT unsent FROM servicenow.alert"))
    database.close()

    assert len(begun) == 3
    assert [row["unsent"] for row in unsent] == [3, 3]


def test_with_ledger_migrate_off_one_sentence_says_what_is_missing(url: str) -> None:
    database = Database(url, migrate=False)

    with pytest.raises(
        LedgerNotMigrated,
        match=r"lacks migration 0001, (\d{4}, )+\d{4} and .*python -m function migrate",
    ):
        Ledger(database).now()
    database.close()


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nowhere", pool_size=1)

    with pytest.raises(LedgerUnavailable):
        Ledger(database).now()
    database.close()


class _Refuser:
    """Speaks PostgreSQL as far as to refuse each connection in *words*."""

    def __init__(self, words: str) -> None:
        said = {"S": "FATAL", "C": "28P01", "M": words}
        fields = b"".join(f"{kind}{text}\0".encode() for kind, text in said.items())
        self._answer = b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    if b"\x04\xd2\x16" in sock.recv(4096):  # it asks for TLS first
                        sock.sendall(b"N")
                        sock.recv(4096)
                    sock.sendall(self._answer)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            'password authentication failed for user "u"',
            '28P01 password authentication failed for user "u"',
        ),
        ("the database system is starting up", "57P03 the database system is starting up"),
        ("sorry, too many clients already", "53300 sorry, too many clients already"),
        (
            "no entry for host, user u, password planted-password",
            r"no connection \(OperationalError\)",
        ),
        ("no entry for host, user u, password pass word", r"no connection \(OperationalError\)"),
    ],
)
def test_a_server_that_refuses_is_quoted_and_a_password_never(words: str, said: str) -> None:
    server = _Refuser(words)
    password = "pass%20word" if "pass word" in words else "planted-password"
    database = Database(
        f"postgresql://u:{password}@127.0.0.1:{server.port}/x?sslmode=disable", pool_size=1
    )

    with pytest.raises(LedgerUnavailable, match=f"^the ledger is unavailable: {said}$"):
        Ledger(database).now()
    with pytest.raises(
        LedgerUnavailable, match=f"^the ledger is unavailable: {said}$"
    ):  # a moment later
        Ledger(database).now()
    database.close()
    server.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:planted-password@127.0.0.1:1/x", "Connection refused"),
        ("postgresql://u:planted-password@no-such-host.invalid/x", "[Nn]ame|resolution"),
        ("postgresql:///x?host=/nowhere&user=u", "No such file or directory"),
    ],
)
def test_why_there_is_no_connection_is_said(url: str, said: str) -> None:
    database = Database(url, pool_size=1)

    with pytest.raises(LedgerUnavailable, match=said) as raised:
        Ledger(database).now()
    assert "planted" not in str(raised.value)
    database.close()


def test_what_the_server_says_of_a_statement_is_said(postgresql: str) -> None:
    with psycopg.connect(postgresql, autocommit=True) as admin:
        name = psycopg.sql.Identifier(admin.info.dbname)
        admin.execute(
            psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
        )
    database = Database(postgresql)

    with pytest.raises(
        LedgerUnavailable, match="25006 cannot execute CREATE SCHEMA in a read-only transaction"
    ):
        Ledger(database).now()
    database.close()


def test_a_database_that_cannot_hold_every_text_is_refused_at_first_use_and_by_migrate(
    postgresql_unfit: str,
) -> None:
    database = Database(postgresql_unfit)
    for use in (Ledger(database).now, database.migrate, database.ready):
        with pytest.raises(
            LedgerUnfit, match=r"encoding is .* CREATE DATABASE … ENCODING 'UTF8' .* DATABASE_URL"
        ):
            use()
    with psycopg.connect(postgresql_unfit) as connection:
        made = connection.execute(
            "SELECT 1 FROM pg_namespace WHERE nspname = 'servicenow'"
        ).fetchall()
    database.close()

    assert made == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_the_environments_client_encoding_does_not_matter(
    postgresql: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    database = Database(postgresql)
    Ledger(database).alerts.raise_alert(alert("авария"))

    assert database.run(lambda t: t.execute("SELECT fingerprint FROM servicenow.alert")) == [
        {"fingerprint": "авария"}
    ]
    database.close()


def test_looking_whether_it_is_ready_makes_nothing(url: str, tmp_path: Path) -> None:
    database = Database(url)
    database.ready()
    made: list[object] = [*tmp_path.iterdir()]
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            made += connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname = 'servicenow'"
            ).fetchall()
    database.close()

    assert made == []


def test_without_leave_to_migrate_what_lacks_something_is_not_ready(url: str) -> None:
    if url.startswith("sqlite"):
        sqlite3.connect(url.removeprefix("sqlite:///")).close()
        Path(url.removeprefix("sqlite:///")).touch()
    database = Database(url, migrate=False)

    with pytest.raises(LedgerNotMigrated):
        database.ready()
    database.close()


def test_a_file_whose_folder_is_not_there_is_not_ready(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/nowhere/ledger.db")

    with pytest.raises(LedgerUnavailable, match="folder"):
        database.ready()


@pytest.mark.parametrize(
    "value",
    ["a\x00b", "\ud800", "long " * 100_000],
    ids=["NUL", "half a surrogate pair", "too long for an index"],
)
def test_what_a_database_does_not_take_is_told_from_a_database_that_is_away(
    url: str, value: str
) -> None:
    database = Database(url)
    ledger = Ledger(database)
    refused = ""
    try:
        ledger.alerts.raise_alert(alert(random_text(20_000) if value.startswith("long") else value))
    except LedgerRefused as error:
        refused = str(error)
    stands = url.startswith("sqlite") and not value.startswith("\ud800")  # SQLite takes the others

    assert stands or refused.startswith(("PostgreSQL does not take", "SQLite does not take"))
    assert value not in refused
    assert ledger.now() > 0
    database.close()


def random_text(characters: int) -> str:
    """What no database can make shorter."""
    draw = random.Random(1)
    return "".join(draw.choice(string.ascii_letters) for _ in range(characters))


def waiting(ledger: Ledger, begin: Begin, number: int) -> None:
    work = begun(begin(event(f"e{number}"), step(f"{number}")))
    ledger.deliveries.finish(
        work.ticket,
        owner=ME,
        delivery=work.delivery.id,
        outcome=Outcome(
            "r", work.ticket.key, Status.RETRYING, "", Reason.TIMEOUT, retry_at=work.now + 1
        ),
        failure=Failure(Retryability.TRANSIENT, Reason.TIMEOUT, "a hint"),
        duration_seconds=0.1,
    )


def test_deliveries_that_were_told_of_hide_no_new_ones(
    ledger: Ledger, begin: Begin, clock: Clock
) -> None:
    for number in range(6):
        waiting(ledger, begin, number)
    clock.advance(1000)
    first = ledger.deliveries.overdue(seconds=600, given_up_seconds=86400, most=5)
    for delivery in first:
        ledger.deliveries.mark_overdue(
            delivery, alert("waiting r", AlertKind.WAITING), gave_up=False
        )
    second = ledger.deliveries.overdue(seconds=600, given_up_seconds=86400, most=5)
    clock.advance(90_000)
    given_up = ledger.deliveries.overdue(seconds=600, given_up_seconds=86400, most=10)

    assert ([d.event for d in first], [d.event for d in second]) == (
        [f"e{n}" for n in range(5)],
        ["e5"],
    )
    assert len(given_up) == 6


def test_the_first_retention_of_many_rows_blocks_nobody_for_long(
    ledger: Ledger, clock: Clock
) -> None:
    rows = 20_000
    ledger.database.run(
        lambda transaction: transaction.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) "
            "INSERT INTO servicenow.delivery "
            "(event, rule, key, content, source, status, first_seen, last_at, fingerprint, body) "
            "SELECT CAST(i AS TEXT), 'r', 'k', 'c', 's', 'dead', 0, 0, CAST(i - i / 50 * 50 AS "
            "TEXT), 'body' FROM n",
            rows=rows,
        )
    )
    waits: list[float] = []
    stopping = threading.Event()

    def be_an_event() -> None:
        while not stopping.is_set():
            began = time.monotonic()
            ledger.alerts.raise_alert(alert("a"))
            waits.append(time.monotonic() - began)
            time.sleep(0.002)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(be_an_event)
        gone = ledger.forget_older_than(3600.0)
        stopping.set()

    assert gone == rows
    assert max(waits) < 1.0
    assert len(waits) > rows / FORGET_MAX / 2


def test_retention_stops_when_its_time_is_up(ledger: Ledger, begin: Begin, clock: Clock) -> None:
    waiting(ledger, begin, 1)
    clock.advance(10_000)
    in_no_time = ledger.forget_older_than(3600.0, for_seconds=0.0)

    assert (in_no_time, ledger.forget_older_than(3600.0) > 0) == (0, True)


def test_connections_that_the_server_cut_are_replaced(postgresql: str) -> None:
    database = Database(postgresql)
    ledger = Ledger(database)
    ledger.now()
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    assert ledger.now() > 0
    database.close()


def test_a_request_whose_time_runs_out_first_does_not_count_as_a_failure_of_the_database(
    tmp_path: Path,
) -> None:
    file = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    file.execute("BEGIN EXCLUSIVE")
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    with answer_within(0.1), pytest.raises(LedgerUnavailable):
        Ledger(database).now()
    file.close()

    assert Ledger(database).now() > 0
    database.close()


def test_a_sqlite_file_that_was_deleted_is_a_new_ledger(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    Ledger(database).tickets.learn_traits("sn", "incident", TableTraits(honours_sys_id=True))
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()

    assert Ledger(database).tickets.traits("sn", "incident") == TableTraits()
    database.close()


def test_the_tables_stand_in_the_schema_servicenow_or_in_the_file(
    postgresql: str, tmp_path: Path
) -> None:
    names = {
        "ticket",
        "delivery",
        "alert",
        "hold",
        "table_traits",
        "configuration",
        "login_attempt",
        "shadow",
        "inbox",
        "watermark",
        "migration",
    }
    for url in (postgresql, f"sqlite:///{tmp_path}/ledger.db"):
        database = Database(url)
        database.migrate()
        database.close()
    with psycopg.connect(postgresql) as connection:
        found = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'servicenow'"
        ).fetchall()
    file = sqlite3.connect(tmp_path / "ledger.db")
    kept = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    file.close()

    assert {row[0] for row in found} == {row[0] for row in kept} == names


def test_an_alert_that_two_deliveries_share_is_over_when_both_end_at_once(postgresql: str) -> None:
    """Each would still see the other's as it was before."""
    database = Database(postgresql)
    ledger = Ledger(database)
    works = [begun(begin_one(ledger, event(f"e{n}"), step(f"{n}"))) for n in (1, 2)]
    for work in works:
        finish(ledger, work, Status.DEAD, alert=alert())
    again = [begun(begin_one(ledger, event(f"e{n}"), step(f"{n}"), fresh=True)) for n in (1, 2)]
    ledger.alerts.mark_sent(claimed(ledger))
    with psycopg.connect(postgresql) as other:
        # What a delivery's end does first, not committed yet.
        other.execute(
            "UPDATE servicenow.delivery SET status = 'done', fingerprint = '' WHERE event = 'e1'"
        )
        other.execute("SELECT 1 FROM servicenow.alert FOR UPDATE")
        ending = threading.Thread(target=finish, args=(ledger, again[1], Status.CREATED))
        ending.start()
        time.sleep(0.5)
    ending.join()

    assert database.run(lambda t: t.execute("SELECT state FROM servicenow.alert")) == [
        {"state": "recovered"}
    ]
    database.close()


def begin_one(ledger: Ledger, one: Event, what: Step, *, fresh: bool = False) -> BeginResult:
    return ledger.deliveries.begin(
        one,
        what,
        "{}",
        delivery=delivery_id(one, what.key),
        instance="sn",
        owner=ME,
        lease_seconds=LEASE,
        digest="d",
        fresh=fresh,
        table="incident",
        version="",
    )


def claimed(ledger: Ledger) -> DueMail:
    mail = ledger.alerts.claim_due_mail(every_seconds=900)
    assert mail is not None
    return mail
