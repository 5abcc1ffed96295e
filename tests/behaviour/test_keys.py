"""One row is one key, however a session spells it, and no two rows are one key: through the whole
function."""

import json
from pathlib import Path

import psycopg
import pytest

from function.wiring import build
from tests.payloads import delete, encode, envelope, insert, mssql_insert, update
from tests.world import World

RULES = """
version: 1
rules:
  - name: reading
    from: hasura/public.readings
    ticket: {key: %s, fields: {short_description: "{{ row.title }}"}}
"""
ITEMS = """
version: 1
rules:
  - name: items
    from: hasura/public.meetings
    each: row.items
    ticket: {key: ["{{ row.id }}", "{{ item.id }}"], fields: {short_description: "{{ item.text }}"}}
"""


def in_sessions(postgresql: str, sql: str, *settings: str) -> list[dict[str, object]]:
    """The row that *sql* gives, as a trigger of Hasura's writes it down in sessions with each of
    *settings*."""
    rows = []
    for setting in settings:
        with psycopg.connect(postgresql) as connection:
            connection.execute(setting)
            [(written,)] = connection.execute(
                f"SELECT row_to_json(r)::text FROM ({sql}) r"  # noqa: S608
            ).fetchall()
            rows.append(json.loads(written))
    return rows


ZONES = [f"SET TIME ZONE '{zone}'" for zone in ("UTC", "Asia/Kolkata", "America/New_York")]


@pytest.mark.parametrize(
    "key", ['"{{ row.at }}"', '["{{ row.id }}", "{{ row.at }}"]', '"{{ row.id }}-{{ row.at }}"']
)
@pytest.mark.parametrize(
    "at", ["2024-07-01 23:30:00.123456+00", "1850-01-01 12:00:00+00", "0044-03-15 12:00+00 BC"]
)
def test_a_row_has_one_ticket_whatever_the_time_zone_of_who_wrote_it(
    postgresql: str, key: str, at: str
) -> None:
    first, second, third = in_sessions(
        postgresql, f"SELECT 1 AS id, timestamptz '{at}' AS at, 'x' AS title", *ZONES
    )
    assert len({str(row["at"]) for row in (first, second, third)}) == 3

    with World(rules=RULES % key) as world:
        world.send(insert("readings", first))
        world.send(update("readings", second, {**third, "title": "y"}))
        world.send(delete("readings", {**second, "title": "y"}))

        assert (world.incident["short_description"], world.incident["state"]) == ("y", "6")


def test_an_update_that_only_another_session_makes_moves_nothing(postgresql: str) -> None:
    rows = in_sessions(
        postgresql, "SELECT timestamptz '2024-07-01 00:00:00Z' AS at, 'x' AS title", *ZONES
    )

    with World(rules=RULES % '"{{ row.at }}"') as world:
        said = [
            world.send(insert("readings", rows[0])).said,
            world.send(update("readings", rows[1], rows[2])).said,
        ]

        assert said == ["created", "unchanged"]
        assert world.incident["correlation_id"] == "shop:reading:2024-07-01T00:00:00+00:00"


def test_a_number_has_one_ticket_whatever_its_zeros() -> None:
    with World(rules=RULES % '"{{ row.n }}"') as world:
        for number in (b"7", b"7.0", b"7.00", b"0.7e1"):
            body = encode(envelope("readings", "INSERT", None, {"n": 0, "title": number.decode()}))
            world.send(body.replace(b'"n":0', b'"n":' + number))

        assert world.incident["correlation_id"] == "shop:reading:7"


def test_a_row_that_moves_from_sql_server_to_postgresql_keeps_its_ticket() -> None:
    id = "0189dcd1-8d4b-4a3c-9f5e-6a7b8c9d0e1f"
    rules = (RULES % '"{{ row.id }}"').replace("public.readings", "dbo.readings")

    with World(rules=rules) as world:
        world.send(mssql_insert("readings", {"id": id.upper(), "title": "x"}))
        world.send(update("dbo.readings", {"id": id, "title": "x"}, {"id": id, "title": "y"}))

        assert world.incident["short_description"] == "y"


