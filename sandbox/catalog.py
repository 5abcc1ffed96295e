"""Hasura's side of the database: its catalog, and the triggers that a project's metadata asks for.

Written from server/src-rsr/init_pg_source.sql and trigger.sql.shakespeare of Hasura's source,
catalog version 4.

InconsistentMetadata   what Hasura would list under "inconsistent objects"; names every fault
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import sql

from function.hasura import metadata
from function.rules import yaml_nodes
from sandbox.cron import Cron
from sandbox.webhook import Header

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Table: TypeAlias = tuple[str, str]

# Any number, as long as it is always the same one: two engines that start at once must not both
# install.
_INSTALL_LOCK: Final = 5_227_932
TIMEOUT_SECONDS: Final = 60
_OPERATIONS: Final = ("insert", "update", "delete")
# Hasura's own rule; with notify_hasura_ and _INSERT it makes 63 characters, PostgreSQL's limit.
_NAME: Final = re.compile(r"[A-Za-z]+[A-Za-z0-9_\-]*")
_NAME_MAX: Final = 42
_VARIABLE: Final = re.compile(r"\{\{(.*?)\}\}")
_RESERVED: Final = "HASURA_GRAPHQL_"
_TRANSFORMS: Final = ("request_transform", "response_transform")


class InconsistentMetadata(Exception):  # noqa: N818  # Hasura's word
    """*faults* are sentences that name the trigger. Nothing was applied: a sandbox that went on
    with the rest, as Hasura does, would hide the mistake."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class Operation:
    """What a trigger listens to and hands over; None is every column."""

    columns: tuple[str, ...] | None
    payload: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event trigger, its variables resolved. *operations* is by INSERT, UPDATE, DELETE."""

    name: str
    table: Table
    operations: Mapping[str, Operation]
    enable_manual: bool
    on_replication: bool
    webhook: str
    headers: tuple[Header, ...]
    num_retries: int
    interval_seconds: int
    timeout_seconds: int


@dataclass(frozen=True, slots=True)
class CronTrigger:
    name: str
    schedule: str
    cron: Cron
    payload: Any
    comment: str | None
    webhook: str
    headers: tuple[Header, ...]
    num_retries: int
    interval_seconds: int
    timeout_seconds: int
    tolerance_seconds: int


@dataclass(frozen=True, slots=True)
class Triggers:
    """Hasura's schema cache, as far as it concerns events. *metadata* is what it was made from."""

    events: Mapping[str, Trigger]
    crons: Mapping[str, CronTrigger]
    metadata: Mapping[str, Any]


# --- the metadata
# --------------------------------------------------------------------------------------------------


def read(project: Path, environ: Mapping[str, str]) -> Triggers:
    """What the metadata of *project* asks for, ``{{VARIABLE}}`` and value_from_env taken from
    *environ*.

    Raises InconsistentMetadata, or metadata.MetadataError.
    """
    found = metadata.read_metadata(project)
    sources = yaml_nodes.read_plain(found.sources) or []
    crons = yaml_nodes.read_plain(found.cron_triggers) or []
    reader = _Reader(environ)
    events = [
        reader.trigger(entry, (table["table"].get("schema", "public"), table["table"]["name"]))
        for source in sources
        for table in source.get("tables") or []
        for entry in table.get("event_triggers") or []
    ]
    scheduled = [reader.cron_trigger(entry) for entry in crons]
    if reader.faults:
        raise InconsistentMetadata(reader.faults)
    return Triggers(
        events={trigger.name: trigger for trigger in events if trigger},
        crons={trigger.name: trigger for trigger in scheduled if trigger},
        metadata={"version": 3, "sources": sources, "cron_triggers": crons},
    )


