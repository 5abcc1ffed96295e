"""One ticket under its lease: settled where something is in doubt, looked at, and written down."""

import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from function.connection.active import Connection
from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline, lease_tries
from function.delivery_context import DeliveryContext
from function.inbound.look import TicketReader, asked_columns, parse_correlation
from function.inbound.plan import TicketLook
from function.ledger.records import (
    Alert,
    AlreadyDead,
    Delivery,
    DeliveryId,
    Shadow,
    Ticket,
)
from function.ledger.ticket_syncs import (
    NO_RULE,
    Attempt,
    AttemptEnd,
    LinkChanged,
    SyncBegun,
    find_known_count,
)
from function.rules.model import Rule
from function.rules.ticket import TicketRule
from function.rules.ticket_change import TicketLink
from function.servicenow import Record, ServiceNowError
from function.settling import settle_ticket
from function.targets.base import LeaseLost
from function.targets.ticket.access import remember_record
from function.targets.ticket.address import find_generation, is_of_source


class HeldTicket:
    """One ticket, for as long as its lease is held.

    *record* is that of the row that it is for, or one without a rule; *shadows* are what the app
    was last given.
    """

    def __init__(
        self,
        context: DeliveryContext,
        connection: Connection,
        *,
        table: str,
        sys_id: str,
        deadline: Deadline,
    ) -> None:
        self._ledger = context.ledger
        self._settings = context.settings
        self._context = context
        self._connection = connection
        self._reader = TicketReader(connection, table, sys_id, deadline)
        self._deadline = deadline
        self._owner = uuid.uuid4().hex
        self._ahead = 0.0
        self.rules = context.rules.from_table(table)
        self.table = table
        self.sys_id = sys_id
        self.record = Ticket(connection.instance_url, NO_RULE, sys_id)
        self.shadows: tuple[Shadow, ...] = ()
        self.opened: tuple[DeliveryId, ...] = ()
        self._relinked = False

    @property
    def event(self) -> str:
        """What the ticket's changes are called in deliveries."""
        return f"{self.table}/{self.sys_id}"

    @property
    def now(self) -> float:
        """The ledger's clock, as it has gone on since the work began."""
        return self._ahead + time.monotonic()

    @property
    def link(self) -> TicketLink | None:
        if self.record.rule == NO_RULE:
            return None
        return TicketLink(self.record.rule, self.record.key, self.record.generation)

    def take_lease(self, link: tuple[str, str] | None = None) -> bool:
        """Take the ticket's lease; False where somebody else has it all the time. *link*: the row
        that the ticket says it is for."""
        for _ in lease_tries(self._deadline):
            begun = self._ledger.syncs.begin(
                self._connection.instance_url,
                self.sys_id,
                event=self.event,
                owner=self._owner,
                lease_seconds=self._settings.lease_seconds,
                link=link,
            )
            if isinstance(begun, SyncBegun):
                self.record, self.shadows, self.opened = begun.record, begun.shadows, begun.opened
                self._ahead = begun.now - time.monotonic()
                return True
            if isinstance(begun, LinkChanged):
                link = None
        return False

    # The look

    def look(self, heard_count: int) -> TicketLook:
        """The ticket as it is, once nothing that we sent is in doubt.

        *heard_count* is the count of changes that somebody was told of. Raises NotDone, LeaseLost.
        """
        self._settle()
        rule = self._ticket_rule()
        columns = asked_columns(self.rules, rule)
        shown = any(rule.ticket_source.has_shown for rule in self.rules if rule.ticket_source)
        try:
            values, seen = self._reader.read(
                columns, shown=shown, known_count=self._known_count(), heard_count=heard_count
            )
        except ServiceNowError as error:
            if error.failure.reason is Reason.MISSING:
                return self._last_look()
            raise
        is_ours = is_of_source(self._settings.source_name, values.get("correlation_id", ""))
        if is_ours and self.record.rule == NO_RULE and self._relink(values):
            # What was seen may be older than what the row's record knows.
            return self.look(heard_count)
        if (rule := self._ticket_rule()) is not None:
            self.record = remember_record(self.record, values, rule, at=self.now)
        is_ours = is_ours or self.record.rule != NO_RULE
        return TicketLook(self.table, self.sys_id, values, seen, self.link, is_ours)

    def matches(self, query: str) -> bool:
        """Whether the ticket is one of those of the encoded *query*. Raises NotDone."""
        return self._reader.matches(query)

    def _last_look(self) -> TicketLook:
        """The ticket is gone: what the app knows of it is all that can be said."""
        known = {
            column: value
            for shadow in self.shadows
            for column, value in shadow.image.items()
            if value is not None
        }
        return TicketLook(self.table, self.sys_id, known, known, self.link, is_ours=True, gone=True)

    def _ticket_rule(self) -> TicketRule | None:
        rule = self._find_rule()
        return rule.target if rule and isinstance(rule.target, TicketRule) else None

    def _find_rule(self) -> Rule | None:
        """The rule of the row's ticket; None where there is none, or not any more."""
        rules = (rule for rule in self._context.rules.rules if rule.id == self.record.rule)
        return next(rules, None)

    def _known_count(self) -> int:
        """The count of changes that we have seen of late."""
        return find_known_count(self.record, self.shadows, now=self.now)

    def _settle(self) -> None:
        """A ticket in doubt is settled first: what we sent may still come to stand there."""
        due = self.record.suspect_until
        if due is None:
            return
        rule = self._find_rule()
        if rule is not None and due <= self.now:
            session = self._context.targets[rule.target.kind].connect()
            self.record, failure = settle_ticket(
                self._ledger,
                session,
                rule,
                self.record,
                owner=self._owner,
                now=self.now,
                deadline=self._deadline,
            )
            self._save_settled()
            due = self.record.suspect_until
            if failure is not None and failure.retryability is Retryability.PERMANENT:
                return  # nothing will come of it; what there is to see is seen
        if rule is not None and due is not None:
            raise ServiceNowError(
                Failure(
                    Retryability.IN_DOUBT,
                    Reason.IN_DOUBT,
                    "an earlier write may still commit; the ticket is looked at again then",
                    retry_after_seconds=max(1.0, due - self.now),
                )
            )

    def _save_settled(self) -> None:
        """What was found out says something of the shadows too. Raises LeaseLost."""
        if self.record.shadow_update is None:
            return
        if not self._ledger.tickets.save(self.record, owner=self._owner):
            raise LeaseLost
        self.record = replace(self.record, shadow_update=None)
        self.shadows = tuple(self._ledger.shadows.find(self.record.instance, [self.sys_id]))

    def _relink(self, values: Record) -> bool:
        """The ticket says which row it is for, and the ledger does not know: it was lost.

        Of several tickets of one row, only the newest is the row's. True where the lease is the
        row's now. Raises NotDone.
        """
        correlation = values["correlation_id"]
        source, rules = self._settings.source_name, self._context.rules.rules
        row = parse_correlation(source, self.table, correlation, rules)
        if self._relinked or row is None or not self._reader.is_current(correlation):
            return False
        self._relinked = True
        self.release()
        if not self.take_lease(row):
            raise ServiceNowError(_BUSY)
        if self.record.rule != NO_RULE and not self.record.sys_id and not self.record.is_in_doubt:
            generation = find_generation(self.table, correlation, self.sys_id)
            if generation < self.record.generation:
                # The row's next ticket is still to be made: this one is a former one.
                self.release()
                if not self.take_lease():
                    raise ServiceNowError(_BUSY)
                return False
            adopted = replace(
                self.record, table=self.table, sys_id=self.sys_id, generation=generation
            )
            self.record = adopted.made(row_resolved=False)
        return True

    # Written down

    def intend(
        self,
        shadows: Sequence[Shadow],
        attempts: Sequence[Attempt],
        *,
        fresh: bool,
        dead_again: bool = False,
    ) -> list[Delivery | AlreadyDead]:
        """Write down what is about to be given. Raises LeaseLost. See SyncRepository."""
        begun = self._ledger.syncs.intend(
            self.record,
            shadows,
            attempts,
            owner=self._owner,
            fresh=fresh,
            dead_again=dead_again,
        )
        if begun is None:
            raise LeaseLost
        self.record = replace(self.record, shadow_update=None)
        return begun

    def finish(
        self,
        shadows: Sequence[Shadow],
        ends: Sequence[AttemptEnd],
        alerts: Sequence[Alert],
        *,
        release: bool,
        dropped: Collection[str] = (),
    ) -> bool:
        """Write down what came of it; gives whether a mail is due. Raises LeaseLost."""
        finished = self._ledger.syncs.finish(
            self.record,
            self.sys_id,
            shadows,
            ends,
            owner=self._owner,
            alerts=alerts,
            mail_every_seconds=self._settings.notify_every_seconds,
            release=release,
            dropped=dropped,
        )
        if not finished.stands:
            raise LeaseLost
        return finished.mail_due

    def release(self) -> None:
        """Give the lease back, with nothing written."""
        self._ledger.syncs.release(self.record, owner=self._owner)


_BUSY: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BUSY,
    "somebody else works on the row's ticket just now",
    retry_after_seconds=2.0,
)
