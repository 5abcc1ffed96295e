"""The records of one small ServiceNow instance, and what the platform does when somebody writes them.

No HTTP here: servicenow.py asks, this answers with records or raises Refused. A record is a dict of strings, as the
Table API has it. The sources of the rules are sections 1.3, 3, 4.1 and 10 of the facts gathered about ServiceNow.
"""

import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeAlias

Record: TypeAlias = dict[str, str]


class Kind(StrEnum):
    """How a column takes and compares its values."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    REFERENCE = "reference"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: longer texts than *length* are cut without a word; a reference *refers_to* a table."""

    kind: Kind = Kind.STRING
    length: int = 40
    refers_to: str = ""


class Refused(Exception):  # noqa: N818  # what ServiceNow did, not our error
    """ServiceNow says no: an HTTP status and the two texts of its error envelope."""

    def __init__(self, status: int, message: str, detail: str | None = None) -> None:
        super().__init__(status, message, detail)
        self.status = status
        self.message = message
        self.detail = detail


def _text(length: int) -> Column:
    return Column(length=length)


def _to(table: str) -> Column:
    return Column(Kind.REFERENCE, 32, table)


_INTEGER, _BOOLEAN, _DATETIME, _JOURNAL = (Column(k) for k in (Kind.INTEGER, Kind.BOOLEAN, Kind.DATETIME, Kind.JOURNAL))

_SYSTEM: Final = {
    "sys_id": _text(32),
    "sys_created_on": _DATETIME,
    "sys_created_by": _text(40),
    "sys_updated_on": _DATETIME,
    "sys_updated_by": _text(40),
    "sys_mod_count": _INTEGER,
}
_TASK: Final = _SYSTEM | {
    "number": _text(40),
    "short_description": _text(160),
    "description": _text(4000),
    "state": _INTEGER,
    "active": _BOOLEAN,
    "impact": _INTEGER,
    "urgency": _INTEGER,
    "priority": _INTEGER,
    "assignment_group": _to("sys_user_group"),
    "assigned_to": _to("sys_user"),
    "cmdb_ci": _to("cmdb_ci"),
    "contact_type": _text(40),
    "watch_list": _text(4000),
    "due_date": _DATETIME,
    "opened_at": _DATETIME,
    "opened_by": _to("sys_user"),
    "closed_at": _DATETIME,
    "closed_by": _to("sys_user"),
    "close_notes": _text(4000),
    "correlation_id": _text(100),
    "correlation_display": _text(100),
    "comments": _JOURNAL,
    "work_notes": _JOURNAL,
    "sys_class_name": _text(80),
}
SCHEMA: Final[Mapping[str, Mapping[str, Column]]] = {
    "incident": _TASK
    | {
        "incident_state": _INTEGER,
        "caller_id": _to("sys_user"),
        "category": _text(40),
        "subcategory": _text(40),
        "severity": _INTEGER,
        "business_service": _to("cmdb_ci"),
        "hold_reason": _INTEGER,
        "close_code": _text(40),
        "resolved_at": _DATETIME,
        "resolved_by": _to("sys_user"),
        "reopen_count": _INTEGER,
        "reopened_by": _to("sys_user"),
        "reopened_time": _DATETIME,
        "parent_incident": _to("incident"),
        "problem_id": _to("problem"),
    },
    "problem": _TASK,
    "sys_user": _SYSTEM
    | {
        "user_name": _text(40),
        "name": _text(151),
        "email": _text(100),
        "active": _BOOLEAN,
        "web_service_access_only": _BOOLEAN,
    },
    "sys_user_group": _SYSTEM
    | {"name": _text(80), "description": _text(1000), "email": _text(100), "active": _BOOLEAN}
    | {"manager": _to("sys_user")},
    "cmdb_ci": _SYSTEM | {"name": _text(255), "sys_class_name": _text(80), "operational_status": _INTEGER},
    "sys_choice": _SYSTEM
    | {"name": _text(80), "element": _text(80), "value": _text(60), "label": _text(60)}
    | {"sequence": _INTEGER, "language": _text(5), "inactive": _BOOLEAN},
    "sys_journal_field": _SYSTEM
    | {"name": _text(80), "element_id": _text(32), "element": _text(80), "value": _text(4000)},
}
# The column that stands for a record where a reference is shown or given by name.
_SHOWN_AS: Final = {"incident": "number", "problem": "number", "sys_choice": "label", "sys_journal_field": "value"}
_NUMBERED: Final = {"incident": "INC", "problem": "PRB"}
# Where a fresh developer instance begins.
_FIRST_NUMBER: Final = 10001

