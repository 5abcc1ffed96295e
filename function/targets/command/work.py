"""One command in one attempt: the ticket is looked up, and resolved under its own lease.

The write is, to the rest of the system, an edit of a person's: what is known of a linked row's
ticket stays as it was, and the app is told by a look of its own (inbound/sync.py).
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from function.connection.active import Connection
from function.core.outcome import Failure, NotDone, Reason, Retryability, Status
from function.failpoints import failpoint
from function.ledger.inbox import ticket_entry
from function.ledger.ledger import Ledger
from function.ledger.records import IN_DOUBT_SECONDS
from function.rules.budget import RenderBudget, RenderError
from function.rules.command import COMMAND, NOTES, NUMBER, command_names, command_of
from function.servicenow import Record, ServiceNowError, equals, is_sys_id, split_shown
from function.targets.base import Result, Task
from function.targets.command.decide import (
    SentWrite,
    TicketVerdict,
    decide_end,
    find_dropped,
    read_sent,
)
from function.targets.command.lease import LeasedTicket, lease_ticket
from function.targets.ticket.access import LAG_SECONDS, count_of

T = TypeVar("T")

# A number is one ticket's; an instance that leaves a term of a query out gives others.
TICKETS_MAX: Final = 5
# Whoever waits for a command in doubt hears soon if it is done. It is not sent again before it is
# certain that it is not.
LOOK_SECONDS: Final = 10.0
# What ServiceNow says no to is the person's to hear: trying again does not help, and the operators
# have nothing to put right. A look-up that it refuses is another matter: its rule is wrong.
_TOLD_OF_LOOKS: Final = frozenset({Reason.MISSING, Reason.ACL})
_TOLD_OF_WRITES: Final = _TOLD_OF_LOOKS | {
    Reason.BUSINESS_RULE,
    Reason.DATA_POLICY,
    Reason.REFUSED,
}


class CommandWork:
    """One command in one attempt."""

    def __init__(
        self,
        task: Task,
        *,
        connection: Connection,
        ledger: Ledger,
        lease_seconds: float,
        heard_tables: Collection[str],
    ) -> None:
        self._task = task
        self._rule = command_of(task.rule)
        self._tables = connection.tables
        self._instance = connection.instance_url
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._is_heard = self._rule.table in heard_tables
        self._ahead = task.now - time.monotonic()
        self._budget = RenderBudget()
        self._notes = ""

    def run(self) -> Result:
        """Raises NotDone, LeaseLost, LedgerUnavailable."""
        if not self._rule.table:
            return Result(Status.UNCHANGED, None) if self._is_allowed(None) else _NOT_ALLOWED
        desired = self._task.desired
        assert desired is not None  # noqa: S101  # for the type checker: the engine has said what is desired
        if NUMBER not in desired.fields:
            return Result(Status.SKIPPED, Reason.NOT_UNDERSTOOD)
        number, self._notes = desired.fields[NUMBER], desired.fields[NOTES]
        self._task.record = replace(self._task.record, number=number, table=self._rule.table)
        self._check_time()
        was_in_doubt = self._sent is not None
        try:
            result = self._attempt(number)
        except NotDone:
            self._have_app_look(is_due=was_in_doubt or self._sent is not None)
            raise
        was_written = result.status is Status.RESOLVED or result.reason is Reason.NOT_KEPT
        self._have_app_look(is_due=was_in_doubt or was_written)
        return result

    def _attempt(self, number: str) -> Result:
        """Raises NotDone, LeaseLost."""
        try:
            return self._work(number)
        except ServiceNowError as error:
            if self._sent is not None or not _is_told(error.failure, _TOLD_OF_LOOKS):
                raise
            return Result(Status.SKIPPED, error.failure.reason)

    @property
    def _sent(self) -> SentWrite | None:
        return read_sent(self._task.record.last_sent)

    def _clock(self) -> float:
        """The ledger's clock, as it has gone on since the work began."""
        return self._ahead + time.monotonic()

    def _check_time(self) -> None:
        """Raise NotDone where it is too late to begin: the person would hear nothing of it."""
        expires_at = self._task.event.expires_at if self._task.event else None
        if expires_at is not None and self._clock() > expires_at and self._sent is None:
            hint = "the command was not worked on within 25 minutes; it is given up, and not done"
            raise NotDone(Failure(Retryability.PERMANENT, Reason.GAVE_UP, hint))

    def _work(self, number: str) -> Result:
        tickets = self._find(number)
        if len(tickets) != 1:
            if self._sent is not None:
                raise ServiceNowError(_NOT_FOUND_AGAIN)
            return Result(Status.SKIPPED, Reason.SEVERAL_TICKETS if tickets else Reason.MISSING)
        [found] = tickets
        self._remember(found)
        if not self._rule.resolves:
            return Result(Status.UNCHANGED, None) if self._is_allowed(found) else _NOT_ALLOWED
        with lease_ticket(
            self._ledger,
            instance=self._instance,
            table=self._rule.table,
            sys_id=found["sys_id"],
            lease_seconds=self._lease_seconds,
            deadline=self._task.deadline,
        ) as leased:
            return self._resolve(leased, self._look(leased, found["sys_id"]))

    def _have_app_look(self, *, is_due: bool) -> None:
        """Have the app told of the ticket, whatever becomes of this process: it was written, or
        may have been, for a write was in doubt in this attempt."""
        sys_id = self._task.record.known.get("sys_id")
        if is_due and self._is_heard and sys_id:
            self._ledger.inbox.put(ticket_entry(self._rule.table, sys_id))

    def _find(self, number: str) -> list[Record]:
        """The tickets with *number*, which should be one, with what people see. Raises
        ServiceNowError."""
        rows = self._tables.find(
            self._rule.table,
            equals("number", number),
            fields=self._rule.asked_columns,
            limit=TICKETS_MAX,
            deadline=self._task.deadline,
            shown=True,
        )
        # A term that it does not understand, ServiceNow leaves out.
        ours = {
            row["sys_id"]: row
            for row in rows
            if row.get("number", "").upper() == number and is_sys_id(row.get("sys_id", ""))
        }
        return [*ours.values()]

    def _look(self, leased: LeasedTicket, sys_id: str) -> Record:
        """The same ticket, looked at under its lease. Raises ServiceNowError, transient where what
        is told is older than what is known."""
        record = self._get(sys_id)
        if leased.is_behind(record):
            time.sleep(max(0.0, min(LAG_SECONDS, self._task.deadline.left())))
            record = self._get(sys_id)
        if leased.is_behind(record):
            raise ServiceNowError(_BEHIND)
        leased.remember_count(record)
        return record

    def _get(self, sys_id: str) -> Record:
        return self._tables.get(
            self._rule.table,
            sys_id,
            fields=self._rule.asked_columns,
            deadline=self._task.deadline,
            shown=True,
        )

    # What the rule says

    def _names(self, record: Record | None) -> dict[str, Any]:
        assert self._task.event is not None  # noqa: S101  # for the type checker: a command is never only looked at
        values, shown = split_shown(record) if record is not None else (None, None)
        return command_names(
            self._task.rule, self._task.event, notes=self._notes, values=values, shown=shown
        )

    def _evaluate(
        self, ask: Callable[[Mapping[str, Any], RenderBudget], T], record: Record | None
    ) -> T:
        """What the rule says to *ask* of the ticket. Raises NotDone where that cannot be said."""
        try:
            return ask(self._names(record), self._budget)
        except RenderError as unsaid:
            raise NotDone(unsaid.failure) from None

    def _is_allowed(self, record: Record | None) -> bool:
        """Raises NotDone where that cannot be said."""
        return self._evaluate(self._rule.is_allowed, record)

    # The write

    def _resolve(self, leased: LeasedTicket, record: Record) -> Result:
        """Resolve the ticket as it is in *record*. Raises NotDone, LeaseLost."""
        self._remember(record)
        if not record.get("state"):
            raise NotDone(_HIDDEN)
        verdict = decide_end(self._rule.states, record, self._sent)
        if verdict is TicketVerdict.OPEN:
            self._check_doubt()
        self._forget_sent()
        match verdict:
            case TicketVerdict.RESOLVED_BY_US:
                return Result(Status.RESOLVED, None)
            case TicketVerdict.REOPENED:
                return Result(Status.SKIPPED, Reason.REOPENED)
        # Who may not is told nothing of the ticket.
        if not self._is_allowed(record):
            return _NOT_ALLOWED
        match verdict:
            case TicketVerdict.RESOLVED_BEFORE:
                return Result(Status.SKIPPED, Reason.ALREADY_RESOLVED)
            case TicketVerdict.OVER:
                return Result(Status.SKIPPED, Reason.TICKET_CLOSED)
        if not self._evaluate(self._rule.wants_end, record):
            return Result(Status.SKIPPED, Reason.RESOLVE_WHEN_FALSE)
        self._check_other_commands()
        return self._write(leased, record, self._evaluate(self._rule.close_fields, record))

    def _check_doubt(self) -> None:
        """Raise in doubt while what was sent may still be done; it is looked for again then."""
        sent = self._sent
        wait = sent.until - self._clock() if sent is not None else 0.0
        expires_at = self._task.event.expires_at if self._task.event else None
        if wait <= 0 and sent is not None and expires_at is not None and self._clock() > expires_at:
            # It is certain by now that it was not done, and too late to do it.
            self._forget_sent()
            self._check_time()
        if wait > 0:
            hint = "ServiceNow has not said whether the ticket is resolved; it is looked at again"
            failure = Failure(
                Retryability.IN_DOUBT,
                Reason.IN_DOUBT,
                hint,
                retry_after_seconds=min(LOOK_SECONDS, wait),
            )
            raise ServiceNowError(failure)

    def _check_other_commands(self) -> None:
        """Raise busy while what another command has sent to the ticket may still be done: it would
        be done over what we write."""
        assert self._task.event is not None  # noqa: S101  # for the type checker: a command is never only looked at
        others = self._ledger.commands.find_sent(
            self._instance,
            target=COMMAND,
            table=self._rule.table,
            number=self._task.record.number,
            other_than=self._task.event.id,
        )
        now = self._clock()
        waits = [sent.until - now for sent in map(read_sent, others) if sent is not None]
        wait = max(waits, default=0.0)
        if wait > 0:
            failure = Failure(
                Retryability.TRANSIENT,
                Reason.BUSY,
                "another command's write may still commit; the ticket is looked at again then",
                retry_after_seconds=min(LOOK_SECONDS, wait),
            )
            raise ServiceNowError(failure)

    def _write(self, leased: LeasedTicket, record: Record, values: Mapping[str, str]) -> Result:
        """Send *values*. Raises NotDone, LeaseLost."""
        # Who is killed now has sent it by the end of the lease, if at all.
        until = self._clock() + self._lease_seconds + IN_DOUBT_SECONDS
        self._mark_sent(SentWrite(values["close_notes"], until, count_of(record)))
        self._task.save(self._task.record)
        failpoint("before_call")
        try:
            answer = self._tables.update(
                self._rule.table,
                record["sys_id"],
                values,
                fields=self._rule.asked_columns,
                deadline=self._task.deadline,
                shown=True,
            )
            failpoint("after_call")
        except ServiceNowError as error:
            failpoint("after_call")
            return self._judge(leased, error, record, values)
        leased.remember_count(answer)
        if not answer.get("state"):
            return self._judge(leased, ServiceNowError(_UNTOLD), record, values)
        return self._written(record, answer, values)

    def _written(self, record: Record, answer: Record, values: Mapping[str, str]) -> Result:
        """ServiceNow answered that the ticket is as in *answer* now, for which *values* were
        sent."""
        self._forget_sent()
        state = answer["state"]
        self._remember({**record, **answer})
        if state not in self._rule.states.ended:
            # A business rule or an access control has set it back.
            return Result(Status.SKIPPED, Reason.NOT_KEPT)
        self._task.mismatched_fields |= find_dropped(answer, values)
        return Result(Status.RESOLVED, None)

    def _judge(
        self,
        leased: LeasedTicket,
        error: ServiceNowError,
        record: Record,
        values: Mapping[str, str],
    ) -> Result:
        """What an answer that is none, or a refusal, means. Raises ServiceNowError."""
        failure = error.failure
        if failure.retryability is Retryability.TRANSIENT:
            # It was not sent, or certainly not done.
            self._forget_sent()
            raise error
        if failure.retryability is Retryability.PERMANENT and failure.status == 403:
            # A refusal may be of what comes after the write.
            current = self._look(leased, record["sys_id"])
            self._remember(current)
            verdict = decide_end(self._rule.states, current, self._sent)
            if verdict is TicketVerdict.RESOLVED_BY_US:
                self._forget_sent()
                return Result(Status.RESOLVED, None)
        if failure.retryability is Retryability.PERMANENT:
            self._forget_sent()
            if not _is_told(failure, _TOLD_OF_WRITES):
                raise error
            return Result(Status.SKIPPED, failure.reason)
        until = self._clock() + IN_DOUBT_SECONDS
        self._mark_sent(SentWrite(values["close_notes"], until, count_of(record)))
        asked = max(LOOK_SECONDS, failure.retry_after_seconds or 0.0)
        error.failure = replace(failure, retry_after_seconds=asked)
        raise error

    # What is known

    def _remember(self, record: Record) -> None:
        """Its person is told of the ticket as it is in *record*."""
        self._task.record = replace(self._task.record, known=dict(record))

    def _mark_sent(self, sent: SentWrite) -> None:
        self._task.record = replace(self._task.record, last_sent=sent.to_mapping())

    def _forget_sent(self) -> None:
        """Nothing that was sent is in doubt any more."""
        self._task.record = replace(self._task.record, last_sent={})


def _is_told(failure: Failure, reasons: Collection[Reason]) -> bool:
    """Whether *failure* is final, and the person's to hear."""
    return failure.retryability is Retryability.PERMANENT and failure.reason in reasons


_BEHIND: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BAD_ANSWER,
    "ServiceNow tells of the ticket as it was before its last change: its reads lag behind",
    retry_after_seconds=LAG_SECONDS * 10,
)
_NOT_FOUND_AGAIN: Final = Failure(
    Retryability.IN_DOUBT,
    Reason.IN_DOUBT,
    "ServiceNow does not tell of the ticket that may be resolved; it is looked for again",
    retry_after_seconds=LOOK_SECONDS,
)
_UNTOLD: Final = Failure(
    Retryability.IN_DOUBT,
    Reason.IN_DOUBT,
    "ServiceNow took the write and does not tell the ticket's state; it is looked at again",
)
_HIDDEN: Final = Failure(
    Retryability.PERMANENT,
    Reason.ACL,
    "ServiceNow does not tell the ticket's state, so that nobody could say whether it is resolved: "
    "let the function's user read the column `state`",
)
_NOT_ALLOWED: Final = Result(Status.SKIPPED, Reason.NOT_ALLOWED)
