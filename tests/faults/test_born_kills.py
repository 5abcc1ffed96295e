"""A ticket begins in ServiceNow, and whoever is killed on the way: there is one row, and one
ticket, and from then on they follow each other."""

from typing import Any

import pytest

from function.failpoints import FAILPOINTS, SYNC_FAILPOINTS, Failpoint
from tests.faults.site import COMMITS_WITHIN_SECONDS
from tests.faults.two_way_site import TwoWaySite

everywhere = pytest.mark.parametrize("place", [*SYNC_FAILPOINTS, *FAILPOINTS])


def open_and_kill(site: TwoWaySite, place: Failpoint) -> str:
    """A person opens a ticket; whoever works on it or on its row is killed at *place*."""
    killed = site.order("kill", place)
    sys_id = site.open_ticket(short_description="Mails are late", impact="2")
    site.until(killed)
    return sys_id


def rows_of(site: TwoWaySite, sys_id: str) -> list[dict[str, Any]]:
    return site.sql("SELECT * FROM outages WHERE servicenow_sys_id = %s", sys_id)


def follow_each_other(site: TwoWaySite, sys_id: str, title: str = "Mails are late") -> None:
    """There is one row, whose only ticket it is; what either side edits, the other says."""
    [row] = rows_of(site, sys_id)
    [ticket] = site.tickets(row["id"])
    assert ticket["sys_id"] == sys_id
    assert row["ticket_number"] == ticket["number"]
    assert row["title"] == ticket["short_description"] == title
    assert site.calls_at_rest() == []
    site.person(sys_id, impact="1", comments="Still")
    site.sql("UPDATE outages SET title = 'No mail comes' WHERE id = %s", row["id"])
    site.settle()
    site.sync()
    assert site.row(row["id"])["severity"] == "critical"
    assert site.comments(row["id"]) == ["Still"]
    assert site.ticket(row["id"])["short_description"] == "No mail comes"
    assert len(rows_of(site, sys_id)) == len(site.tickets(row["id"])) == 1
    assert site.undelivered() == []


@everywhere
def test_killed_where_a_ticket_becomes_a_row(desk: TwoWaySite, place: Failpoint) -> None:
    sys_id = open_and_kill(desk, place)
    desk.let_lease_end()
    desk.settle()
    desk.sync()

    follow_each_other(desk, sys_id)


@pytest.mark.parametrize("place", ["before_call", "after_call"])
def test_killed_where_the_row_takes_the_ticket_and_servicenow_commits_after_the_killer(
    desk: TwoWaySite, place: Failpoint
) -> None:
    desk.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
    sys_id = open_and_kill(desk, place)
    desk.let_lease_end()
    desk.settle()
    desk.sync()

    follow_each_other(desk, sys_id)


def test_the_event_of_the_new_row_is_delivered_before_the_killed_ones_work_is_done_again(
    desk: TwoWaySite,
) -> None:
    sys_id = open_and_kill(desk, "after_mutation")
    desk.let_lease_end()
    desk.settle()
    [row] = rows_of(desk, sys_id)
    assert [ticket["sys_id"] for ticket in desk.tickets(row["id"])] == [sys_id]
    assert [desk.notify(sys_id, function=number).status for number in (0, 1)] == [200, 200]

    follow_each_other(desk, sys_id)


@everywhere
def test_killed_where_a_ticket_becomes_a_row_and_the_ledger_is_lost(
    desk: TwoWaySite, place: Failpoint
) -> None:
    sys_id = open_and_kill(desk, place)
    desk.forget_ledger()
    desk.look_at_all()
    desk.sync()

    follow_each_other(desk, sys_id)


@everywhere
def test_killed_where_a_ticket_becomes_a_row_and_the_app_edits_it_meanwhile(
    desk: TwoWaySite, place: Failpoint
) -> None:
    sys_id = open_and_kill(desk, place)
    desk.let_lease_end()
    if not rows_of(desk, sys_id):
        desk.notify(sys_id)
    desk.sql("UPDATE outages SET title = 'Mail is late' WHERE servicenow_sys_id = %s", sys_id)
    desk.settle()
    desk.sync()

    follow_each_other(desk, sys_id, "Mail is late")
