"""What a row must be, and what is put into it: a request's filters and values, and a role's
permissions.

Written from Hasura's source: GraphQL/Schema/BoolExp.hs, Backends/Postgres/Instances/Schema.hs and
RQL/DDL/Permission.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import count
from typing import Any, Final

from psycopg import sql

from sandbox.catalog import Table
from sandbox.graphql_input import GivenValue, GraphQLError, InputReader, invalid, unsupported
from sandbox.graphql_schema import (
    RolePermissions,
    SelectPermission,
    TableColumn,
    TableRelationship,
    TableSchema,
    TrackedTable,
    WritePermission,
)

TRUE: Final = sql.SQL("true")
_NULL: Final = sql.SQL("NULL")
_ROLE: Final = "x-hasura-role"
_BACKEND_ONLY: Final = "x-hasura-use-backend-only-permissions"
_SESSION_VARIABLE: Final = re.compile("x-hasura-.*", re.IGNORECASE | re.DOTALL)

_COMPARISONS: Final = {
    "_eq": "=",
    "_neq": "<>",
    "_gt": ">",
    "_gte": ">=",
    "_lt": "<",
    "_lte": "<=",
}
_TEXT_COMPARISONS: Final = {
    "_like": "LIKE",
    "_nlike": "NOT LIKE",
    "_ilike": "ILIKE",
    "_nilike": "NOT ILIKE",
    "_similar": "SIMILAR TO",
    "_nsimilar": "NOT SIMILAR TO",
    "_regex": "~",
    "_nregex": "!~",
    "_iregex": "~*",
    "_niregex": "!~*",
}
_LISTS: Final = {"_in": "= ANY", "_nin": "<> ALL"}
# Of jsonb and arrays.
_UNSUPPORTED_COMPARISONS: Final = frozenset(
    {"_cast", "_contains", "_contained_in", "_has_key", "_has_keys_any", "_has_keys_all"}
)
_ORDERS: Final = {
    "asc": "ASC NULLS LAST",
    "asc_nulls_first": "ASC NULLS FIRST",
    "asc_nulls_last": "ASC NULLS LAST",
    "desc": "DESC NULLS FIRST",
    "desc_nulls_first": "DESC NULLS FIRST",
    "desc_nulls_last": "DESC NULLS LAST",
}
# Words of a statement that are taken from the tables above, and never from a request.
_WORDS: Final = {
    word: sql.SQL(word)
    for words in (_COMPARISONS, _TEXT_COMPARISONS, _LISTS, _ORDERS)
    for word in words.values()
}


class ConditionCompiler:
    """Compiles what conditions and values a request and the role's permissions name.

    *session* has the ``x-hasura-*`` variables, their names in lower case. Every method raises
    GraphQLError.
    """

    def __init__(
        self, schema: TableSchema, session: Mapping[str, str], reader: InputReader
    ) -> None:
        self._schema = schema
        self._session = session
        self._reader = reader
        self._aliases = count()

    def alias(self) -> str:
        """A name for a table that no other of the request has."""
        return f"_{next(self._aliases)}"

    def permissions(self, table: TrackedTable) -> RolePermissions:
        """What the role may do, without what is only for a backend where this is none."""
        found = table.permissions_of(self._session[_ROLE])
        if self._session.get(_BACKEND_ONLY, "").lower() in {"true", "t", "yes", "y"}:
            return found
        hidden = {
            kind: None
            for kind in ("insert", "update", "delete")
            if (permission := getattr(found, kind)) and permission.backend_only
        }
        return replace(found, **hidden) if hidden else found

    def reaches(self, table: TrackedTable, relationship: str) -> bool:
        """Whether the role may see what is on the other side."""
        target = self._schema.at(table.relationships[relationship].target)
        return self.permissions(target).select is not None

    # --- conditions

    def select_filter(self, table: TrackedTable, alias: str) -> sql.Composable:
        """Which rows the role may see."""
        return self.permitted(table, select_permission(self.permissions(table)).filter, alias)

    def where(
        self,
        table: TrackedTable,
        given: GivenValue,
        alias: str,
        path: str,
        *,
        required: bool = False,
    ) -> sql.Composable:
        """A request's boolean expression."""
        type_name = f"{table.name}_bool_exp"
        conditions: list[sql.Composable] = []
        for name, value in self._reader.fields(given, type_name, path, required=required).items():
            inner = f"{path}.{name}"
            if name in {"_and", "_or"}:
                parts = [
                    self.where(table, item, alias, place, required=True)
                    for place, item in self._reader.items(value, f"{type_name}!", inner)
                ]
                conditions.append(all_of(parts) if name == "_and" else any_of(parts))
            elif name == "_not":
                conditions.append(negated(self.where(table, value, alias, inner)))
            elif name in visible_columns(self.permissions(table).select):
                conditions.append(self._comparisons(table.columns[name], value, alias, inner))
            elif name in table.relationships and self.reaches(table, name):
                relationship = table.relationships[name]
                target = self._schema.at(relationship.target)
                other = self.alias()
                within = [
                    joined(relationship, alias, other),
                    self.select_filter(target, other),
                    self.where(target, value, other, inner),
                ]
                conditions.append(exists(target.table, other, all_of(within)))
            elif is_aggregate(table, name):
                raise unsupported(name, inner)
            else:
                raise unknown_field(name, type_name, inner)
        return all_of(conditions)

    def _comparisons(
        self, column: TableColumn, given: GivenValue, alias: str, path: str
    ) -> sql.Composable:
        """No value may be null here: `where: {id: {_eq: null}}` is an error in version 2, unless
        HASURA_GRAPHQL_V1_BOOLEAN_NULL_COLLAPSE makes it true. Columns in comparison expressions are
        never nullable, says Hasura's source."""
        name = sql.Identifier(alias, column.name)
        type_name = column.comparison_type
        conditions: list[sql.Composable] = []
        for operator, value in self._reader.fields(given, type_name, path).items():
            inner = f"{path}.{operator}"
            if operator == "_is_null":
                is_null = self._reader.boolean(value, inner)
                conditions.append(_is_null(name, is_null=is_null))
            elif operator in _LISTS:
                items = self._reader.items(value, f"{column.graphql_type}!", inner)
                values = [self.value(column, item, at, nullable=False) for at, item in items]
                conditions.append(_among(name, operator, column, values))
            elif word := _comparison_word(column, operator):
                peeled = self._reader.peel(value, column.graphql_type, inner)
                literal = self.value(column, peeled, inner, nullable=False)
                conditions.append(sql.SQL("{} {} {}").format(name, word, literal))
            elif operator in _UNSUPPORTED_COMPARISONS:
                raise unsupported(operator, inner)
            else:
                raise unknown_field(operator, type_name, inner)
        return all_of(conditions)

    def permitted(
        self, table: TrackedTable, filter_: Mapping[str, Any] | None, alias: str
    ) -> sql.Composable:
        """A permission's boolean expression, which has session variables in the place of values.

        Raises the error of a variable that the session has not.
        """
        conditions: list[sql.Composable] = []
        for name, value in (filter_ or {}).items():
            key = _dashed(name)
            if key in {"_and", "_or"}:
                parts = [self.permitted(table, one, alias) for one in value]
                conditions.append(all_of(parts) if key == "_and" else any_of(parts))
            elif key == "_not":
                conditions.append(negated(self.permitted(table, value, alias)))
            elif key == "_exists":
                named = value["_table"]
                at = (
                    ("public", named)
                    if isinstance(named, str)
                    else (
                        named.get("schema", "public"),
                        named["name"],
                    )
                )
                other = self.alias()
                within = self.permitted(self._schema.at(at), value["_where"], other)
                conditions.append(exists(at, other, within))
            elif name in table.columns:
                said = value if isinstance(value, Mapping) else {"_eq": value}
                for operator, operand in said.items():
                    conditions.append(
                        self._permitted_comparison(
                            table.columns[name], _dashed(operator), operand, alias
                        )
                    )
            elif name in table.relationships:
                relationship = table.relationships[name]
                other = self.alias()
                target = self._schema.at(relationship.target)
                within = all_of(
                    [
                        joined(relationship, alias, other),
                        self.permitted(target, value, other),
                    ]
                )
                conditions.append(exists(target.table, other, within))
            else:
                raise unsupported(f"{name} in a permission of {table.name}")
        return all_of(conditions)

    def _permitted_comparison(
        self, column: TableColumn, operator: str, operand: Any, alias: str
    ) -> sql.Composable:
        name = sql.Identifier(alias, column.name)
        if operator == "_is_null":
            return _is_null(name, is_null=bool(operand))
        if operator in _LISTS:
            if isinstance(operand, list):
                values = [self._preset(column, one) for one in operand]
                return _among(name, operator, column, values)
            # A session variable holds an array as PostgreSQL writes it.
            return sql.SQL("{} {} ({}::{}[])").format(
                name,
                _WORDS[_LISTS[operator]],
                sql.Literal(self._session_variable(str(operand))),
                _cast(column),
            )
        word = _comparison_word(column, operator)
        if word is None:
            raise unsupported(f"{operator} in a permission")
        return sql.SQL("{} {} {}").format(name, word, self._preset(column, operand))

    def _session_variable(self, name: str) -> str:
        if name.lower() not in self._session:
            raise GraphQLError("not-found", f'missing session variable: "{name.lower()}"')
        return self._session[name.lower()]

    def order(
        self, table: TrackedTable, given: GivenValue | None, alias: str, path: str
    ) -> sql.Composable:
        """The clause, or nothing."""
        type_name = f"{table.name}_order_by"
        if given is None or self._reader.peel(given, f"[{type_name}!]", path).value is None:
            return sql.SQL("")
        orders = []
        for place, item in self._reader.items(given, f"{type_name}!", path):
            for name, said in self._reader.fields(item, type_name, place, required=True).items():
                inner = f"{place}.{name}"
                if name in table.relationships or is_aggregate(table, name):
                    raise unsupported(f"order_by a relationship ({name})", inner)
                if name not in visible_columns(self.permissions(table).select):
                    raise unknown_field(name, type_name, inner)
                if self._reader.peel(said, "order_by", inner).value is None:
                    continue
                direction = self._reader.choice(said, "order_by", tuple(_ORDERS), inner)
                column = sql.Identifier(alias, name)
                orders.append(sql.SQL("{} {}").format(column, _WORDS[_ORDERS[direction]]))
        if not orders:
            return sql.SQL("")
        return sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(orders))

    # --- values

    def presets(
        self, table: TrackedTable, permission: WritePermission
    ) -> dict[str, sql.Composable]:
        return {
            name: self._preset(table.columns[name], value)
            for name, value in (permission.presets or {}).items()
        }

    def _preset(self, column: TableColumn, value: Any) -> sql.Composable:
        """A value of the metadata, which can be a session variable."""
        if isinstance(value, str) and _SESSION_VARIABLE.fullmatch(value):
            value = self._session_variable(value)
        elif isinstance(value, date):  # YAML's; a datetime is one too
            value = value.isoformat()
        elif isinstance(value, float):
            value = str(value)
        return self.value(column, GivenValue(value, is_json=True), "$", nullable=True)

    def column_value(self, column: TableColumn, given: GivenValue, path: str) -> sql.Composable:
        """What an insert or an update gives a column: null only where the column may be."""
        peeled = self._reader.peel(given, column.graphql_type, path)
        return self.value(column, peeled, path, nullable=column.nullable)

    def value(
        self, column: TableColumn, given: GivenValue, path: str, *, nullable: bool
    ) -> sql.Composable:
        text = self._reader.column_text(column, given, path, nullable=nullable)
        if text is None:
            return _NULL
        if "\0" in text:
            # In PostgreSQL's words, which the driver does not let it say.
            raise GraphQLError("data-exception", 'invalid byte sequence for encoding "UTF8": 0x00')
        # Half a surrogate pair is a character of no text; aeson has U+FFFD for it.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return sql.SQL("{}::{}").format(sql.Literal(text), _cast(column))


