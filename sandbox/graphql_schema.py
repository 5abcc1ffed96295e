"""What Hasura's GraphQL knows of a database: the tracked tables with their columns, relationships
and permissions.

The names of types are those of `mkScalarTypeName` in Hasura's source, and the relationships and
permissions those of the metadata's description
(https://hasura.io/docs/2.0/api-reference/syntax-defs/). Not here, and refused with its name: what
gives tables or fields other names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.catalog import Connection, InconsistentMetadata, Table

ADMIN: Final = "admin"
# What the bits of pg_relation_is_updatable() say.
_UPDATABLE: Final = 4
_INSERTABLE: Final = 8
_DELETABLE: Final = 16
# Names of GraphQL's own; every other type has its name of PostgreSQL's.
_SCALARS: Final = {
    "int4": "Int",
    "bool": "Boolean",
    "float4": "Float",
    "text": "String",
    "varchar": "String",
}
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "money"})
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "citext"})
# What would change the names that everything is asked for by.
_RENAMES: Final = ("custom_name", "custom_root_fields", "custom_column_names", "column_config")


@dataclass(frozen=True, slots=True)
class TableColumn:
    """*type_name* is pg_type's; of an array, that of its elements. *cast* is the type as SQL
    writes it, without a length: that is checked where the value is stored."""

    name: str
    type_name: str
    cast: str
    is_array: bool
    nullable: bool
    writable: bool

    @property
    def scalar(self) -> str:
        return scalar_name(self.type_name)

    @property
    def graphql_type(self) -> str:
        return f"[{self.scalar}!]" if self.is_array else self.scalar

    @property
    def comparison_type(self) -> str:
        return f"{self.scalar}{'_array' * self.is_array}_comparison_exp"

    @property
    def is_number(self) -> bool:
        return self.type_name in _NUMBERS and not self.is_array

    @property
    def is_text(self) -> bool:
        return self.type_name in _TEXTS and not self.is_array


def scalar_name(type_name: str) -> str:
    """What GraphQL calls a type of PostgreSQL's."""
    return {"int8": "bigint", "int2": "smallint", **_SCALARS}.get(type_name, type_name)


@dataclass(frozen=True, slots=True)
class TableRelationship:
    """*mapping* leads from columns of its table to columns of *target*."""

    name: str
    is_array: bool
    target: Table
    mapping: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SelectPermission:
    """*filter* is the metadata's boolean expression. *root_fields* None: all."""

    columns: frozenset[str]
    filter: Mapping[str, Any]
    limit: int | None = None
    root_fields: frozenset[str] | None = None

    def has_root(self, field: str) -> bool:
        return self.root_fields is None or field in self.root_fields


@dataclass(frozen=True, slots=True)
class WritePermission:
    """What an insert, an update or a delete may do. *presets* are set in the place of what a
    caller could set; *check* must be true of what was written."""

    columns: frozenset[str] = frozenset()
    filter: Mapping[str, Any] | None = None
    check: Mapping[str, Any] | None = None
    presets: Mapping[str, Any] | None = None
    backend_only: bool = False


@dataclass(frozen=True, slots=True)
class RolePermissions:
    """What one role may do with one table; None is nothing."""

    select: SelectPermission | None = None
    insert: WritePermission | None = None
    update: WritePermission | None = None
    delete: WritePermission | None = None


@dataclass(frozen=True, slots=True)
class TrackedTable:
    """*name* is GraphQL's. *constraints* are those of `on_conflict`; *unsupported* the fields that
    Hasura would have and this sandbox has not."""

    name: str
    table: Table
    columns: Mapping[str, TableColumn]
    primary_key: tuple[str, ...]
    constraints: tuple[str, ...]
    relationships: Mapping[str, TableRelationship]
    unsupported: frozenset[str]
    permissions: Mapping[str, RolePermissions]

    def permissions_of(self, role: str) -> RolePermissions:
        return self.permissions.get(role, RolePermissions())