# What a caller may send and the platform sets itself.
_READ_ONLY: Final = frozenset({*_SYSTEM, "priority", "sys_class_name"})

_CHOICES: Final = {
    "state": {"1": "New", "2": "In Progress", "3": "On Hold", "6": "Resolved", "7": "Closed", "8": "Canceled"},
    "impact": {"1": "1 - High", "2": "2 - Medium", "3": "3 - Low"},
    "urgency": {"1": "1 - High", "2": "2 - Medium", "3": "3 - Low"},
    "priority": {"1": "1 - Critical", "2": "2 - High", "3": "3 - Moderate", "4": "4 - Low", "5": "5 - Planning"},
    "hold_reason": {"1": "Awaiting Caller", "3": "Awaiting Problem", "4": "Awaiting Vendor", "5": "Awaiting Change"},
    "category": {
        "inquiry": "Inquiry / Help",
        "software": "Software",
        "hardware": "Hardware",
        "network": "Network",
        "database": "Database",
    },
    "close_code": {
        code: code
        for code in (
            "Duplicate",
            "Known error",
            "No resolution provided",
            "Resolved by caller",
            "Resolved by change",
            "Resolved by problem",
            "Resolved by request",
            "Solution provided",
            "User error",
            "Workaround provided",
        )
    },
}

ADMIN: Final = "admin"
# The id that the administrator has in every fresh instance.
_ADMIN_ID: Final = "6816f79cc0a8016401c5a33be04be441"
_SEED_NAMESPACE: Final = uuid.UUID("9d2f8b1e-6f0c-4c3b-9a53-2f5d1c7e4b10")

_SYS_ID = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", re.ASCII)