# --- pieces of statements
# --------------------------------------------------------------------------------------------------


def joined(relationship: TableRelationship, alias: str, other: str) -> sql.Composable:
    return all_of(
        [
            sql.SQL("{} = {}").format(sql.Identifier(other, target), sql.Identifier(alias, name))
            for name, target in relationship.mapping.items()
        ]
    )


def exists(table: Table, alias: str, condition: sql.Composable) -> sql.Composable:
    return sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {})").format(
        sql.Identifier(*table), sql.Identifier(alias), condition
    )


def all_of(conditions: Sequence[sql.Composable]) -> sql.Composable:
    """True where there are none."""
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions)) if conditions else TRUE


def any_of(conditions: Sequence[sql.Composable]) -> sql.Composable:
    """False where there are none."""
    if not conditions:
        return sql.SQL("false")
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def negated(condition: sql.Composable) -> sql.Composable:
    return sql.SQL("(NOT {})").format(condition)


def _is_null(name: sql.Composable, *, is_null: bool) -> sql.Composable:
    return sql.SQL("{} IS NULL" if is_null else "{} IS NOT NULL").format(name)


def _among(
    name: sql.Composable, operator: str, column: TableColumn, values: list[sql.Composable]
) -> sql.Composable:
    return sql.SQL("{} {} (ARRAY[{}]::{}[])").format(
        name, _WORDS[_LISTS[operator]], sql.SQL(", ").join(values), _cast(column)
    )


def _comparison_word(column: TableColumn, operator: str) -> sql.SQL | None:
    word = _COMPARISONS.get(operator) or (
        _TEXT_COMPARISONS.get(operator) if column.is_text else None
    )
    return None if word is None else _WORDS[word]


def _cast(column: TableColumn) -> sql.SQL:
    # As format_type() of the database writes it, quoted where it must be.
    return sql.SQL(column.cast)


def _dashed(operator: str) -> str:
    """The metadata writes operators with ``$`` too."""
    return "_" + operator[1:] if operator.startswith("$") else operator


# --- what a role sees
# --------------------------------------------------------------------------------------------------


def visible_columns(permission: SelectPermission | None) -> frozenset[str]:
    return permission.columns if permission else frozenset()


def select_permission(permissions: RolePermissions) -> SelectPermission:
    if permissions.select is None:
        raise TypeError("the field is offered only to who may select")
    return permissions.select


def is_aggregate(table: TrackedTable, name: str) -> bool:
    return name.endswith("_aggregate") and name.removesuffix("_aggregate") in table.relationships


def unknown_field(name: str, type_name: str, path: str) -> GraphQLError:
    return invalid(f"field '{name}' not found in type: '{type_name}'", path)
