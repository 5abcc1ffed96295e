"""The records of one small ServiceNow instance, and what the platform does when somebody writes
them.

No HTTP here: servicenow.py asks, this answers with records or raises Refused. A record is a dict of
strings, as the Table API has it. The sources of the rules are ServiceNow's documentation (encoded
queries: KB0551763; the incident and change models) and captures of real instances.
"""

import functools
import hashlib
import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sandbox import change, query, seed
from sandbox.incident import (
    CANCELED,
    CLOSED,
    IN_PROGRESS,
    NEW,
    ON_HOLD,
    RESOLVED,
    incident_rules,
)
from sandbox.problem import problem_rules, problem_task_rules
from sandbox.query import Asker, Value
from sandbox.schema import (
    NUMBERED,
    SCHEMA,
    SYSTEM,
    Column,
    Kind,
    Record,
    Refused,
    aborted,
    defaults,
    missing,
    quoted,
    shown_as,
)
from sandbox.seed import ADMIN

__all__ = [
    "ADMIN",
    "CANCELED",
    "CLOSED",
    "IN_PROGRESS",
    "JOURNAL_LISTS",
    "NEW",
    "ON_HOLD",
    "RESOLVED",
    "SCHEMA",
    "Column",
    "Kind",
    "Record",
    "Refused",
    "Tables",
    "Written",
    "is_read_only",
    "missing",
]

# Where a fresh developer instance begins.
_FIRST_NUMBER: Final = 10001
# What a caller may send and the platform sets itself.
_OF_TASKS: Final = (
    "sys_class_name",
    "task_effective_number",
    "comments_and_work_notes",
    "sys_domain_path",
)
_READ_ONLY: Final = {
    table: frozenset({*SYSTEM, *_OF_TASKS} if table in NUMBERED else SYSTEM)
    | (frozenset({"priority"}) if table in {"incident", "problem"} else frozenset())
    for table in SCHEMA
}
_SYS_ID = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", re.ASCII)
# The columns that show the entries of several journals together.
JOURNAL_LISTS: Final = {"comments_and_work_notes": ("comments", "work_notes")}
# How the journal columns are called where their entries are shown.
_JOURNALS: Final = {"comments": "Additional comments", "work_notes": "Work notes"}
_CONTENT: Final = (
    "CREATE TABLE attached (sys_id TEXT COLLATE NOCASE PRIMARY KEY, content BLOB NOT NULL)"
)


def is_read_only(table: str, column: str) -> bool:
    """If what a caller sends for *column* is ignored, because the platform sets it."""
    return column in _READ_ONLY[table]


@dataclass(frozen=True, slots=True)
class Written:
    """One write of the user *by*, as it was committed. *before* is None for an insert, *after* for
    a delete; *journal* are the entries that it made."""

    table: str
    before: Record | None
    after: Record | None
    journal: tuple[Record, ...]
    by: str

    @property
    def record(self) -> Record:
        """The record as it is now, or was before it was deleted."""
        return self.after or self.before or {}


@functools.cache
def _image() -> bytes:
    """A fresh instance's database, made once per process: hundreds of tests start hundreds of
    instances."""
    db = sqlite3.connect(":memory:")
    for table, columns in SCHEMA.items():
        if table == "task":
            continue
        others = ", ".join(
            f"{quoted(column)} TEXT NOT NULL" for column in columns if column != "sys_id"
        )
        db.execute(f"CREATE TABLE {table} (sys_id TEXT COLLATE NOCASE PRIMARY KEY, {others})")
    # What extends task can be read there too.
    inherited = ", ".join(map(quoted, SCHEMA["task"]))
    every = " UNION ALL ".join(f"SELECT {inherited} FROM {table}" for table in NUMBERED)  # noqa: S608  # names from SCHEMA
    db.execute(f"CREATE VIEW task AS {every}")
    db.execute(_CONTENT)
    db.execute("CREATE INDEX labels ON sys_choice (name, element)")
    db.execute("CREATE INDEX journals ON sys_journal_field (element_id)")
    for table, record in seed.records():
        db.execute(*_inserted(table, record))
    db.commit()
    image = db.serialize()
    db.close()
    return image


