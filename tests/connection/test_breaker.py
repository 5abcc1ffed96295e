"""When ServiceNow as a whole is unwell: calls are held, people hear of it once, and everything
heals by redelivery."""

import heapq
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from function.connection.breaker import (
    HASURA,
    POST_TARGET,
    SERVICENOW,
    CallVerdict,
    SystemProfile,
)
from function.core.outcome import Failure, Retryability
from tests.answers import Answer, Seen, Server, always, http, reset, result
from tests.behaviour.test_hazards import Gate
from tests.payloads import insert, update
from tests.world import PASSWORD, Answered, World, outage


def redeliver(
    world: World, body: bytes, *, until_seconds: float = 6 * 3600, instance: int = 0
) -> list[Answered]:
    """Deliver *body* as Hasura does: again after each Retry-After. Gives all answers."""
    answers = []
    start = world.clock.ahead
    while world.clock.ahead - start < until_seconds:
        answers.append(world.send(body, instance=instance))
        if answers[-1].retry_after is None:
            return answers
        world.clock.advance(answers[-1].retry_after)
    raise AssertionError("never done")


def subjects(world: World) -> list[str]:
    return [str(mail["Subject"]) for mail in world.mails]


def test_an_outage_of_an_hour_ends_in_one_incident_one_mail_and_one_that_it_is_over(
    world: World,
) -> None:
    world.servicenow.arm("down", times=None)
    body = insert("outages", outage())
    while world.clock.ahead < 3600:
        answer = world.send(body)
        assert (answer.status, answer.said.split()[0]) == (503, "retrying")
        assert answer.retry_after is not None
        world.clock.advance(answer.retry_after)
        mails_by_then = len(world.mails)
        if world.clock.ahead < 600:
            assert mails_by_then == 0
    world.servicenow.disarm()
    redeliver(world, body)

    assert world.incident["state"] == "1"
    assert len(world.mails) == 2, subjects(world)
    assert "over" in subjects(world)[1] or "again" in subjects(world)[1]


def test_a_hiccup_of_five_minutes_is_nobodys_mail(world: World) -> None:
    world.servicenow.arm("unavailable_503", times=None)
    body = insert("outages", outage())
    while world.clock.ahead < 300:
        answer = world.send(body)
        world.clock.advance(min(answer.retry_after or 0, 300.0))
    world.servicenow.disarm()
    redeliver(world, body)

    assert (len(world.incidents), world.mails) == (1, [])


def test_the_waits_double_and_stay_whole_and_under_an_hour(world: World) -> None:
    world.servicenow.arm("error_500", times=None)
    body = insert("outages", outage())
    waits = []
    for _ in range(15):
        answer = world.send(body)
        assert answer.retry_after is not None
        waits.append(answer.retry_after)
        world.clock.advance(answer.retry_after)

    assert all(1 <= wait <= 3601 for wait in waits)
    assert max(waits) > 100


def test_after_retry_for_seconds_the_event_is_given_up_with_a_mail() -> None:
    with World(RETRY_FOR_SECONDS="3600", NOTIFY_AFTER_SECONDS="600") as world:
        world.servicenow.arm("down", times=None)
        answers = redeliver(world, insert("outages", outage(), id="e"))

        assert (answers[-1].status, answers[-1].said) == (422, "dead gave_up")
        assert 3600 < world.clock.ahead < 2 * 3600 + 3600
        assert any(
            "python -m function replay e" in str(mail.get_body(("plain",))) for mail in world.mails
        )


def test_several_failures_in_a_row_hold_the_calls_until_one_probe_passes(world: World) -> None:
    world.servicenow.arm("unavailable_503", times=None)
    for n in range(5):
        world.send(insert("outages", outage(n)))
    world.calls()
    held = [world.send(insert("outages", outage(n))) for n in range(5, 25)]
    calls_while_held = world.calls()
    world.servicenow.disarm()
    world.clock.advance(16)
    probe = world.send(insert("outages", outage(99)))

    assert {answer.status for answer in held} == {503}
    assert calls_while_held == []
    assert probe.status == 200


