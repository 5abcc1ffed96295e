"""How the tickets of a table live: the states and choices that ServiceNow ships, and which a ticket
is given. Pure.

ServiceNow stores any other value of a choice column without a word, and shows it as an empty field.
Lists that differ between instances and releases, such as an incident's close_code, are not here.

Sources: c_IncidentManagementStateModel, change-management-api, and the choices of fresh instances.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from function.core.values import did_you_mean

_SCALE: Final = {"1": "high", "2": "medium", "3": "low"}
STATE_LABELS: Final[Mapping[str, Mapping[str, str]]] = {
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
# Columns that refer to a record of another table, which may be named by what stands in one of its
# columns: the surest comes first.
COLUMN_REFERENCES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "assignment_group": ("sys_user_group", ("name",)),
    **dict.fromkeys(
        ("assigned_to", "caller_id", "opened_by", "requested_by"),
        ("sys_user", ("user_name", "email", "name")),
    ),
    **dict.fromkeys(("cmdb_ci", "business_service"), ("cmdb_ci", ("name",))),
    "parent_incident": ("incident", ("number",)),
    "problem_id": ("problem", ("number",)),
    "std_change_producer_version": ("std_change_producer_version", ("name",)),
}

_NONE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The states of a table, as their values. *final* ones are never left; *ended* ones are
    resolved, closed, canceled.

    An empty value is a state that the table does not have; without *resolved*, tickets are only
    created and updated. *link* is the column by which a ticket names the one that it follows.
    *paths*: where a ticket must pass through states on its way to *resolved*, all of them in order,
    by its `type`; under "" those of every ticket. *close_code* is the resolution code unless the
    rule gives one. *names* are what people call the states.
    """

    resolved: str = ""
    reopened: str = ""
    canceled: str = ""
    final: frozenset[str] = frozenset()
    link: str = ""
    close_code: str = ""
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The state of a new ticket, as ServiceNow ships it."""
        return next(iter(self.names), "")

    @property
    def ended(self) -> frozenset[str]:
        return self.final | {state for state in (self.resolved, self.canceled) if state}

    @property
    def by_type(self) -> bool:
        """Whether the way to resolved depends on the ticket's `type`."""
        return bool(self.paths.keys() - {""})

    def towards_resolved(self, state: str, kind: str) -> str:
        """The state that follows *state* on the way to resolved, for a ticket whose `type` is
        *kind*.

        A state that is on no path is one of the instance's own: what follows it is for the instance
        to say, so that resolved itself is tried.
        """
        if state not in self._order:
            return self.resolved
        path = self.paths.get(kind) or self._order
        ahead = self._order[self._order.index(state) + 1 :]
        return next((following for following in path if following in ahead), self.resolved)

    def is_nearer(self, state: str, than: str) -> bool:
        """Whether *state* is further on the way to resolved than the state *than*, as far as the
        way is known."""
        if state not in self._order or than not in self._order:
            return state != than
        return self._order.index(state) > self._order.index(than)

    def named(self, state: str) -> str:
        return f"{self.names[state]} ({state})" if state in self.names else state

    @property
    def _order(self) -> tuple[str, ...]:
        return max(self.paths.values(), key=len, default=())


NO_LIFECYCLE: Final = Lifecycle()
INCIDENT: Final = Lifecycle(
    resolved="6",
    reopened="2",
    canceled="8",
    final=frozenset({"7", "8"}),
    link="parent_incident",
    # One that a fresh instance has since about Utah; before, it was `Solved (Permanently)`.
    close_code="Solution provided",
    names=STATE_LABELS["incident"],
)
# The instance enforces the order: a normal change passes through all of them, an emergency is not
# assessed, and a standard change was authorized once for all.
_ALL: Final = ("-5", "-4", "-3", "-2", "-1", "0", "3")
CHANGE_REQUEST: Final = Lifecycle(
    resolved="3",
    canceled="4",
    final=frozenset({"3", "4"}),
    link="parent",
    close_code="successful",
    paths={
        "normal": _ALL,
        "emergency": tuple(state for state in _ALL if state != "-4"),
        "standard": tuple(state for state in _ALL if state not in {"-4", "-3"}),
    },
    names=STATE_LABELS["change_request"],
)
# Any table that extends task has it; another one ignores it.
LINK: Final = "parent"
STATES: Final[Mapping[str, Lifecycle]] = {"incident": INCIDENT, "change_request": CHANGE_REQUEST}


def lifecycle_of(table: str) -> Lifecycle:
    """The states of *table* as they are shipped, where this version knows them; a rule may declare
    its own."""
    return STATES.get(table, NO_LIFECYCLE)


def shipped_choices(table: str) -> Mapping[str, Mapping[str, str]]:
    """The choices of *table*'s columns as they are shipped; a rule may declare those of its
    instance."""
    return CHOICES.get(table, {})


def invalid_choice(choices: Mapping[str, str] | None, text: str) -> str:
    """What is wrong with *text* in a column of these *choices*, without saying it; empty where
    nothing is.

    Nothing is no wrong choice: the platform has a default.
    """
    if choices is None or not text.strip() or text.strip() in choices:
        return ""
    return (
        "must be one of "
        f"{', '.join(f'{value} ({label})' if label else value for value, label in choices.items())}"
    )


def suggest_choice(choices: Mapping[str, str], text: str) -> str:
    """The words "; did you mean …?" where *text* is like a choice, or like the label of one."""
    word = text.strip().lower()
    labelled = next(
        (value for value, label in choices.items() if label and label in (word, word[4:])), None
    )
    return f"; did you mean `{labelled}`?" if labelled else did_you_mean(word, choices)
