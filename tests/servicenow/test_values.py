"""Whether ServiceNow kept a value that it spells in its own way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.servicenow.values import is_kept, is_same_text
from tests.payloads import insert, update
from tests.world import World

SYS_ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        # decimals, integers, percentages
        ("12.5", "12.50"),
        ("12.50", "12.5"),
        ("12", "12.00"),
        ("12.0", "12"),
        ("007", "7"),
        ("-0", "0"),
        ("0.5", ".5"),
        (".5", "0.50"),
        ("1e3", "1000"),
        ("1.5E-2", "0.015"),
        # booleans
        ("1", "true"),
        ("0", "false"),
        ("True", "true"),
        ("FALSE", "false"),
        ("true", "1"),
        ("false", "0"),
        ("yes", "true"),
        ("no", "false"),
        ("", "false"),
        # dates and times
        ("2026-01-01 00:00:00", "2026-01-01"),
        ("2026-01-01T00:00:00", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01"),
        ("2026-01-01T00:00:00+02:00", "2026-01-01"),
        ("2026-01-01T02:00:00+02:00", "2026-01-01"),
        ("2026-01-01", "2026-01-01 00:00:00"),
        ("2021-07-15T08:00:00", "2021-07-15 08:00:00"),
        ("2021-07-15T08:00:00Z", "2021-07-15 08:00:00"),
        ("2021-07-15T10:00:00+02:00", "2021-07-15 08:00:00"),
        ("2021-07-15T08:00", "2021-07-15 08:00:00"),
        ("2021-07-15 08:00:00.123456", "2021-07-15 08:00:00"),
        ("2021-07-15 08:00:00.9", "2021-07-15 08:00:01"),
        ("08:30", "08:30:00"),
        ("08:30:00", "1970-01-01 08:30:00"),
        ("1 02:00:00", "1970-01-02 02:00:00"),
        # currencies
        ("12.5", "USD;12.50"),
        ("USD;12.5", "USD;12.50"),
        ("USD;12.5", "12.50"),
        ("$1,234.50", "1234.50"),
        ("$1,234.5", "USD;1234.50"),
        ("1,234.50", "1234.5"),
        ("12.50 EUR", "EUR;12.50"),
        ("-$5", "-5.00"),
        ("1234.5", "$1,234.50"),
        # references, lists of them
        (SYS_ID.upper(), SYS_ID),
        (SYS_ID, SYS_ID.upper()),
        (f"{SYS_ID}, {SYS_ID.upper()}", f"{SYS_ID},{SYS_ID}"),
        # texts
        ("one\r\ntwo", "one\ntwo"),
        ("one\ntwo", "one\r\ntwo"),
        ("one\rtwo", "one\ntwo"),
        ("  text \n", "text"),
        ("x", "x"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_a_value_that_is_spelled_as_its_column_does_is_kept(sent: str, returned: str) -> None:
    assert is_kept(returned, sent)


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ("12.5", "12.05"),
        ("12.5", "12"),
        ("12.345", "12.35"),
        ("12.5", ""),
        ("7", "007"),
        ("+49", "49"),
        ("1", "2"),
        ("1", "-1"),
        ("1", "false"),
        ("0", "true"),
        ("true", "false"),
        ("2", "true"),
        ("maybe", "false"),
        ("1", "True or not"),
        ("", "0"),
        ("", "true"),
        ("2026-01-01 10:30:00", "2026-01-01"),
        ("2026-01-01 00:00:00", "2026-01-02"),
        ("2026-01-01", "2026-01-01 01:00:00"),
        ("2026-01-01T10:00:00+02:00", "2026-01-01 10:00:00"),
        ("2026-01-01 08:00:00", "2026-01-01 08:00:01"),
        ("2026-01-01 08:00:00.1", "2026-01-01 08:00:02"),
        ("2026-13-01", "2026-13-01 00:00:00"),
        ("08:30", "1970-01-01 08:31:00"),
        ("08:30", "1970-01-02 08:30:00"),
        ("USD;12.50", "EUR;12.50"),
        ("$5", "€5"),
        ("12.5", "USD;12.51"),
        ("1,23", "123"),
        ("12,5", "12.5"),
        (SYS_ID, SYS_ID[::-1]),
        (f"{SYS_ID},{SYS_ID[::-1]}", SYS_ID),
        ("one two", "one  two"),
        ("Text", "text"),
        ("one\n\ntwo", "one\ntwo"),
        ("text", "tex"),
        ("Network", ""),
        ("-", "0"),
        (".", "0"),
        ("9" * 5000, "9" * 4999 + "8"),
    ],
)
def test_a_value_that_is_another_one_is_not_kept(sent: str, returned: str) -> None:
    assert not is_kept(returned, sent)


SPELLINGS = st.text("0123456789.,-+eE$€;: TZ/\r\ntrueFALSx", max_size=30)


@given(SPELLINGS, SPELLINGS)
def test_any_two_texts_are_compared(returned: str, sent: str) -> None:
    assert is_kept(returned, sent) in (True, False)
    assert is_kept(sent, sent)
    if is_same_text(returned, sent):
        assert is_kept(returned, sent)


# Through the whole function

CHANGE = """
version: 1
rules:
  - name: release
    from: hasura/public.releases
    ticket:
      table: change_request
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
        on_hold: "{{ row.hold }}"
        start_date: "{{ row.at }}"
        description: "{{ row.text }}"
"""


def release(**columns: object) -> dict[str, object]:
    return {
        "id": 1,
        "title": "x",
        "hold": 1,
        "at": "2026-01-01T08:00:00",
        "text": "one\r\ntwo \n",
    } | columns


def test_values_that_their_columns_spell_otherwise_are_no_alert() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release()))
        world.send(
            update("releases", release(), release(title="y", hold=0, at="2026-01-02T09:00:00"))
        )
        world.send(
            update(
                "releases",
                release(title="y", hold=0, at="2026-01-02T09:00:00"),
                release(title="z", hold=0),
            )
        )

        [change] = world.servicenow.rows("change_request")
        assert (change["short_description"], change["on_hold"], change["start_date"]) == (
            "z",
            "false",
            "2026-01-01 08:00:00",
        )
        assert world.mails == []


def test_a_value_that_only_looks_the_same_is_sent_all_the_same() -> None:
    # The column is a text: 007 is not 7 there, whatever it would be in a column of numbers.
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release(text="7")))
        world.send(update("releases", release(text="7"), release(text="007")))

        [change] = world.servicenow.rows("change_request")
        assert change["description"] == "007"


def test_a_refused_write_is_not_believed_for_what_looks_the_same() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release(text="7")))
        world.servicenow.arm("acl_403", method="PATCH", times=1)
        answer = world.send(update("releases", release(text="7"), release(text="007")))

        assert answer.said == "dead refused_by_acl"


def test_a_write_behind_a_403_is_found_though_its_column_spells_it_otherwise() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release()))
        world.servicenow.arm("commit_then_403", method="PATCH", times=1)
        answer = world.send(
            update("releases", release(), release(hold=0, at="2026-01-02T00:00:00"))
        )

        assert answer.said == "updated"


def test_a_value_that_became_another_one_is_an_alert() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release(hold="maybe")))

        [mail] = world.mails
        assert "on_hold" in mail["Subject"]