@dataclass(frozen=True, slots=True)
class TableSchema:
    """*tables* is by GraphQL's name."""

    tables: Mapping[str, TrackedTable]

    def at(self, table: Table) -> TrackedTable:
        return next(one for one in self.tables.values() if one.table == table)


def read_schema(connection: Connection, metadata: Mapping[str, Any]) -> TableSchema:
    """The tables that *metadata* tracks, as they are in the database.

    Raises InconsistentMetadata.
    """
    reader = _Reader(connection)
    tables = []
    for source in metadata["sources"]:
        if source.get("customization"):
            reader.faults.append(
                f"source {source.get('name')}: customization is nothing this engine does"
            )
        for entry in source.get("tables") or []:
            read = reader.read_table(entry)
            if read is not None:
                tables.append(read)
    tracked = {one.table for one in tables}
    reader.faults += [
        f"relationship {relationship.name} of {one.name}: {_shown(relationship.target)} is not "
        "tracked"
        for one in tables
        for relationship in one.relationships.values()
        if relationship.target not in tracked
    ]
    if reader.faults:
        raise InconsistentMetadata(reader.faults)
    return TableSchema({one.name: one for one in tables})


_TABLE: Final = """
SELECT c.oid::bigint, pg_relation_is_updatable(c.oid, false) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'v', 'm', 'f', 'p')
"""

_COLUMNS: Final = """
SELECT a.attname, coalesce(e.typname, t.typname), format_type(a.atttypid, -1),
       e.oid IS NOT NULL, NOT a.attnotnull, a.attidentity <> 'a' AND a.attgenerated = ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_COLUMN_NAMES: Final = (
    "ARRAY(SELECT a.attname::text FROM unnest(k.{}) WITH ORDINALITY AS o(number, place)"
    " JOIN pg_attribute a ON a.attrelid = k.{} AND a.attnum = o.number ORDER BY o.place)"
)

# Of each constraint: its kind, its columns, and where a foreign key leads.
_CONSTRAINTS: Final = f"""
SELECT k.conname, k.contype::text, {_COLUMN_NAMES.format("conkey", "conrelid")},
       n.nspname, f.relname, {_COLUMN_NAMES.format("confkey", "confrelid")}