class Tables:
    """The instance's tables, in a database of their own; every method is one transaction.

    *user* is the integration user, who is seeded beside the administrator. *now* gives UNIX seconds.
    With *honours_sys_id* off, an insert gets an id of the instance's own choosing, as under an ACL on ``sys_id``.
    """

    def __init__(self, *, user: str, now: Callable[[], float], honours_sys_id: bool = True) -> None:
        self.honours_sys_id = honours_sys_id
        self._now = now
        self._lock = threading.RLock()
        self._numbers = dict.fromkeys(_NUMBERED, _FIRST_NUMBER)
        # What each record was before its last write; None: it was not there.
        self._before: dict[tuple[str, str], Record | None] = {}
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        for table, columns in SCHEMA.items():
            others = ", ".join(f"{column} TEXT NOT NULL" for column in columns if column != "sys_id")
            self._db.execute(f"CREATE TABLE {table} (sys_id TEXT COLLATE NOCASE PRIMARY KEY, {others})")
        self._seed(user)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def find(self, table: str, sys_id: str) -> Record | None:
        found = self._read(f"SELECT * FROM {table} WHERE sys_id = ?", [sys_id])  # noqa: S608  # a name from SCHEMA
        return found[0] if found else None

    def select(self, table: str, query: str = "", *, limit: int = -1, offset: int = 0) -> list[Record]:
        """The records that an encoded *query* describes; a *limit* below 0 is none."""
        where, order, values = _sql(query, SCHEMA[table])
        return self._read(
            f"SELECT * FROM {table} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608  # names from SCHEMA
            [*values, limit, offset],
        )

    def count(self, table: str, query: str = "") -> int:
        where, _, values = _sql(query, SCHEMA[table])
        with self._lock:
            counted = self._db.execute(f"SELECT count(*) FROM {table} WHERE {where}", values)  # noqa: S608  # as above
            return int(counted.fetchone()[0])

    def insert(self, table: str, sent: Mapping[str, object], *, by: str, shown: bool = False) -> Record:
        """Make a record of what was *sent*; unknown columns are ignored. *shown*: the values are display values.

        Raises Refused; also for a ``sys_id`` that is taken, which is the primary key's verdict.
        """
        with self._lock, self._db:
            taken = self._taken(table, sent, shown=shown)
            at = self._stamp()
            after = dict.fromkeys(SCHEMA[table], "") | taken
            asked = str(sent.get("sys_id") or "")
            honoured = self.honours_sys_id and _SYS_ID.fullmatch(asked)
            after |= {"sys_id": asked if honoured else uuid.uuid4().hex, "sys_mod_count": "0"}
            after |= {"sys_created_on": at, "sys_created_by": by, "sys_updated_on": at, "sys_updated_by": by}
            if table in _NUMBERED:
                self._open_task(table, after, by=by, at=at)
            if table == "incident":
                _incident_rules(None, after, sent=taken.keys(), by=self._user_id(by), at=at)
            journal = _emptied_journal(table, after)
            try:
                self._put(table, after)
            except sqlite3.IntegrityError as taken_already:
                shown_as = after[_SHOWN_AS.get(table, "name")]
                detail = f"Error during insert of {table} ({shown_as})"
                raise Refused(403, "Operation Failed", detail) from taken_already
            self._write_journal(table, after["sys_id"], journal, by=by, at=at)
            self._before[table, after["sys_id"]] = None
        return after

    def update(self, table: str, sys_id: str, sent: Mapping[str, object], *, by: str, shown: bool = False) -> Record:
        """Merge what was *sent* into a record. One that changes nothing leaves ``sys_mod_count`` alone.

        Raises Refused: 404 where there is no such record, 403 where a rule of the platform forbids it.
        """
        with self._lock, self._db:
            before = self.find(table, sys_id)
            if before is None:
                raise missing()
            taken = self._taken(table, sent, shown=shown)
            at = self._stamp()
            after = before | taken
            if table == "incident":
                _incident_rules(before, after, sent=taken.keys(), by=self._user_id(by), at=at)
            journal = _emptied_journal(table, after)
            if after == before and not journal:
                return after
            after |= {"sys_updated_on": at, "sys_updated_by": by, "sys_mod_count": str(int(after["sys_mod_count"]) + 1)}
            self._change(table, after)
            self._write_journal(table, after["sys_id"], journal, by=by, at=at)
            self._before[table, after["sys_id"]] = before
        return after

    def delete(self, table: str, sys_id: str) -> None:
        """Remove a record. Raises Refused (404) where there is none."""
        with self._lock, self._db:
            before = self.find(table, sys_id)
            if before is None:
                raise missing()
            self._db.execute(f"DELETE FROM {table} WHERE sys_id = ?", [sys_id])  # noqa: S608  # as above
            self._before[table, before["sys_id"]] = before

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Within, this thread's reads answer from before each record's last write; it must not write."""
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

    def shown(self, table: str, column: str, value: str) -> str:
        """The display value of *value* in *column*: a name for a reference, a label for a choice."""
        about = SCHEMA[table][column]
        if about.kind is Kind.REFERENCE:
            record = self.find(about.refers_to, value) if value else None
            return record[_SHOWN_AS.get(about.refers_to, "name")] if record else ""
        return self._labels(table, column).get(value, value)

    def _labels(self, table: str, column: str) -> dict[str, str]:
        rows = self._read("SELECT * FROM sys_choice WHERE name = ? AND element = ?", [table, column])
        return {row["value"]: row["label"] for row in rows}

    def _read(self, sql: str, values: list[str | int]) -> list[Record]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, values)]

    def _put(self, table: str, record: Record) -> None:
        names, marks = ", ".join(record), ", ".join(f":{column}" for column in record)
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", record)  # noqa: S608  # as above

    def _change(self, table: str, record: Record) -> None:
        changes = ", ".join(f"{column} = :{column}" for column in record)
        self._db.execute(f"UPDATE {table} SET {changes} WHERE sys_id = :sys_id", record)  # noqa: S608  # as above

    def _taken(self, table: str, sent: Mapping[str, object], *, shown: bool) -> Record:
        """What the platform takes of what was *sent*: known, writable columns, each value as its column keeps it."""
        return {
            name: self._kept(table, name, column, _plain(sent[name]), shown=shown)
            for name, column in SCHEMA[table].items()
            if name in sent and (name not in _READ_ONLY or (table not in _NUMBERED and name not in _SYSTEM))
        }

    def _kept(self, table: str, name: str, column: Column, value: str, *, shown: bool) -> str:
        match column.kind:
            case Kind.JOURNAL:
                return value
            case Kind.BOOLEAN:
                return "true" if value.lower() in {"true", "1"} else "false"
            case Kind.DATETIME:
                # The ISO form with a T is stored with a space; what is no time is stored empty.
                found = _DATE.match(value)
                return " ".join(found.groups()) if found else ""
            case Kind.REFERENCE:
                return self._referred(column.refers_to, value, shown=shown)
            case _:
                labels = self._labels(table, name) if shown else {}
                value = next((choice for choice, label in labels.items() if label == value), value)
                return value[: column.length]

    def _referred(self, table: str, value: str, *, shown: bool) -> str:
        """The sys_id to keep. An id is believed; a name counts only where names were announced; else it is empty."""
        if _SYS_ID.fullmatch(value) or not value:
            return value
        by_name = f"SELECT * FROM {table} WHERE {_SHOWN_AS.get(table, 'name')} = ? COLLATE NOCASE"  # noqa: S608  # as above
        found = self._read(by_name, [value]) if shown else []
        return found[0]["sys_id"] if found else ""

    def _open_task(self, table: str, after: Record, *, by: str, at: str) -> None:
        if not after["number"]:
            after["number"] = f"{_NUMBERED[table]}{self._numbers[table]:07}"
            self._numbers[table] += 1
        given = {column: value for column, value in after.items() if value}
        defaults = {"opened_at": at, "opened_by": self._user_id(by), "active": "true", "state": "1"}
        after |= defaults | {"impact": "3", "urgency": "3", "priority": "5"} | given | {"sys_class_name": table}

    def _write_journal(self, table: str, sys_id: str, journal: Mapping[str, str], *, by: str, at: str) -> None:
        for element, value in journal.items():
            entry = dict.fromkeys(SCHEMA["sys_journal_field"], "")
            entry |= {"sys_id": uuid.uuid4().hex, "sys_created_on": at, "sys_created_by": by, "sys_mod_count": "0"}
            entry |= {"name": table, "element_id": sys_id, "element": element, "value": value}
            self._put("sys_journal_field", entry)

    def _user_id(self, user_name: str) -> str:
        found = self._read("SELECT * FROM sys_user WHERE user_name = ?", [user_name])
        return found[0]["sys_id"] if found else ""

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d %H:%M:%S")

    def _seed(self, user: str) -> None:
        def plant(table: str, **fields: str) -> None:
            sys_id = uuid.uuid5(_SEED_NAMESPACE, f"{table} {sorted(fields.items())}").hex
            blank = dict.fromkeys(SCHEMA[table], "") | {"sys_created_on": at, "sys_created_by": ADMIN}
            updated = {"sys_updated_on": at, "sys_updated_by": ADMIN, "sys_mod_count": "0"}
            self._put(table, blank | updated | {"sys_id": sys_id} | fields)

        with self._lock, self._db:
            at = self._stamp()
            plant(
                "sys_user",
                sys_id=_ADMIN_ID,
                user_name=ADMIN,
                name="System Administrator",
                email="admin@example.com",
                active="true",
            )
            if user != ADMIN:
                plant("sys_user", user_name=user, name=user, active="true", web_service_access_only="true")
            for user_name, name in (("abel.tuter", "Abel Tuter"), ("beth.anglin", "Beth Anglin")):
                plant("sys_user", user_name=user_name, name=name, email=f"{user_name}@example.com", active="true")
            for group in ("Network", "Hardware", "Database"):
                plant("sys_user_group", name=group, active="true")
            for name, kind in (
                ("core-switch-1", "cmdb_ci_ip_switch"),
                ("web-01", "cmdb_ci_server"),
                ("shop", "cmdb_ci_appl"),
            ):
                plant("cmdb_ci", name=name, sys_class_name=kind, operational_status="1")
            for element, labels in (*_CHOICES.items(), ("incident_state", _CHOICES["state"])):
                for sequence, (value, label) in enumerate(labels.items()):
                    plant(
                        "sys_choice",
                        name="incident",
                        element=element,
                        value=value,
                        label=label,
                        sequence=str(sequence),
                        language="en",
                        inactive="false",
                    )


def missing() -> Refused:
    return Refused(404, "No Record found", "Record doesn't exist or ACL restricts the record retrieval")


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
    texts = {name: after[name] for name, column in SCHEMA[table].items() if column.kind is Kind.JOURNAL and after[name]}
    after |= dict.fromkeys(texts, "")
    return texts


# --- what the platform does to an incident -------------------------------------------------------------------------

NEW, IN_PROGRESS, ON_HOLD, RESOLVED, CLOSED, CANCELED = "1", "2", "3", "6", "7", "8"
_OPEN: Final = frozenset({NEW, IN_PROGRESS, ON_HOLD})
_AWAITING_CALLER: Final = "1"
# dl_u_priority as it is shipped: impact and urgency add up.
_PRIORITY: Final = {
    (impact, urgency): str(impact_and_urgency - 1)
    for impact, urgency, impact_and_urgency in ((str(i), str(u), i + u) for i in (1, 2, 3) for u in (1, 2, 3))
}


def _incident_rules(before: Record | None, after: Record, *, sent: Collection[str], by: str, at: str) -> None:
    """Do to *after* what the platform's own rules do before an incident is stored, or raise Refused."""
    was = before["state"] if before else ""
    if "state" not in sent and after["incident_state"] and after["incident_state"] != was:
        after["state"] = after["incident_state"]
    state = after["incident_state"] = after["state"]
    if was in {CLOSED, CANCELED} and state != was:
        raise _aborted("incident", "Closed incident is final", after["sys_id"])
    _mandatory(before, after, sent=sent)

    after["priority"] = _PRIORITY.get((after["impact"], after["urgency"]), after["priority"])
    after["active"] = "false" if state in {CLOSED, CANCELED} else "true"
    after["reopen_count"] = after["reopen_count"] or "0"
    if before and after["assignment_group"] != before["assignment_group"] and "assigned_to" not in sent:
        after["assigned_to"] = ""
    if state == was:
        return
    if state == RESOLVED:
        after |= {"resolved_at": at, "resolved_by": by}
    if state == CLOSED:
        after |= {"closed_at": at, "closed_by": by}
    if was == RESOLVED and state in _OPEN:
        after |= {"reopened_time": at, "reopened_by": by, "reopen_count": str(int(after["reopen_count"]) + 1)}
        after |= {"resolved_at": "", "resolved_by": ""}


