"""A root field of a GraphQL request as one SQL statement, for a role and its session.

Written from Hasura's source: GraphQL/Schema (Select.hs, Mutation.hs, Update.hs) and
Backends/Postgres/Schema/OnConflict.hs. The statements are not Hasura's own, their answers are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from sandbox.graphql_conditions import (
    TRUE,
    ConditionCompiler,
    all_of,
    is_aggregate,
    joined,
    select_permission,
    unknown_field,
    visible_columns,
)
from sandbox.graphql_document import Field, Selection
from sandbox.graphql_input import GivenValue, InputReader, invalid, unsupported
from sandbox.graphql_schema import (
    TableRelationship,
    TableSchema,
    TrackedTable,
    WritePermission,
)
from sandbox.graphql_selections import FieldCollector
from sandbox.webhook import encode

_UNSUPPORTED_UPDATES: Final = frozenset(
    {"_append", "_prepend", "_delete_key", "_delete_elem", "_delete_at_path"}
)
_CHANGED: Final = sql.Identifier("_changed")
_CHECK: Final = sql.Identifier("check__constraint")


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
    """Compiles the root fields of one request. Every method raises GraphQLError."""

    def __init__(
        self,
        schema: TableSchema,
        reader: InputReader,
        fields: FieldCollector,
        conditions: ConditionCompiler,
    ) -> None:
        self._schema = schema
        self._reader = reader
        self._fields = fields
        self._conditions = conditions

    def compile_roots(self, kind: str, selections: tuple[Selection, ...]) -> list[RootStatement]:
        """The statements of a query or mutation, in order."""
        root_type = f"{kind}_root"
        roots = dict(self._queries() if kind == "query" else self._mutations())
        if kind == "mutation" and not roots:
            raise invalid("no mutations exist")
        statements = []
        for field in self._fields.collect(selections, root_type, "$.selectionSet"):
            path = f"$.selectionSet.{field.name}"
            if field.name == "__typename":
                shown = sql.Literal(encode(root_type))
                statements.append(RootStatement(field.key, _answer(shown, TRUE)))
            elif field.name in {"__schema", "__type"} and kind == "query":
                raise unsupported(f"introspection ({field.name})", path)
            elif field.name in roots:
                statements.append(self._compiled(roots[field.name], field, path))
            else:
                raise invalid(f"field '{field.name}' not found in type: '{root_type}'", path)
        return statements

    # --- what a role is offered

    def _queries(self) -> Iterator[tuple[str, _Root]]:
        for name, table in self._schema.tables.items():
            select = self._conditions.permissions(table).select
            if select is None:
                continue
            if select.has_root("select"):
                yield name, _Root("select", table)
                yield f"{name}_aggregate", _Root("aggregate", table)
            if select.has_root("select_by_pk") and self._sees_key(table):
                yield f"{name}_by_pk", _Root("select_by_pk", table)

    def _mutations(self) -> Iterator[tuple[str, _Root]]:
        for name, table in self._schema.tables.items():
            permissions = self._conditions.permissions(table)
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
        select = self._conditions.permissions(table).select
        return bool(select and table.primary_key) and set(table.primary_key) <= visible_columns(
            select
        )

    def _compiled(self, root: _Root, field: Field, path: str) -> RootStatement:
        table = root.table
        match root.verb:
            case "select":
                statement = _answer(self._selected(table, field, path, TRUE), TRUE)
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

    def _object(
        self, table: TrackedTable, alias: str, selections: tuple[Selection, ...], path: str
    ) -> sql.Composable:
        """The JSON object of the row that *alias* stands for."""
        path = f"{path}.selectionSet"
        visible = visible_columns(self._conditions.permissions(table).select)
        shown = []
        for field in self._fields.collect(selections, table.name, path):
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
            elif field.name in table.relationships and self._conditions.reaches(table, field.name):
                relationship = table.relationships[field.name]
                expression = self._related(relationship, alias, field, inner)
            else:
                if field.name in table.unsupported or is_aggregate(table, field.name):
                    raise unsupported(field.name, inner)
                raise unknown_field(field.name, table.name, inner)
            shown.append((field.key, expression))
        return _json_object(shown)

    def _related(
        self, relationship: TableRelationship, alias: str, field: Field, path: str
    ) -> sql.Composable:
        target = self._schema.at(relationship.target)
        other = self._conditions.alias()
        condition = joined(relationship, alias, other)
        if relationship.is_array:
            return sql.SQL("({})").format(self._selected(target, field, path, condition, other))
        _no_others(field, (), path)
        return sql.SQL("(SELECT {} FROM {} AS {} WHERE {} AND {} LIMIT 1)").format(
            self._object(target, other, field.selections, path),
            sql.Identifier(*target.table),
            sql.Identifier(other),
            condition,
            self._conditions.select_filter(target, other),
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
        alias = alias or self._conditions.alias()
        names = ("distinct_on", "limit", "offset", "order_by", "where")
        _no_others(field, names, path)
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        place = f"{path}.args"
        if "distinct_on" in given:
            raise unsupported("distinct_on", f"{place}.distinct_on")
        conditions = [condition, self._conditions.select_filter(table, alias)]
        if "where" in given:
            where = self._reader.peel(given["where"], f"{table.name}_bool_exp", f"{place}.where")
            if where.value is not None:
                conditions.append(self._conditions.where(table, where, alias, f"{place}.where"))
        order = self._conditions.order(table, given.get("order_by"), alias, f"{place}.order_by")
        limits = [select_permission(self._conditions.permissions(table)).limit]
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
            all_of(conditions),
            order,
            sql.Literal(limit),
            sql.Literal(offset),
            sql.Identifier(alias),
        )

    def _select_by_pk(self, table: TrackedTable, field: Field, path: str) -> RootStatement:
        _no_others(field, table.primary_key, path)
        alias = self._conditions.alias()
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        found = sql.SQL("SELECT {} FROM {} AS {} WHERE {} AND {}").format(
            self._object(table, alias, field.selections, path),
            sql.Identifier(*table.table),
            sql.Identifier(alias),
            self._key(table, given, alias, f"{path}.args"),
            self._conditions.select_filter(table, alias),
        )
        return RootStatement(field.key, _answer(found, TRUE))

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
            literal = self._conditions.value(column, value, inner, nullable=False)
            conditions.append(sql.SQL("{} = {}").format(sql.Identifier(alias, name), literal))
        return all_of(conditions)

    # --- mutations

    def _insert(
        self, table: TrackedTable, field: Field, path: str, *, is_one: bool
    ) -> RootStatement:
        given = {name: GivenValue(value) for name, value in field.arguments.items()}
        argument = "object" if is_one else "objects"
        _no_others(field, (argument, "on_conflict")[: 1 + bool(table.constraints)], path)
        permissions = self._conditions.permissions(table)
        permission = _write(permissions.insert)
        alias = self._conditions.alias()
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
        check = self._conditions.permitted(table, permission.check, alias)
        if updates:
            update = permissions.update
            other = self._conditions.permitted(table, update.check if update else None, alias)
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
                raise unknown_field(name, type_name, inner)
            row[name] = self._conditions.column_value(table.columns[name], value, inner)
        return row | self._conditions.presets(table, permission)

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
                raise unknown_field(name, type_name, f"{path}.{name}")
        constraint = self._reader.choice(
            _required(fields, "constraint", path),
            f"{table.name}_constraint",
            table.constraints,
            f"{path}.constraint",
        )
        update = self._conditions.permissions(table).update
        columns = []
        if "update_columns" in fields:
            choices = tuple(sorted(update.columns)) if update else ("_PLACEHOLDER",)
            enum = f"{table.name}_update_column"
            place = f"{path}.update_columns"
            columns = [
                self._reader.choice(item, enum, choices, at)
                for at, item in self._reader.items(fields["update_columns"], f"{enum}!", place)
            ]
        where: sql.Composable = TRUE
        if "where" in fields:
            where = self._conditions.where(table, fields["where"], alias, f"{path}.where")
        on = sql.SQL(" ON CONFLICT ON CONSTRAINT {}").format(sql.Identifier(constraint))
        if update is None or not columns:
            return sql.SQL("{} DO NOTHING").format(on), False
        changes = {
            name: sql.SQL("EXCLUDED.{}").format(sql.Identifier(name)) for name in columns
        } | self._conditions.presets(table, update)
        clause = sql.SQL("{} DO UPDATE SET {} WHERE {} AND {}").format(
            on, _assigned(changes), self._conditions.permitted(table, update.filter, alias), where
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
        permission = _write(self._conditions.permissions(table).update)
        alias = self._conditions.alias()
        place = f"{path}.args"
        changes = self._changes(table, permission, given, alias, place)
        if is_one:
            type_name = f"{table.name}_pk_columns_input"
            key = self._reader.fields(
                _required(given, which, place), type_name, f"{place}.{which}", required=True
            )
            for name in key:
                if name not in table.primary_key:
                    raise unknown_field(name, type_name, f"{place}.{which}.{name}")
            condition = self._key(table, key, alias, f"{place}.{which}")
        else:
            where = _required(given, which, place)
            condition = self._conditions.where(
                table, where, alias, f"{place}.{which}", required=True
            )
        changed = (
            sql.SQL("UPDATE {} AS {} SET {} WHERE {} AND {} RETURNING {}.*, {} AS {}").format(
                sql.Identifier(*table.table),
                sql.Identifier(alias),
                _assigned(changes),
                self._conditions.permitted(table, permission.filter, alias),
                condition,
                sql.Identifier(alias),
                self._conditions.permitted(table, permission.check, alias),
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
        changes = self._conditions.presets(table, permission)
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
                    raise unknown_field(name, type_name, inner)
                if name in changes:
                    twice.append(name)
                literal = self._conditions.column_value(column, value, inner)
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
        permission = _write(self._conditions.permissions(table).delete)
        alias = self._conditions.alias()
        place = f"{path}.args"
        condition = (
            self._key(table, given, alias, place)
            if is_one
            else self._conditions.where(
                table, _required(given, "where", place), alias, f"{place}.where", required=True
            )
        )
        changed = sql.SQL("DELETE FROM {} AS {} WHERE {} AND {} RETURNING {}.*, true AS {}").format(
            sql.Identifier(*table.table),
            sql.Identifier(alias),
            self._conditions.permitted(table, permission.filter, alias),
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
        for one in self._fields.collect(field.selections, type_name, path):
            inner = f"{path}.{one.name}"
            _no_others(one, (), inner)
            match one.name:
                case "__typename":
                    shown.append((one.key, sql.Literal(type_name)))
                case "affected_rows":
                    rows = sql.SQL("(SELECT count(*) FROM {})").format(_CHANGED)
                    shown.append((one.key, rows))
                case "returning" if self._conditions.permissions(table).select is not None:
                    listed = self._written(table, one.selections, inner, is_list=True)
                    rows = sql.SQL("({})").format(listed)
                    shown.append((one.key, rows))
                case _:
                    raise unknown_field(one.name, type_name, inner)
        return sql.SQL("SELECT {}").format(_json_object(shown))

    def _written(
        self, table: TrackedTable, selections: tuple[Selection, ...], path: str, *, is_list: bool
    ) -> sql.Composable:
        """What was written, as an array or as the one row."""
        alias = self._conditions.alias()
        shown = self._object(table, alias, selections, path)
        if is_list:
            shown = sql.SQL("coalesce(json_agg({}), '[]')").format(shown)
        return sql.SQL("SELECT {} FROM {} AS {}").format(shown, _CHANGED, sql.Identifier(alias))


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


# --- what must be there
# --------------------------------------------------------------------------------------------------


def _write(permission: WritePermission | None) -> WritePermission:
    if permission is None:
        raise TypeError("the field is offered only to who may write")
    return permission


def _required(given: Mapping[str, GivenValue], name: str, path: str) -> GivenValue:
    if name not in given:
        raise invalid(f"missing required field '{name}'", f"{path}.{name}")
    return given[name]


def _no_others(field: Field, names: tuple[str, ...], path: str) -> None:
    for name in field.arguments:
        if name not in names:
            raise invalid(f"'{field.name}' has no argument named '{name}'", path)
