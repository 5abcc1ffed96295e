"""A ticket that is there already becomes a row's: the one that the row names by its sys_id."""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from function.core.outcome import Failure, Reason, Retryability
from function.core.step import DesiredState
from function.core.trail import GONE, current_place
from function.failpoints import failpoint
from function.ledger.backend import LedgerUnavailable
from function.ledger.records import IN_DOUBT_SECONDS, KeptMark, PendingWrite, Ticket
from function.rules.ticket import TicketRule
from function.servicenow import Record, ServiceNowError
from function.targets.ticket.access import TicketAccess
from function.targets.ticket.address import address, is_of_source
from function.targets.ticket.creation import CORRELATION_DISPLAY, NEVER_WRITTEN, TicketCreation

log = logging.getLogger(__name__)
# The kind of the write that puts our marks into a ticket.
ADOPT: Final = "adopt"
# The lease of a ticket that is no row's yet is asked for that long. Who has it passes the ticket on
# to the app, and the row that comes of it is here within a moment.
LEASE_PATIENCE_SECONDS: Final = 2.0
LEASE_POLL_SECONDS: Final = 0.1
BUSY_SECONDS: Final = 2.0

_KEPT: Final = (
    "The ticket that the row names has a correlation_id that another system wrote, and may go by: "
    "it was left as it is. The row's changes are sent all the same. Where nobody goes by it any "
    "more, empty it in ServiceNow before a row names the ticket"
)


class Adopted(Enum):
    """What became of an adoption."""

    MARKED = auto()  # the ticket is the row's, and our marks were written into it
    FOUND = auto()  # the same, and nothing was written
    RECREATED = auto()  # there is no such ticket, and the row gets one of its own
    MISSING = auto()  # there is none, and the rule says to ignore that


