"""What people do in ServiceNow comes to the app, whoever is killed on the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from function.failpoints import FAILPOINTS, SYNC_FAILPOINTS, Failpoint
from sandbox.notifier import DeliveryFaults
from tests.faults.site import COMMITS_WITHIN_SECONDS
from tests.faults.two_way_site import TwoWaySite

RESOLVED = {"state": "Resolved", "close_code": "Solution provided", "close_notes": "Rolled back"}


@dataclass(frozen=True)
class Edit:
    """What a person does, and what the app's row says then."""

    values: dict[str, str]
    row: dict[str, Any]
    comments: tuple[str, ...] = ()


EDITS = {
    "edits": Edit(
        {"short_description": "Refunds too", "impact": "2"},
        {"title": "Refunds too", "severity": "major"},
    ),
    "resolves": Edit(RESOLVED, {"status": "fixed", "resolution": "Rolled back"}),
    "comments": Edit({"comments": "It burns"}, {"status": "open"}, ("It burns",)),
    "does all of it": Edit(
        {**RESOLVED, "comments": "Done", "impact": "3"},
        {"status": "fixed", "severity": "minor"},
        ("Done",),
    ),
}
everywhere = pytest.mark.parametrize("place", SYNC_FAILPOINTS)
everything = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


@pytest.fixture
def row(desk: TwoWaySite) -> int:
    """An outage that has its ticket, and the ticket's number."""
    row = desk.outage()
    desk.settle()
    desk.sync()
    assert desk.row(row)["ticket_number"] == desk.ticket(row)["number"]
    return row


def kill(site: TwoWaySite, place: Failpoint, row: int, **values: str) -> None:
    """The function that hears of what a person does is killed at *place*."""
    killed = site.order("kill", place)
    site.person(site.ticket(row)["sys_id"], **values)
    site.until(killed)
    site.let_lease_end()


def agree(site: TwoWaySite, row: int, edit: Edit) -> None:
    """The app has what the person did, once, and nothing is left to do."""
    said, tickets = site.row(row), site.tickets(row)
    assert {name: said[name] for name in edit.row} == edit.row
    assert site.comments(row) == list(edit.comments)
    [ticket] = tickets
    assert ticket["short_description"] == said["title"]
    assert ticket["impact"] == {"critical": "1", "major": "2", "minor": "3"}[said["severity"]]
    assert (ticket["state"] in ("6", "7", "8")) == (said["status"] == "fixed")
    assert site.undelivered() == []
    assert site.calls_at_rest() == []


@everywhere
@everything
def test_killed_where_a_change_is_heard_and_the_ticket_is_looked_at_again(
    desk: TwoWaySite, row: int, place: Failpoint, edit: Edit
) -> None:
    kill(desk, place, row, **edit.values)
    desk.sync()

    agree(desk, row, edit)


@everywhere
def test_killed_where_the_inbox_is_worked(desk: TwoWaySite, row: int, place: Failpoint) -> None:
    edit = EDITS["does all of it"]
    desk.notifier.faults = DeliveryFaults(lose=1)
    desk.person(desk.ticket(row)["sys_id"], **edit.values)
    killed = desk.order("kill", place)
    desk.queue(desk.ticket(row)["sys_id"])
    desk.until(killed)
    desk.let_lease_end()
    desk.settle()

    agree(desk, row, edit)
    assert desk.sql("SELECT * FROM servicenow.inbox") == []


def test_killed_at_every_step_of_one_change_one_after_the_other(desk: TwoWaySite, row: int) -> None:
    edit = EDITS["does all of it"]
    desk.notifier.faults = DeliveryFaults(lose=1)
    desk.person(desk.ticket(row)["sys_id"], **edit.values)
    killed = desk.order("kill", SYNC_FAILPOINTS[0])
    desk.queue(desk.ticket(row)["sys_id"])
    for place in (*SYNC_FAILPOINTS[1:], *SYNC_FAILPOINTS):
        desk.settle_until(killed)
        killed = desk.order("kill", place)
        desk.let_lease_end()
    desk.settle_until(killed)
    desk.let_lease_end()
    desk.settle()

    agree(desk, row, edit)


