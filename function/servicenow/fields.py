"""What an incident and a change request hold: their columns, their choices, and how a value is
spelled. Pure.

Sources: the dictionaries of the task, incident and change_request tables, the state models
(c_IncidentManagementStateModel, change-management-api) and the choices that ship with an instance.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias, TypeVar

from function.core.lifecycle import CHOICES, STATE_LABELS
from function.core.values import instant, text, truncate_field
from function.servicenow.errors import InvalidArgument
from function.servicenow.references import REFERENCES, Referred
from function.servicenow.responses import Record, equals

Value: TypeAlias = str | bool | int | float | Decimal | datetime | None
Values: TypeAlias = Value | Sequence[Value]
ValueT = TypeVar("ValueT", bound=Values)


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_TASK: Final = _names(
    """
    active activity_due additional_assignee_list approval approval_history approval_set assigned_to
    assignment_group
    business_duration business_service calendar_duration close_notes closed_at closed_by cmdb_ci
    comments
    comments_and_work_notes company contact_type contract correlation_display correlation_id
    delivery_plan
    delivery_task description due_date escalation expected_start follow_up group_list impact
    knowledge location
    made_sla number opened_at opened_by order parent priority reassignment_count rejection_goto
    route_reason
    service_offering short_description skills sla_due state sys_class_name sys_created_by
    sys_created_on sys_domain
    sys_domain_path sys_id sys_mod_count sys_tags sys_updated_by sys_updated_on
    task_effective_number time_worked
    universal_request upon_approval upon_reject urgency user_input variables watch_list wf_activity
    work_end
    work_notes work_notes_list work_start
    """
)
_INCIDENT: Final = _names(
    """
    business_impact business_stc calendar_stc caller_id category caused_by child_incidents
    close_code hold_reason
    incident_state notify origin_id origin_table parent_incident problem_id reopen_count reopened_by
    reopened_time
    resolved_at resolved_by rfc severity subcategory
    """
)
_CHANGE: Final = _names(
    """
    backout_plan cab_date cab_date_time cab_delegate cab_recommendation cab_required category
    change_plan chg_model
    close_code conflict_last_run conflict_status end_date implementation_plan justification on_hold
    on_hold_reason
    on_hold_task outside_maintenance_schedule phase phase_state production_system reason
    requested_by
    requested_by_date review_comments review_date review_status risk risk_impact_analysis risk_value
    scope
    start_date std_change_producer_version test_plan type unauthorized
    """
)
# What the platform sets itself, and silently keeps as it is.
_READ_ONLY: Final = frozenset(name for name in _TASK if name.startswith("sys_")) | {
    "task_effective_number"
}


def _of(table: str, *columns: str) -> dict[str, Mapping[str, str]]:
    return {column: CHOICES[table][column] for column in columns}


@dataclass(frozen=True, slots=True)
class TicketTable:
    """A table of tickets: what one is *called*, the table's columns and its *choices*, by value.

    *computed*: columns that follow from others. *returned* is what a call returns unless it says
    which fields it wants.
    """

    name: str
    called: str
    columns: frozenset[str]
    choices: Mapping[str, Mapping[str, str]]
    returned: tuple[str, ...]
    computed: Mapping[str, str] = field(default_factory=dict)


NEW, IN_PROGRESS, ON_HOLD, RESOLVED, CLOSED, CANCELED = "1", "2", "3", "6", "7", "8"
AWAITING_CALLER: Final = "1"

_TOLD: Final = (
    *(
        "sys_id",
        "number",
        "short_description",
        "state",
        "priority",
        "impact",
        "urgency",
        "category",
    ),
    *("assignment_group", "assigned_to", "cmdb_ci", "business_service", "active", "correlation_id"),
    *(
        "opened_at",
        "sys_created_on",
        "sys_updated_on",
        "sys_mod_count",
        "close_code",
        "close_notes",
    ),
)
_PRIORITIES: Final = {"1": "critical", "2": "high", "3": "moderate", "4": "low", "5": "planning"}
INCIDENT: Final = TicketTable(
    name="incident",
    called="an incident",
    columns=_TASK | _INCIDENT,
    choices={
        "state": STATE_LABELS["incident"],
        "incident_state": STATE_LABELS["incident"],
        "hold_reason": {
            "1": "awaiting caller",
            "3": "awaiting problem",
            "4": "awaiting vendor",
            "5": "awaiting change",
        },
        **_of("incident", "impact", "urgency"),
        "severity": CHOICES["incident"]["impact"],
        "priority": _PRIORITIES,
    },
    returned=(*_TOLD, "subcategory", "caller_id", "hold_reason", "resolved_at", "closed_at"),
    computed={"priority": "follows from impact and urgency", "incident_state": "follows state"},
)
CHANGE: Final = TicketTable(
    name="change_request",
    called="a change request",
    columns=_TASK | _CHANGE,
    choices={
        "state": STATE_LABELS["change_request"],
        **_of("change_request", "type", "risk", "impact", "urgency"),
        "priority": {"1": "critical", "2": "high", "3": "moderate", "4": "low"},
    },
    returned=(
        *_TOLD,
        "type",
        "risk",
        "requested_by",
        "start_date",
        "end_date",
        "std_change_producer_version",
    ),
)
# Where notes are written, and what the numbers of its records begin with on a fresh instance.
PREFIXES: Final = {
    "INC": "incident",
    "CHG": "change_request",
    "PRB": "problem",
    "CTASK": "change_task",
    "PTASK": "problem_task",
    "REQ": "sc_request",
    "RITM": "sc_req_item",
    "SCTASK": "sc_task",
    "TASK": "sc_task",
}
NOTED: Final = frozenset({*PREFIXES.values(), "task"})
_NUMBER = re.compile(r"([A-Za-z]+)[0-9]+", re.ASCII)


def table_of(number: str) -> str:
    """The table whose records have numbers like *number*; "" where that is not known."""
    found = _NUMBER.fullmatch(number.strip())
    return PREFIXES.get(found[1].upper(), "") if found else ""


_USER: Final = REFERENCES["assigned_to"]
_CHANGE_NUMBER: Final = Referred("change_request", ("number",))
# The columns of the tables above that refer to one record, by name.
NAMED: Final[Mapping[str, Referred]] = REFERENCES | {
    **dict.fromkeys(("closed_by", "resolved_by", "reopened_by", "cab_delegate"), _USER),
    **dict.fromkeys(("caused_by", "rfc"), _CHANGE_NUMBER),
    "company": Referred("core_company", ("name",)),
    "location": Referred("cmn_location", ("name",)),
    "contract": Referred("ast_contract", ("number",)),
    "service_offering": Referred("service_offering", ("name",)),
    "parent": Referred("task", ("number",)),
    "chg_model": Referred("chg_model", ("name",)),
    # Lists: each of their elements.
    **dict.fromkeys(("watch_list", "work_notes_list", "additional_assignee_list"), _USER),
    "group_list": REFERENCES["assignment_group"],
    "skills": Referred("cmn_skill", ("name",)),
    "on_hold_task": Referred("change_task", ("number",)),
}
LISTS: Final = frozenset(
    {
        "watch_list",
        "work_notes_list",
        "additional_assignee_list",
        "group_list",
        "skills",
        "on_hold_task",
    }
)
# A mail goes to an address that is nobody's, too.
MAILED: Final = frozenset({"watch_list", "work_notes_list"})
# Those whose records nobody knows by name.
UNNAMED: Final = frozenset(
    {
        "delivery_plan",
        "delivery_task",
        "origin_id",
        "rejection_goto",
        "universal_request",
        "wf_activity",
    }
)

JOURNALS: Final = frozenset({"comments", "work_notes"})
_DATES: Final = _names(
    """
    activity_due due_date expected_start follow_up sla_due work_end work_start opened_at closed_at
    resolved_at
    reopened_time sys_created_on sys_updated_on cab_date_time end_date start_date
    """
)
# An identity: cut to fit, it would be another one.
CORRELATION_CHARACTERS_MAX: Final = 100

_CUSTOM = re.compile(r"[ux]_[a-z0-9_]{1,78}", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}", re.ASCII)


def is_custom(name: str) -> bool:
    """Whether *name* is spelled like a column that a customer or an application added."""
    return bool(_CUSTOM.fullmatch(name))


def check_names(table: TicketTable, names: Iterable[str]) -> None:
    """Raise InvalidArgument unless all *names* are columns of *table*: ServiceNow ignores those
    that are not."""
    for name in names:
        if name in table.columns or is_custom(name):
            continue
        shown = name if _NAME.fullmatch(name) else "that"
        near = difflib.get_close_matches(name, table.columns, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise InvalidArgument(
            f"{shown} is not a field of {table.called} (fields of your own begin "
            f"with u_ or x_){meant}"
        )


def written(
    table: TicketTable, values: Mapping[str, Value], *, may_empty: bool = False
) -> dict[str, str]:
    """*values* as they are sent: None is left out, and so is "" unless it *may_empty* the field.

    Raises InvalidArgument for a field that is none or that cannot be written, and for an unknown
    choice.
    """
    check_names(table, values)
    sent = {
        name: spelled(table, name, value) for name, value in values.items() if value is not None
    }
    sent = {name: given for name, given in sent.items() if given or may_empty}
    for name, given in sent.items():
        if name in _READ_ONLY:
            raise InvalidArgument(f"{name} is set by ServiceNow itself")
        if name in table.computed:
            raise InvalidArgument(
                f"{name} of {table.called} {table.computed[name]}: it cannot be written"
            )
        if name in JOURNALS and not _may_speak(table, name, sent):
            raise InvalidArgument(
                f"{name} is appended each time it is sent: use add_work_note or add_comment, "
                "which can tell whether it is there already"
            )
        if name == "correlation_id" and len(given) > CORRELATION_CHARACTERS_MAX:
            raise InvalidArgument(
                f"correlation_id takes {CORRELATION_CHARACTERS_MAX} characters at most"
            )
    return {name: truncate_field(name, given) for name, given in sent.items()}


def _may_speak(table: TicketTable, name: str, sent: Mapping[str, str]) -> bool:
    """Awaiting Caller is the one state that must be entered with a comment in the same call."""
    return (
        table is INCIDENT
        and name == "comments"
        and sent.get("state") == ON_HOLD
        and sent.get("hold_reason") == AWAITING_CALLER
    )


def spelled(table: TicketTable, name: str, value: Value) -> str:
    """*value* as ServiceNow keeps it in the column *name*. Raises InvalidArgument for what is no
    time or no choice."""
    if name in _DATES or isinstance(value, datetime):
        return _moment(name, value)
    given = text(value)
    choices = table.choices.get(name)
    return given if choices is None or not given else _chosen(table, name, given, choices)


def _chosen(table: TicketTable, name: str, given: str, choices: Mapping[str, str]) -> str:
    """The one among *choices* that is *given*: its value, its label, or both as in ``1 - High``."""
    if given.strip() in choices:
        return given.strip()
    word = _word(given)
    for choice, label in choices.items():
        shown = label or choice
        if word and word in {_word(shown), _word(f"{choice}{shown}")}:
            return choice
    listed = ", ".join(
        f"{choice} ({label})" if label else choice for choice, label in choices.items()
    )
    raise InvalidArgument(f"{name} of {table.called} must be one of {listed}")


def _word(given: str) -> str:
    """*given* without what people write in different ways."""
    return "".join(filter(str.isalnum, given.casefold())).replace("cancelled", "canceled")


def by_column(table: TicketTable, values: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """*values* by their columns, where ``type_`` stands for ``type``, which Python has a use of its
    own for.

    Raises InvalidArgument where a column is given twice.
    """
    named: dict[str, ValueT] = {}
    for name, value in values.items():
        column = name.removesuffix("_")
        column = column if column in table.columns else name
        if value is None and column in named:
            continue
        if named.get(column) is not None:
            raise InvalidArgument(f"{column} is given twice")
        named[column] = value
    return named


def _moment(name: str, value: Value) -> str:
    """A moment in UTC, to the second, as the Table API has it."""
    if value is None or value == "":
        return ""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidArgument(f"{name} needs a time zone: datetime.now(UTC), or …, tzinfo=UTC")
        moment: datetime | None = value.astimezone(UTC)
    else:
        moment = instant(value) if isinstance(value, str) else None
    if moment is None:
        raise InvalidArgument(
            f"{name} must be a datetime, or ISO text such as 2026-08-19T08:07:06Z"
        )
    return moment.strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a search asks of one column: one of *values*, or to be beyond the only one. "" stands
    for empty."""

    column: str
    operator: Literal["=", ">", "<"]
    values: tuple[str, ...]

    def query(self) -> str:
        """The term of an encoded query. Raises InvalidArgument for a value that could mean more
        than itself."""
        return "^OR".join(self._term(value) for value in self.values)

    def holds(self, row: Record) -> bool:
        """Whether *row* is as asked: ServiceNow drops a term that it does not understand, and
        returns everything."""
        found = row.get(self.column, "").strip().casefold()
        match self.operator:
            case "=":
                return found in {value.strip().casefold() for value in self.values}
            case ">":
                return found > self.values[0]
            case "<":
                return found < self.values[0]

    def _term(self, value: str) -> str:
        if not value:
            return f"{self.column}ISEMPTY"
        try:
            return self.operator.join(equals(self.column, value).split("=", 1))
        except ValueError as error:
            raise InvalidArgument(str(error)) from None


def conditions(table: TicketTable, wanted: Mapping[str, Values]) -> list[Condition]:
    """What a search asks for by the names of columns; None is no condition, several values are
    alternatives.

    Raises InvalidArgument.
    """
    check_names(table, wanted)
    asked = []
    for name, given in wanted.items():
        if given is None:
            continue
        if name in JOURNALS:
            raise InvalidArgument(
                f"{name} reads empty through the API: search sys_journal_field instead"
            )
        several = given if isinstance(given, Collection) and not isinstance(given, str) else [given]
        if not several:
            raise InvalidArgument(f"{name} is given no value to look for")
        asked.append(Condition(name, "=", tuple(spelled(table, name, value) for value in several)))
    return asked
