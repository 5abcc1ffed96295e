"""Names of people and groups: whom they mean, and what follows where they mean nobody."""

import pytest

from function.servicenow import UnknownReference
from function.servicenow.references import REFERENCES, chosen
from tests.payloads import insert, update
from tests.world import RULES, World, outage

PERSON = RULES.replace("        impact:", '        caller_id: "{{ row.person }}"\n        impact:')
LENIENT = PERSON.replace(
    "      resolve_when:", "      on_unknown: {caller_id: leave_empty}\n      resolve_when:"
)


def add(world: World, table: str = "sys_user", **fields: str) -> str:
    """A record, made by an administrator; gives its sys_id."""
    return world.servicenow.tables.insert(table, fields, by="admin")["sys_id"]


def row(person: str, **columns: object) -> dict[str, object]:
    return outage(person=person, **columns)


def told(world: World) -> list[str]:
    return [str(mail["Subject"]) for mail in world.mails]


# Whom a name means


@pytest.mark.parametrize("column", ["user_name", "email", "name"])
@pytest.mark.parametrize("inactive", [1, 12])
def test_of_active_and_inactive_records_the_active_one_is_meant(column: str, inactive: int) -> None:
    with World(rules=PERSON) as world:
        for _ in range(inactive):
            add(world, **{column: "Anna"}, active="false")
        anna = add(world, **{column: "Anna"}, active="true")
        add(world, **{column: "Anna"}, active="false")
        world.send(insert("outages", row("Anna")))

        assert world.incident["caller_id"] == anna


def test_an_active_record_is_meant_though_an_inactive_one_is_named_more_surely() -> None:
    with World(rules=PERSON) as world:
        add(world, user_name="anna", active="false")
        anna = add(world, user_name="anna.2", name="Anna", active="true")
        world.send(insert("outages", row("anna")))

        assert world.incident["caller_id"] == anna


def test_a_group_is_meant_in_the_same_way() -> None:
    with World(rules=PERSON.replace("caller_id", "assignment_group")) as world:
        add(world, "sys_user_group", name="Night", active="false")
        night = add(world, "sys_user_group", name="Night", active="true")
        world.send(insert("outages", row("Night")))

        assert world.incident["assignment_group"] == night


def test_an_inactive_record_is_meant_where_there_is_no_other() -> None:
    with World(rules=PERSON) as world:
        anna = add(world, name="Anna", active="false")
        world.send(insert("outages", row("Anna")))

        assert world.incident["caller_id"] == anna


@pytest.mark.parametrize(
    ("active", "what"),
    [
        (["true", "true", "false"], "is the name of more than one active record"),
        (["false"] * 2, "more than one record"),
    ],
)
@pytest.mark.parametrize("rules", [PERSON, LENIENT])
def test_several_that_could_be_meant_are_a_failure_that_says_so(
    rules: str, active: list[str], what: str
) -> None:
    with World(rules=rules) as world:
        for value in active:
            add(world, name="Anna", active=value)
        answer = world.send(insert("outages", row("Anna")))

        assert (answer.said, world.incidents) == ("dead unknown_reference", [])
        [mail] = world.mails
        assert what in " ".join(str(mail.get_body(("plain",))).replace("=\n", "").split())


@pytest.mark.parametrize(
    "spelled", ["  Abel Tuter", "Abel Tuter\n", "\tABEL TUTER ", "abel.tuter\u00a0"]
)
def test_blanks_around_a_name_and_its_case_do_not_matter(spelled: str) -> None:
    with World(rules=PERSON) as world:
        world.send(insert("outages", row(spelled)))

        [abel] = [
            one["sys_id"]
            for one in world.servicenow.rows("sys_user")
            if one["name"] == "Abel Tuter"
        ]
        assert world.incident["caller_id"] == abel


def test_a_sys_id_may_be_in_upper_case() -> None:
    with World(rules=PERSON) as world:
        anna = add(world, name="Anna")
        world.send(insert("outages", row(f" {anna.upper()} ")))

        assert world.incident["caller_id"] == anna
        assert world.mails == []


