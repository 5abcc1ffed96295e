"""What an instance says of its own tables: columns, choices, data policies. Reads only.

Much of it is hidden from most users, and what is hidden looks like what is not there: an empty
list, or a refusal. So what could not be read is None here, never empty.

Sources: c_DataDictionaryTables (sys_db_object, sys_dictionary), r_DataPolicyFields
(sys_data_policy2 and its rules).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from function.core.outcome import Reason, Retryability
from function.servicenow.errors import ServiceNowError, Unavailable
from function.servicenow.references import Find
from function.servicenow.responses import Record, equals

# incident extends task, which extends nothing; a customer's table may be some levels lower.
ANCESTORS_MAX: Final = 8
# A table of tickets has some hundred columns and a column some ten choices.
_ROWS_MAX: Final = 5000
# These extend task on every instance: known where sys_db_object, or what a table extends, is
# hidden.
_TASKS: Final = frozenset(
    {"incident", "problem", "change_request", "change_task", "sc_task", "sc_req_item"}
)
# sys_dictionary.choice: a list with or without an empty entry. A suggestion (2) takes any value.
_CLOSED_LISTS: Final = frozenset({"1", "3"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the dictionary has it. *refers_to* is the table of a reference, "" for other
    types."""

    type: str
    length_max: int
    refers_to: str
    has_choices: bool
    has_default: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """A data policy: which columns are *mandatory* where a record fulfils the *conditions* (an
    encoded query)."""

    name: str
    conditions: str
    mandatory: frozenset[str]


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table. *chain* is its name and those that it extends, as far as is known; *choices* are
    labels by column."""

    chain: tuple[str, ...]
    columns: Mapping[str, Column] | None
    choices: Mapping[str, Mapping[str, str]] | None
    policies: tuple[Policy, ...] | None
    shown: frozenset[str] | None = field(default=None)
    """Where the columns are hidden: those among the wanted ones that a record of the table was
    shown with."""

    def lacks(self, column: str) -> bool | None:
        """Whether the table has no such column; None where that cannot be said."""
        if self.columns is not None:
            return column not in self.columns
        return None if self.shown is None else column not in self.shown


def describe(table: str, wanted: Collection[str], find: Find) -> TableSchema:
    """What the instance says of *table*, and of the *wanted* among its columns.

    Raises ServiceNowError where the table itself cannot be queried, and Unavailable whenever the
    instance is unwell.
    """
    find(table, "", ["sys_id"], 1)
    chain = _chain(table, find)
    columns = _columns(chain, find)
    shown = None
    if columns is None:
        rows = find(table, "", sorted(wanted), 1)
        shown = frozenset(rows[0]) if rows else None
    return TableSchema(
        chain=chain,
        columns=columns,
        choices=_choices(chain, wanted, find),
        policies=_policies(chain, find),
        shown=shown,
    )


def _read(find: Find, table: str, query: str, fields: Sequence[str]) -> list[Record]:
    """The rows that may be read; none where the table is refused. Raises what is wrong with the
    instance or with us."""
    for tries_left in (1, 0):
        try:
            return find(table, query, fields, _ROWS_MAX)
        except ServiceNowError as error:
            # After a 401 nothing more may be asked: accounts lock.
            if isinstance(error, Unavailable) or error.failure.reason is Reason.UNAUTHORIZED:
                raise
            # Right after a node switch it may mean nothing (KB2466644).
            if error.failure.retryability is not Retryability.TRANSIENT or not tries_left:
                return []
    return []


def _chain(table: str, find: Find) -> tuple[str, ...]:
    chain = [table]
    while len(chain) <= ANCESTORS_MAX:
        fields = ["name", "super_class.name"]
        rows = _read(find, "sys_db_object", equals("name", chain[-1]), fields)
        above = next(
            (row.get("super_class.name", "") for row in rows if row.get("name") == chain[-1]), ""
        )
        if not above and chain == [table] and table in _TASKS:
            above = "task"
        if not above or above in chain:
            break
        chain.append(above)
    return tuple(chain)


def _columns(chain: tuple[str, ...], find: Find) -> dict[str, Column] | None:
    fields = [
        "name",
        "element",
        "internal_type",
        "max_length",
        "reference",
        "choice",
        "default_value",
        "active",
    ]
    rows = _read(find, "sys_dictionary", f"nameIN{','.join(chain)}", fields)
    columns: dict[str, Column] = {}
    # The nearest table's entry counts: it may override the one that is inherited.
    for owner in reversed(chain):
        for row in rows:
            if row.get("name") != owner or not row.get("element") or row.get("active") == "false":
                continue
            length = row.get("max_length", "")
            columns[row["element"]] = Column(
                type=row.get("internal_type", ""),
                length_max=int(length) if length.isascii() and length.isdigit() else 0,
                refers_to=row.get("reference", "")
                if row.get("internal_type") == "reference"
                else "",
                has_choices=row.get("choice", "") in _CLOSED_LISTS,
                has_default=bool(row.get("default_value")),
            )
    # What every record has is inherited too: without it, the tables above this one are not seen.
    return columns if "sys_created_on" in columns else None


def _choices(
    chain: tuple[str, ...], wanted: Collection[str], find: Find
) -> dict[str, dict[str, str]] | None:
    fields = ["name", "element", "value", "label", "language", "inactive"]
    query = f"nameIN{','.join(chain)}^elementIN{','.join(sorted(wanted))}"
    rows = _read(find, "sys_choice", query, fields)
    choices: dict[str, dict[str, str]] = {}
    for owner in reversed(chain):
        own: dict[str, dict[str, str]] = {}
        for row in rows:
            if (
                row.get("name") != owner
                or row.get("element") not in wanted
                or row.get("inactive") == "true"
            ):
                continue
            labels = own.setdefault(row["element"], {})
            if row.get("language", "en") == "en" or row["value"] not in labels:
                labels[row["value"]] = row.get("label", "")
        choices |= own
    return choices or None


def _policies(chain: tuple[str, ...], find: Find) -> tuple[Policy, ...] | None:
    known = {}
    fields = ["model_table", "short_description", "conditions", "active", "inherit"]
    for row in _read(
        find, "sys_data_policy2", f"model_tableIN{','.join(chain)}^active=true", fields
    ):
        table = row.get("model_table")
        inherited = table in chain[1:] and row.get("inherit") == "true"
        if row.get("active") == "true" and (table == chain[0] or inherited):
            known[row["sys_id"]] = row
    if not known:
        return None
    mandatory: dict[str, set[str]] = {}
    fields = ["sys_data_policy", "field", "mandatory"]
    for row in _read(
        find, "sys_data_policy_rule", f"sys_data_policyIN{','.join(known)}^mandatory=true", fields
    ):
        if (
            row.get("mandatory") == "true"
            and row.get("field")
            and row.get("sys_data_policy") in known
        ):
            mandatory.setdefault(row["sys_data_policy"], set()).add(row["field"])
    if not mandatory:
        return None
    return tuple(
        Policy(
            row.get("short_description", ""),
            row.get("conditions", ""),
            frozenset(mandatory[sys_id]),
        )
        for sys_id, row in known.items()
        if sys_id in mandatory
    )
