"""One note in one attempt: what its row says last is written into the ticket's journal, once.

What the ledger's record of a note means: `sys_id` is the identity of its last entry, by which no
ticket is found ("" where there is none, or the note's row is gone, so that the record goes with
time); `known` has that entry's ticket; `last_sent` what stands for what was said; `generation` is
how many entries were written. A pending write, and what a holder without its lease wrote, are
entries in doubt.
"""

import time
from dataclasses import replace
from typing import Final

from function.connection.active import Connection
from function.core.outcome import CircuitOpen, Failure, Reason, Retryability, Status
from function.core.step import DesiredState
from function.failpoints import failpoint
from function.ledger.ledger import Ledger
from function.ledger.records import IN_DOUBT_SECONDS, FoundTicket, PendingWrite, Ticket
from function.rules.note import TEXT, TICKET_KEY, note_of
from function.servicenow import ServiceNowError
from function.targets.base import Result, Task
from function.targets.note.entry import (
    NoteEntry,
    NoteMarks,
    entry_from_text,
    version_of,
    write_entry,
)
from function.targets.note.finder import TicketFinder
from function.targets.note.journal import JournalReader
from function.targets.ticket.access import NUMBER_CHARACTERS_MAX
from function.targets.ticket.creation import NEVER_WRITTEN

# The ticket of the last entry, in what is known of a note.
_TICKET: Final = "ticket"
# Less time is not enough to ask the journal after an answer was lost.
LOOK_SECONDS_MIN: Final = 2.0


