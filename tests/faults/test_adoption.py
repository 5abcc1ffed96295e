"""A function is killed at each step of the adoption of a ticket that was born in ServiceNow; there
is one ticket, and the row has it."""

from collections.abc import Iterator

import psycopg
import pytest

from function.failpoints import FAILPOINTS
from function.ledger.records import IN_DOUBT_SECONDS
from tests.behaviour.test_adoption import ADOPTING
from tests.faults.site import COMMITS_WITHIN_SECONDS, LEASE_SECONDS, Site

# A ticket that is no row's yet is kept for as long as its write may still commit, too.
ADOPTION_LEASE_SECONDS = LEASE_SECONDS + IN_DOUBT_SECONDS
WORDS = ("Checkout is slow", "Since noon")
INSERT = (
    "INSERT INTO outages (id, title, severity, servicenow_sys_id) "
    "VALUES (%s, 'Checkout is slow', 'critical', %s)"
)
WORSE = "UPDATE outages SET title = 'Checkout is down' WHERE id = %s"
FIXED = "UPDATE outages SET status = 'fixed' WHERE id = %s"
LOST = ("ticket", "delivery", "table_traits")
BEFORE_THE_CALL = ("received", "leased", "before_call")
everywhere = pytest.mark.parametrize("place", FAILPOINTS)
committing = pytest.mark.parametrize("commits", ["at once", "after the killer"])


@pytest.fixture(scope="module")
def site(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As that of the neighbours, by a rule whose rows may name a ticket."""
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE adoption")
    url = postgresql_server.replace("/postgres?", "/adoption?")
    with Site(url, tmp_path_factory.mktemp("adoption"), rules=ADOPTING) as site:
        site.sql("ALTER TABLE outages ADD COLUMN servicenow_sys_id text UNIQUE")
        site.engines[0].apply_metadata()  # Hasura's triggers list the columns that there were
        yield site
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE adoption WITH (FORCE)")


@pytest.fixture
def row(calm: Site) -> int:
    """The id of a row that is not there yet."""
    [highest] = calm.sql(
        "SELECT greatest(max((payload #>> '{data,new,id}')::bigint), 0) AS id FROM "
        "hdb_catalog.event_log"
    )
    return int(highest["id"] or 0) + 1


def born(site: Site) -> str:
    """A ticket that people opened; its sys_id."""
    about = {"short_description": WORDS[0], "description": WORDS[1], "impact": "3"}
    return site.servicenow.tables.insert("incident", about, by="admin")["sys_id"]


def kill(site: Site, place: str, commits: str, row: int, ticket: str) -> None:
    """The function that adopts *ticket* for *row* is killed at *place*."""
    if commits != "at once":
        site.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
    killed = site.order("kill", place)
    site.sql(INSERT, row, ticket)
    site.until(killed)


def said(site: Site, row: int) -> list[tuple[str, ...]]:
    columns = ("sys_id", "short_description", "description", "impact", "state")
    return [tuple(ticket[column] for column in columns) for ticket in site.tickets(row)]


@everywhere
@committing
def test_killed_while_a_ticket_is_adopted(calm: Site, row: int, place: str, commits: str) -> None:
    ticket = born(calm)
    kill(calm, place, commits, row, ticket)
    calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [(ticket, *WORDS, "3", "1")]
    assert calm.undelivered() == []


@everywhere
@committing
def test_killed_while_a_ticket_is_adopted_and_the_row_moves_on(
    calm: Site, row: int, place: str, commits: str
) -> None:
    ticket = born(calm)
    kill(calm, place, commits, row, ticket)
    calm.sql(WORSE, row)
    calm.sql(FIXED, row)
    calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [(ticket, "Checkout is down", WORDS[1], "3", "6")]
    assert calm.undelivered() == []


@everywhere
def test_killed_while_a_ticket_is_adopted_and_the_ledger_is_lost(
    calm: Site, row: int, place: str
) -> None:
    ticket = born(calm)
    kill(calm, place, "at once", row, ticket)
    for table in LOST:
        calm.sql(f"DELETE FROM servicenow.{table}")  # noqa: S608  # our own names
    calm.sql(WORSE, row)
    calm.let_lease_end(ADOPTION_LEASE_SECONDS)
    calm.settle()

    assert said(calm, row) == [(ticket, "Checkout is down", WORDS[1], "3", "1")]
    assert calm.undelivered() == []


@everywhere
@committing
def test_killed_while_a_ticket_is_adopted_and_the_row_is_deleted(
    calm: Site, row: int, place: str, commits: str
) -> None:
    ticket = born(calm)
    kill(calm, place, commits, row, ticket)
    calm.sql("DELETE FROM outages WHERE id = %s", row)
    calm.let_lease_end()
    calm.settle()
    record = calm.servicenow.row("incident", ticket)

    assert record is not None
    # The row's, and resolved with it; or nobody's, where it was gone before a mark was sent.
    ends = {(f"shop:outage:{row}", "6")} | ({("", "1")} if place in BEFORE_THE_CALL else set())
    assert (record["correlation_id"], record["state"]) in ends
    assert calm.undelivered() == []


@pytest.mark.parametrize("place", ["before_call", "after_call"])
@committing
def test_killed_while_two_rows_name_one_ticket(
    calm: Site, row: int, place: str, commits: str
) -> None:
    """A column that is not unique: one of them has it in the end, and the other is a dead
    letter."""
    calm.sql("ALTER TABLE outages DROP CONSTRAINT IF EXISTS outages_servicenow_sys_id_key")
    ticket = born(calm)
    kill(calm, place, commits, row, ticket)
    calm.sql(INSERT, row + 1, ticket)
    calm.let_lease_end(ADOPTION_LEASE_SECONDS)
    calm.settle()

    assert sorted(len(said(calm, number)) for number in (row, row + 1)) == [0, 1]
    assert len(calm.undelivered()) == 1


def test_killed_at_every_step_one_after_the_other_of_one_adoption(calm: Site, row: int) -> None:
    ticket = born(calm)
    kills = [calm.order("kill", place) for place in FAILPOINTS]
    calm.sql(INSERT, row, ticket)
    for killed in kills:
        calm.settle_until(killed)
        calm.let_lease_end()
    calm.settle()

    assert said(calm, row) == [(ticket, *WORDS, "3", "1")]
    assert calm.undelivered() == []
