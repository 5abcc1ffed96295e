"""What a Hasura app needs to ask for the tickets of a row: for each rule a view of the ledger, and
its relationship.

    outages { title ticket { number state } }

The views read the ledger alone, not the app's tables, so that they stand in the way of no change to
those. A key is a text there; a view has it in the type of the row's own column, which only the
app's database knows.

    DatabaseUnreadable   the database cannot tell
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

import yaml

from function.core.values import digest
from function.rules.keys import KEY_SEPARATOR
from function.rules.model import Rule
from function.rules.ticket import has_ticket, ticket_of

# Columns of a table, each with its type (of a domain: what it is over), by the names of schema and
# table.
Tables: TypeAlias = "Mapping[tuple[str, str], Mapping[str, str]]"

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 10
# PostgreSQL cuts longer ones silently.
IDENTIFIER_BYTES_MAX: Final = 63
TABLES_FOLDER: Final = PurePosixPath("metadata/databases/default/tables")
MIGRATION_FOLDER: Final = PurePosixPath("migrations/default/TIMESTAMP_servicenow_views")

# What else the type of a view has in GraphQL: a row's column of such a name takes another.
_TAKEN: Final = frozenset({"key", "number", "state", "table", "sys_id", "url", "updated_at", "row"})
_LEDGER_IS_THERE: Final = """\
-- Printed by `python -m function setup hasura`. The indexes are the ledger's:
-- this needs a role that owns its tables.
-- A ledger that has served several instances of ServiceNow has a record of each: the newest counts.
DO $$
BEGIN
    IF to_regclass('servicenow.ticket') IS NULL THEN
        RAISE EXCEPTION
            'the ledger''s tables are not in this database: its own migration comes before this one'
            USING HINT = 'Run `python -m function migrate` with DATABASE_URL set to this database, '
                'then this again.';
    END IF;
