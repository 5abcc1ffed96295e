"""Whose record an answer holds: nothing of another one is believed, and ours is known by what the
instance keeps."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from function.core.outcome import Failure, Reason, Retryability
from function.ledger.records import KeptMark, TableTraits
from function.servicenow import Reply, Request, interpret
from function.targets.ticket.address import address, correlation_id
from tests.payloads import cron, delete, insert, update
from tests.world import RULES, World, outage

OPEN, CHANGED, FIXED = outage(), outage(title="Changed"), outage(status="fixed")
AT = address("incident", correlation_id("shop", "outage", "1"), 0)


def stranger(world: World) -> str:
    """Somebody else's incident, made first; its sys_id."""
    record = world.servicenow.tables.insert(
        "incident", {"short_description": "A printer is out of paper"}, by="admin"
    )
    return record["sys_id"]


def untouched(world: World, sys_id: str) -> bool:
    record = world.servicenow.row("incident", sys_id)
    return record is not None and (
        record["short_description"],
        record["state"],
        record["sys_mod_count"],
    ) == (
        "A printer is out of paper",
        "1",
        "0",
    )


def ours(world: World) -> list[dict[str, str]]:
    return [
        row for row in world.incidents if row["short_description"] != "A printer is out of paper"
    ]


def linked(world: World) -> list[str]:
    return [row["sys_id"] for row in world.query("SELECT sys_id FROM servicenow.ticket")]


@pytest.mark.parametrize("method", ["PATCH", "GET"])
def test_another_record_in_an_answer_is_not_taken_for_the_rows_ticket(
    world: World, method: str
) -> None:
    other = stranger(world)
    world.send(insert("outages", OPEN))
    world.servicenow.arm("another_record", method=method)
    world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08", id="e"))
    world.clock.advance(61)
    world.send(
        update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08", id="e", current_retry=1)
    )

    assert linked(world) == [AT]
    assert untouched(world, other)
    assert [row["state"] for row in ours(world)] == ["6"]


def test_another_record_after_a_write_is_looked_past_at_once(world: World) -> None:
    stranger(world)
    world.send(insert("outages", OPEN))
    world.calls()
    world.servicenow.arm("another_record", method="PATCH")
    answer = world.send(update("outages", OPEN, CHANGED, created_at="2026-03-04T05:06:08"))

    assert (answer.status, answer.said) == (200, "updated")
    assert world.calls() == ["PATCH incident", "GET incident"]


def test_another_record_in_every_answer_ends_as_a_failure_that_names_it(world: World) -> None:
    other = stranger(world)
    world.send(insert("outages", OPEN))
    for method in ("PATCH", "GET"):
        world.servicenow.arm("another_record", method=method, times=None)
    body = update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08", id="e")
    again = update(
        "outages", OPEN, FIXED, created_at="2026-03-04T05:06:08", id="e", current_retry=1
    )
    first = world.send(body)
    world.clock.advance(86401)
    last = world.send(again)

    assert (first.status, first.said) == (503, "retrying servicenow_wrong_record")
    assert (last.status, last.said) == (422, "dead gave_up")
    [kept] = world.query("SELECT hint, remote_message FROM servicenow.delivery WHERE event = 'e'")
    assert "another record" in kept["hint"]
    assert AT in kept["remote_message"]
    assert other in kept["remote_message"]
    assert linked(world) == [AT]
    assert untouched(world, other)


def test_another_record_for_a_create_is_no_sys_id_of_the_instances_own(world: World) -> None:
    other = stranger(world)
    world.servicenow.arm("another_record", method="POST")
    answer = world.send(insert("outages", OPEN))

    assert (answer.status, answer.said) == (200, "created")
    assert linked(world) == [AT]
    assert world.ledger.tickets.traits(world.servicenow.url, "incident").honours_sys_id is True
    assert untouched(world, other)


