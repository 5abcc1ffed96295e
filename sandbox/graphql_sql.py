"""A root field of a GraphQL request as one SQL statement, for a role and its session.

Written from Hasura's source: GraphQL/Schema (Select.hs, Mutation.hs, Update.hs, BoolExp.hs),
Backends/Postgres/Schema/OnConflict.hs and Backends/Postgres/Instances/Schema.hs. The statements are
not Hasura's own, their answers are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import count
from typing import Any, Final

from psycopg import sql

from sandbox.catalog import Table
from sandbox.graphql_document import Field, FragmentSpread, InlineFragment, Selection
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
from sandbox.webhook import encode

_ROLE: Final = "x-hasura-role"
_BACKEND_ONLY: Final = "x-hasura-use-backend-only-permissions"
_SESSION_VARIABLE: Final = re.compile("x-hasura-.*", re.IGNORECASE | re.DOTALL)
# What PostgreSQL keeps of a name; of a longer one it would drop the end.
_KEY_BYTES_MAX: Final = 63

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
_UNSUPPORTED_UPDATES: Final = frozenset(
    {"_append", "_prepend", "_delete_key", "_delete_elem", "_delete_at_path"}
)
_ORDERS: Final = {
    "asc": "ASC NULLS LAST",
    "asc_nulls_first": "ASC NULLS FIRST",
    "asc_nulls_last": "ASC NULLS LAST",
    "desc": "DESC NULLS FIRST",
    "desc_nulls_first": "DESC NULLS FIRST",
    "desc_nulls_last": "DESC NULLS LAST",
}
_TRUE: Final = sql.SQL("true")
_NULL: Final = sql.SQL("NULL")
_CHANGED: Final = sql.Identifier("_changed")
_CHECK: Final = sql.Identifier("check__constraint")
# Words of a statement that are taken from the tables above, and never from a request.
_WORDS: Final = {
    word: sql.SQL(word)
    for words in (_COMPARISONS, _TEXT_COMPARISONS, _LISTS, _ORDERS)
    for word in words.values()
}


@dataclass(frozen=True, slots=True)
class RootStatement:
    """*statement* gives one row: the answer's JSON as text, and whether the role's check holds.
    *path* is that of the errors that the database raises."""

    key: str
    statement: sql.Composed
    path: str = "$"


@dataclass(frozen=True, slots=True)
class _Root:
    """A root field: what it does, and the table it does it to."""

    verb: str
    table: TrackedTable


class FieldCompiler:
    """Compiles the root fields of one request. Every method raises GraphQLError.

    *session* has the ``x-hasura-*`` variables, their names in lower case.
    """

    def __init__(
        self,
        schema: TableSchema,
        session: Mapping[str, str],
        reader: InputReader,
        fragments: Mapping[str, InlineFragment],
    ) -> None:
        self._schema = schema
        self._session = session
        self._reader = reader
        self._fragments = fragments
        self._role = session[_ROLE]
        self._aliases = count()

    def compile_roots(self, kind: str, selections: tuple[Selection, ...]) -> list[RootStatement]:
        """The statements of a query or mutation, in order."""
        root_type = f"{kind}_root"
        roots = dict(self._queries() if kind == "query" else self._mutations())
        if kind == "mutation" and not roots:
            raise invalid("no mutations exist")
        statements = []
        for field in self._collected(selections, root_type, "$.selectionSet"):
            path = f"$.selectionSet.{field.name}"
            if field.name == "__typename":
                shown = sql.Literal(encode(root_type))
                statements.append(RootStatement(field.key, _answer(shown, _TRUE)))
            elif field.name in {"__schema", "__type"} and kind == "query":
                raise unsupported(f"introspection ({field.name})", path)
            elif field.name in roots:
                statements.append(self._compiled(roots[field.name], field, path))
            else:
                raise invalid(f"field '{field.name}' not found in type: '{root_type}'", path)
        return statements

    # --- what a role is offered

    def _permissions(self, table: TrackedTable) -> RolePermissions:
        """What the role may do, without what is only for a backend where this is none."""
        found = table.permissions_of(self._role)
        if self._session.get(_BACKEND_ONLY, "").lower() in {"true", "t", "yes", "y"}:
            return found
        hidden = {
            kind: None
            for kind in ("insert", "update", "delete")
            if (permission := getattr(found, kind)) and permission.backend_only
        }
        return replace(found, **hidden) if hidden else found

    def _queries(self) -> Iterator[tuple[str, _Root]]:
        for name, table in self._schema.tables.items():
            select = self._permissions(table).select
            if select is None:
                continue
            if select.has_root("select"):
                yield name, _Root("select", table)
                yield f"{name}_aggregate", _Root("aggregate", table)
            if select.has_root("select_by_pk") and self._sees_key(table):
                yield f"{name}_by_pk", _Root("select_by_pk", table)

    def _mutations(self) -> Iterator[tuple[str, _Root]]:
        for name, table in self._schema.tables.items():
            permissions = self._permissions(table)
            if permissions.insert is not None:
                yield f"insert_{name}", _Root("insert", table)
                if permissions.select is not None:
                    yield f"insert_{name}_one", _Root("insert_one", table)
            if permissions.update is not None:
                yield f"update_{name}", _Root("update", table)
                yield f"update_{name}_many", _Root("update_many", table)
                if self._sees_key(table):
                    yield f"update_{name}_by_pk", _Root("update_by_pk", table)
            if permissions.delete is not None:
                yield f"delete_{name}", _Root("delete", table)
                if self._sees_key(table):
                    yield f"delete_{name}_by_pk", _Root("delete_by_pk", table)

    def _sees_key(self, table: TrackedTable) -> bool:
        select = self._permissions(table).select
        return bool(select and table.primary_key) and set(table.primary_key) <= _columns(select)

    def _compiled(self, root: _Root, field: Field, path: str) -> RootStatement:
        table = root.table
        match root.verb:
            case "select":
                statement = _answer(self._selected(table, field, path, _TRUE), _TRUE)
                return RootStatement(field.key, statement)
            case "select_by_pk":
                return self._select_by_pk(table, field, path)
            case "insert" | "insert_one":
                return self._insert(table, field, path, is_one=root.verb == "insert_one")
            case "update" | "update_by_pk":
                return self._update(table, field, path, is_one=root.verb == "update_by_pk")
            case "delete" | "delete_by_pk":
                return self._delete(table, field, path, is_one=root.verb == "delete_by_pk")
        raise unsupported(field.name, path)

    # --- selections

    def _collected(
        self, selections: tuple[Selection, ...], type_name: str, path: str
    ) -> list[Field]:
        """The fields of *selections*, fragments resolved, those of one key merged."""
        if not selections:
            raise invalid(f"missing selection set for '{type_name}'", path)
        fields: dict[str, Field] = {}
        for field in self._flattened(selections, type_name, path, ()):
            before = fields.get(field.key)
            if before is None:
                if len(field.key.encode()) > _KEY_BYTES_MAX:
                    raise unsupported(f"an alias as long as {field.key}", path)
                fields[field.key] = field
                continue
            if before.name != field.name:
                raise invalid(
                    f"selection of both '{before.name}' and '{field.name}' specify the same "
                    f"response name, '{field.key}'",
                    path,
                )
            if before.arguments != field.arguments:
                raise invalid(
                    f"inconsistent arguments between multiple selections of field '{field.name}'",
                    path,
                )
            both = before.selections + field.selections
            fields[field.key] = replace(before, selections=both)
        return list(fields.values())

    def _flattened(
        self,
        selections: tuple[Selection, ...],
        type_name: str,
        path: str,
        within: tuple[str, ...],
    ) -> Iterator[Field]:
        for one in selections:
            if not self._is_included(one, path):
                continue
            match one:
                case Field():
                    yield one
                case InlineFragment(condition, _, inner):
                    if condition in {None, type_name}:
                        yield from self._flattened(inner, type_name, path, within)
                case FragmentSpread(name):
                    fragment = self._fragments.get(name)
                    if fragment is None:
                        raise invalid(f'reference to undefined fragment "{name}"', path)
                    if name in within:
                        raise invalid(f'the fragment definition(s) "{name}" form a cycle', path)
                    inner_names = (*within, name)
                    yield from self._flattened((fragment,), type_name, path, inner_names)

    def _is_included(self, selection: Selection, path: str) -> bool:
        for directive in selection.directives:
            if directive.name not in {"include", "skip"}:
                raise invalid(f"directive '{directive.name}' is not defined in the schema", path)
            if directive.arguments.keys() != {"if"}:
                raise invalid("missing required field 'if'", path)
            given = GivenValue(directive.arguments["if"])
            said = self._reader.boolean(given, f"{path}.if", required=True)
            if said == (directive.name == "skip"):
                return False
        return True

    def _object(
        self, table: TrackedTable, alias: str, selections: tuple[Selection, ...], path: str
    ) -> sql.Composable:
        """The JSON object of the row that *alias* stands for."""
        path = f"{path}.selectionSet"
        visible = _columns(self._permissions(table).select)
        shown = []
        for field in self._collected(selections, table.name, path):
            inner = f"{path}.{field.name}"
            if field.name == "__typename":
                expression: sql.Composable = sql.Literal(table.name)
            elif field.name in visible:
                if field.selections:
                    raise invalid("unexpected subselection set for non-object field", inner)
                if "path" in field.arguments:
                    raise unsupported("the argument path of a column", inner)
                _no_others(field, (), inner)
                expression = sql.Identifier(alias, field.name)
            elif field.name in table.relationships and self._reaches(table, field.name):
                relationship = table.relationships[field.name]
                expression = self._related(relationship, alias, field, inner)
            else:
                if field.name in table.unsupported or _is_aggregate(table, field.name):
                    raise unsupported(field.name, inner)
                raise _unknown(field.name, table.name, inner)
            shown.append((field.key, expression))
        return _json_object(shown)

    def _reaches(self, table: TrackedTable, relationship: str) -> bool:
        """Whether the role may see what is on the other side."""
        target = self._schema.at(table.relationships[relationship].target)
        return self._permissions(target).select is not None

    def _related(
        self, relationship: TableRelationship, alias: str, field: Field, path: str
    ) -> sql.Composable:
        target = self._schema.at(relationship.target)
        other = self._alias()
        joined = _joined(relationship, alias, other)
        if relationship.is_array:
            return sql.SQL("({})").format(self._selected(target, field, path, joined, other))
        _no_others(field, (), path)
        return sql.SQL("(SELECT {} FROM {} AS {} WHERE {} AND {} LIMIT 1)").format(
            self._object(target, other, field.selections, path),
            sql.Identifier(*target.table),
            sql.Identifier(other),
            joined,
            self._select_filter(target, other),
        )

    def _selected(
        self,
        table: TrackedTable,
        field: Field,
        path: str,
        condition: sql.Composable,
        alias: str | None = None,
    ) -> sql.Composable:
        """The JSON array of the rows that *field*'s arguments name."""
        alias = alias or self._alias()
        names = ("distinct_on", "limit", "offset", "order_by", "where")
        _no_others(field, names, path)
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        place = f"{path}.args"
        if "distinct_on" in given:
            raise unsupported("distinct_on", f"{place}.distinct_on")
        conditions = [condition, self._select_filter(table, alias)]
        if "where" in given:
            where = self._reader.peel(given["where"], f"{table.name}_bool_exp", f"{place}.where")
            if where.value is not None:
                conditions.append(self._where(table, where, alias, f"{place}.where"))
        order = self._order(table, given.get("order_by"), alias, f"{place}.order_by")
        limits = [_select(self._permissions(table)).limit]
        if "limit" in given:
            limits.append(self._reader.count(given["limit"], f"{place}.limit"))
        limit = min((one for one in limits if one is not None), default=None)
        offset = None
        if "offset" in given:
            offset = self._reader.count(given["offset"], f"{place}.offset", bits=64)
        return sql.SQL(
            "SELECT coalesce(json_agg({}), '[]') FROM (SELECT * FROM {} AS {} WHERE {}{}"
            " LIMIT {} OFFSET {}) AS {}"
        ).format(
            self._object(table, alias, field.selections, path),
            sql.Identifier(*table.table),
            sql.Identifier(alias),
            _and(conditions),
            order,
            sql.Literal(limit),
            sql.Literal(offset),
            sql.Identifier(alias),
        )

    def _order(
        self, table: TrackedTable, given: GivenValue | None, alias: str, path: str
    ) -> sql.Composable:
        type_name = f"{table.name}_order_by"
        if given is None or self._reader.peel(given, f"[{type_name}!]", path).value is None:
            return sql.SQL("")
        orders = []
        for place, item in self._reader.items(given, f"{type_name}!", path):
            for name, said in self._reader.fields(item, type_name, place, required=True).items():
                inner = f"{place}.{name}"
                if name in table.relationships or _is_aggregate(table, name):
                    raise unsupported(f"order_by a relationship ({name})", inner)
                if name not in _columns(self._permissions(table).select):
                    raise _unknown(name, type_name, inner)
                if self._reader.peel(said, "order_by", inner).value is None:
                    continue
                direction = self._reader.choice(said, "order_by", tuple(_ORDERS), inner)
                column = sql.Identifier(alias, name)
                orders.append(sql.SQL("{} {}").format(column, _WORDS[_ORDERS[direction]]))
        if not orders:
            return sql.SQL("")
        return sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(orders))

    def _select_by_pk(self, table: TrackedTable, field: Field, path: str) -> RootStatement:
        _no_others(field, table.primary_key, path)
        alias = self._alias()
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        found = sql.SQL("SELECT {} FROM {} AS {} WHERE {} AND {}").format(
            self._object(table, alias, field.selections, path),
            sql.Identifier(*table.table),
            sql.Identifier(alias),
            self._key(table, given, alias, f"{path}.args"),
            self._select_filter(table, alias),
        )
        return RootStatement(field.key, _answer(found, _TRUE))

    def _key(
        self, table: TrackedTable, given: Mapping[str, GivenValue], alias: str, path: str
    ) -> sql.Composable:
        conditions = []
        for name in table.primary_key:
            inner = f"{path}.{name}"
            column = table.columns[name]
            value = self._reader.peel(
                _required(given, name, path), f"{column.graphql_type}!", inner
            )
            literal = self._value(column, value, inner, nullable=False)
            conditions.append(sql.SQL("{} = {}").format(sql.Identifier(alias, name), literal))
        return _and(conditions)

    # --- mutations

    def _insert(
        self, table: TrackedTable, field: Field, path: str, *, is_one: bool
    ) -> RootStatement:
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        argument = "object" if is_one else "objects"
        _no_others(field, (argument, "on_conflict")[: 1 + bool(table.constraints)], path)
        permissions = self._permissions(table)
        permission = _write(permissions.insert)
        alias = self._alias()
        place = f"{path}.args.{argument}"
        type_name = f"{table.name}_insert_input"
        object_ = _required(given, argument, f"{path}.args")
        objects = (
            [(place, self._reader.peel(object_, f"{type_name}!", place))]
            if is_one
            else self._reader.items(object_, f"{type_name}!", place)
        )
        rows = [self._row(table, permission, one, type_name, at) for at, one in objects]
        conflict, updates = self._conflict(table, given.get("on_conflict"), alias, path)
        check = self._permitted(table, permission.check, alias)
        if updates:
            update = permissions.update
            other = self._permitted(table, update.check if update else None, alias)
            # Only a row that was there before has been locked, which xmax tells.
            check = sql.SQL("CASE WHEN {}.xmax = 0 THEN {} ELSE {} END").format(
                sql.Identifier(alias), check, other
            )
        columns = [name for name, column in table.columns.items() if column.writable]
        default = sql.SQL("DEFAULT")
        values = sql.SQL(", ").join(
            sql.SQL("({})").format(sql.SQL(", ").join(row.get(name, default) for name in columns))
            for row in rows
        )
        changed = (
            sql.SQL("INSERT INTO {} AS {} ({}) VALUES {}{} RETURNING {}.*, {} AS {}").format(
                sql.Identifier(*table.table),
                sql.Identifier(alias),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                values,
                conflict,
                sql.Identifier(alias),
                check,
                _CHECK,
            )
            if rows
            else _nothing(table)
        )
        return RootStatement(
            field.key, self._changed(table, changed, field, path, is_one=is_one), place
        )

    def _row(
        self,
        table: TrackedTable,
        permission: WritePermission,
        given: GivenValue,
        type_name: str,
        path: str,
    ) -> dict[str, sql.Composable]:
        """The columns that an object gives, and the role's presets."""
        row = {}
        for name, value in self._reader.fields(given, type_name, path, required=True).items():
            inner = f"{path}.{name}"
            if name in table.relationships:
                raise unsupported(f"an insert through a relationship ({name})", inner)
            if name not in permission.columns:
                raise _unknown(name, type_name, inner)
            row[name] = self._column_value(table.columns[name], value, inner)
        return row | self._presets(table, permission)

    def _conflict(
        self, table: TrackedTable, given: GivenValue | None, alias: str, path: str
    ) -> tuple[sql.Composable, bool]:
        """The clause, and whether it updates."""
        path = f"{path}.args.on_conflict"
        type_name = f"{table.name}_on_conflict"
        if given is None:
            return sql.SQL(""), False
        fields = self._reader.fields(given, type_name, path)
        for name in fields:
            if name not in {"constraint", "update_columns", "where"}:
                raise _unknown(name, type_name, f"{path}.{name}")
        constraint = self._reader.choice(
            _required(fields, "constraint", path),
            f"{table.name}_constraint",
            table.constraints,
            f"{path}.constraint",
        )
        update = self._permissions(table).update
        columns = []
        if "update_columns" in fields:
            choices = tuple(sorted(update.columns)) if update else ("_PLACEHOLDER",)
            enum = f"{table.name}_update_column"
            place = f"{path}.update_columns"
            columns = [
                self._reader.choice(item, enum, choices, at)
                for at, item in self._reader.items(fields["update_columns"], f"{enum}!", place)
            ]
        where: sql.Composable = _TRUE
        if "where" in fields:
            where = self._where(table, fields["where"], alias, f"{path}.where")
        on = sql.SQL(" ON CONFLICT ON CONSTRAINT {}").format(sql.Identifier(constraint))
        if update is None or not columns:
            return sql.SQL("{} DO NOTHING").format(on), False
        changes = {
            name: sql.SQL("EXCLUDED.{}").format(sql.Identifier(name)) for name in columns
        } | self._presets(table, update)
        clause = sql.SQL("{} DO UPDATE SET {} WHERE {} AND {}").format(
            on, _assigned(changes), self._permitted(table, update.filter, alias), where
        )
        return clause, True

    def _update(
        self, table: TrackedTable, field: Field, path: str, *, is_one: bool
    ) -> RootStatement:
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        for name in given:
            if name in _UNSUPPORTED_UPDATES:
                raise unsupported(name, f"{path}.args.{name}")
        which = "pk_columns" if is_one else "where"
        has_numbers = any(column.is_number for column in table.columns.values())
        _no_others(field, (which, "_set", *(("_inc",) if has_numbers else ())), path)
        permission = _write(self._permissions(table).update)
        alias = self._alias()
        place = f"{path}.args"
        changes = self._changes(table, permission, given, alias, place)
        if is_one:
            type_name = f"{table.name}_pk_columns_input"
            key = self._reader.fields(
                _required(given, which, place), type_name, f"{place}.{which}", required=True
            )
            for name in key:
                if name not in table.primary_key:
                    raise _unknown(name, type_name, f"{place}.{which}.{name}")
            condition = self._key(table, key, alias, f"{place}.{which}")
        else:
            where = _required(given, which, place)
            condition = self._where(table, where, alias, f"{place}.{which}", required=True)
        changed = (
            sql.SQL("UPDATE {} AS {} SET {} WHERE {} AND {} RETURNING {}.*, {} AS {}").format(
                sql.Identifier(*table.table),
                sql.Identifier(alias),
                _assigned(changes),
                self._permitted(table, permission.filter, alias),
                condition,
                sql.Identifier(alias),
                self._permitted(table, permission.check, alias),
                _CHECK,
            )
            if changes
            else _nothing(table)
        )
        return RootStatement(field.key, self._changed(table, changed, field, path, is_one=is_one))

    def _changes(
        self,
        table: TrackedTable,
        permission: WritePermission,
        given: Mapping[str, GivenValue],
        alias: str,
        path: str,
    ) -> dict[str, sql.Composable]:
        changes = self._presets(table, permission)
        twice = []
        for operator in ("_set", "_inc"):
            if operator not in given:
                continue
            type_name = f"{table.name}{operator}_input"
            place = f"{path}.{operator}"
            for name, value in self._reader.fields(given[operator], type_name, place).items():
                inner = f"{place}.{name}"
                column = table.columns.get(name)
                if (
                    column is None
                    or name not in permission.columns
                    or (operator == "_inc" and not column.is_number)
                ):
                    raise _unknown(name, type_name, inner)
                if name in changes:
                    twice.append(name)
                literal = self._column_value(column, value, inner)
                changes[name] = (
                    literal
                    if operator == "_set"
                    else sql.SQL("{} + {}").format(sql.Identifier(alias, name), literal)
                )
        if twice:
            shown = ", ".join(f"'{name}'" for name in twice)
            raise invalid(f"Column found in multiple operators: [{shown}].", path)
        return changes

    def _delete(
        self, table: TrackedTable, field: Field, path: str, *, is_one: bool
    ) -> RootStatement:
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        _no_others(field, table.primary_key if is_one else ("where",), path)
        permission = _write(self._permissions(table).delete)
        alias = self._alias()
        place = f"{path}.args"
        condition = (
            self._key(table, given, alias, place)
            if is_one
            else self._where(
                table, _required(given, "where", place), alias, f"{place}.where", required=True
            )
        )
        changed = sql.SQL("DELETE FROM {} AS {} WHERE {} AND {} RETURNING {}.*, true AS {}").format(
            sql.Identifier(*table.table),
            sql.Identifier(alias),
            self._permitted(table, permission.filter, alias),
            condition,
            sql.Identifier(alias),
            _CHECK,
        )
        return RootStatement(field.key, self._changed(table, changed, field, path, is_one=is_one))

    def _changed(
        self,
        table: TrackedTable,
        changed: sql.Composable,
        field: Field,
        path: str,
        *,
        is_one: bool,
    ) -> sql.Composed:
        """The statement that writes and answers. The role's filter does not hide what it wrote."""
        answer = (
            self._written(table, field.selections, path, is_list=False)
            if is_one
            else self._response(table, field, path)
        )
        return sql.SQL(
            "WITH {} AS ({}) SELECT ({})::text, (SELECT coalesce(bool_and({}), true) FROM {})"
        ).format(
            _CHANGED,
            changed,
            answer,
            sql.SQL("coalesce({}, false)").format(_CHECK),
            _CHANGED,
        )

    def _response(self, table: TrackedTable, field: Field, path: str) -> sql.Composable:
        type_name = f"{table.name}_mutation_response"
        path = f"{path}.selectionSet"
        shown: list[tuple[str, sql.Composable]] = []
        for one in self._collected(field.selections, type_name, path):
            inner = f"{path}.{one.name}"
            _no_others(one, (), inner)
            match one.name:
                case "__typename":
                    shown.append((one.key, sql.Literal(type_name)))
                case "affected_rows":
                    rows = sql.SQL("(SELECT count(*) FROM {})").format(_CHANGED)
                    shown.append((one.key, rows))
                case "returning" if self._permissions(table).select is not None:
                    listed = self._written(table, one.selections, inner, is_list=True)
                    rows = sql.SQL("({})").format(listed)
                    shown.append((one.key, rows))
                case _:
                    raise _unknown(one.name, type_name, inner)
        return sql.SQL("SELECT {}").format(_json_object(shown))

    def _written(
        self, table: TrackedTable, selections: tuple[Selection, ...], path: str, *, is_list: bool
    ) -> sql.Composable:
        """What was written, as an array or as the one row."""
        alias = self._alias()
        shown = self._object(table, alias, selections, path)
        if is_list:
            shown = sql.SQL("coalesce(json_agg({}), '[]')").format(shown)
        return sql.SQL("SELECT {} FROM {} AS {}").format(shown, _CHANGED, sql.Identifier(alias))

    # --- conditions

    def _select_filter(self, table: TrackedTable, alias: str) -> sql.Composable:
        return self._permitted(table, _select(self._permissions(table)).filter, alias)

    def _where(
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
                    self._where(table, item, alias, place, required=True)
                    for place, item in self._reader.items(value, f"{type_name}!", inner)
                ]
                conditions.append(_and(parts) if name == "_and" else _or(parts))
            elif name == "_not":
                conditions.append(_not(self._where(table, value, alias, inner)))
            elif name in _columns(self._permissions(table).select):
                conditions.append(self._comparisons(table.columns[name], value, alias, inner))
            elif name in table.relationships and self._reaches(table, name):
                relationship = table.relationships[name]
                target = self._schema.at(relationship.target)
                other = self._alias()
                within = [
                    _joined(relationship, alias, other),
                    self._select_filter(target, other),
                    self._where(target, value, other, inner),
                ]
                conditions.append(_exists(target.table, other, _and(within)))
            elif _is_aggregate(table, name):
                raise unsupported(name, inner)
            else:
                raise _unknown(name, type_name, inner)
        return _and(conditions)

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
                values = [self._value(column, item, at, nullable=False) for at, item in items]
                conditions.append(_among(name, operator, column, values))
            elif word := _comparison_word(column, operator):
                peeled = self._reader.peel(value, column.graphql_type, inner)
                literal = self._value(column, peeled, inner, nullable=False)
                conditions.append(sql.SQL("{} {} {}").format(name, word, literal))
            elif operator in _UNSUPPORTED_COMPARISONS:
                raise unsupported(operator, inner)
            else:
                raise _unknown(operator, type_name, inner)
        return _and(conditions)

    def _permitted(
        self, table: TrackedTable, filter_: Mapping[str, Any] | None, alias: str
    ) -> sql.Composable:
        """A permission's boolean expression, which has session variables in the place of values.

        Raises the error of a variable that the session has not.
        """
        conditions: list[sql.Composable] = []
        for name, value in (filter_ or {}).items():
            key = _dashed(name)
            if key in {"_and", "_or"}:
                parts = [self._permitted(table, one, alias) for one in value]
                conditions.append(_and(parts) if key == "_and" else _or(parts))
            elif key == "_not":
                conditions.append(_not(self._permitted(table, value, alias)))
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
                other = self._alias()
                within = self._permitted(self._schema.at(at), value["_where"], other)
                conditions.append(_exists(at, other, within))
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
                other = self._alias()
                target = self._schema.at(relationship.target)
                within = _and(
                    [
                        _joined(relationship, alias, other),
                        self._permitted(target, value, other),
                    ]
                )
                conditions.append(_exists(target.table, other, within))
            else:
                raise unsupported(f"{name} in a permission of {table.name}")
        return _and(conditions)

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

    # --- values

    def _presets(
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
        return self._value(column, GivenValue(value, is_json=True), "$", nullable=True)

    def _column_value(self, column: TableColumn, given: GivenValue, path: str) -> sql.Composable:
        """What an insert or an update gives a column: null only where the column may be."""
        peeled = self._reader.peel(given, column.graphql_type, path)
        return self._value(column, peeled, path, nullable=column.nullable)

    def _value(
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

    def _alias(self) -> str:
        return f"_{next(self._aliases)}"


# --- pieces of statements
# --------------------------------------------------------------------------------------------------


def _answer(answer: sql.Composable, check: sql.Composable) -> sql.Composed:
    return sql.SQL("SELECT ({})::text, {}").format(answer, check)


def _json_object(shown: list[tuple[str, sql.Composable]]) -> sql.Composable:
    """Compact, and with its keys in the order that they were asked for."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(expression, sql.Identifier(key)) for key, expression in shown
    )
    return sql.SQL('row_to_json((SELECT "e" FROM (SELECT {}) AS "e"))').format(columns)


def _nothing(table: TrackedTable) -> sql.Composable:
    return sql.SQL("SELECT *, true AS {} FROM {} WHERE false").format(
        _CHECK, sql.Identifier(*table.table)
    )


def _assigned(changes: Mapping[str, sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in changes.items()
    )


def _joined(relationship: TableRelationship, alias: str, other: str) -> sql.Composable:
    return _and(
        [
            sql.SQL("{} = {}").format(sql.Identifier(other, target), sql.Identifier(alias, name))
            for name, target in relationship.mapping.items()
        ]
    )


def _exists(table: Table, alias: str, condition: sql.Composable) -> sql.Composable:
    return sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {})").format(
        sql.Identifier(*table), sql.Identifier(alias), condition
    )


def _and(conditions: Sequence[sql.Composable]) -> sql.Composable:
    """True where there are none."""
    return sql.SQL("({})").format(sql.SQL(" AND ").join(conditions)) if conditions else _TRUE


def _or(conditions: Sequence[sql.Composable]) -> sql.Composable:
    """False where there are none."""
    if not conditions:
        return sql.SQL("false")
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _not(condition: sql.Composable) -> sql.Composable:
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


# --- what must be there
# --------------------------------------------------------------------------------------------------


def _columns(permission: SelectPermission | None) -> frozenset[str]:
    return permission.columns if permission else frozenset()


def _select(permissions: RolePermissions) -> SelectPermission:
    if permissions.select is None:
        raise TypeError("the field is offered only to who may select")
    return permissions.select


def _write(permission: WritePermission | None) -> WritePermission:
    if permission is None:
        raise TypeError("the field is offered only to who may write")
    return permission


def _is_aggregate(table: TrackedTable, name: str) -> bool:
    return name.endswith("_aggregate") and name.removesuffix("_aggregate") in table.relationships


def _required(given: Mapping[str, GivenValue], name: str, path: str) -> GivenValue:
    if name not in given:
        raise invalid(f"missing required field '{name}'", f"{path}.{name}")
    return given[name]


def _no_others(field: Field, names: tuple[str, ...], path: str) -> None:
    for name in field.arguments:
        if name not in names:
            raise invalid(f"'{field.name}' has no argument named '{name}'", path)


def _unknown(name: str, type_name: str, path: str) -> GraphQLError:
    return invalid(f"field '{name}' not found in type: '{type_name}'", path)
