"""When Hasura as a whole does not work: mutations are held for all instances, and one probe finds
out whether they pass again."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from function.connection.breaker import HASURA, IN_A_ROW, SERVICENOW, CallVerdict
from function.connection.guarded_hasura import GuardedGraphql, HasuraHeld
from function.core.outcome import CircuitOpen, Failure, Reason, Retryability
from function.core.permit import HoldKind
from function.deadline import Deadline
from function.hasura.graphql import GraphqlClient, HasuraError
from function.ledger.backend import LedgerUnavailable
from function.ledger.database import Database, Transaction
from function.ledger.holds import HoldRepository
from tests.answers import Answer, Seen, Server, http
from tests.hasura.test_graphql import UPDATE, app, engine  # noqa: F401  # fixtures
from tests.sandbox.test_graphql import SECRET, App
from tests.world import Clock

T = TypeVar("T")
QUERY = "mutation { a { id } }"
DONE = http(200, '{"data": {"a": null}}')
PASSED = http(200, '{"data": {"__typename": "query_root"}}')
AWAY = http(503, "")


class CountingDatabase(Database):
    """Counts its transactions."""

    count = 0

    def run(self, work: Callable[[Transaction], T]) -> T:
        self.count += 1
        return super().run(work)


class Hasura:
    """A server that answers what it is told to, to probes (`probe`) or to mutations."""

    def __init__(self) -> None:
        self.mutation: bytes | Answer = DONE
        self.probe: bytes | Answer = PASSED
        self.server = Server(self._answer)

    def _answer(self, sock: Any, seen: Seen) -> bool:
        answer = self.probe if b"__typename" in seen.body else self.mutation
        if isinstance(answer, bytes):
            sock.sendall(answer)
            return True
        return answer(sock, seen)

    def away(self) -> None:
        self.mutation = self.probe = AWAY

    def back(self) -> None:
        self.mutation, self.probe = DONE, PASSED

    @property
    def mutations(self) -> int:
        return sum(b"__typename" not in seen.body for seen in self.server.seen)

    @property
    def probes(self) -> int:
        return len(self.server.seen) - self.mutations


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(url: str, clock: Clock) -> Iterator[CountingDatabase]:
    database = CountingDatabase(url, clock_ahead_seconds=clock)
    yield database
    database.close()


@pytest.fixture
def hasura() -> Iterator[Hasura]:
    hasura = Hasura()
    with hasura.server:
        yield hasura


Instances = Callable[..., GuardedGraphql]


@pytest.fixture
def instance(hasura: Hasura, database: CountingDatabase) -> Instances:
    """An instance of the function; each call makes one more."""

    def make(secret: str = SECRET, **options: Any) -> GuardedGraphql:
        client = GraphqlClient(
            f"{hasura.server.url}/v1/graphql", admin_secret=secret, timeout_seconds=10.0
        )
        return GuardedGraphql(
            client,
            HoldRepository(database),
            admin_secret=secret,
            **{"auth_hold_seconds": 600.0, **options},
        )

    return make


def mutate(guarded: GuardedGraphql, deadline: Deadline | None = None) -> str:
    """What comes of one mutation, in a word."""
    try:
        guarded.execute(QUERY, {}, deadline=deadline or Deadline.after(10))
    except HasuraHeld as held:
        return f"held {held.kind} {held.failure.reason}"
    except HasuraError as error:
        return str(error.failure.reason)
    return "done"


DOWN = "held down hasura_unavailable"


def fail_in_a_row(guarded: GuardedGraphql) -> list[str]:
    return [mutate(guarded) for _ in range(IN_A_ROW)]


# --- As long as all goes well


def test_the_ledger_is_asked_now_and_then_and_not_for_each_mutation(
    instance: Instances, database: CountingDatabase
) -> None:
    often, seldom = instance(ask_seconds=0.0), instance()
    counts = []
    for guarded in (often, seldom):
        before = database.count
        assert {mutate(guarded) for _ in range(20)} == {"done"}
        counts.append(database.count - before)

    assert counts == [20, 1]


def test_many_threads_ask_once(instance: Instances, database: CountingDatabase) -> None:
    guarded = instance()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(mutate, [guarded] * 64)) == {"done"}

    assert database.count == 1


def test_mutations_overlap(instance: Instances, hasura: Hasura) -> None:
    def slowly(sock: Any, _: Seen) -> bool:
        time.sleep(0.1)
        sock.sendall(DONE)
        return True

    hasura.mutation = slowly
    guarded = instance()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(mutate, [guarded] * 8)) == {"done"}

    assert hasura.server.in_flight_max >= 4


@pytest.mark.parametrize("locks_accounts", [True, False])
def test_only_where_accounts_are_locked_a_call_finds_out_for_all(
    database: CountingDatabase, locks_accounts: bool
) -> None:
    holds = HoldRepository(database)
    first, second = (
        holds.request_permit(
            "system", "c", probe_seconds=10, verified_after=None, locks_accounts=locks_accounts
        )
        for _ in range(2)
    )

    assert (first.wait_seconds, first.probing) == (0.0, locks_accounts)
    assert second.waiting_for_probe == locks_accounts


# --- Outages


def test_several_failures_in_a_row_hold_mutations_until_a_probe_passes(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    guarded = instance()
    hasura.away()
    failed = fail_in_a_row(guarded)
    held = [mutate(guarded) for _ in range(10)]
    sent_by_then = len(hasura.server.seen)
    hasura.back()
    clock.advance(16)
    after = [mutate(guarded) for _ in range(3)]

    assert failed == ["hasura_unavailable"] * (IN_A_ROW - 1) + [DOWN]
    assert held == [DOWN] * 10
    assert sent_by_then == IN_A_ROW
    assert after == ["done"] * 3
    assert hasura.probes == 1


def test_a_probe_that_fails_doubles_the_wait(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    guarded = instance()
    hasura.away()
    fail_in_a_row(guarded)
    waits = []
    for _ in range(7):
        with pytest.raises(CircuitOpen) as caught:
            guarded.execute(QUERY, {}, deadline=Deadline.after(10))
        wait = caught.value.failure.retry_after_seconds
        assert wait is not None
        waits.append(wait)
        clock.advance(wait + 1)
        assert mutate(guarded) == DOWN

    assert waits == pytest.approx([15, 30, 60, 120, 240, 300, 300], abs=1)
    assert hasura.mutations == IN_A_ROW


def test_an_accident_holds_nobody_and_what_passes_ends_the_row(
    instance: Instances, hasura: Hasura
) -> None:
    guarded = instance()
    outcomes = []
    for _ in range(3):
        hasura.mutation = AWAY
        outcomes += [mutate(guarded) for _ in range(IN_A_ROW - 1)]
        hasura.back()
        outcomes.append(mutate(guarded))

    assert outcomes == ([*["hasura_unavailable"] * (IN_A_ROW - 1), "done"]) * 3


def test_another_instance_hears_of_a_hold_within_seconds(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    one, two, three = instance(), instance(ask_seconds=0.3), instance()
    assert [mutate(two), mutate(three)] == ["done", "done"]
    hasura.away()
    fail_in_a_row(one)
    time.sleep(0.4)
    held, knows_nothing = mutate(two), mutate(three)
    hasura.back()
    clock.advance(16)
    after = [mutate(two), mutate(three), mutate(one)]

    assert (held, knows_nothing) == (DOWN, DOWN)  # its own failure told it
    assert hasura.mutations == 2 + IN_A_ROW + 1 + 3
    assert after == ["done"] * 3


def test_one_probe_is_made_at_a_time_whoever_waits(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    instances = [instance() for _ in range(3)]
    hasura.away()
    fail_in_a_row(instances[0])
    for guarded in instances[1:]:
        mutate(guarded)
    hasura.back()
    together = []

    def slowly(sock: Any, seen: Seen) -> bool:
        together.append(hasura.server.in_flight_max)
        time.sleep(0.3)
        sock.sendall(PASSED)
        return True

    hasura.probe = slowly
    clock.advance(16)
    hasura.server.in_flight_max = 0
    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(lambda n: mutate(instances[n % 3]), range(12)))

    assert outcomes == ["done"] * 12
    assert (hasura.probes, together) == (1, [1])


def test_who_waits_for_a_probe_waits_two_seconds_at_most(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    guarded = instance()
    hasura.away()
    fail_in_a_row(guarded)
    clock.advance(16)
    begun = threading.Event()

    def hangs(sock: Any, _: Seen) -> bool:
        begun.set()
        return bool(hasura.server.stopping.wait(3))

    hasura.probe = hangs
    prober = threading.Thread(target=mutate, args=(guarded,))
    prober.start()
    assert begun.wait(5)
    began = time.monotonic()
    outcome = mutate(guarded)
    waited = time.monotonic() - began
    prober.join()

    assert outcome == DOWN
    assert waited < 3
    assert hasura.mutations == IN_A_ROW


def test_a_probe_that_passed_lets_others_in_whatever_follows_it(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    one, two = instance(), instance()
    hasura.away()
    fail_in_a_row(one)
    mutate(two)
    hasura.probe = PASSED
    clock.advance(16)
    deadline = Deadline.after(10)
    deadline.begin_row(failed_before=True)
    followed = mutate(one, deadline)
    hasura.back()
    began = time.monotonic()
    others = [mutate(two), mutate(one)]

    assert followed == "hasura_unavailable"
    assert others == ["done", "done"]
    assert time.monotonic() - began < 1
    assert hasura.probes == 1


def test_once_it_is_over_the_ledger_is_left_in_peace(
    instance: Instances, hasura: Hasura, database: CountingDatabase
) -> None:
    guarded = instance()
    hasura.away()
    mutate(guarded)
    hasura.back()
    mutate(guarded)
    before = database.count

    assert {mutate(guarded) for _ in range(20)} == {"done"}
    assert database.count == before


@pytest.mark.parametrize("failures", [IN_A_ROW - 1, IN_A_ROW])
def test_a_mutation_sent_before_a_failure_proves_nothing(
    instance: Instances, hasura: Hasura, failures: int
) -> None:
    guarded = instance()
    mutate(guarded)
    arrived = threading.Event()

    def late(sock: Any, _: Seen) -> bool:
        arrived.set()
        time.sleep(0.5)
        sock.sendall(DONE)
        return True

    hasura.mutation = late
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mutate, guarded)
        assert arrived.wait(5)
        hasura.away()
        for _ in range(failures):
            mutate(guarded)
        assert slow.result() == "done"

    assert mutate(guarded) == DOWN


# --- What holds at once, and what holds nobody


def test_a_wrong_admin_secret_is_sent_once_and_held_for_all(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    denied = {"errors": [{"message": "no", "extensions": {"code": "access-denied"}}]}
    hasura.mutation = hasura.probe = http(200, json.dumps(denied))
    one, two, other = instance(), instance(), instance("another")
    refused = [mutate(one) for _ in range(5)] + [mutate(two) for _ in range(5)]
    sent_by_then = len(hasura.server.seen)
    clock.advance(590)
    still = mutate(one)
    hasura.back()
    rotated = mutate(other)
    clock.advance(20)
    after = mutate(one)

    assert set(refused) == {"held auth hasura_unauthorized"}
    assert sent_by_then == 1
    assert (still, rotated, after) == ("held auth hasura_unauthorized", "done", "done")


def test_a_rate_limit_is_kept_until_its_time(
    instance: Instances, hasura: Hasura, clock: Clock
) -> None:
    one, two = instance(), instance()
    hasura.mutation = http(429, "", Retry_After="120")
    outcomes = [mutate(one), mutate(one), mutate(two)]
    hasura.back()
    clock.advance(110)
    early = mutate(two)
    clock.advance(15)

    assert set(outcomes) == {"held rate hasura_overloaded"}
    assert early == "held rate hasura_overloaded"
    assert mutate(two) == "done"
    assert hasura.mutations == 2


REFUSED = {"errors": [{"message": "no", "extensions": {"code": "permission-error"}}]}
RAISED = {"errors": [{"message": "no", "extensions": {"code": "unexpected"}}]}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (http(200, json.dumps(REFUSED)), "mutation_forbidden"),
        (http(200, json.dumps(RAISED)), "mutation_failed"),
        (http(429, ""), "hasura_overloaded"),
    ],
)
def test_what_is_one_mutations_holds_nobody(
    instance: Instances, hasura: Hasura, database: CountingDatabase, answer: bytes, word: str
) -> None:
    hasura.mutation = answer
    guarded = instance()

    assert {mutate(guarded) for _ in range(3 * IN_A_ROW)} == {word}
    assert database.count == 1


def test_a_row_that_failed_before_closes_no_line(instance: Instances, hasura: Hasura) -> None:
    guarded = instance()
    hasura.mutation = AWAY
    outcomes = []
    for _ in range(3 * IN_A_ROW):
        deadline = Deadline.after(10)
        deadline.begin_row(failed_before=True)
        outcomes.append(mutate(guarded, deadline))
        assert deadline.failed_now(done=False)
    hasura.back()
    deadline = Deadline.after(10)

    assert set(outcomes) == {"hasura_unavailable"}
    assert mutate(guarded, deadline) == "done"
    assert (deadline.called, deadline.failed) == (True, False)


# --- The ledger


def test_without_a_ledger_no_mutation_is_made(hasura: Hasura, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")
    client = GraphqlClient(f"{hasura.server.url}/v1/graphql")
    guarded = GuardedGraphql(
        client, HoldRepository(database), admin_secret="", auth_hold_seconds=600
    )
    with pytest.raises(LedgerUnavailable):
        guarded.execute(QUERY, {}, deadline=Deadline.after(2))

    assert hasura.server.seen == []


class FailingDatabase(Database):
    """A ledger that goes away when it is told to."""

    away = False

    def run(self, work: Callable[[Transaction], T]) -> T:
        if self.away:
            raise LedgerUnavailable("away")
        return super().run(work)


def test_what_came_of_a_mutation_is_told_though_the_ledger_went_away(
    hasura: Hasura, tmp_path: Path
) -> None:
    database = FailingDatabase(f"sqlite:///{tmp_path}/ledger.db")
    client = GraphqlClient(f"{hasura.server.url}/v1/graphql")
    guarded = GuardedGraphql(
        client, HoldRepository(database), admin_secret="", auth_hold_seconds=600
    )
    mutate(guarded)

    def answer(content: bytes) -> Answer:
        def goes_away(sock: Any, _: Seen) -> bool:
            database.away = True
            sock.sendall(content)
            return True

        return goes_away

    hasura.mutation = answer(AWAY)
    failed = mutate(guarded)
    database.away = False
    hasura.mutation = answer(DONE)
    done = mutate(guarded)
    database.away = False
    hasura.mutation = DONE

    assert (failed, done, mutate(guarded)) == ("hasura_unavailable", "done", "done")
    database.close()


# --- What is said of it


def test_a_hold_is_told_in_words_for_hasura(instance: Instances, hasura: Hasura) -> None:
    hasura.mutation = http(401, "")
    guarded = instance()
    mutate(guarded)
    with pytest.raises(HasuraHeld) as caught:
        guarded.execute(QUERY, {}, deadline=Deadline.after(10))

    assert caught.value.kind is HoldKind.AUTH
    assert caught.value.failure.hint == HASURA.hints[HoldKind.AUTH]
    assert guarded.address == f"{hasura.server.url}/v1/graphql"


def test_each_system_has_words_of_its_own_for_every_hold_but_a_rows() -> None:
    for profile, name in ((SERVICENOW, "ServiceNow"), (HASURA, "Hasura")):
        assert profile.hints.keys() == {*HoldKind} - {HoldKind.ROW}
        assert all(name in hint or "HASURA_GRAPHQL_URL" in hint for hint in profile.hints.values())
    assert not any("ServiceNow" in hint for hint in HASURA.hints.values())


@pytest.mark.parametrize(
    ("reason", "wait", "verdict"),
    [
        (Reason.HASURA_UNREACHABLE, None, CallVerdict.FAILING),
        (Reason.HASURA_TIMEOUT, None, CallVerdict.FAILING),
        (Reason.HASURA_UNAVAILABLE, None, CallVerdict.FAILING),
        (Reason.HASURA_BAD_ANSWER, None, CallVerdict.FAILING),
        (Reason.HASURA_UNAUTHORIZED, None, CallVerdict.FAILING),
        (Reason.HASURA_OVERLOADED, 60.0, CallVerdict.FAILING),
        (Reason.HASURA_OVERLOADED, None, CallVerdict.UNKNOWN),
        (Reason.MUTATION_FAILED, None, CallVerdict.UNKNOWN),
        (Reason.DEADLINE, None, CallVerdict.UNKNOWN),
        (Reason.MUTATION_INVALID, None, CallVerdict.WORKING),
        (Reason.MUTATION_FORBIDDEN, None, CallVerdict.WORKING),
        (Reason.MUTATION_REFUSED, None, CallVerdict.WORKING),
    ],
)
def test_a_failure_says_whether_hasura_works(
    reason: Reason, wait: float | None, verdict: CallVerdict
) -> None:
    failure = Failure(Retryability.TRANSIENT, reason, "", retry_after_seconds=wait)

    assert HASURA.judge_failure(failure) is verdict


def test_the_sandboxes_hasura_is_held_and_back(
    app: App,  # noqa: F811  # the fixture
    database: CountingDatabase,
    clock: Clock,
) -> None:
    def guarded(secret: str) -> GuardedGraphql:
        client = GraphqlClient(app.hasura.graphql.url, admin_secret=secret)
        holds = HoldRepository(database)
        return GuardedGraphql(client, holds, admin_secret=secret, auth_hold_seconds=600.0)

    wrong, right = guarded("wrong"), guarded(SECRET)
    variables: dict[str, Any] = {"id": 1, "set": {"severity": "major"}}
    held = {mutate(wrong) for _ in range(3)}
    done = right.execute(UPDATE, variables, deadline=Deadline.after(10))
    for _ in range(IN_A_ROW):
        app.hasura.graphql.arm("error_before_commit")
        last = mutate_outage(right)
    clock.advance(16)

    assert held == {"held auth hasura_unauthorized"}
    assert done["update_outages_by_pk"] is not None
    assert last == DOWN
    assert mutate_outage(right) == "done"


def mutate_outage(guarded: GuardedGraphql) -> str:
    try:
        guarded.execute(
            UPDATE, {"id": 1, "set": {"severity": "minor"}}, deadline=Deadline.after(10)
        )
    except HasuraHeld as held:
        return f"held {held.kind} {held.failure.reason}"
    except HasuraError as error:
        return str(error.failure.reason)
    return "done"