@pytest.mark.parametrize("place", ["leased", "recorded"])
@pytest.mark.parametrize("edit", [EDITS["edits"], EDITS["does all of it"]], ids=["edits", "all"])
def test_killed_where_the_event_of_our_own_mutation_is_worked(
    desk: TwoWaySite, row: int, place: Failpoint, edit: Edit
) -> None:
    kill(desk, place, row, **edit.values)
    desk.settle()

    agree(desk, row, edit)


@pytest.mark.parametrize("place", [*FAILPOINTS, *SYNC_FAILPOINTS])
def test_killed_while_each_side_edits_a_field_of_its_own(
    desk: TwoWaySite, row: int, place: Failpoint
) -> None:
    killed = desk.order("kill", place)
    desk.person(desk.ticket(row)["sys_id"], short_description="Refunds too")
    desk.sql("UPDATE outages SET severity = 'minor', details = 'All' WHERE id = %s", row)
    desk.until(killed)
    desk.let_lease_end()
    desk.settle()
    desk.sync()

    agree(desk, row, Edit({}, {"title": "Refunds too", "severity": "minor", "details": "All"}))
    assert desk.ticket(row)["description"] == "All"


@pytest.mark.parametrize("place", [*FAILPOINTS, *SYNC_FAILPOINTS])
def test_killed_while_both_sides_edit_one_field(
    desk: TwoWaySite, row: int, place: Failpoint
) -> None:
    edit_both_sides(desk, row, place)

    agree(desk, row, Edit({}, {"status": "open"}))


@pytest.mark.parametrize("place", ["before_call", "after_call", "after_mutation"])
def test_killed_while_the_apps_edit_commits_after_the_killer(
    desk: TwoWaySite, row: int, place: Failpoint
) -> None:
    desk.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
    edit_both_sides(desk, row, place)

    agree(desk, row, Edit({}, {"status": "open"}))


def edit_both_sides(site: TwoWaySite, row: int, place: Failpoint) -> None:
    """The app and a person edit the title; whoever works on the first edit is killed at *place*."""
    edits: list[Callable[[], object]] = [
        lambda: site.sql("UPDATE outages SET title = 'Refunds fail' WHERE id = %s", row),
        lambda: site.person(site.ticket(row)["sys_id"], short_description="Refunds too"),
    ]
    first, second = edits if place in FAILPOINTS else reversed(edits)
    killed = site.order("kill", place)
    first()
    site.until(killed)
    second()
    site.let_lease_end()
    site.settle()
    site.sync()
    assert site.row(row)["title"] in ("Refunds fail", "Refunds too")


@pytest.mark.parametrize("place", [*FAILPOINTS, *SYNC_FAILPOINTS])
def test_killed_while_both_sides_write_a_comment(
    desk: TwoWaySite, row: int, place: Failpoint
) -> None:
    killed = desk.order("kill", place)
    desk.person(desk.ticket(row)["sys_id"], comments="It burns")
    desk.sql("INSERT INTO outage_comments (outage_id, author, body) VALUES (%s, 'A', 'No')", row)
    desk.until(killed)
    desk.let_lease_end()
    desk.settle()
    desk.sync()

    assert sorted(desk.comments(row)) == ["It burns", "No"]
    entries = desk.entries(desk.ticket(row)["sys_id"])
    assert sorted(text.partition("\n[")[0] for text in entries) == ["A: No", "It burns"]
    assert desk.calls_at_rest() == []


def test_a_change_after_the_ledger_was_lost_reaches_the_app(desk: TwoWaySite, row: int) -> None:
    desk.forget_ledger()
    desk.look_at_all()
    kill(desk, "after_mutation", row, **RESOLVED)
    desk.sync()

    agree(desk, row, EDITS["resolves"])