def _mandatory(before: Record | None, after: Record, *, sent: Collection[str]) -> None:
    """The data policies: what must be filled in, by the labels that people see."""
    lacking = []
    if after["state"] in {RESOLVED, CLOSED}:
        labels = {"close_code": "Resolution code", "close_notes": "Resolution notes"}
        lacking = [label for column, label in labels.items() if not after[column].strip()]
    if after["state"] == ON_HOLD and (before is None or before["state"] != ON_HOLD):
        if not after["hold_reason"]:
            lacking.append("On hold reason")
        elif after["hold_reason"] == _AWAITING_CALLER and "comments" not in sent:
            lacking.append("Additional comments")
    if lacking:
        words = f"Data Policy Exception: The following fields are mandatory: {', '.join(lacking)}"
        raise Refused(403, "Operation Failed", words)


def _aborted(table: str, rule: str, sys_id: str) -> Refused:
    words = (
        f"Operation against file '{table}' was aborted by Business Rule '{rule}^{sys_id}'. Business Rule Stack:{rule}"
    )
    return Refused(403, "Operation Failed", words)


# --- encoded queries -----------------------------------------------------------------------------------------------

_TERM = re.compile(
    r"([a-z0-9_]+)"
    r"(!=|>=|<=|=|>|<|ISNOTEMPTY|ISEMPTY|STARTSWITH|ENDSWITH|CONTAINS|NOT LIKE|LIKE|NOT IN|IN)"
    r"(.*)",
    re.ASCII | re.DOTALL,
)


