"""One field is edited by a person alone, while the app edits another: both edits stand."""

from collections.abc import Iterator

import pytest

from tests.two_way.desk import Desk

OPEN = "INSERT INTO outages (id, title, severity) VALUES (1, 'Checkout is down', 'critical')"


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql) as desk:
        desk.sql(OPEN)
        desk.settle()
        desk.sync()
        desk.settle()
        yield desk


def test_a_field_that_a_person_edits_twice_is_kept_when_the_app_writes_another_in_between(
    desk: Desk,
) -> None:
    desk.sql("UPDATE outages SET title = 'Refunds too'")
    desk.person(impact="2")
    desk.notify()
    desk.person(impact="3")
    desk.settle()
    desk.sync()
    desk.settle()

    assert (desk.incident["impact"], desk.row()["severity"]) == ("3", "minor")
    assert desk.incident["short_description"] == desk.row()["title"] == "Refunds too"


def test_a_field_that_a_person_edits_twice_is_kept_when_an_event_overtakes_the_firsts(
    desk: Desk,
) -> None:
    desk.person(impact="2")
    desk.notify()
    desk.person(impact="3")
    desk.graphql.arm("error_before_commit")
    desk.notify()
    desk.sql("UPDATE outages SET ticket_number = 'as the app calls it'")
    ours, inbox, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()

    assert inbox["table_name"] == "inbox"
    assert (desk.incident["impact"], desk.row()["severity"]) == ("3", "minor")


def test_a_ticket_that_a_person_resolves_and_reopens_stays_open_when_an_event_overtakes(
    desk: Desk,
) -> None:
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    desk.notify()
    desk.person(state="In Progress")
    desk.graphql.arm("error_before_commit")
    desk.notify()
    desk.sql("UPDATE outages SET ticket_number = 'as the app calls it'")
    ours, _, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()

    assert (desk.incident["state"], desk.row()["status"]) == ("2", "in progress")
