"""An app asks Hasura for the ticket of a row: what `setup hasura` prints is put into a real
PostgreSQL and asked."""

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.rows import dict_row

from function.core.event import Event, Op
from function.core.values import Row
from function.hasura.views import (
    DatabaseUnreadable,
    Missing,
    View,
    printed,
    read_tables,
    row_table,
    views,
)
from function.ledger.database import Database
from function.rules import loader as rules
from function.rules.evaluate import evaluate
from function.rules.model import Rule
from tests.payloads import insert
from tests.processes import HERE
from tests.world import World

PROJECT = HERE / "hasura"
TABLES = PROJECT / "metadata/databases/default/tables"
EXAMPLE, VIEWS, _ = MIGRATIONS = sorted((PROJECT / "migrations/default").iterdir())
INSTANCE = "https://dev12345.service-now.com"


class App:
    """The app's database, with the ledger in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def run(self, sql: str, *values: object) -> list[dict[str, Any]]:
        done = self.connection.execute(sql, values or None)
        return done.fetchall() if done.description else []

    def ticket(
        self,
        rule: str,
        key: str,
        *,
        number: str = "INC0010001",
        instance: str = INSTANCE,
        at: float = 0,
    ) -> None:
        self.run(
            "INSERT INTO servicenow.ticket (instance, rule, key, number, created_at, updated_at, "
            "sys_id, state) VALUES (%s, %s, %s, %s, %s, %s, 'a1b2', '1')",
            *(instance, rule, key, number, at, at),
        )

    def related(self, relationship: str, schema: str, table: str, what: str = "") -> str:
        """What Hasura makes of a manual relationship: a lateral join by the mapped columns."""
        [(kind, [made])] = yaml.safe_load(relationship).items()
        manual = made["using"]["manual_configuration"]
        remote = manual["remote_table"]
        mapped = " AND ".join(
            f'(row."{own}") = ("{other}")' for own, other in manual["column_mapping"].items()
        )
        limit = "LIMIT 1" if kind == "object_relationships" else ""
        other = f'"{remote["schema"]}"."{remote["name"]}"'
        return (
            "SELECT row.*, related.* "  # noqa: S608
            f'FROM (SELECT * FROM "{schema}"."{table}" {what}) AS row '
            f"LEFT OUTER JOIN LATERAL (SELECT * FROM {other} WHERE {mapped} {limit}) AS related "
            "ON true"
        )


@pytest.fixture
def app(postgresql: str) -> Iterator[App]:
    ledger = Database(postgresql, pool_size=1)
    ledger.migrate()
    ledger.close()
    app = App(postgresql)
    yield app
    app.connection.close()


def loaded(*written: str) -> tuple[Rule, ...]:
    text = "version: 1\nrules:\n" + "\n".join(f"  - {rule}" for rule in written)
    return rules.load_rules(text, environ={}).rules


def rule(
    key: str | list[str], *, id: str = "r", table: str = "public.things", more: str = ""
) -> str:
    ticket = f"{{key: {json.dumps(key)}, {more}fields: {{short_description: s}}}}"
    return (
        f"{{name: {id}, from: hasura/{table}, each: row.parts, ticket: {ticket}}}"
        if "item" in str(key)
        else (f"{{name: {id}, from: hasura/{table}, ticket: {ticket}}}")
    )


def made(app: App, *written: str) -> tuple[list[View], list[Missing]]:
    """The views of rules, in the database."""
    found = loaded(*written)
    tables = read_tables(app.url, {row for row in map(row_table, found) if row})
    of_rules, missing = views(found, tables)
    for view in of_rules:
        app.run(view.up)
    return of_rules, missing


def shipped_relationship(file: str, kind: str, name: str) -> str:
    table = yaml.safe_load((TABLES / file).read_text("utf-8"))
    return yaml.safe_dump({kind: [one for one in table[kind] if one["name"] == name]})


# The project that is shipped


def test_the_shipped_project_has_what_the_command_prints(app: App) -> None:
    app.run((EXAMPLE / "up.sql").read_text("utf-8"))
    shipped = rules.load_rules((HERE / "rules.yaml").read_text("utf-8"), environ={}).rules

    text = printed(
        *views(shipped, read_tables(app.url, {row for row in map(row_table, shipped) if row}))
    )

    parts = re.split(r"^(?:--|#) == (into )?([\w/.]+)(?:, with .*)?\n", text, flags=re.MULTILINE)[
        1:
    ]
    printed_parts = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
    assert [bool(into) for into, _, _ in printed_parts] == [False] * 4 + [True] * 2
    for into, path, part in printed_parts:
        file = (PROJECT / path.replace("TIMESTAMP", VIEWS.name.partition("_")[0])).read_text(
            "utf-8"
        )
        if into:
            [(kind, [relationship])] = yaml.safe_load(part).items()
            assert relationship in yaml.safe_load(file)[kind]
        else:
            assert file.strip() == part.strip()


def test_what_is_tracked_is_there_and_of_the_ledger_s_tables_only_the_inbox(app: App) -> None:
    app.run((EXAMPLE / "up.sql").read_text("utf-8"))
    app.run((VIEWS / "up.sql").read_text("utf-8"))

    included = [
        line.removeprefix("!include ")
        for line in yaml.safe_load((TABLES / "tables.yaml").read_text("utf-8"))
    ]
    tracked = {
        tuple(yaml.safe_load((TABLES / file).read_text("utf-8"))["table"].values())
        for file in included
    }
    there = app.run(
        "SELECT table_name, table_schema FROM information_schema.tables WHERE "
        "table_schema = 'public' OR (table_schema, table_name) = ('servicenow', 'inbox')"
    )
    assert tracked == {tuple(table.values()) for table in there}
    assert {file.name for file in TABLES.iterdir()} == {*included, "tables.yaml"}


def test_every_migration_goes_up_and_down_and_up_again(app: App) -> None:
    things = (
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace IN "
        "('public'::regnamespace, 'servicenow'::regnamespace) "
        "UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = "
        "'public'::regnamespace ORDER BY 1"
    )
    before = app.run(things)

    for _ in range(2):
        for folder in MIGRATIONS:
            app.run((folder / "up.sql").read_text("utf-8"))
        there = app.run(things)
        for folder in reversed(MIGRATIONS):
            app.run((folder / "down.sql").read_text("utf-8"))

    assert len(there) > len(before)
    assert app.run(things) == before


def test_the_views_before_the_ledger_are_refused_with_what_to_do(postgresql: str) -> None:
    with (
        psycopg.connect(postgresql, autocommit=True) as connection,
        pytest.raises(psycopg.Error) as refused,
    ):
        connection.execute((VIEWS / "up.sql").read_text("utf-8"))

    assert refused.value.diag.message_primary == (
        "the ledger's tables are not in this database: its own migration comes before this one"
    )
    assert "`python -m function migrate`" in (refused.value.diag.message_hint or "")


def test_a_change_of_a_row_moves_its_updated_at_onward_even_within_a_transaction(app: App) -> None:
    app.run((EXAMPLE / "up.sql").read_text("utf-8"))
    app.run("INSERT INTO outages (id, title, updated_at) VALUES (1, 't', '2999-01-01')")

    seen = []
    with app.connection.transaction():
        for title in ("u", "u", "v"):
            app.run("UPDATE outages SET title = %s", title)
            seen += [row["updated_at"] for row in app.run("SELECT updated_at FROM outages")]

    assert seen[0] == seen[1] < seen[2]
    assert seen[0].isoformat().startswith("2999-01-01T00:00:00.000001")


@pytest.mark.parametrize(
    ("table", "file", "kind", "name", "key"),
    [
        ("outages", "public_outages.yaml", "object_relationships", "ticket", "{}"),
        ("meetings", "public_meetings.yaml", "array_relationships", "tickets", "{}/7"),
    ],
)
def test_a_rows_tickets_are_found_by_the_index(
    app: App, table: str, file: str, kind: str, name: str, key: str
) -> None:
    app.run((EXAMPLE / "up.sql").read_text("utf-8"))
    app.run((VIEWS / "up.sql").read_text("utf-8"))
    rule_id = {"outages": "outage", "meetings": "action-items"}[table]
    app.run(f"INSERT INTO {table} (title) SELECT 't' FROM generate_series(1, 2000)")  # noqa: S608
    app.run(
        "INSERT INTO servicenow.ticket (instance, rule, key, sys_id, number, created_at, "
        "updated_at) SELECT 'i', %s, replace(%s, '{}', id::text), 's', 'INC' || id, 0, 0 FROM "
        "generate_series(1, 2000) AS id",
        *(rule_id, key),
    )
    app.run("ANALYZE")

    asked = app.related(shipped_relationship(file, kind, name), "public", table, "WHERE id < 10")
    plan = "\n".join(str(line["QUERY PLAN"]) for line in app.run(f"EXPLAIN {asked}"))

    assert [row["number"] for row in app.run(f"{asked} ORDER BY 1")] == [
        f"INC{id}" for id in range(1, 10)
    ]
    assert (
        f"using {'ticket' if table == 'outages' else 'tickets'}_{rule_id.replace('-', '_')}_row"
        in plan
    )
    assert "Seq Scan on ticket" not in plan


def test_the_app_sees_the_ticket_that_the_function_has_made(app: App) -> None:
    app.run((EXAMPLE / "up.sql").read_text("utf-8"))
    app.run((VIEWS / "up.sql").read_text("utf-8"))
    app.run("INSERT INTO outages (id, title, severity) VALUES (42, 'Checkout is down', 'critical')")

    with World(database_url=app.url) as world:
        world.send(
            insert(
                "outages",
                {"id": 42, "title": "Checkout is down", "severity": "critical", "status": "open"},
            )
        )
        [seen] = app.run("SELECT * FROM ticket_outage WHERE id = 42")
        shown = world.incident

    assert (seen["number"], seen["state"], seen["sys_id"]) == (
        shown["number"],
        shown["state"],
        shown["sys_id"],
    )
    assert seen["url"] == f"{world.servicenow.url}/incident.do?sys_id={shown['sys_id']}"
    assert seen["updated_at"].year > 2000


# Keys and types

NO_COLUMN = "its key does not begin with a column of the row, such as {{ row.id }}"
AS_LIST = ": write the key as a list of its parts"
UUID = "0189dcd1-8d4b-4a3c-9f5e-6a7b8c9d0e1f"


@pytest.mark.parametrize(
    ("type_", "value", "key", "others"),
    [
        ("smallint", "-32768", "-32768", ["-32769", "32768", "99999", "1e3"]),
        ("integer", "2147483647", "2147483647", ["2147483648", "-2147483649", "9999999999"]),
        (
            "bigint",
            "9223372036854775807",
            "9223372036854775807",
            ["9223372036854775808", "9" * 19, "9" * 200],
        ),
        ("bigint", "0", "0", ["-0", "00", "+1", " 1", "", "1\n", "é"]),
        ("numeric(10,2)", "1500", "1500.0", ["1,5", ".5", "1.", "NaN", "Infinity"]),
        ("uuid", UUID, UUID, [UUID.upper(), UUID[:-1], UUID.replace("-", "")]),
        (
            "timestamptz",
            "2024-02-29 23:59:59.999999+00",
            "2024-02-29T23:59:59.999999+00:00",
            [
                "2024-02-31T00:00:00+00:00",
                "2024-13-99T99:99:99+00:00",
                "2024-02-29T23:59:59.999999+01:00",
                "infinity",
            ],
        ),
        (
            "timestamptz",
            "2024-03-01 05:29:59+05:30",
            "2024-02-29T23:59:59+00:00",
            ["0044-03-15T12:00:00+00:00 BC"],
        ),
        ("text", "it's a “key” % \\", "it's a “key” % \\", ["It's a “key”"]),
        ("varchar(20)", "ab", "ab", ["AB"]),
        ("char(5)", "ab", "ab   ", ["AB"]),
        ("d", "7", "7", ["0", "x"]),
    ],
)
def test_a_key_finds_its_row_by_the_rows_own_type_and_no_other_key_breaks_anything(
    app: App, type_: str, value: str, key: str, others: list[str]
) -> None:
    app.run("CREATE DOMAIN d AS bigint CHECK (value > 0)")
    app.run(f"CREATE TABLE things (id {type_} PRIMARY KEY)")
    app.run(f"INSERT INTO things VALUES (%s::{type_})", value)  # noqa: S608
    [view], _ = made(app, rule("{{ row.id }}"))

    for number, other in enumerate(others):
        app.ticket("r", other, number=f"INC{number}")
    app.ticket("r", key)

    [row] = app.run(app.related(view.relationship, "public", "things"))
    assert row["number"] == "INC0010001"
    everything = app.run("SELECT id, number FROM ticket_r")
    assert None not in [one["id"] for one in everything]


@pytest.mark.parametrize(("type_", "id"), [("integer", "-5"), ("uuid", UUID), ("numeric", "1.5")])
def test_the_tickets_of_a_rows_elements_are_told_from_another_rows(
    app: App, type_: str, id: str
) -> None:
    app.run(f"CREATE TABLE things (id {type_} PRIMARY KEY)")
    app.run(f"INSERT INTO things VALUES ('{id}')")  # noqa: S608
    [view], _ = made(app, rule("{{ row.id }}'/{{ item.id }}"))

    for number, key in enumerate([f"{id}'/1", f"{id}'/2", f"{id}5'/1", f"{id}/3", id, f"x{id}'/1"]):
        app.ticket("r", key, number=f"INC{number}")

    rows = app.run(app.related(view.relationship, "public", "things"))
    assert sorted((row["key"], row["number"]) for row in rows if row["key"] != id) == [
        (f"{id}'/1", "INC0"),
        (f"{id}'/2", "INC1"),
    ]


@pytest.mark.parametrize(
    ("type_", "id"),
    [
        ("integer", "-5"),
        ("uuid", UUID),
        ("numeric", "1.50"),
        ("timestamptz", "2024-01-02 03:04:05.678901+02"),
        ("text", "a/b"),
        ("text", "a\\\\/b\n\\"),
        ("varchar", "/"),
        ("char(9)", "a/"),
    ],
)
@pytest.mark.parametrize(
    "key", [["{{ row.id }}", "{{ item.id }}"], ["{{ item.id }}", "{{ row.id }}"]]
)
def test_the_tickets_of_a_rows_elements_are_found_by_a_list_of_parts(
    app: App, type_: str, id: str, key: list[str]
) -> None:
    app.run(f"CREATE TABLE things (id {type_} PRIMARY KEY)")
    app.run(f"INSERT INTO things VALUES (%s::{type_})", id)  # noqa: S608
    [view], _ = made(app, rule(key))
    [of_key] = loaded(rule(key))

    for number, (row, item) in enumerate(
        [(id, "x"), (id, "y/z"), (f"{id}x", "x"), ("b", f"{id}/x")]
    ):
        # As an event has it.
        given = (
            json.loads(app.run(f"SELECT to_json(%s::{type_})::text AS id", row)[0]["id"])
            if number < 2
            else row
        )
        image: Row = {"id": given, "parts": [{"id": item}]}
        [step] = evaluate(of_key, Event("e", of_key.source, Op.INSERT, None, image, "c", "{}"))
        app.ticket("r", step.key, number=f"INC{number}")
    app.ticket("r", "no", number="INC9")

    rows = app.run(app.related(view.relationship, "public", "things"))
    assert sorted(row["number"] for row in rows) == ["INC0", "INC1"]


def test_a_row_of_several_key_columns_has_its_ticket_by_all_of_them(app: App) -> None:
    app.run("CREATE TABLE things (shop text, id integer, PRIMARY KEY (shop, id))")
    app.run("INSERT INTO things VALUES ('a/1', 2), ('a', 1)")
    [view], _ = made(app, rule(["{{ row.shop }}", "{{ row.id }}"]))

    app.ticket("r", "a\\/1/2", number="INC1")
    app.ticket("r", "a/1", number="INC2")
    app.ticket("r", "a/2", number="INC3")

    [(kind, _)] = yaml.safe_load(view.relationship).items()
    rows = app.run(app.related(view.relationship, "public", "things"))
    assert kind == "object_relationships"
    assert {(row["shop"], row["id"], row["number"]) for row in rows} == {
        ("a/1", 2, "INC1"),
        ("a", 1, "INC2"),
    }
    assert "by its columns shop, id" in view.up
    app.run(view.down)


@pytest.mark.parametrize(
    ("type_", "key", "why"),
    [
        (
            "integer",
            ["x{{ row.id }}", "{{ item }}"],
            "no part of its key is a column of the row, such as {{ row.id }}",
        ),
        (
            "integer",
            ["{{ row.id }}x", "{{ item }}"],
            "no part of its key is a column of the row, such as {{ row.id }}",
        ),
        (
            "jsonb",
            ["{{ item }}", "{{ row.id }}"],
            "id is of type jsonb, which cannot be told from the text of a key",
        ),
    ],
)
def test_a_list_that_names_no_row_is_told_why(
    app: App, type_: str, key: list[str], why: str
) -> None:
    app.run(f"CREATE TABLE things (id {type_})")

    assert made(app, rule(key)) == ([], [Missing("r", why)])


@pytest.mark.parametrize(
    ("type_", "key", "more", "why"),
    [
        (
            "jsonb",
            "{{ row.id }}",
            "",
            "id is of type jsonb, which cannot be told from the text of a key",
        ),
        ("integer", "outage-{{ row.id }}", "", NO_COLUMN),
        ("integer", "{{ row.id | string }}", "", NO_COLUMN),
        ("integer", "{{ row.id }}{% if old %}x{% endif %}", "", NO_COLUMN),
        (
            "integer",
            "{{ row.id }}",
            "shared: true, ",
            "its rows share a ticket, so that its key is no row's",
        ),
        (
            "text",
            "{{ row.id }}/{{ item }}",
            "",
            "id may itself hold the '/' that follows it in the key" + AS_LIST,
        ),
        (
            "integer",
            "{{ row.id }}0{{ item }}",
            "",
            "id may itself hold the '0' that follows it in the key" + AS_LIST,
        ),
        (
            "uuid",
            "{{ row.id }}-{{ item }}",
            "",
            "id may itself hold the '-' that follows it in the key" + AS_LIST,
        ),
    ],
)
def test_a_rule_without_a_view_is_told_why(
    app: App, type_: str, key: str, more: str, why: str
) -> None:
    app.run(f"CREATE TABLE things (id {type_})")

    none, [missing] = made(app, rule(key, more=more))

    assert none == []
    assert missing == Missing("r", why)
    assert f"-- Rule r has no view: {why}.\n" in printed([], [missing])


def test_a_table_or_column_that_is_not_there_is_told_as_a_fault(app: App) -> None:
    app.run("CREATE TABLE things (id integer)")

    _, missing = made(
        app, rule("{{ row.no }}", id="a"), rule("{{ row.id }}", id="b", table="shop.things")
    )

    assert missing == [
        Missing("a", "public.things has no column no", faulty=True),
        Missing("b", "shop.things is not in this database", faulty=True),
    ]


def test_rules_about_no_rows_have_no_view_and_no_word(app: App) -> None:
    nightly = loaded(
        "{name: n, from: cron/nightly, ticket: {key: '{{ event.id }}', fields: "
        "{short_description: s}}}"
    )

    assert views(nightly, {}) == ([], [])


@pytest.mark.parametrize("url", ["sqlite:///ledger.db", "postgresql://127.0.0.1:1/none"])
def test_a_database_that_cannot_tell_is_a_sentence(url: str) -> None:
    with pytest.raises(DatabaseUnreadable, match="DATABASE_URL"):
        read_tables(url, [("public", "things")])


def test_of_several_instances_records_the_newest_counts(app: App) -> None:
    app.run("CREATE TABLE things (id integer)")
    made(app, rule("{{ row.id }}"))

    for instance, at in (("https://a", 1), ("https://c", 3), ("https://b", 2)):
        app.ticket("r", "1", instance=instance, number=instance[-1], at=at)

    assert [row["number"] for row in app.run("SELECT number FROM ticket_r")] == ["c"]


def test_a_record_without_a_ticket_and_another_rules_are_not_shown(app: App) -> None:
    app.run("CREATE TABLE things (id integer)")
    made(app, rule("{{ row.id }}"))

    app.ticket("other", "1")
    app.ticket("r", "2")
    app.run("UPDATE servicenow.ticket SET sys_id = '' WHERE key = '2'")

    assert app.run("SELECT * FROM ticket_r") == []


# Names


def test_every_name_is_one_that_postgresql_and_graphql_take_and_is_its_own(app: App) -> None:
    app.run(
        'CREATE TABLE things (id integer, "Größe" integer, number integer, ticket text, "order" '
        "uuid)"
    )
    ids = ["a-b", "a_b", "A" * 60, "A" * 59 + "-", "o"]
    keys = [
        "{{ row.id }}",
        "{{ row.id }}",
        "{{ row.number }}",
        '{{ row["Größe"] }}',
        "{{ row.order }}",
    ]

    of_rules, _ = made(app, *(rule(key, id=id) for id, key in zip(ids, keys, strict=True)))

    names = [yaml.safe_load(view.table)["table"]["name"] for view in of_rules]
    relationships = [
        yaml.safe_load(view.relationship)["object_relationships"][0]["name"] for view in of_rules
    ]
    assert all(
        re.fullmatch(r"[A-Za-z_]\w{0,62}", name, re.ASCII) for name in (*names, *relationships)
    )
    assert (len(set(names)), len(set(relationships))) == (5, 5)
    # The table has a column `ticket` already.
    assert "ticket" not in relationships
    for view in of_rules:
        app.run(app.related(view.relationship, "public", "things"))
        app.run(view.down)


def test_the_first_rule_of_a_table_keeps_its_relationship_when_another_comes(app: App) -> None:
    app.run("CREATE TABLE things (id integer)")

    [first, second], _ = made(
        app, rule("{{ row.id }}", id="one"), rule("{{ row.id }}", id="two-more")
    )

    assert yaml.safe_load(first.relationship)["object_relationships"][0]["name"] == "ticket"
    assert (
        yaml.safe_load(second.relationship)["object_relationships"][0]["name"] == "ticket_two_more"
    )


def test_a_column_named_like_one_of_the_tickets_takes_another_name_there(app: App) -> None:
    app.run("CREATE TABLE things (number integer)")
    app.run("INSERT INTO things VALUES (5)")
    [view], _ = made(app, rule("{{ row.number }}"))
    app.ticket("r", "5")

    [row] = app.run(app.related(view.relationship, "public", "things", "WHERE number = 5"))

    assert (row["row_number"], row["number"]) == (5, "INC0010001")


def test_another_schemas_table_has_its_view_beside_it(app: App) -> None:
    app.run('CREATE SCHEMA "My Shop" CREATE TABLE things (id integer)')
    [view], _ = made(app, rule("{{ row.id }}", table="My Shop.things"))
    app.ticket("r", "1")

    assert view.file == "My Shop_ticket_r.yaml"
    assert [row["id"] for row in app.run('SELECT id FROM "My Shop".ticket_r')] == [1]


def test_pasting_it_all_again_changes_nothing(app: App) -> None:
    app.run("CREATE TABLE things (id integer)")
    app.ticket("r", "1")

    made(app, rule("{{ row.id }}"))
    made(app, rule("{{ row.id }}"))

    assert [row["id"] for row in app.run("SELECT id FROM ticket_r")] == [1]


def test_a_rule_of_notes_has_no_view_for_it_makes_no_tickets(app: App) -> None:
    app.run("CREATE TABLE things (id integer); CREATE TABLE notes (id integer, thing integer)")
    noted = rules.load_rules(
        "version: 1\nrules:\n"
        "  - name: n\n    from: hasura/public.notes\n"
        "    note: {ticket: r, for: '{{ row.thing }}', key: '{{ row.id }}', field: comments, "
        "text: x}\n"
        "  - name: r\n    from: hasura/public.things\n"
        "    ticket: {key: '{{ row.id }}', fields: {short_description: x}}\n",
        environ={},
    ).rules
    tables = read_tables(app.url, {row for row in map(row_table, noted) if row is not None})
    [view], missing = views(noted, tables)

    assert view.file == "public_ticket_r.yaml"
    assert missing == [Missing("n", "it makes no tickets")]