def test_an_accident_holds_nobody(world: World) -> None:
    world.servicenow.arm("error_500")
    world.send(insert("outages", outage(1)))

    assert world.send(insert("outages", outage(2))).status == 200


def test_a_rate_limit_is_kept_until_its_time_by_all(world: World) -> None:
    world.servicenow.arm("rate_limit_429", seconds=120)
    first = world.send(insert("outages", outage(1)))
    world.calls()
    second = world.send(insert("outages", outage(2)))

    assert first.retry_after is not None
    assert second.retry_after is not None
    assert (first.retry_after >= 119, second.retry_after >= 100) == (True, True)
    assert world.calls() == []


@pytest.mark.parametrize("profile", [SERVICENOW, HASURA, POST_TARGET])
def test_a_rate_limit_whose_time_is_over_says_nothing_of_other_events(
    profile: SystemProfile,
) -> None:
    def judge(seconds: float) -> CallVerdict:
        failure = Failure(
            Retryability.TRANSIENT, profile.rate_limited, "", retry_after_seconds=seconds
        )
        return profile.judge_failure(failure)

    assert (judge(1.0), judge(0.0)) == (CallVerdict.FAILING, CallVerdict.UNKNOWN)


def test_a_wrong_password_is_tried_once_and_then_held_and_mailed_at_once(world: World) -> None:
    world.servicenow.password = "changed"
    first = world.send(insert("outages", outage(1)))
    others = [world.send(insert("outages", outage(n))) for n in range(2, 20)]

    assert (first.status, first.said) == (503, "retrying servicenow_unauthorized")
    assert {(answer.status, answer.said) for answer in others} == {
        (503, "retrying servicenow_unauthorized")
    }
    assert all(answer.retry_after is not None and answer.retry_after >= 595 for answer in others)
    assert len(world.servicenow.refused_logins) == 1
    assert len(world.mails) == 1


def test_a_thousand_events_wait_for_a_right_password_from_three_instances_on_one_postgresql(
    postgresql: str,
) -> None:
    with World(database_url=postgresql, instances=3) as world:
        for instance in range(3):
            world.send(insert("outages", outage(f"before-{instance}")), instance=instance)
        world.servicenow.password = "changed"
        bodies = [insert("outages", outage(n)) for n in range(1000)]

        def deliver(number: int) -> Answered:
            return world.send(bodies[number], instance=number % 3)

        with ThreadPoolExecutor(30) as pool:
            first = list(pool.map(deliver, range(1000)))
        attempts_first = len(world.servicenow.refused_logins)
        world.clock.advance(601)
        with ThreadPoolExecutor(30) as pool:
            second = list(pool.map(deliver, range(60)))
        attempts_second = len(world.servicenow.refused_logins) - attempts_first
        world.servicenow.password = PASSWORD
        world.servicenow.unlock()
        world.clock.advance(601)
        waiting = list(range(1000))
        for _ in range(10):
            with ThreadPoolExecutor(30) as pool:
                answers = list(pool.map(deliver, waiting))
            waiting = [
                number
                for number, answer in zip(waiting, answers, strict=True)
                if answer.status != 200
            ]
            if not waiting:
                break
            world.clock.advance(30)

        assert {answer.status for answer in first + second} == {503}
        assert attempts_first <= 2
        assert attempts_second <= 2
        assert waiting == []
        assert len(world.incidents) == 1003
        assert [
            mail["Subject"] for mail in world.mails if "401" in str(mail) or "password" in str(mail)
        ][:1]
        assert len(world.mails) == 2, subjects(world)


def test_one_event_that_fails_while_others_get_through_is_told_when_it_has_lasted(
    world: World,
) -> None:
    world.send(insert("outages", outage(1)))
    stuck = update("outages", outage(1), outage(1, title="x"))
    answer = None
    while world.clock.ahead < 1500:
        world.servicenow.arm("error_500", method="PATCH")
        answer = world.send(stuck)
        world.servicenow.disarm()
        world.send(insert("outages", outage(f"other {world.clock.ahead}")))
        assert answer.retry_after is not None
        world.clock.advance(min(answer.retry_after, 120))
    mails = len(world.mails)
    redeliver(world, stuck)

    assert (mails, len(world.mails)) == (1, 2), subjects(world)