class _Reader:
    """Turns entries into triggers, and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._seen: set[str] = set()
        self.faults: list[str] = []

    def trigger(self, entry: Mapping[str, Any], table: Table) -> Trigger | None:
        name = str(entry.get("name"))
        where = f"event trigger {name} on {'.'.join(table)}"
        faults_before = len(self.faults)
        if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
            self.faults.append(f"{where}: is no name for a trigger")
        if name in self._seen:
            self.faults.append(f"{where}: there is another one of that name")
        self._seen.add(name)
        retry = entry.get("retry_conf") or {}
        for required in ("num_retries", "interval_sec"):
            if not isinstance(retry.get(required), int):
                self.faults.append(f"{where}: retry_conf.{required} is missing, or no number")
        webhook, headers = self._request(where, entry)
        if len(self.faults) > faults_before:
            return None
        definition = entry.get("definition") or {}
        return Trigger(
            name=name,
            table=table,
            operations={
                op.upper(): _operation(definition[op]) for op in _OPERATIONS if definition.get(op)
            },
            enable_manual=bool(definition.get("enable_manual")),
            on_replication=bool(entry.get("trigger_on_replication")),
            webhook=webhook,
            headers=headers,
            num_retries=retry["num_retries"],
            interval_seconds=retry["interval_sec"],
            timeout_seconds=retry.get("timeout_sec") or TIMEOUT_SECONDS,
        )

    def cron_trigger(self, entry: Mapping[str, Any]) -> CronTrigger | None:
        name = str(entry.get("name"))
        where = f"cron trigger {name}"
        faults_before = len(self.faults)
        schedule = str(entry.get("schedule"))
        cron = None
        try:
            cron = Cron(schedule)
        except ValueError as error:
            self.faults.append(f"{where}: {error}")
        webhook, headers = self._request(where, entry)
        if cron is None or len(self.faults) > faults_before:
            return None
        retry = entry.get("retry_conf") or {}
        return CronTrigger(
            name=name,
            schedule=schedule,
            cron=cron,
            payload=entry.get("payload"),
            comment=entry.get("comment"),
            webhook=webhook,
            headers=headers,
            num_retries=retry.get("num_retries", 0),
            interval_seconds=retry.get("retry_interval_seconds", 10),
            timeout_seconds=retry.get("timeout_seconds", TIMEOUT_SECONDS),
            tolerance_seconds=retry.get("tolerance_seconds", 21_600),
        )

    def _request(self, where: str, entry: Mapping[str, Any]) -> tuple[str, tuple[Header, ...]]:
        self.faults += [
            f"{where}: {one} is nothing this engine does" for one in _TRANSFORMS if entry.get(one)
        ]
        match entry.get("webhook"), entry.get("webhook_from_env"):
            case str(template), None:
                webhook = self._filled(where, template)
            case None, str(variable):
                webhook = self._variable(where, variable)
            case _:
                webhook = ""
                self.faults.append(
                    f"{where}: exactly one of webhook and webhook_from_env is needed"
                )
        return webhook, tuple(self._header(where, header) for header in entry.get("headers") or [])

    def _header(self, where: str, entry: Mapping[str, Any]) -> Header:
        name = str(entry.get("name"))
        match entry.get("value"), entry.get("value_from_env"):
            case str(value), None:
                return Header(name, self._filled(where, value))
            case None, str(variable):
                if variable.startswith(_RESERVED):
                    self.faults.append(f"{where}: header {name} may not be taken from {variable}")
                return Header(name, self._variable(where, variable), variable)
        self.faults.append(f"{where}: header {name} needs exactly one of value and value_from_env")
        return Header(name, "")

    def _filled(self, where: str, template: str) -> str:
        return _VARIABLE.sub(lambda found: self._variable(where, found[1]), template)

    def _variable(self, where: str, name: str) -> str:
        if name not in self._environ:
            self.faults.append(f"{where}: the environment variable {name} is not set")
        return self._environ.get(name, "")


def _operation(spec: Mapping[str, Any]) -> Operation:
    return Operation(columns=_columns(spec.get("columns")), payload=_columns(spec.get("payload")))


def _columns(spec: Any) -> tuple[str, ...] | None:
    return tuple(spec) if isinstance(spec, list) else None


# --- the database
# --------------------------------------------------------------------------------------------------

_CATALOG: Final = """
CREATE FUNCTION hdb_catalog.gen_hasura_uuid() RETURNS uuid
    LANGUAGE sql AS 'SELECT gen_random_uuid()';

