"""A ticket's address: a pure function of what it stands for, and no two things share one."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from function.targets.ticket.address import (
    CORRELATION_CHARACTERS_MAX,
    address,
    correlation_id,
    is_of_source,
)
from tests.payloads import delete, insert
from tests.processes import HERE
from tests.world import World, outage

KEYS = st.one_of(
    st.text(max_size=130),
    st.integers(0, 200).map(str),
    st.sampled_from("0123456789abcdef:/ ^\n").map(lambda letter: letter * 90),
)
PARTS = st.tuples(
    st.sampled_from(["incident", "incident0", "task"]),
    st.sampled_from(["a", "a-b"]),
    KEYS,
    st.integers(0, 200),
)


def examples() -> Iterator[tuple[str, str, str, int, str, str]]:
    """The rows of the table in docs/servicenow.md."""
    page = (HERE / "docs" / "servicenow.md").read_text()
    row = r"^\| (\w+) \| ([\w-]+) \| `([^`]+)` \| (\d+) \| `([^`]+)` \| `([0-9a-f]{32})` \|$"
    for table, rule, key, generation, correlation, sys_id in re.findall(row, page, re.MULTILINE):
        yield table, rule, key, int(generation), correlation, sys_id


@pytest.mark.parametrize(
    ("table", "rule", "key", "generation", "correlation", "sys_id"), [*examples()]
)
def test_the_addresses_that_docs_give_are_those_that_are_computed(
    table: str, rule: str, key: str, generation: int, correlation: str, sys_id: str
) -> None:
    computed = correlation_id("shop-prod", rule, key)

    assert (computed, address(table, computed, generation)) == (correlation, sys_id)


def test_docs_give_an_address_of_each_kind() -> None:
    assert len(list(examples())) == 6


@given(PARTS, PARTS)
def test_no_two_tickets_share_an_address(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int]
) -> None:
    assume(one != other)

    def at(table: str, rule: str, key: str, generation: int) -> str:
        return address(table, correlation_id("shop", rule, key), generation)

    assert at(*one) != at(*other)


@given(KEYS)
def test_a_correlation_id_fits_its_column_and_can_stand_in_a_query(key: str) -> None:
    correlation = correlation_id("s" * 40, "r" * 60, key)

    assert len(correlation) <= CORRELATION_CHARACTERS_MAX
    assert correlation.isprintable()
    assert "^" not in correlation
    assert correlation == correlation.strip()


@given(KEYS)
def test_a_key_that_spells_the_shortened_form_of_another_has_an_address_of_its_own(
    key: str,
) -> None:
    shortened = correlation_id("shop", "outage", key + "x" * 100)
    spelled = shortened.removeprefix("shop:outage:")

    assert correlation_id("shop", "outage", spelled) != shortened
    assert correlation_id("shop", "outage", spelled.upper()).lower() != shortened.lower()


@given(KEYS, st.sampled_from(["shop", "s" * 34, "s" * 35, "s" * 36, "s" * 40]))
def test_a_correlation_id_tells_whose_source_it_is(key: str, source: str) -> None:
    assert is_of_source(source, correlation_id(source, "outage", key))
    assert not is_of_source("sho", correlation_id(source, "outage", key))
    assert not is_of_source("shopping", correlation_id(source, "outage", key))


@pytest.mark.parametrize("foreign", ["", "shop", "shop-eu:outage:1", f"zendesk:{'0' * 64}", "4711"])
def test_a_correlation_id_of_another_system_is_of_no_source_of_ours(foreign: str) -> None:
    assert not is_of_source("shop", foreign)


def test_the_tenth_generation_of_a_key_is_not_the_first_of_a_longer_one() -> None:
    """Joined without a separator, generation 10 of key 4 is generation 0 of key 41."""
    with World(rules=FOLLOWED) as world:
        assert world.send(insert("outages", outage(41))).said == "created"
        assert world.send(delete("outages", outage(41))).said == "resolved"
        for _ in range(11):
            assert world.send(insert("outages", outage(4))).said == "created"
            assert world.send(delete("outages", outage(4))).said == "resolved"
        assert world.send(insert("outages", outage(41))).said == "created"

        tickets = [row["correlation_id"] for row in world.incidents]
        assert (tickets.count("shop:outage:4"), tickets.count("shop:outage:41")) == (11, 2)


FOLLOWED = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
      close_code: Solution provided
      after_close: new
"""
