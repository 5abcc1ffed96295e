"""The ticket that a note is for: by the ledger, or by ServiceNow where the ledger was lost."""

import time
from typing import Final

from function.connection.active import Connection
from function.core.outcome import Failure, Reason, Retryability, Status
from function.ledger.ledger import Ledger
from function.ledger.records import FoundTicket, KeptMark, Ticket
from function.rules.note import note_of
from function.servicenow import Record, ServiceNowError, equals, is_sys_id
from function.targets.base import Result, Task
from function.targets.ticket.access import NUMBER_CHARACTERS_MAX
from function.targets.ticket.address import GENERATIONS_MAX, address, correlation_id

# A note whose ticket nobody makes is waited for that long: its row may be of the same transaction
# as the ticket's, whose event comes a little later.
NO_TICKET_SECONDS: Final = 120.0
_FIELDS: Final = ("sys_id", "number", "correlation_id", "correlation_display")


class TicketFinder:
    """Finds the ticket of a note in one attempt."""

    def __init__(
        self, task: Task, *, connection: Connection, ledger: Ledger, source_name: str
    ) -> None:
        self._task = task
        self._rule = note_of(task.rule)
        self._tables = connection.tables
        self._instance = connection.instance_url
        self._ledger = ledger
        self._source_name = source_name
        self._ahead = task.now - time.monotonic()

    def find(self, key: str) -> FoundTicket:
        """The ticket for *key*. Where the ledger knows nothing of it, and the time for it to be
        made has passed, ServiceNow is asked: what comes of that has no instance.

        Raises ServiceNowError.
        """
        known = self.find_in_ledger(key)
        if known.ticket is not None or known.under_way or self._waited < NO_TICKET_SECONDS:
            return known
        correlation = correlation_id(self._source_name, self._rule.ticket, key)
        record = self._find_record(correlation)
        if record is None:
            return known
        number = record.get("number", "")[:NUMBER_CHARACTERS_MAX]
        ticket = Ticket("", self._rule.ticket, key, sys_id=record["sys_id"], number=number)
        return FoundTicket(ticket, under_way=False)

    def find_in_ledger(self, key: str) -> FoundTicket:
        """The ticket that people work on now: of several generations the last, for nobody reads
        what is written on one that was followed by another."""
        return self._ledger.tickets.find(
            instance=self._instance, rule=self._rule.ticket, key=key, target="ticket"
        )

    def wait(self, known: FoundTicket, reason: Reason) -> Result:
        """There is no ticket, which is the *reason* for doing nothing. Raises ServiceNowError while
        there may be one soon."""
        if not known.under_way and self._waited >= NO_TICKET_SECONDS:
            return Result(Status.SKIPPED, reason)
        hint = f"the row that it is for has no ticket by the rule {self._rule.ticket} yet"
        raise ServiceNowError(Failure(Retryability.TRANSIENT, Reason.NO_TICKET, hint))

    @property
    def _waited(self) -> float:
        """Since the delivery's first attempt, in seconds by the ledger's clock."""
        return self._ahead + time.monotonic() - self._task.first_seen

    def _find_record(self, correlation: str) -> Record | None:
        """The newest of the tickets with *correlation*."""
        honours = self._task.traits.honours_sys_id
        found = self._find_by_address(correlation) if honours is not False else None
        if found is None and honours is not True:
            found = self._find_by_mark(correlation)
        return found

    def _find_by_address(self, correlation: str) -> Record | None:
        found: Record | None = None
        for generation in range(GENERATIONS_MAX):
            sys_id = address(self._rule.table, correlation, generation)
            record = self._get_or_none(sys_id)
            if record is None or not self._is_ours(record, correlation):
                break
            found = {**record, "sys_id": sys_id}
        return found

    def _get_or_none(self, sys_id: str) -> Record | None:
        try:
            return self._tables.get(
                self._rule.table, sys_id, fields=_FIELDS, deadline=self._task.deadline
            )
        except ServiceNowError as error:
            if error.failure.reason is Reason.MISSING:
                return None
            raise

    def _is_ours(self, record: Record, correlation: str) -> bool:
        """At an address that is computed of our key alone, only somebody else's mark says no."""
        mark = self._task.traits.kept_mark
        dropped = mark in (KeptMark.CORRELATION_DISPLAY, KeptMark.NONE)
        return dropped or record.get("correlation_id", "") in ("", correlation)

    def _find_by_mark(self, correlation: str) -> Record | None:
        kept = self._task.traits.kept_mark
        if kept is KeptMark.NONE:
            return None
        display = kept is KeptMark.CORRELATION_DISPLAY
        mark = "correlation_display" if display else "correlation_id"
        rows = self._tables.find(
            self._rule.table,
            f"{equals(mark, correlation)}^ORDERBYDESCsys_created_on",
            fields=_FIELDS,
            limit=GENERATIONS_MAX,
            deadline=self._task.deadline,
        )
        # An invalid term would have been dropped and everything returned: every row is checked.
        ours = [row for row in rows if row.get(mark) == correlation and is_sys_id(row["sys_id"])]
        return ours[0] if ours else None