def test_another_record_for_a_look_by_correlation_id_is_not_adopted() -> None:
    with World(honours_sys_id=False) as world:
        other = stranger(world)
        world.send(insert("outages", outage(2)))
        world.servicenow.arm("commit_then_reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        world.servicenow.arm("another_record", method="GET")
        world.clock.advance(61)
        world.send(insert("outages", OPEN, id="e", current_retry=1))

        assert other not in linked(world)
        assert untouched(world, other)


def answered(request: Request, result: object) -> list[dict[str, str]] | Failure:
    status = 201 if request.method == "POST" else 200
    body = json.dumps({"result": result}).encode()
    return interpret(request, Reply(status, {"content-type": "application/json"}, body), now=0.0)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("given", ["b" * 32, 12345, {"value": "b" * 32}, True, "x"])
def test_a_record_with_another_sys_id_is_a_failure_that_names_both(
    method: Any, given: object
) -> None:
    failure = answered(Request(method, "incident", AT), {"sys_id": given, "number": "INC0000001"})

    assert isinstance(failure, Failure)
    assert failure.reason is Reason.WRONG_RECORD
    assert failure.retryability is (
        Retryability.IN_DOUBT if method == "PATCH" else Retryability.TRANSIENT
    )
    assert AT in failure.remote_message
    assert "INC0000001" in failure.remote_message


@pytest.mark.parametrize("given", [AT, AT.upper()])
def test_a_sys_id_is_the_same_in_upper_case(given: str) -> None:
    assert answered(Request("PATCH", "incident", AT), {"sys_id": given}) == [{"sys_id": AT}]


def test_what_no_database_stores_is_replaced_where_it_comes_in() -> None:
    [record] = answered(
        Request("GET", "incident", AT), {"sys_id": AT, "number": "INC\x001", "state": "1\x00"}
    )  # type: ignore[misc]  # no failure

    assert record == {
        "sys_id": AT,
        "number": "INC\N{REPLACEMENT CHARACTER}1",
        "state": "1\N{REPLACEMENT CHARACTER}",
    }


ODD: Mapping[str, Mapping[str, object]] = {
    "an upper-case sys_id": {"sys_id": AT.upper()},
    "a count of 5,000 digits": {"sys_mod_count": "1" * 5000},
    "a count of thirteen digits": {"sys_mod_count": "1000000000000"},
    "a count below zero": {"sys_mod_count": "-5"},
    "a count that is a word": {"sys_mod_count": "many"},
    "a count in other digits": {"sys_mod_count": "٣"},
    "a NUL in the number": {"number": "INC\x0001"},
    "a number of 10,000 characters": {"number": "I" * 10_000},
    "a state of 10,000 characters": {"state": "1" * 10_000},
    "null for everything": {
        "number": None,
        "state": None,
        "correlation_id": None,
        "sys_mod_count": None,
    },
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_odd_value_in_an_answer_is_no_fault_of_ours(
    odd: Mapping[str, object], database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgresql") if database == "postgresql" else None
    with World(database_url=url) as world:
        world.servicenow.overrides |= odd
        answers = [
            world.send(insert("outages", OPEN)),
            world.send(update("outages", OPEN, CHANGED, created_at="2026-03-04T05:06:08")),
        ]

        assert [answer.status for answer in answers] == [200, 200]
        assert [row["short_description"] for row in world.incidents] == ["Changed"]


KEPT = {
    "both": ((), KeptMark.CORRELATION_ID),
    "no correlation_id": (("correlation_id",), KeptMark.CORRELATION_DISPLAY),
    "no mark": (("correlation_id", "correlation_display"), KeptMark.NONE),
}


def kept_world(dropped: tuple[str, ...], *, honours_sys_id: bool) -> World:
    world = World(honours_sys_id=honours_sys_id)
    world.servicenow.tables.protected = {("incident", column) for column in dropped}
    return world


@pytest.mark.parametrize("honours", [True, False], ids=["our sys_id", "its own sys_id"])
@pytest.mark.parametrize(("dropped", "mark"), KEPT.values(), ids=KEPT)
def test_what_an_instance_keeps_is_learnt_from_the_first_clean_create_and_told_once(
    honours: bool, dropped: tuple[str, ...], mark: KeptMark
) -> None:
    with kept_world(dropped, honours_sys_id=honours) as world:
        world.send(insert("outages", outage(1)))
        calls = world.calls()
        world.send(insert("outages", outage(2)))

        assert world.ledger.tickets.traits(world.servicenow.url, "incident") == TableTraits(
            honours, mark
        )
        assert calls == ["POST incident"]
        subjects = [str(mail["Subject"]) for mail in world.mails]
        assert [("correlation_id" in subject) for subject in subjects] == (
            [True] if dropped else []
        )


@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "first"])
@pytest.mark.parametrize("dropped", [dropped for dropped, _ in KEPT.values()], ids=KEPT)
def test_at_an_instance_that_takes_our_sys_id_a_lost_answer_makes_one_ticket(
    dropped: tuple[str, ...], known: bool, ledger: str
) -> None:
    with kept_world(dropped, honours_sys_id=True) as world:
        if known:
            world.send(insert("outages", outage(2)))
        world.servicenow.arm("commit_then_reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        if ledger == "lost":
            world.forget()
        world.clock.advance(61)
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))
        world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))

        assert answer.status == 200, answer
        [ticket] = [row for row in world.incidents if row["sys_id"] == AT]
        assert ticket["state"] == "6"
        assert len(world.incidents) == 1 + known


@pytest.mark.parametrize("dropped", [(), ("correlation_id",)], ids=["both", "no correlation_id"])
def test_where_an_instance_chooses_the_sys_id_a_lost_answer_makes_one_ticket_found_by_its_mark(
    dropped: tuple[str, ...],
) -> None:
    with kept_world(dropped, honours_sys_id=False) as world:
        world.send(insert("outages", outage(2)))
        world.servicenow.arm("commit_then_reset", method="POST")
        first = world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))
        world.send(delete("outages", OPEN, created_at="2026-03-04T05:06:09"))

        assert (first.status, answer.status) == (503, 200)
        assert sorted(row["state"] for row in world.incidents) == ["1", "6"]


