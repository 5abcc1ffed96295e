"""A ticket is made while its create's answer is lost, and both sides edit: each edit stands."""

from collections.abc import Iterator

import pytest

from tests.two_way.desk import Desk

OPEN = "INSERT INTO outages (id, title, severity) VALUES (1, 'Checkout is down', 'critical')"


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql) as desk:
        yield desk


@pytest.mark.parametrize("fault", ["commit_then_403", "commit_then_reset", "truncated_200"])
def test_the_number_of_a_ticket_whose_create_was_not_answered_by_it_is_told(
    desk: Desk, fault: str
) -> None:
    desk.servicenow.arm(fault, method="POST")
    desk.sql(OPEN)
    desk.settle()
    desk.sync()
    desk.settle()

    assert desk.row()["ticket_number"] == desk.incident["number"]


@pytest.mark.parametrize("fault", ["commit_then_403", "commit_then_reset"])
def test_what_the_app_alone_edits_before_a_create_is_settled_stands(desk: Desk, fault: str) -> None:
    desk.servicenow.arm(fault, method="POST")
    desk.sql(OPEN)
    desk.deliver_all()
    desk.person(impact="3")
    desk.sql("UPDATE outages SET status = 'in progress'")
    desk.settle()
    desk.sync()
    desk.settle()

    assert desk.row()["status"] == "in progress"
    impact = {"critical": "1", "minor": "3"}[desk.row()["severity"]]
    assert impact == desk.incident["impact"]