def _sql(query: str, columns: Mapping[str, Column]) -> tuple[str, str, list[str | int]]:
    """An encoded query as (where, order, values).

    ``^OR`` binds to the term before it, tighter than ``^``; ``^NQ`` separates whole groups. A term that names an
    unknown column or operator is dropped, as the platform does: a typo returns everything.
    """
    groups: list[str] = []
    orders: list[str] = []
    values: list[str | int] = []
    for group in query.split("^NQ"):
        alternatives: list[list[str]] = []  # joined by AND; each inner list by OR
        for token in group.split("^"):
            if token.startswith("ORDERBY"):
                orders += _order(token.removeprefix("ORDERBY"), columns)
                continue
            joins = token.startswith("OR")
            if not joins or not alternatives:
                alternatives.append([])
            term = _term(token.removeprefix("OR"), columns)
            if term is not None:
                alternatives[-1].append(term[0])
                values += term[1]
        groups.append(" AND ".join(f"({' OR '.join(terms)})" for terms in alternatives if terms) or "1")
    return " OR ".join(f"({group})" for group in groups), ", ".join([*orders, "rowid"]), values


def _order(asked: str, columns: Mapping[str, Column]) -> list[str]:
    descending = asked.startswith("DESC")
    column = asked.removeprefix("DESC")
    if column not in columns:
        return []
    return [f"{_comparable(column, columns[column])}{' DESC' if descending else ''}"]