@pytest.mark.parametrize("seconds", [0.5])
def test_an_event_is_answered_within_the_deadline_even_when_servicenow_hangs(
    seconds: float,
) -> None:
    with World(DEADLINE_SECONDS="4", SERVICENOW_TIMEOUT_SECONDS="3") as world:
        world.servicenow.arm("commit_then_hang", seconds=30, times=None)
        started = time.monotonic()
        answer = world.send(insert("outages", outage()))

        assert time.monotonic() - started < 4 + seconds
        assert answer.status == 503


def test_permanent_failures_are_one_mail_and_the_next_says_how_many_more(world: World) -> None:
    for n in range(20):
        row = outage(n)
        del row["title"]
        world.send(insert("outages", row))
    first = len(world.mails)
    world.clock.advance(901)
    row = outage(21)
    del row["title"]
    world.send(insert("outages", row))

    assert (first, len(world.mails)) == (1, 2)
    assert "20" in world.mails[1].get_content()


def test_when_the_dead_letters_are_replayed_one_mail_says_that_it_is_over(world: World) -> None:
    bodies = []
    for n in range(3):
        row = outage(n)
        del row["title"]
        bodies.append(insert("outages", row, id=f"e{n}"))
        world.send(bodies[-1])
    world.start(rules=world._rules.replace('"{{ row.title }}"', '"Outage {{ row.id }}"'))
    counts = []
    for body in bodies:
        world.send(body)
        counts.append(len(world.mails))

    assert counts == [1, 1, 2]
    assert len(world.incidents) == 3


# --- One row's failure is its own
# -------------------------------------------------------------------------------------


class Firewall(Gate):
    """Stands before a sandbox and gives *refusal* to every request whose body holds *word*; counts
    what it saw."""

    def __init__(self, word: bytes, refusal: Answer) -> None:
        super().__init__()
        self.word = word
        self.refusal = refusal

    def __call__(self, sock: socket.socket, seen: Seen) -> bool:
        if self.word in seen.body:
            return self.refusal(sock, seen)
        return super().__call__(sock, seen)


def cut(sock: socket.socket, seen: Seen) -> bool:
    reset(sock)
    return False


def hang(sock: socket.socket, seen: Seen) -> bool:
    time.sleep(0.5)
    return False


REFUSALS: dict[str, Answer] = {
    "403 page": always(http(403, "<html><body>Request blocked</body></html>", "text/html")),
    "200 page": always(http(200, "<html><body>Request blocked</body></html>", "text/html")),
    "302": always(http(302, "", "text/html", Location="https://firewall.example.com/blocked")),
    "500": always(http(500, "{}")),
    "503 page": always(http(503, "<html><body>Request blocked</body></html>", "text/html")),
    "time-out": hang,
    "reset": cut,
    "half an answer": always(http(201, '{"result": {')),
}


@contextmanager
def behind(
    firewall: Firewall, *, instances: int = 1, database_url: str | None = None
) -> Iterator[tuple[World, Server]]:
    with World(instances=instances, database_url=database_url) as world, Server(firewall) as server:
        firewall.behind = world.servicenow.url
        world.start(
            SERVICENOW_INSTANCE_URL=server.url,
            SERVICENOW_TIMEOUT_SECONDS="0.3",
            DEADLINE_SECONDS="1",
        )
        for instance in range(instances):
            assert world.send(
                insert("outages", outage(f"before {instance}", title="earlier")), instance=instance
            )
        server.seen.clear()
        yield world, server


