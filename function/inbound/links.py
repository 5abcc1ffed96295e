"""Tickets and rows that do not fit: several open tickets of one row, and rows whose ticket is gone.

Both are for people to put right: which ticket is the row's, and whether it is to have a new one,
only they know.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from function.connection.active import Connection
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.ledger.ticket_syncs import LinkedTicket
from function.servicenow import Record, equals
from function.targets.ticket.address import correlation_id, find_generation

# Their sys_ids and correlation_ids stand in one address, which must not be too long: 8 KB is what
# servers commonly take.
BATCH_MAX: Final = 50
# Copies of one ticket are few.
FOUND_MAX: Final = 20 * BATCH_MAX
_COLUMNS: Final = ("number", "correlation_id", "active")


@dataclass(frozen=True, slots=True)
class LinkBatch:
    """Some rows' tickets, looked for: how many, and what is wrong with them, in sentences."""

    checked: int
    problems: tuple[str, ...]


class LinkChecker:
    """Asks ServiceNow for tickets by what the ledger knows of them; *deadline* is asked for before
    each call."""

    def __init__(
        self, context: DeliveryContext, connection: Connection, deadline: Callable[[], Deadline]
    ) -> None:
        self._context = context
        self._connection = connection
        self._deadline = deadline

    def check(self) -> Iterator[LinkBatch]:
        """Look for the ticket of each row, some at a time. Raises NotDone, LedgerUnavailable."""
        after = ("", "")
        while True:
            links = self._context.ledger.syncs.list_links(
                self._connection.instance_url, after=after, most=BATCH_MAX
            )
            if not links:
                return
            by_table = sorted(links, key=lambda link: link.table)
            for table, of_table in groupby(by_table, key=lambda link: link.table):
                yield self._check_batch(table, list(of_table))
            after = (links[-1].rule, links[-1].key)

    def find_twins(self, table: str, correlations: Collection[str]) -> list[str]:
        """Of each of *correlations*, whether several open tickets have it. Raises NotDone."""
        asked = sorted(filter(_fits_list, correlations))[:BATCH_MAX]
        if not asked:
            return []
        return name_twins(table, self._find(table, f"correlation_idIN{','.join(asked)}"), asked)

    def _check_batch(self, table: str, links: Sequence[LinkedTicket]) -> LinkBatch:
        source = self._context.settings.source_name
        correlations = [
            correlation
            for link in links
            if _fits_list(correlation := correlation_id(source, link.rule, link.key))
        ]
        terms = [f"sys_idIN{','.join(link.sys_id for link in links)}"]
        terms += [f"correlation_idIN{','.join(correlations)}"] if correlations else []
        rows = self._find(table, "^OR".join(terms))
        found = {row["sys_id"].lower() for row in rows}
        gone = [
            f"{link.number or link.sys_id} is not in {table} any more, or is hidden from the "
            f"integration user: it was the ticket of {link.rule}/{link.key}"
            for link in links
            if link.sys_id.lower() not in found
        ]
        return LinkBatch(len(links), (*gone, *name_twins(table, rows, correlations)))

    def _find(self, table: str, query: str) -> list[Record]:
        return self._connection.tables.find(
            table, query, fields=_COLUMNS, limit=FOUND_MAX, deadline=self._deadline()
        )


def name_twins(table: str, rows: Sequence[Record], correlations: Collection[str]) -> list[str]:
    """Which of *correlations* several open tickets among *rows* have.

    A row's next ticket has it too; it has an address of its own, and is no twin.
    """
    twins = []
    for correlation in correlations:
        # A term that it does not understand, ServiceNow leaves out; and it does not tell a from A.
        tickets = {
            row["sys_id"]: row
            for row in rows
            if row.get("correlation_id") == correlation and row.get("active") != "false"
        }
        generations = [find_generation(table, correlation, sys_id) for sys_id in sorted(tickets)]
        if len(tickets) > 1 and len(set(generations)) < len(generations):
            numbers = sorted(row.get("number") or row["sys_id"] for row in tickets.values())
            twins.append(
                f"{', '.join(numbers)} are open and have one correlation_id, {correlation}: empty "
                "it in those that are not the row's"
            )
    return twins


def _fits_list(correlation: str) -> bool:
    """Whether *correlation* can stand in a list of a query."""
    try:
        equals("correlation_id", correlation)
    except ValueError:
        return False
    return "," not in correlation