END
$$;
"""
_PERMISSION: Final = """\
# For a role of your app: only through the row,
# so that it sees the tickets of the rows that it may see.
# select_permissions:
#   - role: user
#     permission:
#       columns: [number, state, url]
#       filter: {}
#       query_root_fields: []
#       subscription_root_fields: []
"""


class DatabaseUnreadable(Exception):  # noqa: N818  # a state, not a mistake
    """The database cannot be asked; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class View:
    """What one rule's tickets look like from Hasura. *up* and *down* are SQL; *table* and
    *relationship* are metadata.

    *file* is the tracked view's in TABLES_FOLDER, *row_file* that of the row's table, which
    *relationship* goes into.
    """

    up: str
    down: str
    file: str
    table: str
    row_file: str
    relationship: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a rule has no view. *faulty*: because something that it names is not in this database."""

    rule: str
    why: str
    faulty: bool = False


def read_tables(database_url: str, names: Collection[tuple[str, str]]) -> Tables:
    """Ask the database for the columns of the tables *names* (schema, table). Raises
    DatabaseUnreadable."""
    if not database_url.startswith(("postgres://", "postgresql://")):
        raise DatabaseUnreadable(
            "DATABASE_URL must name the PostgreSQL that holds both the ledger and the app's "
            "tables, because Hasura relates what is in one database; a ledger in SQLite is "
            "in none of Hasura's"
        )
    import psycopg  # noqa: PLC0415  # for this command only

    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_SECONDS) as connection:
            connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
            found = connection.execute(
                "SELECT nspname, relname, attname, coalesce(base.typname, own.typname) FROM "
                "pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON "
                "pg_namespace.oid = relnamespace JOIN pg_type own ON own.oid = atttypid LEFT "
                "JOIN pg_type base ON base.oid = own.typbasetype WHERE attnum > 0 AND NOT "
                "attisdropped AND relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname = ANY(%s) "
                "AND relname = ANY(%s)",
                ([schema for schema, _ in names], [table for _, table in names]),
            ).fetchall()
    except psycopg.Error as error:
        raise DatabaseUnreadable(
            f"the app's tables cannot be read: {type(error).__name__}: check DATABASE_URL"
        ) from error
    tables: dict[tuple[str, str], dict[str, str]] = {}
    for schema, table, column, type_ in found:
        tables.setdefault((schema, table), {})[column] = type_
    return tables


def row_table(rule: Rule) -> tuple[str, str] | None:
    """Schema and table of the rows that *rule* is about; None where it hears no rows."""
    kind, _, source = rule.source.partition("/")
    schema, _, table = source.partition(".")
    return (schema, table) if kind == "hasura" else None


def views(rules: Iterable[Rule], tables: Tables) -> tuple[list[View], list[Missing]]:
    """The views for *rules*, and why some have none.

    The first rule of a table has the relationship `ticket` (or `tickets`), whatever rules come
    later.
    """
    made: list[View] = []
    missing: list[Missing] = []
    taken: set[tuple[str, ...]] = {
        (*table, column) for table, columns in tables.items() for column in columns
    }
    for rule in rules:
        row = row_table(rule)
        if row is not None:
            view = _view(rule, row, tables, taken)
            made += [view] if isinstance(view, View) else []
            missing += [view] if isinstance(view, Missing) else []
    return made, missing


def printed(made: Iterable[View], missing: Iterable[Missing]) -> str:
    """All that is to be pasted, each file under a line with its path in the Hasura project."""
    made = list(made)
    reasons = "".join(f"-- Rule {none.rule} has no view: {none.why}.\n" for none in missing)
    up = "\n".join([_LEDGER_IS_THERE, *(view.up for view in made)]) if made else ""
    parts = [
        "-- Into your Hasura project. Then, in this order: python -m function migrate, hasura "
        "metadata apply, hasura "
        "migrate apply --all-databases, hasura metadata reload.\n" + reasons
    ]
    if made:
        parts += [
            f"-- == {MIGRATION_FOLDER}/up.sql\n{up}",
            f"-- == {MIGRATION_FOLDER}/down.sql\n" + "".join(view.down for view in reversed(made)),
            *(
                (
                    f'# == {TABLES_FOLDER}/{view.file}, with "!include {view.file}" in '
                    "tables.yaml\n"
                    f"{view.table}"
                )
                for view in made
            ),
            *(f"# == into {TABLES_FOLDER}/{view.row_file}\n{view.relationship}" for view in made),
        ]
    return "\n".join(parts)


def _view(
    rule: Rule, row: tuple[str, str], tables: Tables, taken: set[tuple[str, ...]]
) -> View | Missing:
    """*taken* are the names that a schema or a table has given away; those of this view
    are added."""
    schema, table = row
    if not has_ticket(rule):
        return Missing(rule.id, "it makes no tickets")
    if ticket_of(rule).shared:
        return Missing(rule.id, "its rows share a ticket, so that its key is no row's")
    found = _identity(rule, row, tables)
    if isinstance(found, Missing):
        return found
    values, by_key = found
    many = "tickets" if by_key else "ticket"
    name = _free(f"{many}_{rule.id.replace('-', '_')}", rule, taken, schema)
    relationship = _free(many, rule, taken, *row)
    own = {column: f"row_{column}" if column in _TAKEN else column for column in values}
    up, down = _sql(
        rule.id,
        schema,
        name,
        {own[column]: value for column, value in values.items()},
        by_key=by_key,
    )
    to_row = {own[column]: column for column in values}
    tracked = {
        "table": {"name": name, "schema": schema},
        **_relationship("object", "row", to_row, row),
    }
    columns = f"column{'' if len(values) == 1 else 's'} {', '.join(values)}"
    return View(
        up=f"-- Rule {rule.id}: the tickets of {schema}.{table}, by its {columns}.\n{up}",
        down=down,
        file=f"{schema}_{name}.yaml",
        table=_yaml(tracked) + _PERMISSION,
        row_file=f"{schema}_{table}.yaml",
        relationship=_yaml(
            _relationship("array" if by_key else "object", relationship, own, (schema, name))
        ),
    )


def _identity(
    rule: Rule, row: tuple[str, str], tables: Tables
) -> tuple[dict[str, str], bool] | Missing:
    """The row's columns that the rule's key holds, each with SQL that reads it there; and whether
    it holds more."""
    key = rule.templates.key
    beginnings = [part.syntax.find_leading_column() for part in key]
    if len(key) == 1 and beginnings[0] is None:
        return Missing(
            rule.id, "its key does not begin with a column of the row, such as {{ row.id }}"
        )
    columns = {
        found[0]: (number, found[1])
        for number, found in enumerate(beginnings)
        if found is not None and (not found[1] or len(key) == 1)
    }
    if not columns:
        return Missing(rule.id, "no part of its key is a column of the row, such as {{ row.id }}")
    schema, table = row
    if row not in tables:
        return Missing(rule.id, f"{schema}.{table} is not in this database", faulty=True)
    values: dict[str, str] = {}
    for column, (number, separator) in columns.items():
        if column not in tables[row]:
            return Missing(rule.id, f"{schema}.{table} has no column {column}", faulty=True)
        type_ = tables[row][column]
        if type_ not in _TYPES:
            return Missing(
                rule.id, f"{column} is of type {type_}, which cannot be told from the text of a key"
            )
        cast, alphabet = _TYPES[type_]
        if separator and (alphabet is None or separator[0] in alphabet):
            why = f"{column} may itself hold the {separator[0]!r} that follows it in the key"
            return Missing(rule.id, f"{why}: write the key as a list of its parts")
        if len(key) > 1:
            part = _part(number, len(key), is_plain=alphabet is not None)
        else:
            part = f"split_part(key, {_literal(separator)}, 1)" if separator else "key"
        values[column] = cast(part)
    return values, len(columns) < len(key) or any(separator for _, separator in columns.values())


def _part(number: int, parts: int, *, is_plain: bool) -> str:
    """SQL for one of a key's *parts* (see rules.keys.join_key). *is_plain*: what it holds is
    never escaped."""
    if is_plain and not number:
        return f"split_part(key, '{KEY_SEPARATOR}', 1)"
    one = rf"(?:[^{KEY_SEPARATOR}\\]|\\.)*"
    form = KEY_SEPARATOR.join(f"({one})" if other == number else one for other in range(parts))
    found = f"substring(key from '^{form}$')"
    return found if is_plain else rf"regexp_replace({found}, '\\(.)', '\1', 'g')"


def _sql(
    rule: str, schema: str, name: str, values: Mapping[str, str], *, by_key: bool
) -> tuple[str, str]:
    """The *values* (by column) stand in the index as in the view, where PostgreSQL pushes the
    condition on a row down to them."""
    view = f"{_quoted(schema)}.{_quoted(name)}"
    index = _quoted(_shortened(f"{name}_row", rule))
    columns = [_quoted(own) for own in values]
    each = ", ".join([*(f"keyed.{own}" for own in columns), *(["ticket.key"] if by_key else [])])
    indexed = ", ".join(f"(\n    {value}\n)" for value in values.values())
    lateral = ",\n    ".join(
        f"{value} AS {own}" for value, own in zip(values.values(), columns, strict=True)
    )
    there = " AND ".join(f"keyed.{own} IS NOT NULL" for own in columns)
    # Rules and identifiers are letters, digits, _ and -, or quoted; nothing here is a row's.
    up = f"""\
