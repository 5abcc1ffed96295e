"""One event for several rules: each has its own fate, and what is not due yet is not called."""

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