def test_a_start_with_a_text_that_joins_several_values_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.yaml").write_text(RULES % '"{{ row.a }}/{{ row.b }}"')

    with World() as world:
        build({**world.environ, "RULES_FILE": str(tmp_path / "mine.yaml")}).close()

    [warned] = [
        record.getMessage() for record in caplog.records if "ticket.key" in record.getMessage()
    ]
    assert warned.startswith("mine.yaml:6: rules[0].ticket.key: joins several values in one text")


@pytest.mark.parametrize(
    "parts", [("a/b", "c", "a", "b/c"), ("a\\", "b", "a\\/b", "b"), ("1", "/", "1/", "")]
)
def test_rows_whose_texts_hold_the_separator_have_a_ticket_each(
    parts: tuple[str, str, str, str],
) -> None:
    one = {"a": parts[0], "b": parts[1], "title": "one"}
    other = {"a": parts[2], "b": parts[3] or "x", "title": "other"}

    with World(rules=RULES % '["{{ row.a }}", "{{ row.b }}"]') as world:
        world.send(insert("readings", one))
        world.send(insert("readings", other))
        world.send(delete("readings", one))

        assert [(row["short_description"], row["state"]) for row in world.incidents] == [
            ("one", "6"),
            ("other", "1"),
        ]


def meeting(*items: tuple[object, str]) -> dict[str, object]:
    return {"id": 7, "items": [{"id": id, "text": text} for id, text in items]}


def test_two_elements_with_one_key_are_a_dead_letter_that_names_the_key() -> None:
    with World(rules=ITEMS) as world:
        answer = world.send(insert("meetings", meeting((1, "a"), (1.0, "b"), (2, "c"))))

        assert answer.status == 422
        assert [(one["key"], one["status"], one["reason"]) for one in answer.body["outcomes"]] == [
            ("7/1", "dead", "bad_key"),
            ("7/2", "created", None),
        ]
        [mail] = world.mails
        assert "7/1" in mail.get_content()
        assert world.incident["short_description"] == "c"


def test_once_the_elements_are_told_apart_each_has_its_ticket() -> None:
    with World(rules=ITEMS) as world:
        before, after = meeting((1, "a"), (1, "b")), meeting((1, "a"), (2, "b"))
        world.send(insert("meetings", before))
        world.send(update("meetings", before, after))

        assert [(row["short_description"], row["state"]) for row in world.incidents] == [
            ("a", "1"),
            ("b", "1"),
        ]


def test_a_ticket_is_left_as_it_was_while_two_elements_claim_it() -> None:
    with World(rules=ITEMS) as world:
        one, two, none = meeting((1, "a")), meeting((1, "a"), (1, "b")), meeting()
        world.send(insert("meetings", one))
        answer = world.send(update("meetings", one, two))
        left = dict(world.incident)
        world.send(update("meetings", two, none))

        assert answer.said == "dead bad_key"
        assert (left["short_description"], left["state"]) == ("a", "1")
        assert world.incident["state"] == "6"


def test_the_order_in_which_duplicates_are_heard_of_does_not_matter() -> None:
    one, two, apart = meeting((1, "a")), meeting((1, "a"), (1, "b")), meeting((1, "b"), (2, "a"))
    events = [
        insert("meetings", one, created_at="2026-03-04T05:06:07"),
        update("meetings", one, two, created_at="2026-03-04T05:06:08"),
        update("meetings", two, apart, created_at="2026-03-04T05:06:09"),
    ]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)):
        with World(rules=ITEMS) as world:
            for number in order:
                world.send(events[number])

            assert sorted((row["short_description"], row["state"]) for row in world.incidents) == [
                ("a", "1"),
                ("b", "1"),
            ]