def test_where_nothing_of_ours_is_kept_a_lost_answer_makes_no_second_ticket_but_a_dead_letter() -> (
    None
):
    with kept_world(("correlation_id", "correlation_display"), honours_sys_id=False) as world:
        world.send(insert("outages", outage(2)))
        world.servicenow.arm("commit_then_reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))
        count = len(world.incidents)
        replayed = world.send(insert("outages", OPEN, id="e", current_retry=0))

        assert (answer.status, answer.said, count) == (422, "dead in_doubt", 2)
        assert any("keeps neither" in str(mail) for mail in world.mails)
        # Somebody looked, and had it sent again.
        assert replayed.said == "created"


def test_a_ticket_whose_correlation_id_people_emptied_is_still_the_rows(world: World) -> None:
    world.send(insert("outages", OPEN, id="e"))
    world.servicenow.change("incident", AT, correlation_id="")
    world.forget()
    answer = world.send(insert("outages", OPEN, id="e"))

    assert answer.status == 200
    assert len(world.incidents) == 1


@pytest.mark.parametrize("who", ["the housekeeping", "another event of the row"])
def test_a_create_that_left_no_mark_stays_in_doubt_whoever_comes_by(who: str) -> None:
    with kept_world(("correlation_id", "correlation_display"), honours_sys_id=False) as world:
        world.send(insert("outages", outage(2)))
        world.servicenow.arm("commit_then_reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        if who == "the housekeeping":
            world.send(cron("servicenow_housekeeping"))
        else:
            world.send(update("outages", OPEN, CHANGED, created_at="2026-03-04T05:06:08"))
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))

        assert (answer.status, answer.said) == (422, "dead in_doubt")
        assert len(world.incidents) == 2


TWO_TABLES = (
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


def test_what_one_table_keeps_says_nothing_about_another() -> None:
    with World(rules=TWO_TABLES, honours_sys_id=False) as world:
        world.servicenow.tables.protected = {
            ("incident", "correlation_id"),
            ("incident", "correlation_display"),
        }
        for key in (1, 2, 3):
            world.send(insert("outages", outage(key)))
        world.clock.advance(61)
        world.send(cron("servicenow_housekeeping"))

        url = world.servicenow.url
        assert world.ledger.tickets.traits(url, "incident") == TableTraits(False, KeptMark.NONE)
        assert world.ledger.tickets.traits(url, "problem") == TableTraits(
            False, KeptMark.CORRELATION_ID
        )
        assert len([mail for mail in world.mails if "correlation_id" in str(mail["Subject"])]) == 1


@pytest.mark.parametrize(
    "dropped", [("correlation_id",), ("correlation_id", "correlation_display")], ids=len
)
def test_the_very_first_create_makes_no_second_ticket_where_nobody_knows_what_is_kept(
    dropped: tuple[str, ...],
) -> None:
    with kept_world(dropped, honours_sys_id=False) as world:
        world.servicenow.arm("commit_then_reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        world.send(cron("servicenow_housekeeping"))
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))
        count = len(world.incidents)
        replayed = world.send(insert("outages", OPEN, id="e", current_retry=0))

        assert (answer.status, answer.said, count) == (422, "dead in_doubt", 1)
        assert replayed.said == "created"


def test_a_ticket_that_looks_like_ours_but_is_somebodys_of_an_hour_ago_stops_no_create() -> None:
    with World(honours_sys_id=False) as world:
        world.servicenow.tables.insert(
            "incident", {"short_description": str(OPEN["title"])}, by="admin"
        )
        world.clock.advance(3600)
        world.servicenow.arm("reset", method="POST")
        world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))

        assert answer.said == "created"


DESCRIBED = RULES.replace(
    "        impact:", '        description: "{{ row.title }}, says the shop"\n        impact:'
)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_ticket_that_the_instance_changed_while_it_made_it_is_ours_by_what_is_left(
    first: bool,
) -> None:
    with World(rules=DESCRIBED, honours_sys_id=False) as world:
        columns = ("correlation_id", "correlation_display", "short_description")
        world.servicenow.tables.protected = {("incident", column) for column in columns}
        if not first:
            world.send(insert("outages", outage(2)))
        answer = world.send(insert("outages", OPEN))

        assert (answer.status, answer.said) == (200, "created")
        assert len(world.incidents) == 2 - first


def test_a_ticket_of_which_the_instance_left_nothing_is_made_once_and_told() -> None:
    with World(honours_sys_id=False) as world:
        columns = ("correlation_id", "correlation_display", "short_description", "impact")
        world.servicenow.tables.protected = {("incident", column) for column in columns}
        first = world.send(insert("outages", OPEN, id="e"))
        world.clock.advance(61)
        world.send(cron("servicenow_housekeeping"))
        answer = world.send(insert("outages", OPEN, id="e", current_retry=1))

        assert (first.status, answer.status, answer.said) == (503, 422, "dead in_doubt")
        assert len(world.incidents) == 1


def test_the_ticket_that_is_followed_is_not_taken_for_the_one_that_follows() -> None:
    with World(
        rules=RULES.replace("      close_code", "      after_close: new\n      close_code")
    ) as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
        world.servicenow.arm("another_record", method="POST")
        world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))
        world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:10"))

        assert [row["state"] for row in world.incidents] == ["6", "6"]
