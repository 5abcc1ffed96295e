"""Tickets that begin in ServiceNow become rows of the app."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.two_way.desk import Desk


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql) as desk:
        yield desk


def born(desk: Desk, **values: str) -> str:
    """A person opens an incident for the app's group; its sys_id."""
    [group] = [row for row in desk.servicenow.rows("sys_user_group") if row["name"] == "Software"]
    fields = {"short_description": "Search is slow", "impact": "2", **values}
    made: dict[str, Any] = desk.servicenow.tables.insert(
        "incident", {**fields, "assignment_group": group["sys_id"]}, by="admin"
    )
    return str(made["sys_id"])


def test_a_ticket_of_our_group_is_a_row_and_the_row_is_its_ticket(desk: Desk) -> None:
    sys_id = born(desk)

    answer = desk.notify(sys_id)
    assert (answer.status, answer.outcome["status"], answer.outcome["answer"]) == (
        200,
        "created",
        1,
    )
    desk.settle()
    row = desk.row()
    assert (row["title"], row["severity"], row["servicenow_sys_id"]) == (
        "Search is slow",
        "major",
        sys_id,
    )
    assert row["ticket_number"] == desk.incident["number"]
    assert desk.incident["correlation_id"] == "shop:outage:1"


def test_from_then_on_both_follow_each_other(desk: Desk) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    desk.settle()
    desk.sql("UPDATE outages SET title = 'Search is down'")
    desk.settle()
    assert desk.incident["short_description"] == "Search is down"
    desk.person(sys_id, state="Resolved", close_code="Solution provided", close_notes="Indexed")
    desk.notify(sys_id)
    desk.settle()

    assert (desk.row()["status"], desk.row()["resolution"]) == ("fixed", "Indexed")
    assert len(desk.incidents) == 1
    assert desk.notify(sys_id).outcome["status"] == "unchanged"


def test_what_a_person_changes_before_the_row_is_linked_is_told_then(desk: Desk) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    desk.person(sys_id, impact="1")
    desk.notify(sys_id)
    assert desk.row()["severity"] == "major"

    desk.settle()
    assert desk.row()["severity"] == "critical"
    assert desk.incident["impact"] == "1"


def test_what_the_app_changes_before_the_row_is_linked_is_sent_then(desk: Desk) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    desk.sql("UPDATE outages SET title = 'Edited in the app'")
    ours, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()

    assert desk.row()["title"] == desk.incident["short_description"] == "Edited in the app"


def test_notified_twice_and_killed_between_it_is_one_row_and_one_ticket(desk: Desk) -> None:
    sys_id = born(desk)
    desk.graphql.arm("commit_then_reset")
    assert desk.notify(sys_id).status == 202
    inserted = [event for event in desk.events() if event["table_name"] == "outages"]
    assert [desk.deliver(event).status for event in inserted] == [200]
    desk.settle()
    desk.notify(sys_id)
    desk.settle()

    assert len(desk.sql("SELECT * FROM outages")) == 1
    assert len(desk.incidents) == 1


def test_with_the_ledger_lost_it_is_still_one_row_and_both_directions_work(desk: Desk) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    desk.settle()
    desk.forget()
    desk.notify(sys_id)
    desk.person(sys_id, impact="1")
    desk.notify(sys_id)
    desk.settle()
    assert desk.row()["severity"] == "critical"
    desk.sql("UPDATE outages SET title = 'Search is down'")
    desk.settle()

    assert desk.incident["short_description"] == "Search is down"
    assert len(desk.sql("SELECT * FROM outages")) == 1


def test_a_ticket_of_another_group_is_none_of_ours(desk: Desk) -> None:
    sys_id = born(desk)
    [network] = [row for row in desk.servicenow.rows("sys_user_group") if row["name"] == "Network"]
    desk.person(sys_id, assignment_group=network["sys_id"])

    assert desk.notify(sys_id).body["outcomes"] == []
    assert desk.sql("SELECT * FROM outages") == []


def test_comments_from_before_the_row_was_linked_come_then(desk: Desk) -> None:
    sys_id = born(desk)
    desk.person(sys_id, comments="Since this morning")
    desk.notify(sys_id)
    desk.settle()

    assert desk.comments() == [("admin", "Since this morning")]


def test_what_a_person_changes_that_only_other_rules_name_before_the_link_is_told_then(
    desk: Desk,
) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    desk.person(sys_id, state="Resolved", close_code="Solution provided", close_notes="Indexed")
    desk.notify(sys_id)
    desk.settle()
    desk.notify(sys_id)

    assert (desk.row()["status"], desk.row()["resolution"]) == ("fixed", "Indexed")


def test_what_a_person_changes_between_the_link_and_the_first_look_is_told(desk: Desk) -> None:
    sys_id = born(desk)
    desk.notify(sys_id)
    [inserted] = desk.events()
    desk.deliver(inserted)
    desk.person(sys_id, state="Resolved", close_code="Solution provided", close_notes="Indexed")
    desk.notify(sys_id)
    desk.settle()
    desk.notify(sys_id)

    assert (desk.row()["status"], desk.row()["resolution"]) == ("fixed", "Indexed")