def test_a_blank_name_empties_the_field() -> None:
    with World(rules=PERSON) as world:
        world.send(insert("outages", row("Abel Tuter")))
        world.send(update("outages", row("Abel Tuter"), row(" \t")))

        assert world.incident["caller_id"] == ""


def test_a_record_that_does_not_tell_whether_it_is_active_counts_as_one_that_is() -> None:
    rows = [{"sys_id": "1", "name": "Anna"}, {"sys_id": "2", "name": " anna "}]

    assert chosen(REFERENCES["caller_id"], "caller_id", "Anna", rows[:1]) == "1"
    with pytest.raises(UnknownReference) as caught:
        chosen(REFERENCES["caller_id"], "caller_id", "Anna", rows)
    assert caught.value.is_ambiguous


def test_a_record_whose_sys_id_is_hidden_is_as_good_as_none() -> None:
    with pytest.raises(UnknownReference, match="hidden"):
        chosen(
            REFERENCES["caller_id"],
            "caller_id",
            "Anna",
            [{"name": "Anna"}, {"sys_id": "", "name": "Anna"}],
        )


# What follows where a name means nobody


def test_without_a_word_of_the_rule_nobody_is_a_failure() -> None:
    for rules in (PERSON, LENIENT.replace("leave_empty", "fail")):
        with World(rules=rules) as world:
            assert world.send(insert("outages", row("Nobody"))).said == "dead unknown_reference"
            assert world.incidents == []


def test_a_ticket_without_its_caller_is_better_than_no_ticket(world: World) -> None:
    world.start(rules=LENIENT)
    answer = world.send(insert("outages", row("Nobody")))

    assert (answer.status, answer.said) == (200, "created unknown_reference")
    assert world.incident["caller_id"] == ""
    assert told(world) == ["[shop] left caller_id of outage/1 empty"]
    text = " ".join(str(world.mails[0].get_body(("plain",))).replace("=\n", "").split())
    assert "caller_id is not there, or is hidden from the integration user in sys_user" in text
    assert "Nobody" not in text
    assert "replay" not in text


@pytest.mark.parametrize("lost", ["the answer", "the ledger"])
def test_whom_people_put_into_a_ticket_stays_there_when_it_is_adopted(
    world: World, lost: str
) -> None:
    world.start(rules=LENIENT)
    if lost == "the answer":
        world.servicenow.arm("commit_then_reset", method="POST")
    world.send(insert("outages", row("Nobody"), id="e"))
    somebody = add(world, name="Somebody")
    world.servicenow.change("incident", world.incident["sys_id"], caller_id=somebody)
    if lost == "the ledger":
        world.forget()
    world.clock.advance(61)
    world.send(insert("outages", row("Nobody"), id="e", current_retry=1))
    answer = world.send(update("outages", row("Nobody"), row("Nobody", title="b")))

    assert answer.status == 200
    assert (world.incident["short_description"], world.incident["caller_id"]) == ("b", somebody)


@pytest.mark.parametrize("doubt", [True, False])
def test_whom_the_row_named_before_goes_when_it_names_nobody_any_more(
    world: World, doubt: bool
) -> None:
    anna = add(world, name="Anna")
    world.start(rules=LENIENT)
    if doubt:
        world.servicenow.arm("commit_then_reset", method="POST")
    world.send(insert("outages", row("Anna"), id="e"))
    assert world.incident["caller_id"] == anna
    world.clock.advance(61)
    if not doubt:
        world.servicenow.arm("reset", method="PATCH")
    body = update("outages", row("Anna"), row("Nobody"), created_at="2026-03-04T05:06:08", id="u")
    world.send(body)
    world.clock.advance(61)
    world.send(
        update(
            "outages",
            row("Anna"),
            row("Nobody"),
            created_at="2026-03-04T05:06:08",
            id="u",
            current_retry=1,
        )
    )

    assert world.incident["caller_id"] == ""