def drive(
    world: World, bodies: Sequence[bytes], *, seconds: float, instances: int = 1
) -> dict[int, float]:
    """Deliver all *bodies* as Hasura does, each after its own Retry-After, for *seconds* of the
    ledger's time.

    Gives when each was done, by its number.
    """
    start = world.clock.ahead
    due = [(0.0, number) for number in range(len(bodies))]
    done: dict[int, float] = {}
    while due and due[0][0] <= seconds:
        at, number = heapq.heappop(due)
        world.clock.advance(max(0.0, start + at - world.clock.ahead))
        answer = world.send(bodies[number], instance=number % instances)
        if answer.retry_after is None:
            done[number] = at
        else:
            heapq.heappush(due, (world.clock.ahead - start + answer.retry_after, number))
    return done


def rows(total: int, poisonous: set[int]) -> list[bytes]:
    titles = ["poison" if number in poisonous else "sound" for number in range(total)]
    return [
        insert("outages", outage(number, title=title), id=f"e{number}")
        for number, title in enumerate(titles)
    ]


def titles(world: World) -> list[str]:
    """Of the incidents, but for those of before."""
    every = (incident["short_description"] for incident in world.incidents)
    return sorted(title for title in every if title != "earlier")


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_row_that_fails_each_time_costs_the_others_seconds(refusal: Answer) -> None:
    with behind(Firewall(b"poison", refusal)) as (world, _):
        done = drive(world, rows(38, {0}), seconds=60)

        assert set(done) == set(range(1, 38))
        assert titles(world) == ["sound"] * 37


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(
    "poisonous", [set(range(5)), set(range(0, 40, 8)), set(range(35, 40))], ids=str
)
def test_five_rows_of_forty_that_fail_each_time_cost_the_others_a_minute(
    refusal: Answer, poisonous: set[int]
) -> None:
    with behind(Firewall(b"poison", refusal)) as (world, _):
        done = drive(world, rows(40, poisonous), seconds=90)

        assert set(done) == set(range(40)) - poisonous
        assert titles(world) == ["sound"] * 35


@pytest.mark.parametrize(
    "refusal", [REFUSALS["403 page"], REFUSALS["500"]], ids=["403 page", "500"]
)
@pytest.mark.parametrize(
    "poisonous", [set(range(0, 40, 2)), set(range(20))], ids=["every other", "the oldest"]
)
def test_half_of_the_rows_that_fail_each_time_hold_the_other_half_for_minutes_only(
    refusal: Answer, poisonous: set[int]
) -> None:
    with behind(Firewall(b"poison", refusal)) as (world, _):
        done = drive(world, rows(40, poisonous), seconds=300)

        assert set(done) == set(range(40)) - poisonous
        assert titles(world) == ["sound"] * 20


def test_rows_that_fail_each_time_at_one_of_three_instances_hold_no_others(postgresql: str) -> None:
    poisonous = set(range(0, 40, 4))
    with behind(
        Firewall(b"poison", REFUSALS["403 page"]), instances=3, database_url=postgresql
    ) as (world, _):
        done = drive(world, rows(40, poisonous), seconds=120, instances=3)

        assert set(done) == set(range(40)) - poisonous
        assert titles(world) == ["sound"] * 30


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_change_that_fails_each_time_costs_the_others_seconds(method: str) -> None:
    with behind(Firewall(b"poison", REFUSALS["403 page"])) as (world, _):
        assert len(drive(world, rows(10, set()), seconds=10)) == 10
        changes = [
            update(
                "outages",
                outage(n, title="sound"),
                outage(n, title="poison" if n == 0 else "changed"),
                id=f"u{n}",
            )
            for n in range(10)
        ]
        done = drive(world, changes, seconds=60)

        assert set(done) == set(range(1, 10))
        assert titles(world) == ["changed"] * 9 + ["sound"]


