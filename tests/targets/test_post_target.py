"""A post's target, as a session of the engine knows it."""

import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from function.connection.guarded_hasura import GuardedGraphql
from function.core.event import Event, Op
from function.core.outcome import NotDone, Reason, Status
from function.core.step import DesiredState, Step
from function.deadline import Deadline
from function.hasura.graphql import GraphqlClient
from function.http.network import NetworkSettings
from function.ledger.database import Database
from function.ledger.holds import HoldRepository
from function.ledger.records import TableTraits, Ticket
from function.rule_variables import SecretRefresh
from function.rules.evaluate import evaluate
from function.rules.loader import load_rules
from function.rules.model import Rule
from function.targets.base import Result, Task
from function.targets.post.guarded import CallSlots
from function.targets.post.target import PostTarget
from tests.answers import Seen, http
from tests.receiver import TAKEN, Receiver
from tests.sandbox.test_graphql import SECRET, TABLES, App

RULES = """
version: 1
env: [A_URL, TOKEN]
rules:
  - name: a
    from: hasura/public.outages
    post:
      url: "{{ env.A_URL }}"
      allow_private: true
      headers: {Authorization: "Bearer {{ env.TOKEN }}"}
      body: {id: "{{ row.id }}"}
"""
DATA = (
    RULES.replace('{id: "{{ row.id }}"}', '{t: "{{ data.outages_by_pk.title }}"}')
    + """\
    when: data.outages_by_pk
    data:
      query: |
        query ($id: bigint!) { outages_by_pk(id: $id) { title } }
      variables: {id: "{{ row.id }}"}
"""
)


def no_graphql() -> NoReturn:
    raise AssertionError("nothing is fetched")


