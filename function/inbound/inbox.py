"""The inbox is worked: by Hasura's event on its INSERT, or by the housekeeping."""

from dataclasses import dataclass
from typing import Final

from function.deadline import Deadline
from function.inbound.sync import SyncResult, TicketSync
from function.ledger.inbox import InboxEntry
from function.ledger.ledger import Ledger

# It was asked for once more while it was worked: that comes at once.
AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class InboxResult:
    """What became of an entry: *sync* is None where it was not there any more.
    *retry_after_seconds* is set where it stays in the inbox, and only then."""

    sync: SyncResult | None = None
    retry_after_seconds: float | None = None


class InboxWorker:
    """Works what the inbox keeps; one for a process."""

    def __init__(self, ledger: Ledger, tickets: TicketSync) -> None:
        self._inbox = ledger.inbox
        self._tickets = tickets

    def work(self, identity: str, *, deadline: Deadline) -> InboxResult:
        """Work the entry *identity*, if it is still there. Raises LedgerUnavailable."""
        entry = self._inbox.find(identity)
        return InboxResult() if entry is None else self.work_entry(entry, deadline)

    def work_entry(self, entry: InboxEntry, deadline: Deadline) -> InboxResult:
        """Work *entry*, and take it out if it is done. Raises LedgerUnavailable."""
        table, _, sys_id = entry.subject.partition("/")
        result = self._tickets.sync_ticket(table, sys_id, deadline=deadline)
        if result.retry_after_seconds is not None:
            self._inbox.defer(entry, seconds=result.retry_after_seconds)
            return InboxResult(result, result.retry_after_seconds)
        if not self._inbox.remove(entry):
            return InboxResult(result, AGAIN_SECONDS)
        return InboxResult(result)