DROP INDEX IF EXISTS servicenow.{index};
CREATE INDEX {index} ON servicenow.ticket ({indexed}) WHERE rule = '{rule}';
CREATE OR REPLACE VIEW {view} AS
SELECT DISTINCT ON ({each})
    {each}, ticket.number, ticket.state, ticket."table", ticket.sys_id,
    ticket.instance || '/' || ticket."table" || '.do?sys_id=' || ticket.sys_id AS url,
    to_timestamp(ticket.updated_at) AS updated_at
FROM servicenow.ticket
CROSS JOIN LATERAL (SELECT
    {lateral}
) AS keyed
WHERE ticket.rule = '{rule}' AND ticket.sys_id <> '' AND {there}
ORDER BY {each}, ticket.created_at DESC;
"""  # noqa: S608
    return up, f"DROP VIEW IF EXISTS {view};\nDROP INDEX IF EXISTS servicenow.{index};\n"


def _whole(digits: int, wider: str, bits: int, type_: str) -> Callable[[str], str]:
    def cast(key: str) -> str:
        return (
            f"CASE WHEN {key} ~ '^(0|-?[1-9][0-9]{{0,{digits - 1}}})$' THEN\n"
            f"        CASE WHEN {key}::{wider} BETWEEN {-(2 ** (bits - 1))} AND "
            f"{2 ** (bits - 1) - 1}\n"
            f"            THEN {key}::{type_} END\n    END"
        )

    return cast


def _formed(form: str, type_: str) -> Callable[[str], str]:
    def cast(key: str) -> str:
        return f"CASE WHEN {key} ~ '{form}' THEN {key}::{type_} END"

    return cast


def _moment(key: str) -> str:
    """A key has an instant in UTC (see core.values.settle_value). Added up, because no sum of these
    is an error, and no cast of a text to a time is immutable, as an index wants it."""
    days, time = f"split_part({key}, 'T', 1)", f"split_part({key}, 'T', 2)"
    parts = {
        "years": f"split_part({days}, '-', 1)::integer - 2000",
        "months": f"split_part({days}, '-', 2)::integer - 1",
        "days": f"split_part({days}, '-', 3)::integer - 1",
        "hours": f"split_part({time}, ':', 1)::integer",
        "mins": f"split_part({time}, ':', 2)::integer",
        "secs": f"split_part(substr({time}, 7), '+', 1)::double precision",
    }
    added = ",\n        ".join(f"{name} => {value}" for name, value in parts.items())
    form = r"^[0-9]{4,5}-[0-9]{2}-[0-9]{2}T([0-9]{2}:){2}[0-9]{2}(\.[0-9]{1,6})?\+00:00$"
    return (
        f"CASE WHEN {key} ~ '{form}' THEN (timestamp '2000-01-01' + make_interval(\n        "
        f"{added}))"
        "\n        AT TIME ZONE 'UTC' END"
    )


def _as_it_is(key: str) -> str:
    return key


# How a key, or its beginning, is read as a column's type: what cannot be is NULL, so that no key
# breaks a query or, in the index, a write of the ledger's. A nested CASE, because an AND promises
# no order. Then the characters of which the type's values are written, so that a separator can be
# told from them; None where any may be part of one.
_TYPES: Final[Mapping[str, tuple[Callable[[str], str], str | None]]] = {
    "int2": (_whole(5, "integer", 16, "smallint"), "-0123456789"),
    "int4": (_whole(10, "bigint", 32, "integer"), "-0123456789"),
    "int8": (_whole(19, "numeric", 64, "bigint"), "-0123456789"),
    "numeric": (_formed(r"^-?[0-9]+(\.[0-9]+)?$", "numeric"), "-.0123456789"),
    "uuid": (_formed("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "uuid"), "-0123456789abcdef"),
    "timestamptz": (_moment, "-0123456789T:.+"),
    "text": (_as_it_is, None),
    "varchar": (_as_it_is, None),
    "citext": (_as_it_is, None),
    # Its blanks at the end count in a text, and not in itself.
    "bpchar": (lambda key: f"{key}::bpchar", None),
}


def _relationship(
    kind: str, name: str, mapping: Mapping[str, str], other: tuple[str, str]
) -> dict[str, Any]:
    manual = {
        "column_mapping": dict(mapping),
        "insertion_order": None,
        "remote_table": {"name": other[1], "schema": other[0]},
    }
    return {f"{kind}_relationships": [{"name": name, "using": {"manual_configuration": manual}}]}


class _Indented(yaml.SafeDumper):
    """Writes lists as Hasura does: further in than the key that they belong to."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002
        return super().increase_indent(flow, indentless=False)


def _yaml(value: object) -> str:
    return yaml.dump(value, Dumper=_Indented, sort_keys=False, allow_unicode=True)


def _free(name: str, rule: Rule, taken: set[tuple[str, ...]], *where: str) -> str:
    """*name*, or one like it that nothing *where* has yet; GraphQL's names have no hyphens."""
    longer = f"{name}_{rule.id.replace('-', '_')}"
    candidates = (name, longer, f"{name}_{digest(rule.id)[:8]}")
    free = next(
        short
        for short in (_shortened(candidate, rule.id) for candidate in candidates)
        if (*where, short) not in taken
    )
    taken.add((*where, free))
    return free


def _shortened(name: str, rule: str) -> str:
    return name if len(name) <= IDENTIFIER_BYTES_MAX else f"{name[:50]}_{digest(rule)[:8]}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
