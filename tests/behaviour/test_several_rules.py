"""One event for several rules: each has its own fate, and what is not due yet is not called."""

import time

from function.sources.hasura import parse_event
from tests.payloads import insert, update
from tests.world import RULES, World, outage

TWO = (
    RULES
    + """
  - name: fault
    from: hasura/public.outages
    ticket:
      table: problem
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
"""
)


def changed(*, retry: int = 0) -> bytes:
    at = "2026-03-04T05:06:08"
    return update(
        "outages", outage(), outage(title="Changed"), created_at=at, id="e", current_retry=retry
    )


def statuses(body: dict[str, object]) -> list[str]:
    outcomes = body["outcomes"]
    assert isinstance(outcomes, list)
    return [outcome["status"] for outcome in outcomes]


def test_the_soonest_wait_is_asked_for_and_the_rest_is_not_called_before_its_time() -> None:
    with World(rules=TWO) as world:
        world.send(insert("outages", outage()))
        world.servicenow.arm("commit_then_reset", method="PATCH", table="incident")
        world.servicenow.arm("semaphore_429", method="PATCH", table="problem")
        first = world.send(changed())
        world.calls()
        world.clock.advance(12)
        second = world.send(changed(retry=1))
        calls = world.calls()
        world.clock.advance((second.retry_after or 0) + 1)
        third = world.send(changed(retry=2))

        assert (first.status, second.status, third.status) == (503, 503, 200)
        assert first.retry_after is not None
        assert first.retry_after <= 10
        assert calls == ["PATCH problem"]
        assert statuses(second.body) == ["retrying", "updated"]
        assert second.body["outcomes"][0]["reason"] == "servicenow_unreachable"
        assert second.retry_after is not None
        assert second.retry_after > 40
        assert statuses(third.body) == ["unchanged", "unchanged"]


def test_an_event_that_comes_before_anything_is_due_is_tried_whole() -> None:
    with World(rules=TWO) as world:
        world.send(insert("outages", outage()))
        for table in ("incident", "problem"):
            world.servicenow.arm("commit_then_reset", method="PATCH", table=table)
        first = world.send(changed())
        again = world.send(changed(retry=1))

        assert (first.retry_after or 0) > 40
        assert statuses(again.body) == ["retrying", "retrying"]
        assert (
            world.query("SELECT attempts FROM servicenow.delivery WHERE event = 'e'")
            == [{"attempts": 2}] * 2
        )


FOUR = RULES + "".join(
    f"""
  - name: {name}
    from: hasura/public.outages
    ticket:
      table: problem
      key: "{{{{ row.id }}}}"
      fields: {{short_description: "{{{{ row.title }}}}"}}
"""
    for name in ("second", "third", "fourth")
)


def seconds_for_four_creates(world: World) -> float:
    """How long an event takes whose four calls take a second each."""
    world.send(insert("outages", outage(id=9)))  # whose calls find out what the instance keeps
    world.servicenow.arm("slow", times=4, seconds=1.0, method="POST")
    began = time.monotonic()
    answer = world.send(insert("outages", outage(), id="e"))
    seconds = time.monotonic() - began
    assert (answer.status, statuses(answer.body)) == (200, ["created"] * 4)
    rules = [outcome["rule"] for outcome in answer.body["outcomes"]]
    assert rules == ["outage", "second", "third", "fourth"]
    rows = [*world.servicenow.rows("incident"), *world.servicenow.rows("problem")]
    assert len([row for row in rows if row["correlation_id"]]) == 8
    return seconds


def test_the_rules_of_one_event_do_not_wait_for_each_others_calls() -> None:
    with World(rules=FOUR) as world:
        assert seconds_for_four_creates(world) < 3


def test_the_rules_of_one_event_are_worked_on_one_after_the_other_where_that_is_set() -> None:
    with World(rules=FOUR, RULES_AT_ONCE="1") as world:
        assert seconds_for_four_creates(world) > 4


def test_a_rule_that_fails_keeps_no_other_from_being_done() -> None:
    with World(rules=FOUR) as world:
        world.send(insert("outages", outage(id=9)))
        world.servicenow.arm("error_500", method="POST", table="incident")
        answer = world.send(insert("outages", outage(), id="e"))

        assert (answer.status, sorted(statuses(answer.body))) == (
            503,
            ["created", "created", "created", "retrying"],
        )
        world.clock.advance((answer.retry_after or 0) + 1)
        again = world.send(insert("outages", outage(), id="e", current_retry=1))
        assert sorted(statuses(again.body)) == ["created", "unchanged", "unchanged", "unchanged"]


def test_rules_that_name_one_group_do_not_wait_for_each_others_permit() -> None:
    """One of them holds the leave to call, another may ask for the group."""
    rules = FOUR.replace(
        'fields: {short_description: "{{ row.title }}"}',
        'fields: {short_description: "{{ row.title }}", assignment_group: Network}',
    )
    for concurrency in ("1", "8"):
        with World(rules=rules, SERVICENOW_MAX_CONCURRENCY=concurrency) as world:
            began = time.monotonic()
            for number in range(5):
                answer = world.send(insert("outages", outage(id=number), id=f"e{number}"))
                assert (answer.status, statuses(answer.body)) == (200, ["created"] * 4)

            assert time.monotonic() - began < 8


def test_an_event_leaves_a_record_each_time_that_it_comes_however_late() -> None:
    """Else nobody would hear of it once Hasura gives up."""
    skips = RULES.replace("when: ", "when: false and ")
    assert skips != RULES
    with World(rules=skips + TWO.removeprefix(RULES)) as world:
        app = world.apps[0]
        late = app.engine.settings.deadline_seconds - 2.1
        delivered = app.engine.deliver(
            parse_event(insert("outages", outage(), id="e")), spent_seconds=late
        )

        assert [outcome.status for outcome in delivered.outcomes] == ["skipped", "retrying"]
        assert world.query("SELECT rule, attempts FROM servicenow.delivery") == [
            {"rule": "fault", "attempts": 1}
        ]
