"""The lease of the ticket that a command is for: the linked row's, so that nothing else works on
the ticket meanwhile."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline, lease_tries
from function.ledger.ledger import Ledger
from function.ledger.records import Ticket
from function.ledger.ticket_syncs import SyncBegun, find_known_count
from function.servicenow import Record, ServiceNowError
from function.targets.ticket.access import count_of

_BUSY: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BUSY,
    "somebody else works on the ticket just now",
    retry_after_seconds=2.0,
)


@dataclass(slots=True)
class LeasedTicket:
    """A ticket while its lease is held. *record* is that of the row that it is for, or one without
    a rule; *known_count* the count of the ticket's changes that we have seen of late."""

    record: Ticket
    known_count: int

    def is_behind(self, record: Record) -> bool:
        """Whether *record* is from before what is known."""
        count = count_of(record)
        return count is not None and count < self.known_count

    def remember_count(self, record: Record) -> None:
        """So often was the ticket changed, by what ServiceNow tells in *record*: a look that finds
        less has come too early."""
        count = count_of(record)
        if count is not None:
            self.record = replace(self.record, mod_count=count)
            self.known_count = count


@contextmanager
def lease_ticket(
    ledger: Ledger,
    *,
    instance: str,
    table: str,
    sys_id: str,
    lease_seconds: float,
    deadline: Deadline,
) -> Iterator[LeasedTicket]:
    """Hold the lease of the ticket *sys_id*. Raises ServiceNowError where somebody else has it.

    What is known of the linked row stays as it is, but for the count of changes: to it, a command
    is an edit of a person's. Where its last holder vanished in the middle of a write, that is
    written down as doubt.
    """
    owner = uuid.uuid4().hex
    for _ in lease_tries(deadline):
        begun = ledger.syncs.begin(
            instance, sys_id, event=f"{table}/{sys_id}", owner=owner, lease_seconds=lease_seconds
        )
        if isinstance(begun, SyncBegun):
            break
    else:
        raise ServiceNowError(_BUSY)
    known_count = find_known_count(begun.record, begun.shadows, now=begun.now)
    leased = LeasedTicket(begun.record, known_count)
    try:
        yield leased
    finally:
        if leased.record == begun.record and not begun.record.is_in_doubt:
            # A record that is written counts as one of now, which a count that was not seen is not.
            ledger.syncs.release(begun.record, owner=owner)
        else:
            ledger.tickets.give_back(leased.record, owner=owner)
