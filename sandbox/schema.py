"""The tables of the small ServiceNow: their columns, and what stands for a record of each."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from sandbox import columns
from sandbox.columns import BOOLEAN as _BOOLEAN
from sandbox.columns import INTEGER as _INTEGER
from sandbox.columns import SYSTEM, Column, Kind
from sandbox.columns import text as _text
from sandbox.columns import to as _to

__all__ = [
    "EXTENDS",
    "INHERITED",
    "NUMBERED",
    "SCHEMA",
    "SYSTEM",
    "Column",
    "Kind",
    "Record",
    "Refused",
]

Record: TypeAlias = dict[str, str]


class Refused(Exception):  # noqa: N818  # what ServiceNow did, not our error
    """ServiceNow says no: an HTTP status and the two texts of its error envelope."""

    def __init__(self, status: int, message: str, detail: str | None = None) -> None:
        super().__init__(status, message, detail)
        self.status = status
        self.message = message
        self.detail = detail


def missing() -> Refused:
    return Refused(
        404, "No Record found", "Record doesn't exist or ACL restricts the record retrieval"
    )


def aborted(table: str, rule: str, sys_id: str) -> Refused:
    """What a business rule that aborts looks like from outside: its name, and nothing of what it
    said."""
    words = (
        f"Operation against file '{table}' was aborted by Business Rule '{rule}^{sys_id}'. "
        f"Business Rule Stack:{rule}"
    )
    return Refused(403, "Operation Failed", words)


def mandatory(labels: list[str]) -> Refused:
    """What a data policy says: the labels that people see, not the columns."""
    words = f"Data Policy Exception: The following fields are mandatory: {', '.join(labels)}"
    return Refused(403, "Operation Failed", words)


SCHEMA: Final[Mapping[str, Mapping[str, Column]]] = {
    "task": columns.TASK,
    "incident": columns.INCIDENT,
    "problem": columns.PROBLEM,
    "problem_task": columns.PROBLEM_TASK,
    "change_request": columns.CHANGE_REQUEST,
    "change_task": columns.CHANGE_TASK,
    "std_change_producer_version": SYSTEM
    | {
        "name": _text(255),
        "version": _INTEGER,
        "short_description": _text(160),
        "description": _text(4000),
    }
    | {"active": _BOOLEAN},
    "sys_user": columns.USER,
    "sys_user_group": columns.GROUP,
    "sys_user_grmember": SYSTEM | {"user": _to("sys_user"), "group": _to("sys_user_group")},
    "sys_user_role": SYSTEM | {"name": _text(100), "description": _text(1000)},
    "sys_user_has_role": SYSTEM
    | {
        "user": _to("sys_user"),
        "role": _to("sys_user_role"),
        "inherited": _BOOLEAN,
        "state": _text(40),
    },
    "sys_group_has_role": SYSTEM | {"group": _to("sys_user_group"), "role": _to("sys_user_role")},
    "cmn_department": SYSTEM | {"name": _text(100), "id": _text(40), "dept_head": _to("sys_user")},
    "cmdb_ci": columns.CONFIGURATION_ITEM,
    **dict.fromkeys(columns.NAMED, SYSTEM | {"name": _text(255)}),
    "sys_choice": SYSTEM
    | {"name": _text(80), "element": _text(80), "value": _text(60), "label": _text(60)}
    | {"sequence": _INTEGER, "language": columns.text(5, default="en"), "inactive": _BOOLEAN}
    | {"dependent_value": _text(60), "hint": _text(255)},
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
        "when": columns.text(40, default="before"),
        "order": Column(Kind.INTEGER, default="100"),
        "active": Column(Kind.BOOLEAN, default="true"),
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
    "sys_db_object": SYSTEM
    | {"name": _text(80), "label": _text(80), "super_class": _to("sys_db_object")},
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
        "dependent": _text(80),
        "dependent_on_field": _text(80),
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
    "syslog": SYSTEM
    | {"level": _text(40), "source": _text(80), "message": _text(4000), "sequence": _text(40)},
    "sys_metadata": SYSTEM
    | {"sys_name": _text(255), "sys_class_name": _text(80), "sys_update_name": _text(250)},
}
# The columns that a table has of the one that it extends.
INHERITED: Final = frozenset(columns.TASK)
# Where a record's number comes from.
NUMBERED: Final = {
    "incident": "INC",
    "problem": "PRB",
    "problem_task": "PTASK",
    "change_request": "CHG",
    "change_task": "CTASK",
}
# The column that stands for a record where a reference is shown or given by name; else it is
# "name".
_SHOWN_AS: Final = {
    **dict.fromkeys(("task", *NUMBERED), "number"),
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
EXTENDS: Final = {
    **dict.fromkeys(NUMBERED, "task"),
    "cmdb_ci_ip_switch": "cmdb_ci",
    "cmdb_ci_server": "cmdb_ci",
} | {"cmdb_ci_appl": "cmdb_ci"}


def shown_as(table: str) -> str:
    """The column that a record of *table* is known by."""
    return _SHOWN_AS.get(table, "name")


def quoted(name: str) -> str:
    """A name from SCHEMA as SQL has it: some of ServiceNow's columns are SQL's words (group, order,
    when)."""
    return f'"{name}"'


def defaults(table: str) -> Record:
    """What a fresh record of *table* holds before anybody has said anything."""
    return {name: column.default for name, column in SCHEMA[table].items()}
