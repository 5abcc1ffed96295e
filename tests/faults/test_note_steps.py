"""A function is killed, or stopped past its lease, while it writes a comment; Hasura sends the
event again; there is one entry."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from function.failpoints import FAILPOINTS
from tests.faults.site import COMMITS_WITHIN_SECONDS, Site
from tests.payloads import insert

OUTAGE = "INSERT INTO outages (id, title, severity) VALUES (%s, 'Checkout is down', 'critical')"
COMMENT = "INSERT INTO outage_comments (id, outage_id, author, body) VALUES (%s, %s, 'Ada', 'Down')"
BOTH = """
WITH made AS (
    INSERT INTO outages (id, title, severity) VALUES (%s, 'Down', 'critical') RETURNING id
)
INSERT INTO outage_comments (id, outage_id, author, body) SELECT %s, id, 'Ada', 'Down' FROM made
"""
EDIT = "UPDATE outage_comments SET body = %s WHERE id = %s"
WAYS = ["at once", "after the killer"]
everywhere = pytest.mark.parametrize("place", FAILPOINTS)
committing = pytest.mark.parametrize("commits", WAYS)


@pytest.fixture(scope="module")
def site(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two functions, two Hasura engines, one PostgreSQL, with the shipped rules and triggers."""
    folder = tmp_path_factory.mktemp("notes")
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS notes WITH (FORCE)")
        connection.execute("CREATE DATABASE notes")
    url = postgresql_server.replace("/postgres?", "/notes?")
    with Site(url, folder) as site:
        yield site
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE notes WITH (FORCE)")


@pytest.fixture
def row(site: Site) -> int:
    """The id of an outage with a ticket, and of a comment that is not there yet; nothing of an
    earlier test is under way."""
    site.heal()
    [highest] = site.sql("SELECT coalesce(max(id), 0) AS id FROM outages")
    row = int(highest["id"]) + 1
    site.sql(OUTAGE, row)
    site.settle()
    # People write journals too: one that shows nothing at all is not believed.
    site.servicenow.change("incident", site.tickets(row)[0]["sys_id"], work_notes="Seen")
    return row


def entries(site: Site, row: int) -> list[str]:
    """The comments on the ticket of an outage, without their markers."""
    [ticket] = site.tickets(row)
    return [
        entry["value"].rpartition("\n[hasura:")[0]
        for entry in site.servicenow.rows("sys_journal_field")
        if entry["element_id"] == ticket["sys_id"] and entry["element"] == "comments"
    ]


def meet(site: Site, what: str, place: str, statement: str, *values: object) -> None:
    """The function that works on what *statement* brings is killed or stopped at *place*."""
    met = site.order(what, place)
    site.sql(statement, *values)
    site.until(met)


@everywhere
@committing
def test_killed_while_a_comment_is_written(site: Site, row: int, place: str, commits: str) -> None:
    if commits == WAYS[1]:
        site.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
    meet(site, "kill", place, COMMENT, row, row)
    site.let_lease_end()
    site.settle()

    assert entries(site, row) == ["Ada: Down"]
    assert site.undelivered() == []


@everywhere
@committing
def test_killed_while_an_edit_is_written(site: Site, row: int, place: str, commits: str) -> None:
    site.sql(COMMENT, row, row)
    site.settle()
    if commits == WAYS[1]:
        site.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
    meet(site, "kill", place, EDIT, "Slow", row)
    site.sql(EDIT, "Up", row)
    site.let_lease_end()
    site.settle()

    said = entries(site, row)
    assert said in (
        ["Ada: Down", "edited: Ada: Up"],
        ["Ada: Down", "edited: Ada: Slow", "edited: Ada: Up"],
    )
    assert site.undelivered() == []


@pytest.mark.parametrize("place", ["received", "leased", "after_call", "recorded"])
def test_stopped_past_its_lease_while_a_comment_is_written(
    site: Site, row: int, place: str
) -> None:
    meet(site, "stop", place, COMMENT, row, row)
    site.let_lease_end()
    site.wake()
    site.settle()

    assert entries(site, row) == ["Ada: Down"]
    assert site.undelivered() == []


def test_stopped_right_before_the_call_until_another_has_made_it(
    postgresql: str, tmp_path: Path
) -> None:
    """Who wakes up after its deadline, which is before its lease ends, calls nobody any more."""
    row = {"id": 1, "outage_id": 1, "author": "Ada", "body": "Down"}
    body = insert("outage_comments", row, id="e")
    with (
        Site(postgresql, tmp_path, spare_the_first=True, DEADLINE_SECONDS="3") as site,
        ThreadPoolExecutor(1) as pool,
    ):
        site.sql(OUTAGE, 1)
        site.settle()
        site.servicenow.change("incident", site.tickets(1)[0]["sys_id"], work_notes="Seen")
        spared, stopped = site.functions
        met = site.order("stop", "before_call")
        under_way = pool.submit(stopped.send, body)
        site.until(met)
        time.sleep(3.0)
        site.let_lease_end()
        looked = spared.send(body)
        site.clock.advance(looked.retry_after or 0)
        made = spared.send(body)
        site.wake()
        late = under_way.result(60)

        assert (looked.said, made.said) == ("retrying in_doubt", "created")
        assert late.status == 503
        assert entries(site, 1) == ["Ada: Down"]


def test_killed_at_every_step_one_after_the_other_of_one_comment(site: Site, row: int) -> None:
    kills = [site.order("kill", place) for place in FAILPOINTS]
    site.sql(COMMENT, row, row)
    for killed in kills:
        site.settle_until(killed)
        site.let_lease_end()
    site.settle()

    assert entries(site, row) == ["Ada: Down"]
    assert site.undelivered() == []


def test_a_row_and_its_comment_in_one_transaction_are_a_ticket_with_a_comment(
    site: Site, row: int
) -> None:
    for number in range(1, 11):
        site.sql(BOTH, row + number, row + number)
    site.settle()

    assert [entries(site, row + number) for number in range(1, 11)] == [["Ada: Down"]] * 10
    assert site.undelivered() == []
