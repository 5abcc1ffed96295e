"""One ticket in one attempt: read, compared, and written down in the ledger."""

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from function.connection.active import Connection
from function.core.lifecycle import Lifecycle
from function.core.outcome import Failure, Reason, Retryability
from function.core.step import STATE
from function.ledger.ledger import Ledger
from function.ledger.records import IN_DOUBT_SECONDS, PendingWrite, ShadowUpdate, Ticket
from function.rules.ticket import TicketRule, ticket_of
from function.servicenow import (
    Record,
    Request,
    ServiceNowError,
    UnknownReference,
    wrong_record,
)
from function.servicenow.values import is_kept
from function.targets.base import Task
from function.targets.ticket.address import correlation_id
from function.targets.ticket.decide import KIND

log = logging.getLogger(__name__)
# A replica that is read is behind the database that is written by less than that, as a rule.
LAG_SECONDS: Final = 0.5
# The instance may know a change's model by another name than the one it is given, and answers with
# that.
_RENAMED: Final = frozenset({"chg_model"})
# A count of more digits is none that a record reaches; the ledger's column holds nine.
_COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)
_OWN_COLUMNS: Final = ("sys_id", "number", "correlation_id", "state", "sys_mod_count")
# Values of one field that are in doubt at one time; more come and go within a minute only where
# every call is lost.
SENT_VALUES_MAX: Final = 16
# ServiceNow's own limit for both; what is longer is none of its numbers or states.
NUMBER_CHARACTERS_MAX: Final = 40


def count_of(record: Record) -> int | None:
    """The record's ``sys_mod_count``, None where it tells none that can be one."""
    count = record.get("sys_mod_count", "")
    return int(count) if _COUNT.fullmatch(count) else None


def compared_columns(rule: TicketRule) -> set[str]:
    """The columns that *rule* compares with what it wants."""
    kind = (KIND,) if rule.states.by_type else ()
    return {*rule.fields, *rule.closing_fields, *kind} - {"sys_id"}


def remember_record(ticket: Ticket, record: Record, rule: TicketRule, *, at: float) -> Ticket:
    """*ticket* with what ServiceNow told of it in *record*. *at* is UNIX seconds."""
    link = [rule.states.link] if rule.states.link else []
    known = {*compared_columns(rule), *link} - {*_OWN_COLUMNS}
    returned = {field: value for field, value in record.items() if field in known}
    return replace(
        ticket,
        sys_id=record.get("sys_id") or ticket.sys_id,
        number=record.get("number", "")[:NUMBER_CHARACTERS_MAX] or ticket.number,
        state=record.get("state", ticket.state)[:NUMBER_CHARACTERS_MAX],
        mod_count=count_of(record) or 0,
        updated_at=at,
        known={**ticket.known, **returned},
    )