def _comparable(name: str, column: Column) -> str:
    return f"CAST({name} AS INTEGER)" if column.kind is Kind.INTEGER else name


def _term(token: str, columns: Mapping[str, Column]) -> tuple[str, list[str | int]] | None:
    found = _TERM.fullmatch(token)
    if found is None or found[1] not in columns:
        return None
    name, operator, value = found.groups()
    match operator:
        case "=":
            return f"{name} = ? COLLATE NOCASE", [value]
        case "!=":
            return f"{name} != ? COLLATE NOCASE", [value]
        case "ISEMPTY":
            return f"{name} = ''", []
        case "ISNOTEMPTY":
            return f"{name} != ''", []
        case "STARTSWITH":
            return f"instr(lower({name}), lower(?)) = 1", [value]
        case "ENDSWITH":
            return f"lower(substr({name}, -length(?))) = lower(?)", [value, value]
        case "LIKE" | "CONTAINS":
            return f"instr(lower({name}), lower(?)) > 0", [value]
        case "NOT LIKE":
            return f"instr(lower({name}), lower(?)) = 0", [value]
        case "IN" | "NOT IN":
            chosen = value.split(",")
            return f"{name} COLLATE NOCASE {operator} ({', '.join('?' * len(chosen))})", list(chosen)
        case _:
            column = columns[name]
            number = column.kind is Kind.INTEGER and re.fullmatch(r"-?[0-9]{1,18}", value)
            compared = f"{_comparable(name, column)} {operator} ?"
            return f"({name} != '' AND {compared})", [int(value) if number else value]