def test_where_only_rows_that_fail_are_left_each_dies_by_itself_and_a_sound_one_passes() -> None:
    with behind(Firewall(b"poison", REFUSALS["403 page"])) as (world, server):
        world.start(RETRY_FOR_SECONDS="7200")
        late = [
            insert("outages", outage(f"late {number}", title="sound"), id=f"late{number}")
            for number in range(4)
        ]
        done = drive(world, rows(6, set(range(6))), seconds=1800)
        asked = len(server.seen)
        passed = drive(world, late, seconds=60)
        dead = drive(world, rows(6, set(range(6))), seconds=4 * 3600)

        assert done == {}
        # Each try is a POST, and after a 403 a look or two for what it may have made.
        assert asked < 6 * 3 * 15
        assert set(passed) == set(range(4))
        assert set(dead) == set(range(6))
        assert {
            row["status"]
            for row in world.query("SELECT status FROM servicenow.delivery WHERE event LIKE 'e_'")
        } == {"dead"}
        assert any(
            "python -m function replay" in str(mail.get_body(("plain",))) for mail in world.mails
        )


def test_a_row_that_failed_and_passes_later_counts_again() -> None:
    firewall = Firewall(b"poison", REFUSALS["500"])
    with behind(firewall) as (world, _):
        drive(world, rows(2, {0}), seconds=30)
        firewall.word = b"nothing of the kind"
        drive(world, rows(2, {0}), seconds=600)

        assert titles(world) == ["poison", "sound"]
        assert world.query("SELECT key FROM servicenow.ticket WHERE call_failed") == []


@pytest.mark.parametrize(
    "fault", ["down", "error_500", "unavailable_503", "sso_html_200", "hibernating_html_200"]
)
def test_an_outage_of_an_hour_costs_few_calls_one_at_a_time_however_many_rows_wait(
    fault: str,
) -> None:
    with World(instances=2) as world:
        world.servicenow.arm(fault, times=None)
        bodies = rows(40, set())
        drive(world, bodies, seconds=3600, instances=2)
        calls = world.calls()
        world.servicenow.disarm()
        done = drive(world, bodies, seconds=3600, instances=2)

        # Five rows that met it themselves, each after waits of its own, and the probes.
        assert len(calls) < 5 * 20 + 30
        assert len(done) == 40
        assert len(world.incidents) == 40


def test_an_outage_of_writes_alone_costs_few_calls(world: World) -> None:
    world.servicenow.arm("unavailable_503", method="POST", times=None)
    drive(world, rows(50, set()), seconds=1800)

    assert len(world.calls()) < 300
    world.servicenow.disarm()
    assert len(drive(world, rows(50, set()), seconds=3600)) == 50


def test_a_hold_is_probed_by_a_get_before_any_row_is_sent(world: World) -> None:
    world.send(insert("outages", outage("before")))
    world.servicenow.arm("unavailable_503", times=None)
    for n in range(5):
        world.send(insert("outages", outage(n)))
    world.calls()
    world.clock.advance(16)
    failing = world.send(insert("outages", outage(0)))
    asked_in_vain = world.calls()
    world.servicenow.disarm()
    world.clock.advance(31)
    passing = world.send(insert("outages", outage(0)))
    asked = world.calls()
    ordinary = world.send(insert("outages", outage(9)))

    assert (failing.status, passing.status, ordinary.status) == (503, 200, 200)
    assert asked_in_vain == ["GET incident"]
    assert asked == ["GET incident", "POST incident"]
    assert world.calls() == ["POST incident"]


def test_the_write_after_a_probe_counts_whichever_instance_had_the_trouble() -> None:
    with World(instances=2) as world:
        for instance in (0, 1):
            world.send(insert("outages", outage(f"before {instance}")), instance=instance)
        world.servicenow.arm("unavailable_503", times=None)
        for n in range(5):
            world.send(insert("outages", outage(n)), instance=0)
        world.servicenow.disarm()
        world.clock.advance(16)
        world.calls()
        passing = world.send(insert("outages", outage("after")), instance=1)

        assert (passing.status, world.calls()) == (200, ["GET incident", "POST incident"])
        assert world.query("SELECT in_vain, failures FROM servicenow.hold WHERE kind = 'down'") == [
            {"in_vain": 0, "failures": 0}
        ]