class TicketAccess:
    """One ticket in one attempt, under the key's lease: what is known of it, read, and written
    down."""

    def __init__(
        self,
        task: Task,
        *,
        connection: Connection,
        ledger: Ledger,
        source_name: str,
        lease_seconds: float,
    ) -> None:
        self.task = task
        self.rule = ticket_of(task.rule)
        self.ticket = replace(task.record, table=self.rule.table)
        self.tables = connection.tables
        self.ledger = ledger
        self.deadline = task.deadline
        self.source_name = source_name
        self.lease_seconds = lease_seconds
        self.correlation = correlation_id(source_name, task.record.rule, task.record.key)
        self.looked = False
        # Names that nobody goes by, found out in this attempt: by field, with the reason.
        self._unnamed: dict[str, tuple[str, str]] = {}
        self._references = connection.references
        self._ahead = task.now - time.monotonic()

    @property
    def ticket(self) -> Ticket:
        """What is known of it by now."""
        return self.task.record

    @ticket.setter
    def ticket(self, ticket: Ticket) -> None:
        self.task.record = ticket

    def clock(self) -> float:
        """The ledger's clock, as it has gone on since the work began."""
        return self._ahead + time.monotonic()

    def sent(self, field: str, value: str) -> str | None:
        """What to send for *value*; None where nobody goes by that name and the rule says to leave
        the field empty."""
        if self._is_unnamed(field, value):
            return None
        try:
            return self._references.sys_id(self.rule.table, field, value, deadline=self.deadline)
        except UnknownReference as error:
            # Of several it is not known which: empty would be as wrong as any of them.
            if error.is_ambiguous or field not in self.rule.leave_empty:
                raise
            self._unnamed[field] = (value, error.hint)
            return None

    def _is_unnamed(self, field: str, value: str) -> bool:
        return field in self._unnamed and self._unnamed[field][0] == value

    def remember_asked(self, fields: Mapping[str, str]) -> None:
        """The ticket says what the row gives for *fields*; of a name that nobody goes
        by, nothing."""
        unnamed = {field for field, value in fields.items() if self._is_unnamed(field, value)}
        for field in unnamed:
            if self.ticket.left_empty.get(field) != fields[field]:
                self.task.left_empty[field] = self._unnamed[field][1]
                log.warning(
                    "left %s empty: %s",
                    field,
                    self._unnamed[field][1],
                    extra={"rule": self.ticket.rule},
                )
        self.ticket = replace(
            self.ticket.without_taken(fields),
            last_sent={
                **{
                    field: value
                    for field, value in self.ticket.last_sent.items()
                    if field not in unnamed
                },
                **{field: value for field, value in fields.items() if field not in unnamed},
            },
            left_empty={
                **{
                    field: value
                    for field, value in self.ticket.left_empty.items()
                    if field not in fields
                },
                **{field: fields[field] for field in unnamed},
            },
        )

    @property
    def fields(self) -> list[str]:
        """What every call asks to be told."""
        mapped = compared_columns(self.rule)
        return [*_OWN_COLUMNS, *sorted({*mapped, *self.rule.listeners.columns} - {*_OWN_COLUMNS})]

    @property
    def states(self) -> Lifecycle:
        return self.rule.states

    @property
    def link(self) -> list[str]:
        """The column by which a ticket names the one that it follows, where the table has one."""
        return [self.states.link] if self.states.link else []

    @property
    def follows(self) -> str:
        """The sys_id of the ticket that this one follows; empty where there is none."""
        return self.ticket.known.get(self.states.link, "")

    def looks(self) -> Iterator[None]:
        """The moments to look: now, and again a little later, for reads may lag behind writes."""
        yield
        if self.deadline.left() > 2 * LAG_SECONDS:
            time.sleep(LAG_SECONDS)
            yield

    def get_known(self) -> Record:
        """Get a ticket that we know of; one that is missing, or older than what we know, is asked
        for again.

        Raises ServiceNowError, transient where it is older still.
        """
        missing: ServiceNowError | None = None
        for _ in self.looks():
            try:
                record = self.get(self.ticket.sys_id, self.fields)
            except ServiceNowError as error:
                if error.failure.reason is not Reason.MISSING:
                    raise
                missing = error
            else:
                missing = None
                if not self._is_older(record):
                    return record
        raise missing or ServiceNowError(
            Failure(
                Retryability.TRANSIENT,
                Reason.BAD_ANSWER,
                "ServiceNow tells of the ticket as it was before our last change: "
                "its reads lag behind",
                retry_after_seconds=LAG_SECONDS * 10,
            )
        )

    def get(self, sys_id: str, fields: Sequence[str]) -> Record:
        """Get the record *sys_id* and no other: an answer with another one is asked for again,
        once.

        An instance that keeps the sys_id from us must tell the correlation_id. Raises
        ServiceNowError.
        """
        try:
            return self._get_once(sys_id, fields)
        except ServiceNowError as error:
            if error.failure.reason is not Reason.WRONG_RECORD:
                raise
        return self._get_once(sys_id, fields)

    def _get_once(self, sys_id: str, fields: Sequence[str]) -> Record:
        record = self.tables.get(self.rule.table, sys_id, fields=fields, deadline=self.deadline)
        if not record.get("sys_id") and record.get("correlation_id") != self.correlation:
            raise self.wrong_record(sys_id, record, writes=False)
        return record

    def wrong_record(self, asked: str, given: Record, *, writes: bool) -> ServiceNowError:
        method: Literal["GET", "PATCH"] = "PATCH" if writes else "GET"
        return ServiceNowError(
            wrong_record(Request(method, self.rule.table, asked), asked=asked, given=given)
        )

    def _is_older(self, record: Record) -> bool:
        """Whether *record* is from before what we know. A count that went back long ago is a
        restored instance's."""
        count = count_of(record)
        recent = self.clock() - self.ticket.updated_at < IN_DOUBT_SECONDS
        return recent and count is not None and count < self.ticket.mod_count

    def record_intent(self, pending_write: PendingWrite, values: Mapping[str, str]) -> None:
        """Before a call that sends *values*: what is being sent is unknown from now on, so that a
        crash cannot leave a lie behind."""
        before = self.ticket.pending_write
        if before is not None and before.in_doubt:
            pending_write = replace(
                before,
                at=pending_write.at,
                fields=tuple(sorted({*before.fields, *pending_write.fields})),
            )
        unknown = {*pending_write.fields}
        self.ticket = replace(
            self.ticket.without_taken(unknown),
            pending_write=pending_write,
            written_fields=self.ticket.written_fields | unknown,
            sent_values=self._sent_values(values),
            known={
                field: value for field, value in self.ticket.known.items() if field not in unknown
            },
            last_sent={
                field: value
                for field, value in self.ticket.last_sent.items()
                if field not in unknown
            },
        )
        self.task.save(self.ticket)
        self.ticket = replace(self.ticket, shadow_update=None)

    def _sent_values(self, values: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """What may come to stand in the ticket, with *values*, of what the app is told of."""
        sent = dict(self.ticket.sent_values)
        for field in self.rule.listeners.fields & values.keys():
            others = [value for value in sent.get(field, ()) if value != values[field]]
            sent[field] = (*others[1 - SENT_VALUES_MAX :], values[field])
        return sent

    def remember_write(self, record: Record, sent: Collection[str]) -> None:
        """Our write of the columns *sent* is what made *record*: the row said so, so the app is not
        told, even where the instance wrote something else."""
        if not self.rule.listeners.rules:
            return
        before = self.ticket.shadow_update or ShadowUpdate()
        record = self._padded(record)
        values = {column: record[column] for column in self._heard_of(sent) & record.keys()}
        self.ticket = replace(
            self.ticket,
            written_counts={**self.ticket.written_counts, **self._counted(record, sent)},
            shadow_update=replace(before, values={**before.values, **values}),
        )

    def remember_agreement(self, fields: Collection[str]) -> None:
        """What the row says of *fields* stands there already: somebody else wrote it."""
        if not self.rule.listeners.rules:
            return
        before = self.ticket.shadow_update or ShadowUpdate()
        known = {**self.ticket.known, STATE: self.ticket.state}
        agreed = {column: known.get(column) for column in self._heard_of(fields)}
        update = replace(before, agreed={**before.agreed, **agreed})
        self.ticket = replace(self.ticket, shadow_update=update)

    def _counted(self, record: Record, sent: Collection[str]) -> dict[str, int]:
        """What ServiceNow counted after our write of the columns *sent*, for those that rules
        name."""
        return dict.fromkeys(self.rule.listeners.fields.intersection(sent), count_of(record) or 0)

    def _padded(self, record: Record) -> Record:
        """*record* with what is behind its empty references: nothing, which releases leave out."""
        behind = {
            name: ""
            for name in self.rule.listeners.columns
            if "." in name and record.get(name.partition(".")[0]) == ""
        }
        return {**behind, **record}

    def _heard_of(self, sent: Collection[str]) -> set[str]:
        """The columns that rules name, of what stands in the columns *sent*, and behind the
        references there."""
        return {name for name in self.rule.listeners.columns if name.partition(".")[0] in sent}

    def remember_creation(self, record: Record, *, found: bool = False) -> None:
        """We made *record*: the app has it as it was made. Of one that was *found*, somebody may
        have changed it: what is not as we sent it, or in a column that we did not send and that
        was empty at first, the app has not."""
        listeners = self.rule.listeners
        if not listeners.rules:
            return
        record = self._padded(record)
        touched = found and count_of(record) != 0
        sent = self._heard_of(self.ticket.sent_values)
        unsure = {
            name
            for name in listeners.columns
            if touched
            and not (self._is_ours(name, record) if name in sent else self._is_new(name, record))
        }
        images = {
            rule: {
                name: None
                if name in unsure or (rule in listeners.inserting and name not in sent)
                else record[name]
                for name in columns
                if name in record
            }
            for rule, columns in listeners.rules.items()
        }
        update = ShadowUpdate(
            first_images=images,
            inserting=listeners.inserting,
            mod_count=self.ticket.mod_count,
            # People may name a parent too.
            former=self.follows if self.ticket.generation else "",
            former_columns=self.rule.heard_only,
            look_again=bool(self.follows),
        )
        counts = self._counted(record, self.rule.listeners.fields)
        self.ticket = replace(self.ticket, written_counts=counts, shadow_update=update)

    def ask_for_look(self) -> None:
        """The ticket is the row's from now on: what the app was not told of it for want of a row,
        it is told."""
        if self.rule.listeners.rules:
            before = self.ticket.shadow_update or ShadowUpdate()
            update = replace(before, look_again=True)
            self.ticket = replace(self.ticket, shadow_update=update)

    def settle_sent(self, record: Record) -> None:
        """What was sent in doubt and is found in *record* is ours."""
        found = [column for column in self.ticket.sent_values if self._is_ours(column, record)]
        if found:
            self.remember_write(record, found)

    def _is_new(self, column: str, record: Record) -> bool:
        """Whether *column* says what it does in every ticket that was just made, as far as that is
        known."""
        return record.get(column, "") in ("", self.states.first if column == STATE else "")

    def _is_ours(self, column: str, record: Record) -> bool:
        """Whether what stands in *column*, or behind the reference in it, is what we sent."""
        sent = column.partition(".")[0]
        value = record.get(sent, "")
        return any(is_kept(value, one) for one in self.ticket.sent_values.get(sent, ()))

    def take(self, record: Record) -> None:
        """Remember what ServiceNow returned: that is what is known."""
        self.ticket = remember_record(self.ticket, record, self.rule, at=self.clock())

    def compare(self, record: Record, sent: Mapping[str, str]) -> None:
        odd = {field for field, value in sent.items() if not is_kept(record.get(field, ""), value)}
        self.task.mismatched_fields |= odd - {field for field in _RENAMED if record.get(field)}
