"""Long searches within somebody's encoded query, and while records move."""

from collections.abc import Iterator, Sequence

import pytest

from function.servicenow import Record
from function.servicenow.fields import Condition
from function.servicenow.search import Search, narrow_query, records
from sandbox.servicenow import ADMIN
from sandbox.tables import Tables

KEY = "sys_updated_on"


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_766_400.0  # 2026-11-27 08:00:00

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tables(clock: Clock) -> Iterator[Tables]:
    tables = Tables(user="svc.hasura", now=clock)
    yield tables
    tables.close()


def make(tables: Tables, **fields: str) -> str:
    return tables.insert("incident", fields, by=ADMIN)["sys_id"]


@pytest.mark.parametrize(
    ("encoded", "narrowed"),
    [
        ("active=true", "sys_updated_on>T^active=true"),
        ("active=true^ORstate=1", "sys_updated_on>T^active=true^ORstate=1"),
        (
            "active=true^NQstate=1^impact=2",
            "sys_updated_on>T^active=true^NQsys_updated_on>T^state=1^impact=2",
        ),
        ("active=true^EQ", "sys_updated_on>T^active=true"),
        ("active=true^EQ^NQstate=1^EQ", "sys_updated_on>T^active=true^NQsys_updated_on>T^state=1"),
    ],
)
def test_each_group_of_a_query_gets_the_terms_of_the_search(encoded: str, narrowed: str) -> None:
    query = Search((Condition(KEY, ">", ("T",)),), KEY, descending=False).query(None)

    orders = "^ORDERBYsys_updated_on^ORDERBYsys_id"
    assert narrow_query(query, encoded) == narrowed + orders
    assert narrow_query(orders.removeprefix("^"), "active=true") == f"active=true{orders}"


@pytest.mark.parametrize("page_rows", [1, 2, 3, 50])
def test_what_a_query_of_several_groups_finds_is_found_once_page_by_page(
    tables: Tables, clock: Clock, page_rows: int
) -> None:
    made = []
    for number in range(30):
        clock.now += number % 3 == 0
        category = ("network", "hardware", "software")[number % 3]
        sys_id = make(tables, category=category, impact=str(number % 2 + 1))
        if category == "network" or (category == "hardware" and number % 2):
            made.append(sys_id)

    def find(query: str, fields: Sequence[str], limit: int) -> list[Record]:
        narrowed = narrow_query(query, "category=network^NQcategory=hardware^impact=2")
        return tables.select("incident", narrowed, limit=limit)

    search = Search((), KEY, descending=False)
    found = [
        row["sys_id"] for row in records(search, find, fields=[], limit=None, page_rows=page_rows)
    ]

    assert len(found) == len(set(found))
    assert set(found) == set(made)


def test_a_record_that_moves_behind_its_page_comes_again_and_is_no_fault(
    tables: Tables, clock: Clock
) -> None:
    sys_id = make(tables, category="network")
    moves = ["first", "second"]

    def find(query: str, fields: Sequence[str], limit: int) -> list[Record]:
        found = tables.select("incident", narrow_query(query, "category=network"), limit=limit)
        if found and moves:
            clock.now += 1
            tables.update("incident", sys_id, {"short_description": moves.pop()}, by=ADMIN)
        return found

    search = Search((), KEY, descending=False)
    found = [row[KEY] for row in records(search, find, fields=[], limit=None)]

    assert found == sorted(set(found))
    assert found[0] == "2026-11-27 08:00:00"
    assert len(found) > 1