def test_a_password_refused_after_a_first_call_was_let_in_is_held_all_the_same() -> None:
    refusal = http(
        401, '{"error":{"message":"User Not Authenticated","detail":"x"},"status":"failure"}'
    )
    made: dict[str, str] = {}

    def answer(sock: socket.socket, seen: Seen) -> bool:
        if seen.method == "PATCH":
            sock.sendall(refusal)
            return True
        if seen.method == "POST":
            made.update(json.loads(seen.body), number="INC0000001", state="1", sys_mod_count="0")
        sock.sendall(result(made, 201 if seen.method == "POST" else 200))
        return True

    with Server(answer) as server, World(SERVICENOW_INSTANCE_URL=server.url) as world:
        world.send(insert("outages", outage(1)))
        fixed = update(
            "outages", outage(1), outage(1, status="fixed"), created_at="2026-03-04T05:06:08"
        )
        refused = world.send(fixed)
        calls = [seen.method for seen in server.seen]
        held = world.send(insert("outages", outage(2)))

        assert calls == ["POST", "GET", "PATCH"]
        assert refused.said == held.said == "retrying servicenow_unauthorized"
        assert len(server.seen) == len(calls)


REFUSED = pytest.mark.parametrize(
    "refusal",
    [
        http(429, '{"error":{"message":"Rate limit exceeded"}}', Retry_After="120"),
        http(401, '{"error":{"message":"User Not Authenticated","detail":"x"},"status":"failure"}'),
    ],
    ids=["rate limit", "password"],
)


class SlowServer(Server):
    """Refuses rows titled Refused and After; rows titled First and Slow wait until they are
    released."""

    def __init__(self, refusal: bytes) -> None:
        self.arrived = {b"First": threading.Event(), b"Slow": threading.Event()}
        self.released = {b"First": threading.Event(), b"Slow": threading.Event()}
        self._refusal = refusal
        super().__init__(self._answer)

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        if b"Refused" in seen.body or b"After" in seen.body:
            sock.sendall(self._refusal)
            return True
        for title, event in self.arrived.items():
            if title in seen.body:
                event.set()
                self.released[title].wait(10)
        record = json.loads(seen.body) if seen.body else {}
        record |= {"number": "INC0000001", "state": "1", "sys_mod_count": "0"}
        sock.sendall(result(record, 201) if seen.method == "POST" else result([]))
        return True


@REFUSED
def test_a_call_that_was_sent_before_a_refusal_and_passes_after_it_lifts_no_hold(
    refusal: bytes,
) -> None:
    with (
        SlowServer(refusal) as server,
        World(SERVICENOW_INSTANCE_URL=server.url) as world,
        ThreadPoolExecutor(2) as threads,
    ):
        world.send(insert("outages", outage(0)))
        first = threads.submit(world.send, insert("outages", outage(1, title="First")))
        assert server.arrived[b"First"].wait(10)
        # It waits for the first one's turn, and what that proves lets calls overlap from then on.
        slow = threads.submit(world.send, insert("outages", outage(2, title="Slow")))
        time.sleep(0.3)
        server.released[b"First"].set()
        first.result()
        assert server.arrived[b"Slow"].wait(10)
        refused = world.send(insert("outages", outage(3, title="Refused")))
        server.released[b"Slow"].set()
        passed = slow.result()
        calls = len(server.seen)
        later = world.send(insert("outages", outage(4, title="After")))

        assert (refused.status, passed.status, later.status) == (503, 200, 503)
        assert len(server.seen) == calls


@REFUSED
def test_nor_does_one_of_another_instance(refusal: bytes) -> None:
    with (
        SlowServer(refusal) as server,
        World(instances=2, SERVICENOW_INSTANCE_URL=server.url) as world,
    ):
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(world.send, insert("outages", outage(2, title="Slow")))
            assert server.arrived[b"Slow"].wait(10)
            # Until then the other one would wait for what the slow call finds out.
            world.clock.advance(11)
            refused = world.send(insert("outages", outage(3, title="Refused")), instance=1)
            server.released[b"Slow"].set()
            passed = slow.result()
        calls = len(server.seen)
        later = world.send(insert("outages", outage(4, title="After")), instance=1)

        assert (refused.status, passed.status, later.status) == (503, 200, 503)
        assert len(server.seen) == calls