CREATE TABLE hdb_catalog.hdb_source_catalog_version (
    version TEXT NOT NULL,
    upgraded_on TIMESTAMPTZ NOT NULL
);
INSERT INTO hdb_catalog.hdb_source_catalog_version VALUES ('4', now());

CREATE TABLE hdb_catalog.hdb_metadata (
    id INTEGER PRIMARY KEY,
    metadata JSON NOT NULL,
    resource_version INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE hdb_catalog.event_log (
    id TEXT PRIMARY KEY DEFAULT hdb_catalog.gen_hasura_uuid(),
    schema_name TEXT NOT NULL,
    table_name TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    payload JSONB NOT NULL,
    delivered BOOLEAN NOT NULL DEFAULT false,
    error BOOLEAN NOT NULL DEFAULT false,
    tries INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMP DEFAULT now(),
    locked TIMESTAMPTZ,
    next_retry_at TIMESTAMP,
    archived BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX ON hdb_catalog.event_log (trigger_name);
CREATE INDEX event_log_fetch_events
    ON hdb_catalog.event_log (locked NULLS FIRST, next_retry_at NULLS FIRST, created_at)
    WHERE NOT delivered AND NOT error AND NOT archived;

CREATE TABLE hdb_catalog.event_invocation_logs (
    id TEXT PRIMARY KEY DEFAULT hdb_catalog.gen_hasura_uuid(),
    trigger_name TEXT,
    event_id TEXT,
    status INTEGER,
    request JSON,
    response JSON,
    created_at TIMESTAMP DEFAULT now()
);
CREATE INDEX ON hdb_catalog.event_invocation_logs (event_id);

CREATE TABLE hdb_catalog.hdb_cron_events (
    id TEXT PRIMARY KEY DEFAULT hdb_catalog.gen_hasura_uuid(),
    trigger_name TEXT NOT NULL,
    scheduled_time TIMESTAMPTZ NOT NULL,
    status TEXT NOT NULL DEFAULT 'scheduled'
        CHECK (status IN ('scheduled', 'locked', 'delivered', 'error', 'dead')),
    tries INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ DEFAULT now(),
    next_retry_at TIMESTAMPTZ
);
CREATE INDEX hdb_cron_event_status ON hdb_catalog.hdb_cron_events (status);
CREATE UNIQUE INDEX hdb_cron_events_unique_scheduled
    ON hdb_catalog.hdb_cron_events (trigger_name, scheduled_time) WHERE status = 'scheduled';

CREATE TABLE hdb_catalog.hdb_cron_event_invocation_logs (
    id TEXT PRIMARY KEY DEFAULT hdb_catalog.gen_hasura_uuid(),
    event_id TEXT REFERENCES hdb_catalog.hdb_cron_events (id) ON UPDATE CASCADE ON DELETE CASCADE,
    status INTEGER,
    request JSON,
    response JSON,
    created_at TIMESTAMPTZ DEFAULT now()
);

CREATE FUNCTION hdb_catalog.insert_event_log(
    schema_name text, table_name text, trigger_name text, op text, row_data json
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    event_id text := gen_random_uuid();
BEGIN
    INSERT INTO hdb_catalog.event_log (id, schema_name, table_name, trigger_name, payload)
    VALUES (event_id, schema_name, table_name, trigger_name, json_build_object(
        'op', op,
        'data', row_data,
        'session_variables', NULLIF(current_setting('hasura.user', true), '')::json,
        'trace_context', NULLIF(current_setting('hasura.tracecontext', true), '')::json
    ));
    RETURN event_id;
END
$$;
"""

# A row that holds a record is all that PL/pgSQL compares as one value. Where a column's type has no
# `=`, as json, it can only be compared as it is stored.
_FUNCTION: Final = """
DECLARE
    _old record := {old_row};
    _new record := {new_row};
    _data json := json_build_object('old', {old}, 'new', {new});
BEGIN
    BEGIN
        IF TG_OP <> 'UPDATE' OR _old <> _new THEN
            PERFORM hdb_catalog.insert_event_log({schema}, {table}, {trigger}, TG_OP, _data);
        END IF;
    EXCEPTION WHEN undefined_function THEN
        IF TG_OP <> 'UPDATE' OR _old *<> _new THEN
            PERFORM hdb_catalog.insert_event_log({schema}, {table}, {trigger}, TG_OP, _data);
        END IF;
    END;
    RETURN NULL;
END
"""


def install(connection: Connection, triggers: Triggers) -> None:
    """Bring the database to what *triggers* say, in one transaction.

    What is as it should be is left alone, so that an engine can start while others write to the
    tables. Raises InconsistentMetadata where a table or a column is not there.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_INSTALL_LOCK])
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute("CREATE SCHEMA IF NOT EXISTS hdb_catalog")
        [(there,)] = connection.execute(
            "SELECT to_regclass('hdb_catalog.event_log') IS NOT NULL"
        ).fetchall()
        if not there:
            connection.execute(_CATALOG)
        _install_functions(connection, triggers)
        _forget_dropped(connection, triggers)
        connection.execute(
            "INSERT INTO hdb_catalog.hdb_metadata (id, metadata) VALUES (1, %s) ON CONFLICT (id) "
            "DO UPDATE SET metadata = EXCLUDED.metadata, resource_version = "
            "hdb_metadata.resource_version + 1",
            [json.dumps(triggers.metadata, default=str)],
        )


@dataclass(frozen=True, slots=True)
class _Function:
    """A trigger's function for one operation, and where it is attached: by the table's oid, ``A``
    for ENABLE ALWAYS."""

    body: str
    table: int | None
    enabled: str | None


def _install_functions(connection: Connection, triggers: Triggers) -> None:
    wanted: dict[str, _Function] = {}
    attached: dict[str, tuple[Table, str, bool]] = {}
    faults = []
    for trigger in triggers.events.values():
        oid, columns = _columns_of(connection, trigger.table)
        for op, operation in trigger.operations.items():
            named = {*(operation.columns or ()), *(operation.payload or ())}
            if oid is None or not named <= set(columns):
                missing = ", ".join(sorted(named - set(columns))) or "the table"
                faults.append(
                    f"event trigger {trigger.name} on {'.'.join(trigger.table)}: "
                    f"{missing} does not exist"
                )
                continue
            name = f"notify_hasura_{trigger.name}_{op}"
            body = _body(connection, trigger, op, operation, columns)
            wanted[name] = _Function(body, oid, "A" if trigger.on_replication else "O")
            attached[name] = trigger.table, op, trigger.on_replication
    if faults:
        raise InconsistentMetadata(faults)
    present = {
        name: _Function(body, table, enabled)
        for name, body, table, enabled in connection.execute(
            "SELECT p.proname, p.prosrc, t.tgrelid, t.tgenabled FROM pg_proc p"
            " LEFT JOIN pg_trigger t ON t.tgfoid = p.oid AND t.tgparentid = 0"
            " WHERE p.pronamespace = 'hdb_catalog'::regnamespace AND starts_with(p.proname, "
            "'notify_hasura_')"
        )
    }
    for name in sorted(present.keys() | wanted.keys()):
        if present.get(name) == wanted.get(name):
            continue
        function = sql.Identifier("hdb_catalog", name)
        connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}() CASCADE").format(function))
        if name in wanted:
            table, op, always = attached[name]
            _attach(connection, name, wanted[name].body, table, op, always=always)