FROM pg_constraint k LEFT JOIN pg_class f ON f.oid = k.confrelid
LEFT JOIN pg_namespace n ON n.oid = f.relnamespace
WHERE k.conrelid = %s AND k.contype IN ('p', 'u', 'f') ORDER BY k.conname
"""  # noqa: S608  # our own text


@dataclass(frozen=True, slots=True)
class _Constraint:
    name: str
    kind: str
    columns: list[str]
    target_schema: str | None
    target_name: str | None
    target_columns: list[str]


class _Reader:
    """Reads tables, and collects what is wrong with them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.faults: list[str] = []

    def read_table(self, entry: Mapping[str, Any]) -> TrackedTable | None:
        table = _table_of(entry["table"])
        found = self._connection.execute(_TABLE, table).fetchone()
        renames = [one for one in _RENAMES if (entry.get("configuration") or {}).get(one)]
        if renames:
            self.faults.append(
                f"table {_shown(table)}: {renames[0]} is nothing this engine's GraphQL does"
            )
        if found is None:
            self.faults.append(f"table {_shown(table)} does not exist")
            return None
        oid, updatable = found
        columns = {
            row[0]: TableColumn(*row)
            for row in self._connection.execute(_COLUMNS, [oid]).fetchall()
        }
        constraints = self._constraints_of(table)
        keys = [one for one in constraints if one.kind in {"p", "u"}]
        schema, name = table
        return TrackedTable(
            name=name if schema == "public" else f"{schema}_{name}",
            table=table,
            columns=columns,
            primary_key=next((tuple(one.columns) for one in keys if one.kind == "p"), ()),
            constraints=tuple(one.name for one in keys),
            relationships=self._relationships(entry, table),
            unsupported=frozenset(
                one["name"]
                for kind in ("computed_fields", "remote_relationships")
                for one in entry.get(kind) or []
            ),
            permissions=_permissions(entry, columns, updatable),
        )

    def _constraints_of(self, table: Table) -> list[_Constraint]:
        found = self._connection.execute(_TABLE, table).fetchone()
        if found is None:
            return []
        rows = self._connection.execute(_CONSTRAINTS, [found[0]]).fetchall()
        return [_Constraint(*row) for row in rows]

    def _relationships(
        self, entry: Mapping[str, Any], table: Table
    ) -> dict[str, TableRelationship]:
        relationships = {}
        for kind in ("object_relationships", "array_relationships"):
            for one in entry.get(kind) or []:
                is_array = kind == "array_relationships"
                target, mapping = self._target_of(one.get("using") or {}, table)
                if target is None:
                    self.faults.append(
                        f"relationship {one['name']} of {_shown(table)}: there is no such foreign "
                        "key"
                    )
                    continue
                relationships[one["name"]] = TableRelationship(
                    one["name"], is_array, target, mapping
                )
        return relationships

    def _target_of(
        self, using: Mapping[str, Any], table: Table
    ) -> tuple[Table | None, Mapping[str, str]]:
        if manual := using.get("manual_configuration"):
            return _table_of(manual["remote_table"]), manual["column_mapping"]
        key = using.get("foreign_key_constraint_on")
        if isinstance(key, Mapping):
            # The foreign key is the other table's, and leads here.
            other = _table_of(key["table"])
            columns = _listed(key.get("columns") or key.get("column"))
            for one in self._foreign_keys(other, columns):
                if (one.target_schema, one.target_name) == table:
                    return other, dict(zip(one.target_columns, one.columns, strict=True))
            return None, {}
        for one in self._foreign_keys(table, _listed(key)):
            if one.target_schema and one.target_name:
                mapping = dict(zip(one.columns, one.target_columns, strict=True))
                return (one.target_schema, one.target_name), mapping
        return None, {}

    def _foreign_keys(self, table: Table, columns: list[str]) -> list[_Constraint]:
        return [
            one
            for one in self._constraints_of(table)
            if one.kind == "f" and sorted(one.columns) == sorted(columns)
        ]


def _permissions(
    entry: Mapping[str, Any], columns: Mapping[str, TableColumn], updatable: int
) -> dict[str, RolePermissions]:
    every = frozenset(columns)
    writable = frozenset(name for name, column in columns.items() if column.writable)
    by_kind: dict[str, dict[str, Any]] = {
        "select": {ADMIN: SelectPermission(every, {})},
        "insert": {ADMIN: WritePermission(writable)},
        "update": {ADMIN: WritePermission(writable)},
        "delete": {ADMIN: WritePermission()},
    }
    for kind, by_role in by_kind.items():
        for one in entry.get(f"{kind}_permissions") or []:
            said = one["permission"]
            allowed = said.get("columns") or []
            named = every if allowed == "*" else frozenset(allowed) & every
            by_role[one["role"]] = (
                SelectPermission(
                    named, said.get("filter") or {}, said.get("limit"), _root_fields(said)
                )
                if kind == "select"
                else WritePermission(
                    columns=(named & writable) - (said.get("set") or {}).keys(),
                    filter=said.get("filter"),
                    check=said.get("check"),
                    presets=said.get("set"),
                    backend_only=bool(said.get("backend_only")),
                )
            )
    bits = {"insert": _INSERTABLE, "update": _UPDATABLE, "delete": _DELETABLE}
    for kind, bit in bits.items():
        if not updatable & bit:
            by_kind[kind].clear()
    roles = {role for by_role in by_kind.values() for role in by_role}
    return {
        role: RolePermissions(**{kind: by_role.get(role) for kind, by_role in by_kind.items()})
        for role in roles
    }


def _root_fields(permission: Mapping[str, Any]) -> frozenset[str] | None:
    named = permission.get("query_root_fields")
    return None if named is None else frozenset(named)


def _table_of(named: str | Mapping[str, str]) -> Table:
    if isinstance(named, str):
        return "public", named
    return named.get("schema", "public"), named["name"]


def _listed(columns: str | Iterable[str] | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def _shown(table: Table) -> str:
    return ".".join(table)