def _inserted(table: str, record: Record) -> tuple[str, Record]:
    names, marks = ", ".join(map(quoted, record)), ", ".join(f":{column}" for column in record)
    return f"INSERT INTO {table} ({names}) VALUES ({marks})", record  # noqa: S608  # names from SCHEMA


class Tables:
    """The instance's tables, in a database of their own; every method is one transaction.

    *user* is the integration user, who is planted beside the demo data's people. *now* gives UNIX
    seconds. With *honours_sys_id* off, an insert gets an id of the instance's own choosing, as
    under an ACL on ``sys_id``. *written* is told of every write, after its commit and before the
    next one; it must not wait.
    """

    def __init__(
        self,
        *,
        user: str,
        now: Callable[[], float],
        honours_sys_id: bool = True,
        time_zone: str = "",
        written: Callable[[Written], None] = lambda _: None,
    ) -> None:
        self.honours_sys_id = honours_sys_id
        # Columns, as (table, column), that an ACL keeps everybody but an administrator from
        # writing: what is sent for them is dropped without a word, as a field ACL does.
        self.protected: set[tuple[str, str]] = set()
        # If a time in a query is one of the time zone of who asks, and not of UTC.
        self.local_times = False
        # Change models that an administrator has made: the states of each, in order.
        self.change_models: dict[str, tuple[str, ...]] = {}
        self._now = now
        self._written = written
        self._lock = threading.RLock()
        self._numbers = dict.fromkeys(NUMBERED, _FIRST_NUMBER)
        # What each record was before its last write; None: it was not there.
        self._before: dict[tuple[str, str], Record | None] = {}
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.deserialize(_image())
        query.add_functions(self._db)
        self._db.row_factory = sqlite3.Row
        self.plant_user(
            user,
            None if user == ADMIN else ("itil", "snc_basic_auth_api_access"),
            time_zone=time_zone,
        )

    def plant_user(
        self, user_name: str, roles: Sequence[str] | None = None, *, time_zone: str = ""
    ) -> None:
        """Have a user of this name with these *roles*; None leaves those that one of the demo data
        has."""
        with self._lock, self._db:
            found = self._read("SELECT * FROM sys_user WHERE user_name = ?", [user_name])
            if found:
                user = found[0]
                self._change("sys_user", user | {"time_zone": time_zone or user["time_zone"]})
            else:
                fields = {"user_name": user_name, "name": user_name, "active": "true"}
                fields |= {"web_service_access_only": "true", "time_zone": time_zone}
                user = seed.record("sys_user", user_name, self._stamp(), **fields)
                self._put("sys_user", user)
            if roles is None:
                return
            self._db.execute("DELETE FROM sys_user_has_role WHERE user = ?", [user["sys_id"]])
            known = {
                role["name"]: role["sys_id"]
                for role in self._read("SELECT * FROM sys_user_role", [])
            }
            for name in dict.fromkeys(roles):
                if name not in known:
                    role = seed.record("sys_user_role", name, self._stamp(), name=name)
                    self._put("sys_user_role", role)
                    known[name] = role["sys_id"]
                self._put("sys_user_has_role", seed.held_role(user["sys_id"], known[name]))

    def roles(self, user_name: str) -> list[str]:
        """The roles that a user has been given, or the user's groups."""
        held = """SELECT r.name FROM sys_user_role r WHERE r.sys_id IN (
                    SELECT h.role FROM sys_user_has_role h WHERE h.user = ?
                        AND h.state IN ('active', '')
                    UNION SELECT g.role FROM sys_group_has_role g
                    JOIN sys_user_grmember m ON m."group" = g."group" WHERE m.user = ?)"""
        user_id = self.user_id(user_name)
        return [role["name"] for role in self._read(held, [user_id, user_id])]

    def may_sign_in(self, user_name: str) -> bool:
        """If there is such a user, who is active and not locked out."""
        found = self._read("SELECT * FROM sys_user WHERE user_name = ?", [user_name])
        return bool(found) and found[0]["active"] != "false" and found[0]["locked_out"] != "true"

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def find(self, table: str, sys_id: str) -> Record | None:
        found = self._read(f"SELECT * FROM {table} WHERE sys_id = ?", [sys_id])  # noqa: S608  # a name from SCHEMA
        return found[0] if found else None

    def select(
        self,
        table: str,
        encoded: str = "",
        *,
        pairs: Mapping[str, str] | None = None,
        limit: int = -1,
        offset: int = 0,
        by: str = ADMIN,
    ) -> list[Record]:
        """The records that an *encoded* query and *pairs* of columns and values describe; a *limit*
        below 0 is none."""
        asked = query.read(encoded, table, asker=self._asker(by), pairs=pairs)
        return self._read(
            f"SELECT t.* FROM {table} t "  # noqa: S608  # names from SCHEMA
            f"WHERE {asked.where} ORDER BY {asked.order} LIMIT ? OFFSET ?",
            [*asked.values, limit, offset],
        )

    def meets(
        self,
        encoded: str,
        table: str,
        after: Record,
        before: Record | None = None,
        *,
        by: str = ADMIN,
    ) -> bool:
        """If a record that is *after*, and was *before*, meets a condition, as of a business
        rule."""
        statement, values = query.condition(
            encoded, table, after, before or {}, asker=self._asker(by)
        )
        with self._lock:
            return bool(self._db.execute(statement, values).fetchone()[0])

    def count(
        self,
        table: str,
        encoded: str = "",
        *,
        pairs: Mapping[str, str] | None = None,
        by: str = ADMIN,
    ) -> int:
        asked = query.read(encoded, table, asker=self._asker(by), pairs=pairs)
        with self._lock:
            counted = self._db.execute(
                f"SELECT count(*) FROM {table} t WHERE {asked.where}",  # noqa: S608  # as above
                asked.values,
            )
            return int(counted.fetchone()[0])

    def aggregate(
        self,
        table: str,
        encoded: str,
        *,
        pairs: Mapping[str, str],
        columns: Sequence[str],
        groups: Sequence[str],
        having: str,
        having_values: Sequence[Value],
        orders: Sequence[str],
        by: str,
    ) -> list[tuple[object, ...]]:
        """What *columns*, SQL with functions in it, are of each of the *groups* of the records that
        are described."""
        asked = query.read(encoded, table, asker=self._asker(by), pairs=pairs)
        # SQLite takes a condition on groups only where there are some; without any, all records are
        # one.
        grouped = f" GROUP BY {', '.join(groups)} HAVING {having}" if groups else ""
        if having_values and not groups:
            grouped = f" GROUP BY '' HAVING {having}"
        ordered = f" ORDER BY {', '.join(orders)}" if orders else ""
        statement = f"SELECT {', '.join(columns)} FROM {table} t WHERE {asked.where}{grouped}"  # noqa: S608  # names from SCHEMA
        with self._lock:
            rows = self._db.execute(f"{statement}{ordered}", [*asked.values, *having_values])
            return [tuple(row) for row in rows]

    def insert(
        self, table: str, sent: Mapping[str, object], *, by: str, shown: bool = False
    ) -> Record:
        """Make a record of what was *sent*; unknown columns are ignored. *shown*: the values are
        display values.

        Raises Refused; also for a ``sys_id`` that is taken, which is the primary key's verdict.
        """
        _check_table(table)
        with self._lock:
            with self._db:
                taken = self._taken(table, sent, by=by, shown=shown)
                at = self._stamp()
                asked = str(sent.get("sys_id") or "")
                honoured = self.honours_sys_id and _SYS_ID.fullmatch(asked)
                after = defaults(table)
                after |= {
                    name: value for name, value in taken.items() if value or table not in NUMBERED
                }
                after |= {"sys_id": asked if honoured else uuid.uuid4().hex, "sys_mod_count": "0"}
                after |= {
                    "sys_created_on": at,
                    "sys_created_by": by,
                    "sys_updated_on": at,
                    "sys_updated_by": by,
                }
                if table in NUMBERED:
                    self._open_task(table, after, by=by, at=at)
                self._apply_rules(table, None, after, taken, by=by, at=at)
                texts = _emptied_journal(table, after)
                try:
                    self._put(table, after)
                except sqlite3.IntegrityError as taken_already:
                    detail = f"Error during insert of {table} ({after[shown_as(table)]})"
                    raise Refused(403, "Operation Failed", detail) from taken_already
                journal = self._write_journal(table, after["sys_id"], texts, by=by, at=at)
                self._before[table, after["sys_id"]] = None
            self._written(Written(table, None, after, journal, by))
        return after

    def update(
        self, table: str, sys_id: str, sent: Mapping[str, object], *, by: str, shown: bool = False
    ) -> Record:
        """Merge what was *sent* into a record. One that changes nothing leaves ``sys_mod_count``
        alone.

        Raises Refused: 404 where there is no such record, 403 where a rule of the platform forbids
        it.
        """
        _check_table(table)
        with self._lock:
            with self._db:
                before = self.find(table, sys_id)
                if before is None:
                    raise missing()
                taken = self._taken(table, sent, by=by, shown=shown)
                at = self._stamp()
                after = before | taken
                self._apply_rules(table, before, after, taken, by=by, at=at)
                texts = _emptied_journal(table, after)
                if after == before and not texts:
                    return after
                count = str(int(after["sys_mod_count"]) + 1)
                after |= {"sys_updated_on": at, "sys_updated_by": by, "sys_mod_count": count}
                self._change(table, after)
                journal = self._write_journal(table, after["sys_id"], texts, by=by, at=at)
                self._before[table, after["sys_id"]] = before
            self._written(Written(table, before, after, journal, by))
        return after

    def delete(self, table: str, sys_id: str, *, by: str = ADMIN) -> None:
        """Remove a record, and what is attached to it. Raises Refused (404) where there is none."""
        _check_table(table)
        with self._lock:
            with self._db:
                before = self.find(table, sys_id)
                if before is None:
                    raise missing()
                attached = (
                    "SELECT * FROM sys_attachment WHERE table_name = ? "
                    "AND table_sys_id = ? COLLATE NOCASE"
                )
                for attachment in self._read(attached, [table, sys_id]):
                    self._remove("sys_attachment", attachment)
                self._remove(table, before)
            self._written(Written(table, before, None, (), by))

    def attach(
        self, table: str, sys_id: str, file_name: str, content: bytes, *, content_type: str, by: str
    ) -> Record:
        """Keep *content* with a record. Raises Refused (404) where there is no such record."""
        with self._lock, self._db:
            if self.find(table, sys_id) is None:
                raise missing()
            at, attachment_id = self._stamp(), uuid.uuid4().hex
            after = dict.fromkeys(SCHEMA["sys_attachment"], "")
            after |= {
                "sys_id": attachment_id,
                "sys_mod_count": "0",
                "state": "available",
                "compressed": "true",
            }
            after |= {
                "sys_created_on": at,
                "sys_created_by": by,
                "sys_updated_on": at,
                "sys_updated_by": by,
            }
            after |= {
                "table_name": table,
                "table_sys_id": sys_id,
                "file_name": file_name,
                "content_type": content_type,
            }
            after |= {"size_bytes": str(len(content)), "size_compressed": str(len(content))}
            after |= {"hash": hashlib.sha256(content).hexdigest()}
            self._put("sys_attachment", after)
            self._db.execute(
                "INSERT INTO attached (sys_id, content) VALUES (?, ?)", [attachment_id, content]
            )
            self._before["sys_attachment", attachment_id] = None
        return after

    def content(self, sys_id: str) -> bytes:
        """What is attached under *sys_id*, of ``sys_attachment``. Raises Refused (404)."""
        with self._lock:
            found = self._db.execute(
                "SELECT content FROM attached WHERE sys_id = ?", [sys_id]
            ).fetchone()
        if found is None:
            raise missing()
        return bytes(found["content"])

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Within, this thread's reads answer from before each record's last write; it must not
        write."""
        with self._lock:
            try:
                for (table, sys_id), before in self._before.items():
                    if before is None:
                        self._db.execute(f"DELETE FROM {table} WHERE sys_id = ?", [sys_id])  # noqa: S608  # as above
                    elif self.find(table, sys_id) is None:
                        self._put(table, before)
                    else:
                        self._change(table, before)
                yield
            finally:
                self._db.rollback()

    def catch_up(self) -> None:
        """What was written so far is seen by every read from now on."""
        with self._lock:
            self._before.clear()

    def shown(self, table: str, column: str, value: str, *, by: str = "") -> str:
        """The display value of *value* in *column*: a name for a reference, a label for a choice, a
        time in the time zone of *by*."""
        about = SCHEMA[table][column]
        match about.kind:
            case Kind.REFERENCE:
                record = self.find(about.refers_to, value) if value else None
                return record[shown_as(about.refers_to)] if record else ""
            case Kind.DATETIME:
                return _moved(value, UTC, self._zone(by))
            case _:
                return self._labels(table, column).get(value, value)

    def journal(self, table: str, sys_id: str, element: str, *, by: str = "") -> str:
        """What people see in a journal column, or a list of journals: the entries, the newest
        first.

        In recorded answers: ``2022-11-04 15:29:20 - System Administrator (Additional comments)``, a
        new line, the text and an empty line after each, the last one too; the documentation splits
        them at the empty lines
        (https://www.servicenow.com/docs/r/platform-administration/c_JournalFields.html). Times are
        in the time zone of *by*.
        """
        elements = JOURNAL_LISTS.get(element, (element,))
        entries = self._read(
            f"""SELECT j.sys_created_on, j.sys_created_by, j.element, j.value, u.name
               FROM sys_journal_field j
               LEFT JOIN sys_user u ON u.user_name = j.sys_created_by
               WHERE j.element_id = ? AND j.element IN ({", ".join("?" * len(elements))})
                   AND ? IN (j.name, 'task')
               ORDER BY j.sys_created_on DESC, j.rowid DESC""",  # noqa: S608  # marks alone
            [sys_id, *elements, table],
        )
        zone = self._zone(by)
        return "".join(
            f"{_moved(entry['sys_created_on'], UTC, zone)} - "
            f"{entry['name'] or entry['sys_created_by']}"
            f" ({_JOURNALS.get(entry['element'], entry['element'])})\n"
            f"{entry['value']}\n\n"
            for entry in entries
        )

    def walked(
        self, table: str, record: Record, path: str
    ) -> tuple[str, str, Record | None] | None:
        """Where a dotted *path* leads from *record*: a table, its column, and the record there;
        None for nowhere."""
        *steps, last = path.split(".")
        at: Record | None = record
        for step in steps:
            column = SCHEMA[table].get(step)
            if column is None or column.kind is not Kind.REFERENCE:
                return None
            at = self.find(column.refers_to, at[step]) if at else None
            table = column.refers_to
        return (table, last, at) if last in SCHEMA[table] else None

    def user_id(self, user_name: str) -> str:
        found = self._read("SELECT * FROM sys_user WHERE user_name = ?", [user_name])
        return found[0]["sys_id"] if found else ""

    def _asker(self, by: str) -> Asker:
        found = self._read("SELECT * FROM sys_user WHERE user_name = ?", [by])
        user = found[0] if found else {}
        user_id = user.get("sys_id", "")
        return Asker(
            user_id,
            by,
            self._now(),
            self._zone(by),
            user,
            lambda: self._groups(user_id),
            self.local_times,
        )

    def _groups(self, user_id: str) -> list[str]:
        """The active groups that a person is in."""
        members = """SELECT g.sys_id FROM sys_user_group g
            JOIN sys_user_grmember m ON m."group" = g.sys_id
                     WHERE m.user = ? AND g.active = 'true' ORDER BY g.rowid"""
        return [group["sys_id"] for group in self._read(members, [user_id])]

    def _zone(self, user_name: str) -> tzinfo:
        """A person's time zone; the system's own is UTC."""
        found = self._read("SELECT time_zone FROM sys_user WHERE user_name = ?", [user_name])
        if not found or not found[0]["time_zone"]:
            return UTC
        try:
            return ZoneInfo(found[0]["time_zone"])
        except (ZoneInfoNotFoundError, ValueError):
            return UTC

    def _labels(self, table: str, column: str) -> dict[str, str]:
        rows = self._read(
            "SELECT * FROM sys_choice WHERE name = ? AND element = ?", [table, column]
        )
        return {row["value"]: row["label"] for row in rows}

    def _read(self, sql: str, values: list[Value]) -> list[Record]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, values)]

    def _put(self, table: str, record: Record) -> None:
        self._db.execute(*_inserted(table, record))

    def _change(self, table: str, record: Record) -> None:
        changes = ", ".join(f"{quoted(column)} = :{column}" for column in record)
        self._db.execute(f"UPDATE {table} SET {changes} WHERE sys_id = :sys_id", record)  # noqa: S608  # as above

    def _remove(self, table: str, record: Record) -> None:
        self._db.execute(f"DELETE FROM {table} WHERE sys_id = ?", [record["sys_id"]])  # noqa: S608  # as above
        if table == "sys_attachment":
            self._db.execute("DELETE FROM attached WHERE sys_id = ?", [record["sys_id"]])
        self._before[table, record["sys_id"]] = record

    def _taken(self, table: str, sent: Mapping[str, object], *, by: str, shown: bool) -> Record:
        """What the platform takes of what was *sent*: known, writable columns, each value as its
        column keeps it."""
        return {
            name: self._kept(table, name, column, _plain(sent[name]), by=by, shown=shown)
            for name, column in SCHEMA[table].items()
            if name in sent
            and name not in _READ_ONLY[table]
            and (by == ADMIN or (table, name) not in self.protected)
        }

    def _kept(
        self, table: str, name: str, column: Column, value: str, *, by: str, shown: bool
    ) -> str:
        match column.kind:
            case Kind.JOURNAL:
                return value
            case Kind.BOOLEAN:
                return "true" if value.lower() in {"true", "1"} else "false"
            case Kind.DATETIME:
                # The ISO form with a T is stored with a space; what is no time is stored empty.
                found = _DATE.match(value)
                time = " ".join(found.groups()) if found else ""
                return _moved(time, self._zone(by), UTC) if shown else time
            case Kind.REFERENCE:
                return self._referred(column.refers_to, value, shown=shown)
            case _ if column.internal_type == "password":
                return hashlib.sha256(value.encode()).hexdigest() if value else ""
            case _:
                labels = self._labels(table, name) if shown else {}
                value = next((choice for choice, label in labels.items() if label == value), value)
                return value[: column.length]

    def _referred(self, table: str, value: str, *, shown: bool) -> str:
        """The sys_id to keep. An id is believed; a name counts only where names were announced;
        else it is empty."""
        if _SYS_ID.fullmatch(value) or not value:
            return value
        by_name = f"SELECT * FROM {table} WHERE {quoted(shown_as(table))} = ? COLLATE NOCASE"  # noqa: S608  # as above
        found = self._read(by_name, [value]) if shown else []
        return found[0]["sys_id"] if found else ""

    def _open_task(self, table: str, after: Record, *, by: str, at: str) -> None:
        if not after["number"]:
            after["number"] = f"{NUMBERED[table]}{self._numbers[table]:07}"
            self._numbers[table] += 1
        after["opened_at"] = after["opened_at"] or at
        after["opened_by"] = after["opened_by"] or self.user_id(by)
        after |= {
            "active": "true",
            "sys_class_name": table,
            "task_effective_number": after["number"],
        }
        if "requested_by" in after:
            after["requested_by"] = after["requested_by"] or self.user_id(by)

    def _apply_rules(
        self, table: str, before: Record | None, after: Record, taken: Record, *, by: str, at: str
    ) -> None:
        """The platform's own rules, then the instance's: those change *after* or raise Refused,
        these only refuse."""
        moved = before is not None and after.get("assignment_group") != before.get(
            "assignment_group"
        )
        if moved and "assigned_to" not in taken:
            after["assigned_to"] = ""
        match table:
            case "incident":
                incident_rules(before, after, sent=taken.keys(), by=self.user_id(by), at=at)
            case "problem":
                problem_rules(before, after, sent=taken.keys(), by=self.user_id(by), at=at)
            case "problem_task":
                problem_task_rules(before, after, by=self.user_id(by), at=at)
            case "change_request":
                if before is None:
                    self._fill_from_template(after)
                change.change_rules(
                    before, after, models=self.change_models, by=self.user_id(by), at=at
                )
            case "change_task":
                change.task_rules(before, after, by=self.user_id(by), at=at)
            case "sys_user" if {"first_name", "last_name"} & taken.keys():
                after["name"] = " ".join(filter(None, (after["first_name"], after["last_name"])))
        self._run_scripts(table, before, after, by=by)

    def _fill_from_template(self, after: Record) -> None:
        """A standard change begins as its template says."""
        template = self.find("std_change_producer_version", after["std_change_producer_version"])
        if template is not None:
            for column in ("short_description", "description"):
                after[column] = after[column] or template[column]

    def _run_scripts(self, table: str, before: Record | None, after: Record, *, by: str) -> None:
        """The business rules that somebody inserted: of what they could do, a condition and an
        abort are done here."""
        action = "action_insert" if before is None else "action_update"
        rules = self._read(
            f"""SELECT * FROM sys_script WHERE collection = ? AND "when" = 'before'
                AND active = 'true'
                AND abort_action = 'true' AND {action} = 'true'
                ORDER BY CAST("order" AS INTEGER), rowid""",  # noqa: S608  # a column of SCHEMA
            [table],
        )
        for rule in rules:
            if self.meets(rule["filter_condition"], table, after, before, by=by):
                raise aborted(table, rule["name"], rule["sys_id"])

    def _write_journal(
        self, table: str, sys_id: str, texts: Mapping[str, str], *, by: str, at: str
    ) -> tuple[Record, ...]:
        entries = []
        for element, value in texts.items():
            entry = dict.fromkeys(SCHEMA["sys_journal_field"], "")
            entry |= {
                "sys_id": uuid.uuid4().hex,
                "sys_created_on": at,
                "sys_created_by": by,
                "sys_mod_count": "0",
            }
            entry |= {"name": table, "element_id": sys_id, "element": element, "value": value}
            self._put("sys_journal_field", entry)
            entries.append(entry)
        return tuple(entries)

    def _stamp(self) -> str:
        return query.stamp(self._now())


def _check_table(table: str) -> None:
    """Raise Refused where *table* is only read here: a task is written as what it is."""
    if table == "task":
        raise Refused(
            403, "Operation Failed", "The sandbox writes a task by its own table, such as incident"
        )


def _moved(time: str, zone: tzinfo, into: tzinfo) -> str:
    """A *time* of one zone as another one's clocks have it."""
    if zone is into or not time:
        return time
    there = datetime.strptime(time, "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone).astimezone(into)
    return there.strftime("%Y-%m-%d %H:%M:%S")


def _plain(value: object) -> str:
    """A JSON value as the platform's text."""
    match value:
        case None:
            return ""
        case str():
            return value.encode(errors="replace").decode()  # half a surrogate pair is no text
        case dict() if "value" in value:  # a reference sent back as it was read
            return _plain(value["value"])
        case _:
            return json.dumps(value, ensure_ascii=False)


def _emptied_journal(table: str, after: Record) -> Record:
    """Take the journal texts out of *after*: they are written elsewhere and read back empty."""
    texts = {
        name: after[name]
        for name, column in SCHEMA[table].items()
        if column.kind is Kind.JOURNAL and after[name]
    }
    after |= dict.fromkeys(texts, "")
    return texts
