"""The inbox is worked: by Hasura's event on its INSERT, or by the housekeeping."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from function.core.outcome import Outcome
from function.deadline import Deadline
from function.inbound.sync import SyncResult, TicketSync
from function.ledger.inbox import InboxEntry
from function.ledger.ledger import Ledger
from function.sources.slack import SOURCE as SLACK

if TYPE_CHECKING:
    from function.inbound.commands import CommandWorker

# It was asked for once more while it was worked: that comes at once.
AGAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class InboxResult:
    """What became of an entry: *outcomes* are none where it was not there any more; *sync* is there
    for a ticket's. *retry_after_seconds* is set where it stays in the inbox, and only then."""

    sync: SyncResult | None = None
    retry_after_seconds: float | None = None
    outcomes: tuple[Outcome, ...] = ()


class InboxWorker:
    """Works what the inbox keeps; one for a process. *commands* gives what works those of Slack: it
    is loaded when the first one comes."""

    def __init__(
        self, ledger: Ledger, tickets: TicketSync, commands: Callable[[], "CommandWorker"]
    ) -> None:
        self._inbox = ledger.inbox
        self._tickets = tickets
        self._commands = commands

    def work(self, identity: str, *, deadline: Deadline) -> InboxResult:
        """Work the entry *identity*, if it is still there. Raises LedgerUnavailable."""
        if identity.startswith(f"{SLACK}/"):
            return self._work_command(identity, deadline)
        entry = self._inbox.find(identity)
        return InboxResult() if entry is None else self._work_ticket(entry, deadline)

    def work_due(self, entry: InboxEntry, deadline: Deadline) -> InboxResult:
        """Work *entry*, which Hasura's event has not brought. Raises LedgerUnavailable."""
        if entry.source == SLACK:
            return self._work_command(entry.id, deadline, only_due=True)
        return self._work_ticket(entry, deadline)

    def _work_ticket(self, entry: InboxEntry, deadline: Deadline) -> InboxResult:
        """Look at a ticket, and take *entry* out if it is done."""
        table, _, sys_id = entry.subject.partition("/")
        result = self._tickets.sync_ticket(table, sys_id, deadline=deadline)
        wait = self._put_away(entry, result.retry_after_seconds)
        return InboxResult(result, wait, result.outcomes)

    def _work_command(
        self, identity: str, deadline: Deadline, *, only_due: bool = False
    ) -> InboxResult:
        """Work a command; where it resolved a ticket, the app is told at once."""
        result = self._commands().work(identity, deadline, only_due=only_due)
        outcomes = result.outcomes
        if result.ticket_entry is not None:
            told = self._inbox.find(result.ticket_entry)
            if told is not None:
                outcomes += self._work_ticket(told, deadline).outcomes
        return InboxResult(None, result.retry_after_seconds, outcomes)

    def _put_away(self, entry: InboxEntry, wait_seconds: float | None) -> float | None:
        """Take *entry* out where nothing is left to do; gives when it is to be worked again."""
        if wait_seconds is not None:
            self._inbox.defer(entry, seconds=wait_seconds)
            return wait_seconds
        return None if self._inbox.remove(entry) else AGAIN_SECONDS