def _attach(
    connection: Connection, name: str, body: str, table: Table, op: str, *, always: bool
) -> None:
    function, trigger, on = (
        sql.Identifier("hdb_catalog", name),
        sql.Identifier(name),
        sql.Identifier(*table),
    )
    connection.execute(
        sql.SQL("CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS {}").format(
            function, sql.Literal(body)
        )
    )
    connection.execute(
        sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
            trigger, sql.SQL(op), on, function
        )
    )
    if always:
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(on, trigger))


def _columns_of(connection: Connection, table: Table) -> tuple[int | None, tuple[str, ...]]:
    """The table's oid, None where there is none, and its columns in order: baked into the functions
    until the metadata is applied again."""
    [(oid,)] = connection.execute(
        "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text))::oid::int", list(table)
    ).fetchall()
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT "
        "attisdropped ORDER BY attnum",
        [oid],
    ).fetchall()
    return oid, tuple(name for (name,) in columns)


def _body(
    connection: Connection,
    trigger: Trigger,
    op: str,
    operation: Operation,
    columns: tuple[str, ...],
) -> str:
    def row(image: str, of: tuple[str, ...] | None) -> sql.Composable:
        qualified = sql.SQL(", ").join(
            sql.SQL("{}.{}").format(sql.SQL(image), sql.Identifier(name))
            for name in columns
            if of is None or name in of
        )
        return sql.SQL('(SELECT "e" FROM (SELECT {}) AS "e")').format(qualified)

    null = sql.SQL("NULL")
    nothing = sql.SQL("row((SELECT 1))")
    return (
        sql.SQL(_FUNCTION)
        .format(
            old_row=sql.SQL("row({})").format(row("OLD", operation.columns))
            if op == "UPDATE"
            else nothing,
            new_row=sql.SQL("row({})").format(row("NEW", operation.columns))
            if op == "UPDATE"
            else nothing,
            old=null
            if op == "INSERT"
            else sql.SQL("row_to_json({})").format(row("OLD", operation.payload)),
            new=null
            if op == "DELETE"
            else sql.SQL("row_to_json({})").format(row("NEW", operation.payload)),
            schema=sql.Literal(trigger.table[0]),
            table=sql.Literal(trigger.table[1]),
            trigger=sql.Literal(trigger.name),
        )
        .as_string(connection)
    )