class TicketAdoption:
    """Links the row that TicketAccess is for to the ticket that it names.

    The ticket gets the marks that one of our own has, and nothing else: what the row wants is taken
    for sent. Writing the marks twice does no harm, so what was in doubt and is not found is done
    again.
    """

    def __init__(self, access: TicketAccess, creation: TicketCreation) -> None:
        self._access = access
        self._creation = creation

    @property
    def _rule(self) -> TicketRule:
        return self._access.rule

    @property
    def _ticket(self) -> Ticket:
        return self._access.ticket

    @property
    def in_doubt(self) -> str:
        """The ticket of which nobody knows whether our marks stand in it; empty where there is
        none."""
        pending = self._ticket.pending_write
        if self._ticket.sys_id or pending is None or not pending.in_doubt:
            return ""
        return pending.sys_id

    @property
    def _pending(self) -> PendingWrite:
        """The write that was begun."""
        assert self._ticket.pending_write is not None  # noqa: S101  # for the type checker
        return self._ticket.pending_write

    def check_name(self, wants: DesiredState) -> None:
        """A row that has a ticket may name that one, whichever of its generations, and no other.

        Raises ServiceNowError, permanent.
        """
        ticket, named = self._ticket, wants.sys_id
        if not (ticket.sys_id or ticket.generation) or not named or not wants.when or wants.gone:
            return
        ours = any(named == self._address(number) for number in range(ticket.generation + 1))
        if named in {ticket.named_sys_id, ticket.sys_id.lower(), self._access.follows.lower()}:
            if named == ticket.sys_id.lower() and not (
                ours or ticket.named_sys_id or ticket.last_sent
            ):
                # A look linked it, and what was sent of the row is not known: the ledger was lost.
                self.take_for_sent(wants)
            self._access.ticket = replace(self._ticket, named_sys_id=named)
            return
        if ours:
            return
        raise _conflict(
            "the row has a ticket already and names another one by `sys_id`: a key stands for one "
            "ticket. Let the column hold the sys_id of the ticket that the row has, or nothing, or "
            "give the row another key, then replay",
        )

    def _address(self, generation: int) -> str:
        return address(self._rule.table, self._access.correlation, generation)

    def adopt(self, wants: DesiredState) -> Adopted:
        """Make the ticket that *wants* names the row's.

        Raises ServiceNowError: CONFLICT where another row has it, BUSY where somebody is at work on
        it; LeaseLost.
        """
        with self._leased(wants.sys_id):
            try:
                return self._adopt(wants.sys_id, wants)
            except ServiceNowError as error:
                if error.failure.reason is not Reason.MISSING:
                    raise
                return self._missing(error, wants.sys_id)

    def settle(self, wants: DesiredState) -> None:
        """Find out whether our marks stand in a ticket that the row does not name any more, or is
        not to have.

        Afterwards it is the row's, or known not to be. Raises IN_DOUBT while that may still change.
        """
        sys_id = self.in_doubt
        with self._leased(sys_id):
            try:
                record = self._get(sys_id)
            except ServiceNowError as error:
                if error.failure.reason is not Reason.MISSING:
                    raise
                record = {}
            if self._is_ours(record):
                self._link({**record, "sys_id": sys_id}, sys_id, 0, wants)
            else:
                self._access.ticket = self._ticket.without_doubt()

    # The lease of a ticket that is no row's yet

    @contextmanager
    def _leased(self, sys_id: str) -> Iterator[None]:
        """Nobody else adopts *sys_id* meanwhile, or passes it on to the app.

        What may still be written after we stopped listening must not meet the next one: the lease
        lasts as long as that, and is kept where it happened.
        """
        if (wait := self._seconds_until_committed()) > 0:
            raise ServiceNowError(
                Failure(
                    Retryability.IN_DOUBT,
                    Reason.IN_DOUBT,
                    "an earlier write into the ticket that is adopted may still commit; it is "
                    "looked at then",
                    retry_after_seconds=wait,
                )
            )
        owner = uuid.uuid4().hex
        lease = self._take_lease(sys_id, owner, self._access.lease_seconds + IN_DOUBT_SECONDS)
        try:
            yield
        finally:
            with suppress(LedgerUnavailable):
                if self._seconds_until_committed() > 0:
                    self._begin(sys_id, owner, IN_DOUBT_SECONDS)
                else:
                    self._access.ledger.tickets.give_back(lease, owner=owner)

    def _seconds_until_committed(self) -> float:
        """So long may a write in doubt still commit."""
        if not self.in_doubt:
            return 0.0
        return self._pending.at + IN_DOUBT_SECONDS - self._access.clock()

    def _take_lease(self, sys_id: str, owner: str, seconds: float) -> Ticket:
        until = time.monotonic() + min(LEASE_PATIENCE_SECONDS, self._access.deadline.left())
        while True:
            lease = self._begin(sys_id, owner, seconds)
            if lease is not None:
                return lease
            if time.monotonic() > until:
                raise ServiceNowError(
                    Failure(
                        Retryability.TRANSIENT,
                        Reason.BUSY,
                        "somebody else is at work on the ticket that the row names",
                        retry_after_seconds=BUSY_SECONDS,
                    )
                )
            time.sleep(LEASE_POLL_SECONDS)

    def _begin(self, sys_id: str, owner: str, seconds: float) -> Ticket | None:
        """Such a ticket has no rule, and its sys_id is its key."""
        leased = self._access.ledger.tickets.begin_settling(
            instance=self._ticket.instance, rule="", key=sys_id, owner=owner, lease_seconds=seconds
        )
        return leased[0] if leased is not None else None

    # What stands in ServiceNow

    def _get(self, sys_id: str) -> Record:
        """The ticket, asked for twice where it is missing: reads may lag behind writes."""
        missing: ServiceNowError | None = None
        for _ in self._access.looks():
            try:
                return self._access.get(sys_id, self._fields)
            except ServiceNowError as error:
                if error.failure.reason is not Reason.MISSING:
                    raise
                missing = error
        assert missing is not None  # noqa: S101  # there is one look at least
        raise missing

    @property
    def _fields(self) -> list[str]:
        return [*self._access.fields, *self._access.link, "correlation_display"]

    def _is_ours(self, record: Record) -> bool:
        return self._access.correlation in self._marks_of(record)

    def _marks_of(self, record: Record) -> tuple[str, str]:
        return record.get("correlation_id", ""), record.get("correlation_display", "")

    def _missing(self, error: ServiceNowError, sys_id: str) -> Adopted:
        match self._rule.on_missing:
            case "recreate":
                self._access.ticket = replace(self._ticket.without_doubt(), named_sys_id=sys_id)
                return Adopted.RECREATED
            case "ignore":
                return Adopted.MISSING
            case _:
                hint = (
                    f"the row names a ticket by `sys_id` that {self._rule.table} does not have, or "
                    "that is hidden from the integration user; somebody must decide: put the "
                    "column right, restore the ticket, or set on_missing to recreate or ignore, "
                    "then replay"
                )
                raise ServiceNowError(
                    replace(error.failure, retryability=Retryability.PERMANENT, hint=hint)
                ) from error

    def _adopt(self, sys_id: str, wants: DesiredState) -> Adopted:
        # An earlier attempt is remembered, so the ledger was not lost since.
        is_last = bool(self.in_doubt)
        record = self._get(sys_id)
        marked = False
        if not self._is_ours(record):
            self._refuse_another_rows(record, sys_id)
            if marked := self._takes_marks(record):
                record = self._write_marks(sys_id)
                # It did not carry them, and it does: no ticket of this row has followed it.
                is_last = self._is_ours(record)
        generation = 0
        # A field ACL may keep the sys_id from us.
        record = {**record, "sys_id": record.get("sys_id") or sys_id}
        if not is_last:
            record, generation = self._creation.find_last(record)
        self._link(record, sys_id, generation, wants)
        return Adopted.MARKED if marked else Adopted.FOUND

    def _refuse_another_rows(self, record: Record, sys_id: str) -> None:
        """Raise CONFLICT where the ticket is another row's, by its marks or by the ledger."""
        correlation, display = self._marks_of(record)
        by_marks = any(
            is_of_source(self._access.source_name, mark) for mark in (correlation, display)
        )
        # Under another SOURCE_NAME this function is another app's.
        of_another_app = bool(correlation) and display == CORRELATION_DISPLAY
        if not by_marks and not of_another_app and not self._has_holder(sys_id):
            return
        self._access.ticket = self._ticket.without_doubt()
        raise _conflict(
            "the ticket that the row names is another row's already: a ticket is for one row. Let "
            "one row name it; where the other one is gone, or its rule has another `id` by now, "
            "empty the ticket's correlation_id in ServiceNow, then replay",
            remote_message=f"correlation_id: {correlation}" if correlation else "",
        )

    def _has_holder(self, sys_id: str) -> bool:
        """Whether the ledger knows of a row, not gone, that has the ticket."""
        for holder in self._access.ledger.tickets.holders(self._ticket, sys_id):
            place = current_place(holder.trail)
            if place is None or place.digest != GONE:
                return True
        return False

    def _takes_marks(self, record: Record) -> bool:
        """Whether our marks are to be written: not over another system's, not into a ticket that is
        closed, and not where they are dropped."""
        if record.get("correlation_id"):
            log.warning(
                "the adopted ticket keeps its correlation_id, which is another system's",
                extra={"rule": self._ticket.rule, "ticket": record.get("number", "")},
            )
            self._access.task.left_alone["correlation_id"] = _KEPT
            return False
        if record.get("state", "") in self._access.states.final:
            return False
        return self._access.task.traits.kept_mark is not KeptMark.NONE

    def _write_marks(self, sys_id: str) -> Record:
        """PATCH our marks alone; gives the ticket as it is then."""
        marks = self._creation.marks()
        fields = tuple(sorted(marks))
        self._access.record_intent(
            PendingWrite(ADOPT, fields, self._access.clock(), sys_id=sys_id), marks
        )
        failpoint("before_call")
        try:
            record = self._access.tables.update(
                self._rule.table,
                sys_id,
                marks,
                fields=self._fields,
                deadline=self._access.deadline,
            )
            failpoint("after_call")
        except ServiceNowError as error:
            failpoint("after_call")
            return self._judge(error, sys_id)
        if not self._is_ours(record):
            self._access.task.mismatched_fields |= {"correlation_id"}
        return record

    def _judge(self, error: ServiceNowError, sys_id: str) -> Record:
        """The PATCH was not answered by the ticket: any 403 may hide that it was done."""
        failure, pending = error.failure, self._pending
        in_doubt = pending.in_doubt or failure.retryability is Retryability.IN_DOUBT
        if failure.status == 403 or failure.reason is Reason.WRONG_RECORD:
            # In doubt until the look has told; the look may fail too.
            self._doubt(pending)
            for _ in self._access.looks():
                record = self._access.get(sys_id, self._fields)
                if self._is_ours(record):
                    return record
                if failure.reason in NEVER_WRITTEN:
                    break
        if in_doubt:
            self._doubt(pending)
            asked = max(IN_DOUBT_SECONDS, failure.retry_after_seconds or 0.0)
            error.failure = replace(failure, retry_after_seconds=asked)
        else:
            self._access.ticket = self._ticket.without_doubt()
        raise error

    def _doubt(self, pending: PendingWrite) -> None:
        self._access.ticket = self._ticket.create_in_doubt(
            replace(pending, at=self._access.clock())
        )

    def _link(self, record: Record, sys_id: str, generation: int, wants: DesiredState) -> None:
        """*record* is the row's ticket from now on, and says all that the row wants by now."""
        self._access.take(record)
        self._access.looked = True
        self._access.ticket = replace(self._ticket, generation=generation, named_sys_id=sys_id)
        if any(sys_id == self._address(number) for number in range(generation + 1)):
            # The row names what was made for it, and the ledger was lost: it is compared whole, as
            # that of a row that names nothing.
            self._access.ticket = self._ticket.made(
                row_resolved=False, left_empty=dict.fromkeys(self._rule.leave_empty, "")
            )
        else:
            self.take_for_sent(wants)
        self._access.ask_for_look()
        log.info("adopted the ticket that the row names", extra={"ticket": self._ticket.number})

    def take_for_sent(self, wants: DesiredState) -> None:
        """The row's empty columns must not wipe out people's words, nor does it resolve or reopen
        what it has just met: what follows is sent."""
        self._access.ticket = self._ticket.adopted(
            wants.fields,
            row_resolved=wants.resolved,
            # Who stands there was put there by people.
            left_empty=dict.fromkeys(self._rule.leave_empty, ""),
        )


def _conflict(hint: str, *, remote_message: str = "") -> ServiceNowError:
    return ServiceNowError(Failure(Retryability.PERMANENT, Reason.CONFLICT, hint, remote_message))
