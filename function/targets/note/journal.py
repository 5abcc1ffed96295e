"""A ticket's journal, read: whether an entry of ours is there."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from function.connection.guarded import GuardedTables
from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.servicenow import Record, ServiceNowError
from function.servicenow.journal import FIELDS, ROWS_MAX, TABLE, entries_query, marked_entries

# Entries of one note that are counted; nobody edits a comment as often.
EDITS_MAX: Final = 100
# A read that lags behind a write does so by less than that, as a rule.
LAG_SECONDS: Final = 0.5

_UNREADABLE: Final = (
    "whether the {field} was written is not known: the answer to it was lost, and the integration "
    "user may not read sys_journal_field. Give it a role that may (itil, as a rule), or an access "
    "control that lets it read sys_journal_field, then replay: what was written is found by itself"
)
_EMPTY: Final = (
    "whether the {field} was written is not known: the answer to it was lost, and of "
    "sys_journal_field not one entry is shown, as where the integration user may not read it. Let "
    "it read sys_journal_field, or see whether the ticket has the {field}; if not, replay"
)


class JournalReader:
    """Reads the *journal*, comments or work_notes, of tickets."""

    def __init__(self, tables: GuardedTables, journal: str, *, deadline: Deadline) -> None:
        self._tables = tables
        self._journal = journal
        self._deadline = deadline

    def has(self, sys_id: str, marker: str) -> bool:
        """Whether the ticket has an entry with *marker*. Raises ServiceNowError."""
        return bool(self._find(sys_id, marker, ROWS_MAX))

    def has_by_now(self, sys_id: str, marker: str) -> bool:
        """The same of an entry that may have been written a moment ago."""
        if self.has(sys_id, marker):
            return True
        if self._deadline.left() < 2 * LAG_SECONDS:
            return False
        time.sleep(LAG_SECONDS)
        return self.has(sys_id, marker)

    def texts(self, sys_id: str, beginning: str) -> list[str]:
        """The texts of the ticket's entries with a marker that begins so. Raises
        ServiceNowError."""
        return [row["value"] for row in self._find(sys_id, beginning, EDITS_MAX)]

    def check_shown(self) -> None:
        """Raise ServiceNowError where the journal shows nothing at all, of any ticket: ServiceNow
        leaves out what may not be read, and says nothing of that."""
        if not self._query("", ["element"], 1):
            hint = _EMPTY.format(field=self._called)
            raise ServiceNowError(Failure(Retryability.PERMANENT, Reason.IN_DOUBT, hint))

    @property
    def _called(self) -> str:
        return "work note" if self._journal == "work_notes" else "comment"

    def _find(self, sys_id: str, marker: str, limit: int) -> list[Record]:
        rows = self._query(entries_query(sys_id, self._journal, marker), FIELDS, limit)
        return marked_entries(rows, sys_id, self._journal, marker)

    def _query(self, query: str, fields: Sequence[str], limit: int) -> list[Record]:
        try:
            return self._tables.find(
                TABLE, query, fields=fields, limit=limit, deadline=self._deadline
            )
        except ServiceNowError as error:
            failure = error.failure
            if failure.reason is Reason.ACL and failure.retryability is Retryability.PERMANENT:
                hint = _UNREADABLE.format(field=self._called)
                error.failure = replace(failure, hint=hint)
            raise
