"""Events with types, through the whole function."""

import pytest

from function.ledger.deliveries import UNRULED_SAMPLES_MAX, UNRULED_TYPES_MAX
from tests.payloads import insert
from tests.world import World

TICKET = """\
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.id }} by %s"}
"""
RULES = f"""\
version: 1
types: {{hasura/public.events: row.event_type}}
rules:
  - name: created
    from: hasura/public.events
    type: Customer_Created
{TICKET % "created"}\
  - name: again
    from: hasura/public.events
    type: [customer_created, customer_renamed]
{TICKET % "again"}\
  - name: every
    from: hasura/public.events
{TICKET % "every"}"""


def events(world: World) -> World:
    world.start(rules=RULES)
    return world


def body(event_type: object, id: int = 1, event: str = "", *, current_retry: int = 0) -> bytes:
    row = {"id": id, "event_type": event_type}
    return insert("events", row, id=event, current_retry=current_retry)


def subjects(world: World) -> list[str]:
    return [str(mail["Subject"]) for mail in world.mails]


def test_two_rules_that_name_one_type_both_hear_it_and_so_does_one_without_a_type(
    world: World,
) -> None:
    answer = events(world).send(body("CUSTOMER_CREATED"))

    assert answer.status == 200
    assert [(outcome["rule"], outcome["status"]) for outcome in answer.body["outcomes"]] == [
        ("created", "created"),
        ("again", "created"),
        ("every", "created"),
    ]


def test_an_unknown_type_is_an_error_that_names_it_and_no_target_is_called(world: World) -> None:
    answer = events(world).send(body("Customer_Moved", event="e-1"))

    assert (answer.status, answer.said) == (422, "dead no_rule")
    assert "has the type `Customer_Moved`" in answer.body["error"]
    assert (world.incidents, world.calls()) == ([], [])
    [kept] = world.query("SELECT event, rule, status, reason FROM servicenow.delivery")
    assert kept == {"event": "e-1", "rule": "", "status": "dead", "reason": "no_rule"}
    assert subjects(world) == ["[shop] no rule is for public.events of the type Customer_Moved"]


def test_one_mail_names_each_unknown_type_once_and_a_sample_of_each_is_kept(world: World) -> None:
    events(world)
    for number in range(UNRULED_SAMPLES_MAX + 2):
        world.send(body("Moved" if number % 2 else "MOVED", number))
        world.send(body("Merged", number))

    assert sorted(subjects(world)) == [
        "[shop] no rule is for public.events of the type MOVED",
        "[shop] no rule is for public.events of the type Merged",
    ]
    [kept] = world.query("SELECT count(*) AS n FROM servicenow.delivery WHERE status = 'dead'")
    assert kept["n"] == 2 * UNRULED_SAMPLES_MAX


def test_a_column_that_holds_no_types_is_not_a_mail_for_each_row(world: World) -> None:
    events(world)
    for number in range(UNRULED_TYPES_MAX + 15):
        assert world.send(body(f"row {number}", number)).status == 422

    assert len(world.mails) == UNRULED_TYPES_MAX + 1
    [kept] = world.query("SELECT count(*) AS n FROM servicenow.delivery WHERE status = 'dead'")
    assert kept["n"] == UNRULED_TYPES_MAX + UNRULED_SAMPLES_MAX


@pytest.mark.parametrize(("event_type", "why"), [(None, "is null"), ("", "is empty")])
def test_an_event_without_a_type_is_a_dead_letter_that_names_the_place(
    world: World, event_type: str | None, why: str
) -> None:
    answer = events(world).send(body(event_type, event="e-1"))

    assert (answer.status, answer.said) == (422, "dead bad_mapping")
    assert f"rules.yaml:2: types.hasura/public.events: {why}" in answer.body["error"]
    assert (world.incidents, world.calls()) == ([], [])
    [kept] = world.query("SELECT event, rule, status FROM servicenow.delivery")
    assert kept == {"event": "e-1", "rule": "", "status": "dead"}
    assert len(world.mails) == 1


def test_events_without_a_type_are_all_kept(world: World) -> None:
    events(world)
    for number in range(UNRULED_SAMPLES_MAX + 2):
        world.send(body(None, number))

    [kept] = world.query("SELECT count(*) AS n FROM servicenow.delivery WHERE status = 'dead'")
    assert kept["n"] == UNRULED_SAMPLES_MAX + 2


def test_an_unknown_type_that_is_sent_again_under_the_same_rules_is_answered_at_once(
    world: World,
) -> None:
    events(world).send(body("Moved", event="e-1"))
    again = world.send(body("Moved", event="e-1", current_retry=1))

    assert (again.status, again.said) == (422, "dead no_rule")
    [kept] = world.query("SELECT attempts FROM servicenow.delivery")
    assert kept["attempts"] == 1


def test_a_type_that_a_rule_names_by_now_is_delivered_and_its_alert_is_over(world: World) -> None:
    events(world).send(body("Moved", event="e-1"))
    world.send(body("Merged", event="e-2"))
    world.start(rules=RULES.replace("customer_renamed", "moved"))
    answer = world.send(body("Moved", event="e-1"))

    assert answer.status == 200
    assert {outcome["status"] for outcome in answer.body["outcomes"]} == {"created"}
    assert world.query("SELECT event FROM servicenow.delivery WHERE status = 'dead'") == [
        {"event": "e-2"}
    ]
    states = {
        row["fingerprint"].partition("\t")[2]: row["state"]
        for row in world.query("SELECT fingerprint, state FROM servicenow.alert")
    }
    assert (states["moved"], states["merged"]) == ("closed", "notified")


def test_where_a_source_has_no_types_any_more_all_its_alerts_are_over(world: World) -> None:
    events(world).send(body("Moved"))
    untyped = "\n".join(line for line in RULES.splitlines() if "type" not in line)
    world.start(rules=untyped)
    world.send(body("Moved", 2))

    assert {row["state"] for row in world.query("SELECT state FROM servicenow.alert")} == {"closed"}
