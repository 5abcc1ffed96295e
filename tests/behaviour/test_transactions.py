"""How many transactions an event costs, counted by PostgreSQL: each that writes has a number of its
own."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.behaviour.test_adoption import ADOPTING, born, row
from tests.payloads import insert, update
from tests.world import World, outage


@pytest.fixture
def world(postgresql: str) -> Iterator[World]:
    with World(database_url=postgresql) as world:
        world.send(insert("outages", outage(0)))  # finds out what the instance keeps
        yield world


def number(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        return int(row[0])


def transactions(world: World, url: str, bodies: list[bytes], status: str) -> int:
    """The fewest that one of *bodies* took: the server's own housekeeping may come between."""
    counts = []
    for body in bodies:
        before = number(url)
        answer = world.send(body)
        counts.append(number(url) - before - 1)
        assert [outcome["status"] for outcome in answer.body["outcomes"]] == [status]
    return min(counts)


def changed(key: int, second: int, **columns: str) -> bytes:
    at = f"2026-03-04T05:06:{second:02}"
    return update(
        "outages", outage(key), outage(key, **columns), created_at=at, id=f"{key} {columns}"
    )


KEYS = range(1, 6)


def test_an_event_costs_one_transaction_before_its_calls_one_after_and_one_before_a_write(
    world: World, postgresql: str
) -> None:
    created = transactions(
        world, postgresql, [insert("outages", outage(k), id=f"{k}") for k in KEYS], "created"
    )
    updated = transactions(
        world, postgresql, [changed(k, 8, title="Changed") for k in KEYS], "updated"
    )
    repeated = [insert("outages", outage(k, title="Changed"), id=f"{k} again") for k in KEYS]
    unchanged = transactions(world, postgresql, repeated, "unchanged")

    assert (created, updated, unchanged) == (3, 3, 2)


def test_an_adoption_costs_two_more_for_the_lease_of_the_ticket(
    world: World, postgresql: str
) -> None:
    world.start(rules=ADOPTING)
    bodies = [insert("outages", row(born(world), id=k), id=f"{k}") for k in KEYS]

    assert transactions(world, postgresql, bodies, "updated") == 5


def test_a_new_row_below_when_leaves_nothing_in_the_ledger(world: World, postgresql: str) -> None:
    minor = [insert("outages", outage(k, severity="minor"), id=f"{k}") for k in KEYS]

    assert transactions(world, postgresql, minor, "skipped") == 0
    assert len(world.query("SELECT key FROM servicenow.ticket")) == 1