def test_it_is_told_once_and_filled_in_when_the_person_is_there_and_the_row_changes(
    world: World,
) -> None:
    world.start(rules=LENIENT, NOTIFY_EVERY_SECONDS="1")
    world.send(insert("outages", row("Nobody")))
    world.clock.advance(100)
    second = world.send(update("outages", row("Nobody"), row("Nobody", title="b")))
    world.clock.advance(100)
    nobody = add(world, name="Nobody")
    third = world.send(update("outages", row("Nobody", title="b"), row("Nobody", title="c")))
    world.calls()
    world.send(update("outages", row("Nobody", title="c"), row("Nobody", title="c", unmapped=1)))

    assert (second.said, third.said) == ("updated", "updated")
    assert (world.incident["short_description"], world.incident["caller_id"]) == ("c", nobody)
    assert len(world.mails) == 1
    assert world.calls() == []


def test_whoever_stood_there_before_is_not_left_there() -> None:
    with World(rules=LENIENT) as world:
        world.send(insert("outages", row("Abel Tuter")))
        answer = world.send(update("outages", row("Abel Tuter"), row("Nobody")))
        again = world.send(update("outages", row("Nobody"), row("Nobody", unmapped=1)))
        back = world.send(update("outages", row("Nobody", unmapped=1), row("Abel Tuter")))

        assert [answer.said, again.said, back.said] == [
            "updated unknown_reference",
            "unchanged",
            "updated",
        ]
        assert world.incident["caller_id"] != ""
        assert len(world.mails) == 1


def test_another_unknown_name_is_told_too() -> None:
    with World(rules=LENIENT, NOTIFY_EVERY_SECONDS="1") as world:
        world.send(insert("outages", row("Nobody")))
        world.clock.advance(100)
        answer = world.send(update("outages", row("Nobody"), row("No one")))

        assert answer.said == "unchanged unknown_reference"
        assert len(world.mails) == 2


def test_whom_people_filled_in_stays() -> None:
    with World(rules=LENIENT) as world:
        world.send(insert("outages", row("Nobody")))
        people = add(world, name="Somebody else")
        world.servicenow.change("incident", world.incident["sys_id"], caller_id="Somebody else")
        world.send(update("outages", row("Nobody"), row("Nobody", title="b")))
        while_unknown = world.incident["caller_id"]
        add(world, name="Nobody")
        world.send(update("outages", row("Nobody", title="b"), row("Nobody", title="c")))

        assert (while_unknown, world.incident["caller_id"]) == (people, people)
        assert world.incident["short_description"] == "c"


@pytest.mark.parametrize("fault", ["commit_then_500", "error_500", "commit_then_reset", "reset"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_it_is_left_empty_and_told_once_though_an_answer_is_lost(
    world: World, fault: str, method: str
) -> None:
    world.start(rules=LENIENT)
    first = row("Nobody") if method == "POST" else row("Abel Tuter")
    events = [insert("outages", first), update("outages", first, row("Nobody", title="b"))]
    world.servicenow.arm(fault, method=method, times=1)
    for body in events:
        for _ in range(6):
            answer = world.send(body)
            if answer.status == 200:
                break
            world.clock.advance(answer.retry_after or 0)

    assert (world.incident["short_description"], world.incident["caller_id"]) == ("b", "")
    assert [subject for subject in told(world) if "left" in subject] == [
        "[shop] left caller_id of outage/1 empty"
    ]


def test_an_assignee_whom_nobody_knows_does_not_stand_in_the_way_of_a_new_group() -> None:
    rules = LENIENT.replace("caller_id", "assigned_to").replace(
        "        impact:", '        assignment_group: "{{ row.group }}"\n        impact:'
    )
    with World(rules=rules) as world:
        world.send(insert("outages", row("Nobody", group="Network")))
        world.send(
            update("outages", row("Nobody", group="Network"), row("Nobody", group="Database"))
        )

        [group] = [
            one["sys_id"]
            for one in world.servicenow.rows("sys_user_group")
            if one["name"] == "Database"
        ]
        assert (world.incident["assignment_group"], world.incident["assigned_to"]) == (group, "")
        assert len(world.mails) == 1