def _forget_dropped(connection: Connection, triggers: Triggers) -> None:
    """Archive the events of triggers that are gone, and take back what gone or changed cron
    triggers had planned."""
    before = connection.execute("SELECT metadata FROM hdb_catalog.hdb_metadata").fetchone()
    if before is None:
        return
    dropped = {
        entry["name"]
        for source in before[0]["sources"]
        for table in source.get("tables") or []
        for entry in table.get("event_triggers") or []
    } - triggers.events.keys()
    connection.execute(
        "UPDATE hdb_catalog.event_log SET archived = true WHERE trigger_name = ANY(%s)",
        [list(dropped)],
    )
    changed = [
        entry["name"]
        for entry in before[0]["cron_triggers"]
        if entry["name"] not in triggers.crons
        or triggers.crons[entry["name"]].schedule != entry["schedule"]
    ]
    connection.execute(
        "DELETE FROM hdb_catalog.hdb_cron_events WHERE trigger_name = ANY(%s) AND status = "
        "'scheduled' AND tries = 0",
        [changed],
    )


# --- migrations
# --------------------------------------------------------------------------------------------------


def migrate(database_url: str, project: Path) -> list[str]:
    """Apply ``migrations/default/*/up.sql`` of *project* in order, each once and in a transaction
    of its own, as ``hasura migrate apply`` does: the names of those applied now."""
    applied = []
    with psycopg.connect(database_url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_INSTALL_LOCK])
            connection.execute("SET LOCAL client_min_messages = warning")
            connection.execute("CREATE SCHEMA IF NOT EXISTS hdb_catalog")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS hdb_catalog.schema_migrations"
                " (version BIGINT PRIMARY KEY, dirty BOOLEAN NOT NULL)"
            )
        ups = [
            (int(up.parent.name.partition("_")[0]), up)
            for up in project.glob("migrations/default/*/up.sql")
        ]
        for version, up in sorted(ups):
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [_INSTALL_LOCK])
                new = connection.execute(
                    "INSERT INTO hdb_catalog.schema_migrations VALUES (%s, false) ON "
                    "CONFLICT DO NOTHING",
                    [version],
                ).rowcount
                if new:
                    connection.execute(up.read_bytes())
                    applied.append(up.parent.name)
    return applied