@pytest.fixture
def holds(tmp_path: Path) -> HoldRepository:
    return HoldRepository(Database(f"sqlite:///{tmp_path}/ledger.db"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def target_of(holds: HoldRepository, **options: Any) -> PostTarget:
    given = {"graphql": no_graphql, "network": NetworkSettings(), "settings_digest": "d"}
    return PostTarget(holds, **{**given, **options})


def rule_of(receiver: Receiver, text: str = RULES, **environ: str) -> Rule:
    return load_rules(text, environ={"A_URL": receiver.url, "TOKEN": "old", **environ}).rules[0]


def task_of(rule: Rule, event: Event, step: Step, *, moved: bool = True) -> Task:
    assert isinstance(step.wants, DesiredState)
    return Task(
        rule,
        event,
        step,
        step.wants,
        Ticket("post", rule.id, step.key),
        time.time(),
        Deadline.after(10),
        lambda _: None,
        TableTraits(),
        moved=moved,
    )


def apply(target: PostTarget, rule: Rule, *, moved: bool = True, **columns: Any) -> Result:
    event = Event("e", rule.source, Op.INSERT, None, {"id": 1, **columns}, "c", "{}")
    [step] = evaluate(rule, event)
    return target.connect().for_rule(rule).apply(task_of(rule, event, step, moved=moved))


def test_each_element_of_a_long_list_costs_as_much_as_one_of_a_short_list(
    holds: HoldRepository, receiver: Receiver
) -> None:
    each = RULES.replace("row.id", "item").replace("    post:", "    each: row.list\n    post:")
    rule = rule_of(receiver, each + "      key: '{{ item }}'\n")

    def cost_of(elements: int) -> float:
        event = Event("e", rule.source, Op.INSERT, None, {"list": [*range(elements)]}, "c", "{}")
        steps = evaluate(rule, event)
        session = target_of(holds).connect().for_rule(rule)
        began = time.thread_time()
        for step in steps[-30:]:
            assert session.apply(task_of(rule, event, step)).status is Status.SENT
        return time.thread_time() - began

    cost_of(1)
    short, long = cost_of(30), cost_of(500)

    assert [body["id"] for body in receiver.bodies][-30:] == [*range(470, 500)]
    assert long < 3 * short


def test_where_another_event_took_the_row_elsewhere_nothing_is_sent(
    holds: HoldRepository, receiver: Receiver
) -> None:
    result = apply(target_of(holds), rule_of(receiver), moved=False)

    assert result == Result(Status.SUPERSEDED, None)
    assert receiver.got == []


def refuse_old(sock: Any, seen: Seen) -> bool:
    sock.sendall(TAKEN if seen.headers["authorization"] == "Bearer new" else http(401))
    return True


class Variables:
    """Those of a rule, whose token was replaced where it is kept."""

    def __init__(self, rule: Rule, replaced_by: str = "new") -> None:
        self._rule = rule
        self._token = replaced_by
        self._replacements = 7
        self.doubtful_seconds = 0.0

    def count_replacements(self, names: Collection[str]) -> int:
        assert names == {"A_URL", "TOKEN"}
        return self._replacements

    def refresh(
        self, names: Collection[str], used: int, *, refused_before: bool = False
    ) -> SecretRefresh:
        assert (names, used, refused_before) == ({"A_URL", "TOKEN"}, self._replacements, False)
        if self.doubtful_seconds or self._rule.env["TOKEN"] == self._token:
            return SecretRefresh(replaced=False, wait_seconds=self.doubtful_seconds)
        self._rule.env["TOKEN"] = self._token  # type: ignore[index]  # the one mapping of all rules
        self._replacements += 1
        return SecretRefresh(replaced=True)


def test_after_a_401_the_variables_are_read_again_and_a_new_secret_is_sent(
    holds: HoldRepository, receiver: Receiver
) -> None:
    receiver.answer = refuse_old
    rule = rule_of(receiver)
    variables = Variables(rule)

    result = apply(target_of(holds, variables=variables), rule)

    assert result.status is Status.SENT
    assert [seen.headers["authorization"] for seen in receiver.got] == ["Bearer old", "Bearer new"]
    assert len(set(receiver.ids)) == 1


def test_a_401_with_no_new_secret_is_final_after_one_call(
    holds: HoldRepository, receiver: Receiver
) -> None:
    receiver.answer = refuse_old
    rule = rule_of(receiver)
    for target in (target_of(holds), target_of(holds, variables=Variables(rule, "old"))):
        with pytest.raises(NotDone) as caught:
            apply(target, rule)
        assert caught.value.failure.reason is Reason.TARGET_UNAUTHORIZED

    assert len(receiver.got) == 2


def test_a_401_while_the_secrets_may_be_out_of_date_is_tried_again_when_they_are_read(
    holds: HoldRepository, receiver: Receiver
) -> None:
    receiver.answer = refuse_old
    rule = rule_of(receiver)
    variables = Variables(rule)
    variables.doubtful_seconds = 42.0
    with pytest.raises(NotDone) as caught:
        apply(target_of(holds, variables=variables), rule)

    failure = caught.value.failure
    assert (failure.retryability, failure.reason) == ("transient", Reason.TARGET_UNAUTHORIZED)
    assert failure.retry_after_seconds == 42.0
    assert len(receiver.got) == 1


def test_a_url_that_has_become_none_is_final_and_named(
    holds: HoldRepository, receiver: Receiver
) -> None:
    rule = rule_of(receiver)
    rule.env["A_URL"] = "planted nonsense"  # type: ignore[index]  # as a secret that was replaced
    with pytest.raises(NotDone) as caught:
        apply(target_of(holds), rule)

    assert caught.value.failure.reason is Reason.TARGET_ADDRESS
    assert "A_URL" in caught.value.failure.hint
    assert "planted" not in caught.value.failure.hint
    assert target_of(holds).connect().for_rule(rule).find_system(Reason.TARGET_ADDRESS)[1] == ""


def test_a_url_that_is_given_a_user_beside_the_rule_s_own_header_is_final(
    holds: HoldRepository, receiver: Receiver
) -> None:
    rule = rule_of(receiver)
    rule.env["A_URL"] = receiver.url.replace("://", "://planted:word@")  # type: ignore[index]  # as a secret that was replaced
    with pytest.raises(NotDone) as caught:
        apply(target_of(holds), rule)

    assert caught.value.failure.reason is Reason.TARGET_ADDRESS
    assert "A_URL has a user" in caught.value.failure.hint
    assert "planted" not in caught.value.failure.hint
    assert receiver.got == []


def test_calls_that_hang_leave_no_turn_and_nobody_waits_for_one() -> None:
    slots = CallSlots(1)
    with slots.take(patience_seconds=1) as first:
        began = time.monotonic()
        with slots.take(patience_seconds=0.2) as second:
            waited = time.monotonic() - began
        time.sleep(2.1)
        began = time.monotonic()
        with slots.take(patience_seconds=5) as third:
            hung = time.monotonic() - began
    with slots.take(patience_seconds=0) as last:
        pass

    assert (first, second, third, last) == (True, False, False, True)
    assert 0.15 < waited < 1
    assert hung < 0.5


# With the sandbox's Hasura on a real PostgreSQL


@pytest.fixture(scope="module")
def app(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE posts")
    url = postgresql_server.replace("/postgres?", "/posts?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
    app = App(url, tmp_path_factory.mktemp("hasura"))
    with app.hasura, app.session:
        app.sql("INSERT INTO outages (title, owner) VALUES ('Mail 🦀', '7'), ('Web', '8')")
        yield app
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE posts WITH (FORCE)")


def fetching(app: App, holds: HoldRepository, *, role: str = "") -> PostTarget:
    client = GraphqlClient(app.hasura.graphql.url, admin_secret=SECRET, role=role)
    guarded = GuardedGraphql(client, holds, admin_secret=SECRET, auth_hold_seconds=600)
    return target_of(holds, graphql=lambda: guarded)


def test_data_of_hasura_is_sent(app: App, holds: HoldRepository, receiver: Receiver) -> None:
    result = apply(fetching(app, holds), rule_of(receiver, DATA))

    assert result.status is Status.SENT
    assert receiver.bodies == [{"t": "Mail 🦀"}]


def test_a_row_deleted_before_its_data_is_skipped(
    app: App, holds: HoldRepository, receiver: Receiver
) -> None:
    result = apply(fetching(app, holds), rule_of(receiver, DATA), id=999)

    assert result == Result(Status.SKIPPED, Reason.WHEN_FALSE)
    assert receiver.got == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("{ title }", "{ titel }", Reason.DATA_INVALID),
        ('{id: "{{ row.id }}"}', '{id: "x{{ row.id }}"}', Reason.DATA_INVALID),
    ],
)
def test_a_query_that_hasura_does_not_take_is_final(
    app: App, holds: HoldRepository, receiver: Receiver, old: str, new: str, reason: Reason
) -> None:
    rule = rule_of(receiver, f"{new}".join(DATA.rsplit(old, 1)))
    with pytest.raises(NotDone) as caught:
        apply(fetching(app, holds), rule)

    assert caught.value.failure.reason is reason
    assert caught.value.failure.retryability == "permanent"
    assert receiver.got == []


def test_what_the_role_may_not_see_is_not_sent(
    app: App, holds: HoldRepository, receiver: Receiver
) -> None:
    with pytest.raises(NotDone) as caught:
        apply(fetching(app, holds, role="nobody"), rule_of(receiver, DATA))

    assert caught.value.failure.retryability == "permanent"
    assert receiver.got == []
    assert json.dumps(caught.value.failure.hint)
