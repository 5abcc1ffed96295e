"""The choices and states that ServiceNow ships and its own look-ups and rules count on: labels by value. Pure.

ServiceNow stores any other value without a word, and shows it as an empty field. Lists that differ between instances
and releases, such as an incident's close_code, are not here.

Sources: c_IncidentManagementStateModel, change-management-api, and the choices of fresh instances.
"""

from collections.abc import Mapping
from typing import Final

from function.templates import meant

_SCALE: Final = {"1": "high", "2": "medium", "3": "low"}
STATES: Final[Mapping[str, Mapping[str, str]]] = {
    "incident": {
        "1": "New",
        "2": "In Progress",
        "3": "On Hold",
        "6": "Resolved",
        "7": "Closed",
        "8": "Canceled",
    },
    "change_request": {
        "-5": "New",
        "-4": "Assess",
        "-3": "Authorize",
        "-2": "Scheduled",
        "-1": "Implement",
        "0": "Review",
        "3": "Closed",
        "4": "Canceled",
    },
}
CHOICES: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "incident": {"impact": _SCALE, "urgency": _SCALE},
    "change_request": {
        "impact": _SCALE,
        "urgency": _SCALE,
        "risk": {"1": "very high", "2": "high", "3": "moderate", "4": "low"},
        "type": dict.fromkeys(("normal", "standard", "emergency"), ""),
        "close_code": dict.fromkeys(("successful", "successful_issues", "unsuccessful"), ""),
    },
}
# Columns that refer to a record of another table, which may be named by what stands in one of its columns: the surest
# comes first.
REFERENCES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "assignment_group": ("sys_user_group", ("name",)),
    **dict.fromkeys(
        ("assigned_to", "caller_id", "opened_by", "requested_by"), ("sys_user", ("user_name", "email", "name"))
    ),
    **dict.fromkeys(("cmdb_ci", "business_service"), ("cmdb_ci", ("name",))),
    "parent_incident": ("incident", ("number",)),
    "problem_id": ("problem", ("number",)),
    "std_change_producer_version": ("std_change_producer_version", ("name",)),
}


def shipped(table: str) -> Mapping[str, Mapping[str, str]]:
    """The choices of *table*'s columns as they are shipped; a rule may declare those of its instance."""
    return CHOICES.get(table, {})


def not_a_choice(choices: Mapping[str, str] | None, said: str) -> str:
    """What is wrong with *said* in a column of these *choices*, without saying it; empty where nothing is.

    Nothing is no wrong choice: the platform has a default.
    """
    if choices is None or not said.strip() or said.strip() in choices:
        return ""
    return f"must be one of {', '.join(f'{value} ({label})' if label else value for value, label in choices.items())}"


def meant_choice(choices: Mapping[str, str], said: str) -> str:
    """The words "; did you mean …?" where *said* is like a choice, or like the label of one."""
    word = said.strip().lower()
    labelled = next((value for value, label in choices.items() if label and label in (word, word[4:])), None)
    return f"; did you mean `{labelled}`?" if labelled else meant(word, choices)
