"""A function is killed as kill -9 does, at each step of its work; Hasura sends the event again;
there is one ticket."""

import pytest

from function.failpoints import FAILPOINTS
from tests.faults.site import COMMITS_WITHIN_SECONDS, Site

INSERT = "INSERT INTO outages (id, title, severity) VALUES (%s, 'Checkout is down', 'critical')"
WORSE = "UPDATE outages SET title = 'Refunds too' WHERE id = %s"
BETTER = "UPDATE outages SET title = 'Only refunds' WHERE id = %s"
FIXED = "UPDATE outages SET status = 'fixed' WHERE id = %s"
WAYS = ["at once", "after the killer"]
everywhere = pytest.mark.parametrize("place", FAILPOINTS)
committing = pytest.mark.parametrize("commits", WAYS)


@pytest.fixture
def row(calm: Site) -> int:
    """The id of a row that is not there yet."""
    [highest] = calm.sql(
        "SELECT greatest(max((payload #>> '{data,new,id}')::bigint), 0) AS id FROM "
        "hdb_catalog.event_log"
    )
    return int(highest["id"] or 0) + 1


def kill(
    site: Site,
    place: str,
    statement: str,
    row: int,
    *,
    commits: str = WAYS[0],
    method: str = "PATCH",
) -> None:
    """The function that works on what *statement* brings is killed at *place*."""
    if commits == WAYS[1]:
        site.servicenow.arm("commit_late", method=method, seconds=COMMITS_WITHIN_SECONDS)
    killed = site.order("kill", place)
    site.sql(statement, row)
    site.until(killed)


def said(site: Site, row: int) -> list[tuple[str, str]]:
    return [(ticket["short_description"], ticket["state"]) for ticket in site.tickets(row)]


@everywhere
@committing
def test_killed_while_a_ticket_is_created(calm: Site, row: int, place: str, commits: str) -> None:
    kill(calm, place, INSERT, row, commits=commits, method="POST")
    calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [("Checkout is down", "1")]
    assert calm.undelivered() == []


@everywhere
@pytest.mark.parametrize(
    ("change", "end"),
    [(WORSE, ("Refunds too", "1")), (FIXED, ("Checkout is down", "6"))],
    ids=["updated", "resolved"],
)
def test_killed_while_a_ticket_is_changed(
    calm: Site, row: int, place: str, change: str, end: tuple[str, str]
) -> None:
    calm.sql(INSERT, row)
    calm.settle()
    kill(calm, place, change, row)
    calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [end]
    assert calm.undelivered() == []


@everywhere
def test_killed_while_servicenow_commits_after_the_killer_and_the_row_moves_on(
    calm: Site, row: int, place: str
) -> None:
    calm.sql(INSERT, row)
    calm.settle()
    kill(calm, place, WORSE, row, commits=WAYS[1])
    calm.sql(BETTER, row)
    calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [("Only refunds", "1")]
    assert calm.undelivered() == []


def test_what_a_killed_one_sent_commits_after_a_newer_event_has_gone_through(
    calm: Site, row: int
) -> None:
    """It had written down that the PATCH is in doubt, and given its lease back."""
    calm.sql(INSERT, row)
    calm.settle()
    calm.servicenow.arm("commit_late", method="PATCH", seconds=40)
    kill(calm, "recorded", WORSE, row)
    calm.sql(BETTER, row)
    calm.until(lambda: said(calm, row) == [("Only refunds", "1")])
    calm.settle_until(lambda: said(calm, row) == [("Refunds too", "1")])
    calm.settle()

    assert said(calm, row) == [("Only refunds", "1")]
    assert calm.undelivered() == []


def test_killed_at_every_step_one_after_the_other_of_one_event(calm: Site, row: int) -> None:
    kills = [calm.order("kill", place) for place in FAILPOINTS]
    calm.sql(INSERT, row)
    for killed in kills:
        calm.settle_until(killed)
        calm.let_lease_end()
    calm.settle()

    assert len(said(calm, row)) == 1
    assert calm.undelivered() == []