class NoteWriter:
    """The work on one note in one attempt, under the key's lease."""

    def __init__(
        self, task: Task, *, connection: Connection, ledger: Ledger, source_name: str
    ) -> None:
        self._task = task
        self._rule = note_of(task.rule)
        self._tables = connection.tables
        self._finder = TicketFinder(
            task, connection=connection, ledger=ledger, source_name=source_name
        )
        self._marks = NoteMarks(source_name, task.record.rule, task.record.key)
        self._journal = JournalReader(connection.tables, self._rule.journal, deadline=task.deadline)
        self._ahead = task.now - time.monotonic()

    @property
    def _record(self) -> Ticket:
        """What is known of the note by now."""
        return self._task.record

    @_record.setter
    def _record(self, record: Ticket) -> None:
        self._task.record = record

    @property
    def _said(self) -> str:
        """What stands for what the ticket says of the note; empty for nothing."""
        return self._record.last_sent.get(TEXT, "")

    def _clock(self) -> float:
        """The ledger's clock, as it has gone on since the work began."""
        return self._ahead + time.monotonic()

    def write(self, wants: DesiredState) -> Result:
        """Have the journal say *wants* last.

        Raises ServiceNowError when it could not be done (its failure says whether to try again),
        LeaseLost.
        """
        came_from_there = self._accept_own_insert()
        if wants.gone or not wants.when:
            return self._say_nothing(wants)
        self._settle_doubt()
        version = version_of(wants)
        if self._said == version:
            if came_from_there:
                return Result(Status.SKIPPED, Reason.FROM_SERVICENOW)
            return Result(Status.UNCHANGED, None)
        if not self._said and self._is_same_text(wants):
            # Its INSERT has not arrived, and may be that of our own mutation.
            return Result(Status.UNCHANGED, None)
        if not wants.fields[TICKET_KEY]:
            return Result(Status.SKIPPED, Reason.NO_TICKET)
        known = self._finder.find(wants.fields[TICKET_KEY])
        if known.ticket is None or not known.ticket.sys_id:
            return self._finder.wait(known, Reason.NO_TICKET)
        self._record = replace(self._record, number=known.ticket.number)
        if self._may_be_forgotten(known):
            self._recall(known.ticket.sys_id, version)
            if self._said == version:
                return Result(Status.UNCHANGED, None)
        return self._send(wants.fields[TEXT], version, known)

    def _is_same_text(self, wants: DesiredState) -> bool:
        """Whether the row was to say the same before this event changed something else of it."""
        step = self._task.step
        return step is not None and step.was_wanted and dict(step.fields_before) == wants.fields

    def settle(self) -> None:
        """Find out what became of an entry in doubt. What cannot be found out is left to the next
        event, or to whoever replays one."""
        try:
            self._settle_doubt()
        except ServiceNowError as error:
            if error.failure.retryability is not Retryability.PERMANENT:
                raise
            self._record = replace(self._record, suspect_until=None)

    # Nothing to say

    def _accept_own_insert(self) -> bool:
        """Whether the row came from ServiceNow: what it said then is said there already."""
        event, step = self._task.event, self._task.step
        if event is None or step is None or not event.is_own_insert:
            return False
        wants = step.wants
        if self._said or self._doubts() or not isinstance(wants, DesiredState) or not wants.when:
            return True
        known = self._finder.find_in_ledger(wants.fields[TICKET_KEY])
        ticket = known.ticket or Ticket("", "", "")
        self._record = replace(
            self._record,
            last_sent={TEXT: version_of(wants)},
            known={_TICKET: ticket.sys_id},
            number=ticket.number,
        )
        return True

    def _say_nothing(self, wants: DesiredState) -> Result:
        """Of a row that is gone, or is not to be told of. What was written before stays: a journal
        forgets nothing."""
        if self._doubts() and self._task.attempt > 1:
            self.settle()
        if not wants.gone:
            return Result(Status.SKIPPED, Reason.WHEN_FALSE)
        self._record = replace(self._record, sys_id="")
        return Result(Status.SKIPPED, Reason.ROW_GONE)

    def _may_be_forgotten(self, known: FoundTicket) -> bool:
        """Whether it may have been said though the ledger knows nothing of that: the ledger does
        not know the ticket either, or its first attempt is not Hasura's first."""
        if self._said or known.ticket is None:
            return False
        event = self._task.event
        retried = event is not None and event.current_retry > 0 and self._task.attempt == 1
        return not known.ticket.instance or retried

    def _recall(self, sys_id: str, version: str) -> None:
        """Learn from the journal what was said, where *version* was the last; and how many entries
        there are."""
        texts = self._journal.texts(sys_id, self._marks.beginning)
        there = self._marks.identities(texts)
        last = self._marks.identity(len(there) - 1, version)
        self._record = replace(
            self._record,
            generation=len(there),
            known={_TICKET: sys_id} if there else {},
            sys_id=last if there else "",
            last_sent={TEXT: version} if last in there else {},
        )

    # The entry

    def _send(self, text: str, version: str, known: FoundTicket) -> Result:
        """PATCH the ticket, with nothing beside the journal's field."""
        assert known.ticket is not None  # noqa: S101  # for the type checker: whoever calls has seen it
        sys_id = known.ticket.sys_id
        identity = self._marks.identity(self._record.generation, version)
        entry = NoteEntry(identity, sys_id, version)
        edited = self._record.generation > 0 or bool(self._said)
        edited = edited and self._record.known.get(_TICKET, "") in ("", sys_id)
        self._mark(entry)
        failpoint("before_call")
        try:
            answer = self._tables.update(
                self._rule.table,
                sys_id,
                {self._rule.journal: write_entry(text, entry.marker, edited=edited)},
                fields=["number"],
                deadline=self._task.deadline,
            )
            failpoint("after_call")
        except ServiceNowError as error:
            failpoint("after_call")
            result = self._judge(error, entry, known)
            if result is not None:
                return result
        else:
            number = answer.get("number", "")[:NUMBER_CHARACTERS_MAX]
            self._record = replace(self._record, number=number or self._record.number)
        self._remember(entry)
        return Result(Status.UPDATED if edited else Status.CREATED, None)

    def _mark(self, entry: NoteEntry) -> None:
        """Before the call: what is being sent is in doubt from now on, so that a crash leaves no
        lie behind."""
        written = entry.to_text()
        self._record = replace(
            self._record,
            pending_write=PendingWrite("create", (written,), self._clock()),
            written_fields=self._record.written_fields | {written},
        )
        self._task.save(self._record)

    def _remember(self, entry: NoteEntry) -> None:
        """*entry* stands in the journal."""
        self._record = replace(
            self._record.without_doubt(),
            sys_id=entry.identity,
            known={_TICKET: entry.sys_id},
            generation=self._record.generation + 1,
            last_sent={TEXT: entry.version},
        )

    def _judge(self, error: ServiceNowError, entry: NoteEntry, known: FoundTicket) -> Result | None:
        """A PATCH was not answered as it should: None where the entry is there all the same."""
        failure = error.failure
        pending = self._record.pending_write
        assert pending is not None  # noqa: S101  # for the type checker: it was marked before the call
        if failure.reason is Reason.MISSING:
            self._record = self._record.without_doubt()
            return self._missing(error, known)
        unclear = failure.status == 403 or failure.retryability is Retryability.IN_DOUBT
        if not unclear:
            self._record = self._record.without_doubt()
            raise error
        self._record = self._record.create_in_doubt(replace(pending, at=self._clock()))
        if self._is_there(error, entry):
            return None
        if failure.reason in NEVER_WRITTEN:
            self._record = self._record.without_doubt()
        elif failure.retryability is not Retryability.PERMANENT:
            asked = max(IN_DOUBT_SECONDS, failure.retry_after_seconds or 0.0)
            error.failure = replace(
                failure, retryability=Retryability.IN_DOUBT, retry_after_seconds=asked
            )
        error.failure = self._explained(error.failure, entry.sys_id)
        raise error

    def _is_there(self, error: ServiceNowError, entry: NoteEntry) -> bool:
        """Whether the journal has *entry* by now; no where it cannot be asked in time. Raises
        ServiceNowError where it may not be asked at all."""
        if isinstance(error, CircuitOpen) or self._task.deadline.left() < LOOK_SECONDS_MIN:
            return False
        try:
            if error.failure.status == 403 and error.failure.reason not in NEVER_WRITTEN:
                return self._journal.has_by_now(entry.sys_id, entry.marker)
            return self._journal.has(entry.sys_id, entry.marker)
        except ServiceNowError as blind:
            # What was refused was not written, as a rule: its own words say more.
            if (
                blind.failure.retryability is Retryability.PERMANENT
                and error.failure.retryability is not Retryability.PERMANENT
            ):
                self._record = replace(self._record, suspect_until=None)
                raise
            return False

    def _missing(self, error: ServiceNowError, known: FoundTicket) -> Result:
        """The ticket is not there any more: what follows is what its own rule says of that."""
        match self._rule.on_missing:
            case "ignore":
                return Result(Status.SKIPPED, Reason.TICKET_MISSING)
            case "recreate":
                # Its row's next event makes it anew.
                return self._finder.wait(known, Reason.TICKET_MISSING)
            case _:
                hint = (
                    "the ticket that the note is for was deleted in ServiceNow or is hidden from "
                    "the integration user; restore it, or set on_missing of the rule "
                    f"{self._rule.ticket} to recreate or ignore, then replay"
                )
                error.failure = replace(
                    error.failure, retryability=Retryability.PERMANENT, hint=hint
                )
                raise error

    def _explained(self, failure: Failure, sys_id: str) -> Failure:
        """*failure* with what to do about it, where the ticket is closed for good and the instance
        takes nothing on it any more."""
        if failure.status != 403 or failure.retryability is not Retryability.PERMANENT:
            return failure
        try:
            record = self._tables.get(
                self._rule.table, sys_id, fields=["state"], deadline=self._task.deadline
            )
        except ServiceNowError:
            return failure
        if record.get("state") not in self._rule.final:
            return failure
        hint = (
            "the ticket is closed, and the instance takes no "
            f"{self._rule.journal} on it any more: {failure.hint} Or leave it, and have `when` "
            "leave out what comes so late"
        )
        return replace(failure, hint=hint)

    # Doubt

    def _doubts(self) -> list[NoteEntry]:
        """The entries that may have been written, the newest last."""
        pending = self._record.pending_write
        written = dict.fromkeys(
            [*sorted(self._record.suspect_fields), *(pending.fields if pending else ())]
        )
        return [entry_from_text(text) for text in written]

    def _settle_doubt(self) -> None:
        """Find out what became of entries in doubt, if there are any.

        Raises in doubt while one that is not there may still be written, and PERMANENT where that
        cannot be found out.
        """
        doubts = self._doubts()
        if not doubts:
            self._record = self._record.without_suspicion()
            return
        found = [entry for entry in doubts if self._journal.has(entry.sys_id, entry.marker)]
        if len(found) < len(doubts):
            self._check_time()
            if not self._task.replayed:
                self._journal.check_shown()
        self._record = self._record.without_doubt()
        for entry in found:
            self._remember(entry)

    def _check_time(self) -> None:
        """Raise in doubt before it is certain that what is not there is not written any more."""
        wait = (self._record.suspect_until or 0.0) - self._clock()
        if wait > 0:
            hint = "an earlier entry may still be written; the journal is asked again then"
            failure = Failure(
                Retryability.IN_DOUBT, Reason.IN_DOUBT, hint, retry_after_seconds=wait
            )
            raise ServiceNowError(failure)
