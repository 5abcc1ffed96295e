"""The tables of the small ServiceNow: their columns, and what stands for a record of each."""

from collections.abc import Mapping
from dataclasses import dataclass
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


def missing() -> Refused:
    return Refused(404, "No Record found", "Record doesn't exist or ACL restricts the record retrieval")


def aborted(table: str, rule: str, sys_id: str) -> Refused:
    """What a business rule that aborts looks like from outside: its name, and nothing of what it said."""
    words = (
        f"Operation against file '{table}' was aborted by Business Rule '{rule}^{sys_id}'. Business Rule Stack:{rule}"
    )
    return Refused(403, "Operation Failed", words)


def mandatory(labels: list[str]) -> Refused:
    """What a data policy says: the labels that people see, not the columns."""
    words = f"Data Policy Exception: The following fields are mandatory: {', '.join(labels)}"
    return Refused(403, "Operation Failed", words)


def _text(length: int) -> Column:
    return Column(length=length)


def _to(table: str) -> Column:
    return Column(Kind.REFERENCE, 32, table)


_INTEGER, _BOOLEAN, _DATETIME, _JOURNAL = (Column(k) for k in (Kind.INTEGER, Kind.BOOLEAN, Kind.DATETIME, Kind.JOURNAL))

SYSTEM: Final = {
    "sys_id": _text(32),
    "sys_created_on": _DATETIME,
    "sys_created_by": _text(40),
    "sys_updated_on": _DATETIME,
    "sys_updated_by": _text(40),
    "sys_mod_count": _INTEGER,
}
_TASK: Final = SYSTEM | {
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
_PLANNED: Final = {
    "planned_start_date": _DATETIME,
    "planned_end_date": _DATETIME,
    "on_hold": _BOOLEAN,
    "on_hold_reason": _text(4000),
    "close_code": _text(40),
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
    "problem": _TASK
    | {
        "problem_state": _INTEGER,
        "category": _text(40),
        "subcategory": _text(40),
        "known_error": _BOOLEAN,
        "cause_notes": _text(4000),
        "fix_notes": _text(4000),
        "resolution_code": _text(40),
        "parent": _to("problem"),
    },
    "change_request": _TASK
    | _PLANNED
    | {
        "type": _text(40),
        "chg_model": _text(40),
        "parent": _to("change_request"),
        "std_change_producer_version": _to("std_change_producer_version"),
        "risk": _INTEGER,
        "category": _text(40),
        "requested_by": _to("sys_user"),
        "business_service": _to("cmdb_ci"),
        "approval": _text(40),
        "phase": _text(40),
        "reason": _text(40),
        "start_date": _DATETIME,
        "end_date": _DATETIME,
        "work_start": _DATETIME,
        "work_end": _DATETIME,
        "justification": _text(4000),
        "implementation_plan": _text(4000),
        "risk_impact_analysis": _text(4000),
        "backout_plan": _text(4000),
        "test_plan": _text(4000),
    },
    "change_task": _TASK
    | _PLANNED
    | {"change_request": _to("change_request"), "parent": _to("change_request"), "change_task_type": _text(40)},
    "std_change_producer_version": SYSTEM
    | {"name": _text(255), "version": _INTEGER, "short_description": _text(160), "description": _text(4000)}
    | {"active": _BOOLEAN},
    "sys_user": SYSTEM
    | {
        "user_name": _text(40),
        "name": _text(151),
        "first_name": _text(50),
        "last_name": _text(50),
        "title": _text(60),
        "email": _text(100),
        "phone": _text(40),
        "mobile_phone": _text(40),
        "department": _to("cmn_department"),
        "manager": _to("sys_user"),
        "time_zone": _text(40),
        "active": _BOOLEAN,
        "locked_out": _BOOLEAN,
        "web_service_access_only": _BOOLEAN,
    },
    "sys_user_group": SYSTEM
    | {"name": _text(80), "description": _text(1000), "email": _text(100), "active": _BOOLEAN}
    | {"manager": _to("sys_user")},
    "sys_user_grmember": SYSTEM | {"user": _to("sys_user"), "group": _to("sys_user_group")},
    "sys_user_role": SYSTEM | {"name": _text(100), "description": _text(1000)},
    "sys_user_has_role": SYSTEM
    | {"user": _to("sys_user"), "role": _to("sys_user_role"), "inherited": _BOOLEAN, "state": _text(40)},
    "sys_group_has_role": SYSTEM | {"group": _to("sys_user_group"), "role": _to("sys_user_role")},
    "cmn_department": SYSTEM | {"name": _text(100), "id": _text(40), "dept_head": _to("sys_user")},
    "cmdb_ci": SYSTEM | {"name": _text(255), "sys_class_name": _text(80), "operational_status": _INTEGER},
    "sys_choice": SYSTEM
    | {"name": _text(80), "element": _text(80), "value": _text(60), "label": _text(60)}
    | {"sequence": _INTEGER, "language": _text(5), "inactive": _BOOLEAN},
    "sys_journal_field": SYSTEM
    | {"name": _text(80), "element_id": _text(32), "element": _text(80), "value": _text(4000)},
    "sys_attachment": SYSTEM
    | {
        "file_name": _text(100),
        "content_type": _text(100),
        "size_bytes": _INTEGER,
        "size_compressed": _INTEGER,
        "compressed": _BOOLEAN,
        "state": _text(40),
        "table_name": _text(80),
        "table_sys_id": _text(32),
        "hash": _text(64),
        "average_image_color": _text(40),
        "image_width": _text(40),
        "image_height": _text(40),
        "chunk_size_bytes": _text(40),
    },
    "sys_script": SYSTEM
    | {
        "name": _text(40),
        "collection": _text(80),
        "when": _text(40),
        "order": _INTEGER,
        "active": _BOOLEAN,
        "advanced": _BOOLEAN,
        "action_insert": _BOOLEAN,
        "action_update": _BOOLEAN,
        "action_delete": _BOOLEAN,
        "action_query": _BOOLEAN,
        "filter_condition": _text(4000),
        "condition": _text(254),
        "abort_action": _BOOLEAN,
        "add_message": _BOOLEAN,
        "message": _text(4000),
        "script": _text(8000),
        "description": _text(4000),
    },
    "sys_db_object": SYSTEM | {"name": _text(80), "label": _text(80), "super_class": _to("sys_db_object")},
    "sys_dictionary": SYSTEM
    | {
        "name": _text(80),
        "element": _text(80),
        "column_label": _text(80),
        "internal_type": _text(40),
        "max_length": _INTEGER,
        "reference": _text(80),
        "choice": _INTEGER,
        "default_value": _text(512),
        "mandatory": _BOOLEAN,
        "read_only": _BOOLEAN,
        "active": _BOOLEAN,
    },
    "sys_data_policy2": SYSTEM
    | {"model_table": _text(80), "short_description": _text(100), "conditions": _text(4000)}
    | {"active": _BOOLEAN, "inherit": _BOOLEAN},
    "sys_data_policy_rule": SYSTEM
    | {"sys_data_policy": _to("sys_data_policy2"), "table": _text(80), "field": _text(80)}
    | {"mandatory": _text(40), "disabled": _text(40)},
    "syslog": SYSTEM | {"level": _text(40), "source": _text(80), "message": _text(4000), "sequence": _text(40)},
    "sys_metadata": SYSTEM | {"sys_name": _text(255), "sys_class_name": _text(80), "sys_update_name": _text(250)},
}
# The columns that a table has of the one that it extends.
INHERITED: Final = frozenset(_TASK)
# Where a record's number comes from.
NUMBERED: Final = {"incident": "INC", "problem": "PRB", "change_request": "CHG", "change_task": "CTASK"}
# The column that stands for a record where a reference is shown or given by name; else it is "name".
_SHOWN_AS: Final = {
    **dict.fromkeys(NUMBERED, "number"),
    "sys_choice": "label",
    "sys_journal_field": "value",
    "sys_attachment": "file_name",
    "sys_user_grmember": "sys_id",
    "sys_user_has_role": "sys_id",
    "sys_group_has_role": "sys_id",
    "sys_db_object": "label",
    "sys_dictionary": "column_label",
    "sys_data_policy2": "short_description",
    "sys_data_policy_rule": "sys_id",
    "syslog": "message",
    "sys_metadata": "sys_name",
}
# The tables that extend another one, for INSTANCEOF.
EXTENDS: Final = {**dict.fromkeys(NUMBERED, "task"), "cmdb_ci_ip_switch": "cmdb_ci", "cmdb_ci_server": "cmdb_ci"} | {
    "cmdb_ci_appl": "cmdb_ci"
}


def shown_as(table: str) -> str:
    """The column that a record of *table* is known by."""
    return _SHOWN_AS.get(table, "name")


def quoted(name: str) -> str:
    """A name from SCHEMA as SQL has it: some of ServiceNow's columns are SQL's words (group, order, when)."""
    return f'"{name}"'
