"""A look at a ticket: asked for, and asked for again where it is older than what is known."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from function.connection.active import Connection
from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.rules.model import Rule
from function.rules.ticket import TicketRule
from function.rules.ticket_change import OWN_COLUMNS
from function.servicenow import Record, ServiceNowError, equals, split_shown
from function.targets.ticket.access import compared_columns, count_of
from function.targets.ticket.address import correlation_id

# A replica that is read is behind the database that is written by less than that, as a rule.
LAG_SECONDS: Final = 0.5
# More tickets of one row than that are not told apart.
TICKETS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class TicketReader:
    """Reads one ticket on one connection."""

    connection: Connection
    table: str
    sys_id: str
    deadline: Deadline

    def read(
        self, columns: Sequence[str], *, shown: bool, known_count: int, heard_count: int
    ) -> tuple[Record, Record]:
        """The ticket's values, and what people see in their place.

        *known_count* is the count of changes that we have seen, *heard_count* one that we were
        told. A look that is older than the first is no look: raises ServiceNowError, transient. The
        second may be another instance's, so it only has the ticket looked at once more.
        """
        values, seen = self._read_once(columns, shown=shown)
        if _count(values) < max(known_count, heard_count):
            time.sleep(max(0.0, min(LAG_SECONDS, self.deadline.left())))
            values, seen = self._read_once(columns, shown=shown)
        if _count(values) < known_count:
            raise ServiceNowError(_BEHIND)
        return values, seen

    def _read_once(self, columns: Sequence[str], *, shown: bool) -> tuple[Record, Record]:
        record = self.connection.tables.get(
            self.table, self.sys_id, fields=columns, deadline=self.deadline, shown=shown
        )
        return read_record(record, columns)

    def matches(self, query: str) -> bool:
        """Whether the ticket is one of those of the encoded *query*. Raises ServiceNowError."""
        here = equals("sys_id", self.sys_id)
        asked = "^NQ".join(f"{here}^{group}" for group in query.split("^NQ"))
        rows = self.connection.tables.find(
            self.table, asked, fields=["number"], limit=1, deadline=self.deadline
        )
        return any(row["sys_id"] == self.sys_id for row in rows)

    def is_current(self, correlation: str) -> bool:
        """Whether it is the newest of the tickets with *correlation*."""
        rows = self.connection.tables.find(
            self.table,
            f"{equals('correlation_id', correlation)}^ORDERBYDESCsys_created_on",
            fields=["correlation_id"],
            limit=TICKETS_MAX,
            deadline=self.deadline,
        )
        # A term that it does not understand, ServiceNow leaves out.
        ours = [row["sys_id"] for row in rows if row.get("correlation_id") == correlation]
        return ours[:1] == [self.sys_id]


def read_record(record: Record, columns: Sequence[str]) -> tuple[Record, Record]:
    """The values of a *record* that was asked for *columns*, and what people see in their place."""
    values, seen = split_shown(record)
    # Behind an empty reference is nothing; whether it is said so differs between releases.
    empty = {name: "" for name in columns if "." in name and name not in values}
    return {**values, **empty}, {**seen, **empty}


def asked_columns(rules: Sequence[Rule], ticket: TicketRule | None) -> list[str]:
    """What a look asks for: what the *rules* name, and what the *ticket*'s rule compares."""
    named = {
        column
        for rule in rules
        if (source := rule.ticket_source) is not None and not source.journal
        for column in source.columns | source.answered_columns
    }
    mapped = sorted(compared_columns(ticket)) if ticket is not None else []
    return [*dict.fromkeys([*OWN_COLUMNS, *sorted(named), *mapped])]


def parse_correlation(
    source_name: str, table: str, correlation: str, rules: Sequence[Rule]
) -> tuple[str, str] | None:
    """The rule and the key of the row whose ticket carries *correlation*, where they can be told;
    of a shortened one they cannot."""
    prefix, _, rest = correlation.partition(":")
    rule_id, _, key = rest.partition(":")
    fits = prefix == source_name and correlation_id(source_name, rule_id, key) == correlation
    known = any(
        rule.id == rule_id and isinstance(rule.target, TicketRule) and rule.target.table == table
        for rule in rules
    )
    return (rule_id, key) if fits and known else None


def _count(values: Record) -> int:
    return count_of(values) or 0


_BEHIND: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BAD_ANSWER,
    "ServiceNow tells of the ticket as it was before its last change: its reads lag behind",
    retry_after_seconds=LAG_SECONDS * 10,
)
