"""One ticket per key, brought to say what the row last said.

`decide` is the life of a ticket as a table of cases, pure. `TicketWork` carries its decisions out: it looks, creates at
the computed address, subtracts the known from the wanted, and writes down what ServiceNow returned.
"""

import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Literal, TypeAlias

from function.connection.breaker import Deadline, Line
from function.core.event import Op
from function.core.lifecycle import States
from function.core.outcome import Failure, Kind, Reason, Status
from function.core.step import Step, Wants
from function.core.values import instant
from function.failpoints import reached
from function.ledger.ledger import IN_DOUBT_SECONDS, KeptMark, Ledger, Sending, TableTraits, Ticket, kept_mark
from function.rules.model import TicketRule
from function.servicenow import (
    Record,
    Request,
    ServiceNowError,
    UnknownReference,
    is_sys_id,
    term,
    wrong_record,
)
from function.servicenow.values import is_kept, is_same_text
from function.targets.ticket.references import References

log = logging.getLogger(__name__)

# Never to be changed: every ticket's address is computed from it.
NAMESPACE: Final = uuid.UUID("6f1d2f5e-8a52-5d0e-9b0a-3c1f4f6f0d8e")
# ServiceNow's correlation_id is a String(100).
CORRELATION_CHARACTERS_MAX: Final = 100
# Who reads the ticket sees which kind of system wrote it, and a business rule can pick ours out.
CORRELATION_DISPLAY: Final = "hasura"
# A ticket that is followed by a new one more often than this is not followed by us.
GENERATIONS_MAX: Final = 1000
# A replica that is read is behind the database that is written by less than that, as a rule.
LAG_SECONDS: Final = 0.5
# Refusals of the platform's own, before it writes: one look is enough. (A failed insert is looked for again anyway.)
_NEVER_WRITTEN: Final = frozenset({Reason.BUSINESS_RULE, Reason.DATA_POLICY, Reason.INSERT_FAILED})
# What tells the ways to resolved apart, of a table whose states must be passed through.
KIND: Final = "type"
# The instance may know a change's model by another name than the one it is given, and answers with that.
_RENAMED: Final = frozenset({"chg_model"})
# Less than this is not enough for the next of several transitions: it would be cut off, and in doubt for a minute.
TRANSITION_SECONDS_MIN: Final = 2.0
# A count of more digits is none that a record reaches; the ledger's column holds nine.
_COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)
# Of the newest records so many are looked at for one that looks like a ticket whose create was not answered.
LOOK_ALIKES_MAX: Final = 200
# The instance's clock and the ledger's are less than that apart.
CLOCKS_APART_SECONDS: Final = 600.0
# A shorter text is a choice or a number, which many records have.
TEXT_CHARACTERS_MIN: Final = 8
# ServiceNow's own limit for both; what is longer is none of its numbers or states.
NUMBER_CHARACTERS_MAX: Final = 40
# Decisions about one ticket in one attempt; a good one needs four (look, create, look, resolve).
DECISIONS_MAX: Final = 10


# How the shortened form ends. No plain form may: the two must not meet.
_HASHED: Final = re.compile(r":[0-9a-f]{64}\Z", re.ASCII | re.IGNORECASE)


def correlation_id(source_name: str, rule: str, key: str) -> str:
    """``SOURCE_NAME:rule:key``; where that is too long, could not stand in a query, or reads like the other form, its
    beginning and its SHA-256. Neither *source_name* nor *rule* holds a colon, so no two keys have the same."""
    plain = f"{source_name}:{rule}:{key}"
    fits = len(plain) <= CORRELATION_CHARACTERS_MAX and plain.isprintable() and "^" not in plain
    if fits and plain == plain.strip() and not _HASHED.search(plain):
        return plain
    hashed = hashlib.sha256(plain.encode()).hexdigest()
    start = "".join(letter for letter in plain if letter.isprintable() and letter != "^").strip()
    return f"{start[: CORRELATION_CHARACTERS_MAX - len(hashed) - 1]}:{hashed}"


def address(table: str, correlation: str, generation: int) -> str:
    """The ticket's sys_id: a pure function of what it stands for, so that ServiceNow's primary key is the arbiter.

    No part holds a line feed, so what is hashed tells them apart. docs/servicenow.md has the scheme and examples.
    """
    return uuid.uuid5(NAMESPACE, f"{table}\n{correlation}\n{generation}").hex


# What to do next.


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is said. *row_resolved*: what the ticket was last told of its row, from now on."""

    status: Status
    reason: Reason | None
    row_resolved: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Get the ticket as it is: people work on it too."""


@dataclass(frozen=True, slots=True)
class Create:
    """Open the ticket; resolved at once where the row is, and the table's states may be jumped to."""

    resolved: bool


@dataclass(frozen=True, slots=True)
class Succeed:
    """Follow a ticket that has ended by a new one."""


@dataclass(frozen=True, slots=True)
class Write:
    """Send what differs, in one PATCH, and with it *state* where that changes.

    *row_resolved* is still false where *state* is but a step on the way to resolved.
    """

    status: Status
    row_resolved: bool
    state: str = ""
    close: bool = False


Decision: TypeAlias = Nothing | Look | Create | Succeed | Write


def decide(
    rule: TicketRule, wants: Wants, step: Step | None, ticket: Ticket, *, looked: bool, differs: bool
) -> Decision:
    """Say what follows for a ticket whose row wants *wants* at the end of its trail.

    *step* is what this event did (None when only a look is due). *looked*: the ticket's state is known as of now.
    *differs*: some mapped field is to be sent.
    """
    states = rule.states
    if not ticket.sys_id:
        return _decide_create(rule, wants, step, ticket)
    if rule.shared:
        return _decide_shared(rule, wants, step, ticket, looked=looked)
    ended, final = ticket.state in states.ended, ticket.state in states.final
    resolved = wants.resolved or (wants.gone and rule.on_delete != "leave")
    if wants.gone and rule.on_delete == "leave":
        resolved = ticket.row_resolved
    stays = ticket.row_resolved and rule.after_close == "leave"
    if resolved != ticket.row_resolved and states.resolved and not stays:
        if not looked and not final:
            return Look()
        if resolved and not ended:
            return _decide_end(rule, wants, ticket, differs=differs)
        if not resolved and (final or (ended and _is_followed(rule))):
            if wants.when:
                return Succeed()
            # Should it deserve one later, it is followed then.
            return Nothing(Status.SKIPPED, Reason.WHEN_FALSE, row_resolved=True)
        if not resolved and ended:
            return Write(Status.REOPENED, row_resolved=False, state=states.reopened)
    if final:
        # Closed is final: whatever the row says now, the ticket is history.
        return Nothing(Status.UNCHANGED, Reason.TICKET_CLOSED, row_resolved=resolved)
    if differs:
        return Write(Status.UPDATED, row_resolved=resolved)
    return Nothing(Status.UNCHANGED, None, row_resolved=resolved)


def _decide_end(rule: TicketRule, wants: Wants, ticket: Ticket, *, differs: bool) -> Decision:
    """Resolve or cancel a ticket that has not ended: at once, or by the next of the states that lie between."""
    states = rule.states
    if states.paths and differs:
        # A transition may be refused; that must not cost what the row says.
        return Write(Status.UPDATED, row_resolved=ticket.row_resolved)
    if wants.gone and rule.on_delete == "cancel":
        return Write(Status.RESOLVED, row_resolved=True, state=states.canceled, close=True)
    state = states.towards_resolved(ticket.state, ticket.known.get(KIND, ""))
    last = state == states.resolved
    return Write(Status.RESOLVED, row_resolved=last, state=state, close=last)


def _is_followed(rule: TicketRule) -> bool:
    """Whether a ticket that has ended, but is not final, is followed by a new one rather than reopened."""
    return rule.after_close == "new" or not rule.states.reopened


def _decide_create(rule: TicketRule, wants: Wants, step: Step | None, ticket: Ticket) -> Decision:
    if step is None or (wants.gone and step.op is not Op.INSERT):
        return Nothing(Status.SKIPPED, Reason.ROW_GONE if wants.gone else None, row_resolved=False)
    if wants.gone or not wants.when:
        return Nothing(Status.SKIPPED, Reason.WHEN_FALSE, row_resolved=False)
    # One that follows another, or takes the place of one that was deleted, opens nothing new.
    existed = ticket.generation > 0 or bool(ticket.number)
    if step.op not in rule.creates and not existed:
        return Nothing(Status.SKIPPED, Reason.NOT_CREATED, row_resolved=False)
    still_resolved = isinstance(step.wants, Wants) and step.wants.resolved and step.was_resolved
    if wants.resolved and (still_resolved or ticket.generation > 0):
        return Nothing(Status.SKIPPED, Reason.ALREADY_RESOLVED, row_resolved=False)
    return Create(resolved=wants.resolved and not rule.states.paths)


def _decide_shared(rule: TicketRule, wants: Wants, step: Step | None, ticket: Ticket, *, looked: bool) -> Decision:
    """Many rows share the ticket: a row that newly asks for it finds it open and leaves it, and no row closes it."""
    states = rule.states
    asks = (
        step is not None
        and step.op in rule.creates
        and wants.when
        and not (wants.gone or wants.resolved)
        and not (step.was_wanted and not step.was_resolved)
    )
    left_alone = Nothing(Status.UNCHANGED, None, row_resolved=False)
    if not asks or not states.resolved or rule.after_close == "leave":
        return left_alone
    if not looked:
        return Look()
    if ticket.state in states.final or (ticket.state in states.ended and _is_followed(rule)):
        return Succeed()
    if ticket.state in states.ended:
        return Write(Status.REOPENED, row_resolved=False, state=states.reopened)
    return left_alone


# Doing it.


class LeaseLost(Exception):  # noqa: N818  # a state, not a mistake
    """Somebody else took the key over while we were away; all that we wrote down is doubt."""


class Written(Enum):
    """What became of a write."""

    DONE = auto()
    OVERTAKEN = auto()  # refused, and the ticket is in another state by now: decide again
    MISSING = auto()  # there is no ticket, and the rule says to ignore that


@dataclass(frozen=True, slots=True)
class Result:
    """What was done for one key. *odd_fields* came back different or empty."""

    status: Status
    reason: Reason | None
    odd_fields: frozenset[str] = frozenset()


class TicketWork:
    """The work on one ticket in one attempt, under the key's lease.

    `ticket` is always what is known by now, also when `bring` raises ServiceNowError: the caller records it.
    """

    def __init__(
        self,
        rule: TicketRule,
        ticket: Ticket,
        *,
        line: Line,
        ledger: Ledger,
        references: References,
        owner: str,
        source_name: str,
        now: float,
        deadline: Deadline,
        replayed: bool = False,
    ) -> None:
        """*replayed*: somebody has looked for the ticket of a create in doubt, and had the event sent again."""
        self._replayed = replayed
        self.rule = rule
        self.ticket = replace(ticket, table=rule.table)
        self.odd_fields: frozenset[str] = frozenset()
        # Why, of each field that was left empty in this attempt.
        self.left_empty: dict[str, str] = {}
        # Names that nobody goes by, found out in this attempt: by field, with the reason.
        self._unnamed: dict[str, tuple[str, str]] = {}
        self._line = line
        self._ledger = ledger
        self._references = references
        self._owner = owner
        self._deadline = deadline
        self._correlation = correlation_id(source_name, ticket.rule, ticket.key)
        self._looked = False
        self._transitions = 0
        self._ahead = now - time.monotonic()
        self._wanted: dict[str, str] = {}

    def bring(self, wants: Wants, step: Step | None) -> Result:
        """Bring the ticket to say *wants*.

        Raises ServiceNowError when it could not be done (its failure says whether to try again), LeaseLost.
        """
        status, reason = Status.UNCHANGED, None
        for _ in range(DECISIONS_MAX):
            if self._due_for_a_look():
                if not self._look():
                    return self._missing_ignored()
                continue
            self._wanted = self._wanted_fields(wants)
            changes = self._changes()
            decision = decide(self.rule, wants, step, self.ticket, looked=self._looked, differs=bool(changes))
            match decision:
                case Nothing() if self._create_in_doubt:
                    self.settle_create(wants)
                case Nothing():
                    self.ticket = replace(self.ticket, row_resolved=decision.row_resolved)
                    if not self.ticket.sys_id:
                        # Where there is no ticket, nothing is left to look at.
                        self.ticket = replace(self.ticket, suspect_until=None, suspect_fields=frozenset())
                    if status is Status.UNCHANGED:
                        status, reason = decision.status, decision.reason
                    reason = reason or (Reason.UNKNOWN_REFERENCE if self.left_empty else None)
                    return Result(status, reason, self.odd_fields)
                case Look():
                    if not self._look():
                        return self._missing_ignored()
                case Create():
                    self._create(wants, resolved=decision.resolved)
                    status = Status.CREATED
                case Succeed():
                    self._succeed()
                    self._create(wants, resolved=False)
                    status = Status.CREATED
                case Write():
                    written = self._write(wants, decision, changes)
                    if written is Written.MISSING:
                        return self._missing_ignored()
                    if written is Written.DONE and self.ticket.sys_id and status is not Status.CREATED:
                        status = decision.status
        raise ServiceNowError(
            Failure(
                Kind.PERMANENT,
                Reason.REFUSED,
                "the ticket does not take the state it is given: a business rule of the instance may set it back",
            )
        )

    def _clock(self) -> float:
        """The ledger's clock, as it has gone on since the work began."""
        return self._ahead + time.monotonic()

    # What is to be sent

    def _wanted_fields(self, wants: Wants) -> dict[str, str]:
        if self.rule.shared and self.ticket.sys_id:
            return {}
        wanted = dict(wants.fields)
        if self.ticket.sys_id:
            wanted = {field: value for field, value in wanted.items() if field not in self.rule.opening}
        # The first of them tells that it was we who resolved the ticket.
        if self.ticket.row_resolved and wants.resolved and next(iter(wants.close), "") in self.ticket.asked:
            wanted |= wants.close
        return wanted

    def _changes(self) -> dict[str, str]:
        """The wanted less the known: what to send, references by sys_id.

        A field that was asked for before is not sent again, whatever became of it: only what the row changed is sent.
        """
        changes: dict[str, str] = {}
        for field, value in self._wanted.items():
            if self.ticket.asked.get(field) == value:
                continue
            sent = self._sent(field, value)
            known = self.ticket.known.get(field)
            if self.ticket.left_empty.get(field) == value:
                if sent is None:
                    continue
                # People may have filled it in meanwhile, and the row names whom it named before.
                stands = bool(known)
            elif sent is None and self.ticket.left_empty.get(field) == "":
                # Of a ticket that was adopted: who stands there was put there by people.
                stands = True
            else:
                stands = known is not None and is_same_text(known, sent or "")
            if stands:
                self._remember_asked({field: value})
            else:
                # Nobody rather than the one who stands there, whom the row does not name any more.
                changes[field] = sent or ""
        return changes

    def _sent(self, field: str, value: str) -> str | None:
        """What to send for *value*; None where nobody goes by that name and the rule says to leave the field empty."""
        if self._is_unnamed(field, value):
            return None
        try:
            return self._references.sys_id(self.rule.table, field, value, deadline=self._deadline)
        except UnknownReference as error:
            # Of several it is not known which: empty would be as wrong as any of them.
            if error.is_ambiguous or field not in self.rule.leave_empty:
                raise
            self._unnamed[field] = (value, error.hint)
            return None

    def _is_unnamed(self, field: str, value: str) -> bool:
        return field in self._unnamed and self._unnamed[field][0] == value

    def _remember_asked(self, fields: Mapping[str, str]) -> None:
        """The ticket says what the row gives for *fields*; of a name that nobody goes by, nothing."""
        unnamed = {field for field, value in fields.items() if self._is_unnamed(field, value)}
        for field in unnamed:
            if self.ticket.left_empty.get(field) != fields[field]:
                self.left_empty[field] = self._unnamed[field][1]
                log.warning("left %s empty: %s", field, self._unnamed[field][1], extra={"rule": self.ticket.rule})
        self.ticket = replace(
            self.ticket,
            asked={
                **{field: value for field, value in self.ticket.asked.items() if field not in unnamed},
                **{field: value for field, value in fields.items() if field not in unnamed},
            },
            left_empty={
                **{field: value for field, value in self.ticket.left_empty.items() if field not in fields},
                **{field: fields[field] for field in unnamed},
            },
        )

    @property
    def _fields(self) -> list[str]:
        """What every call asks to be told."""
        kind = (KIND,) if self._states.by_type else ()
        mapped = sorted({*self.rule.fields, *self.rule.closing, *kind} - {"sys_id"})
        return ["sys_id", "number", "correlation_id", "state", "sys_mod_count", *mapped]

    @property
    def _states(self) -> States:
        return self.rule.states

    @property
    def _link(self) -> list[str]:
        """The column by which a ticket names the one that it follows, where the table has one."""
        return [self._states.link] if self._states.link else []

    @property
    def _follows(self) -> str:
        """The sys_id of the ticket that this one follows; empty where there is none."""
        return self.ticket.known.get(self._states.link, "")

    # Looking

    def _due_for_a_look(self) -> bool:
        due = self.ticket.suspect_until
        return bool(self.ticket.sys_id) and due is not None and due <= self._clock()

    def _look(self) -> bool:
        """Get the ticket as it is; False when it is missing and the rule says to ignore that."""
        try:
            record = self._get_known()
        except ServiceNowError as error:
            return self._missing(error)
        suspect = self.ticket.suspect_fields
        due = self._due_for_a_look()
        self._take(record)
        self._looked = True
        if due:
            asked = {field: value for field, value in self.ticket.asked.items() if field not in suspect}
            ended = self.ticket.state in self._states.ended
            self.ticket = replace(
                self.ticket,
                asked=asked,
                suspect_until=None,
                suspect_fields=frozenset(),
                # A state write in doubt may have come after all, and after a later one.
                row_resolved=ended if "state" in suspect else self.ticket.row_resolved,
            )
        return True

    def _looks(self) -> Iterator[None]:
        """The moments to look: now, and again a little later, for reads may lag behind writes."""
        yield
        if self._deadline.left() > 2 * LAG_SECONDS:
            time.sleep(LAG_SECONDS)
            yield

    def _get_known(self) -> Record:
        """Get a ticket that we know of; one that is missing, or older than what we know, is asked for again.

        Raises ServiceNowError, transient where it is older still.
        """
        missing: ServiceNowError | None = None
        for _ in self._looks():
            try:
                record = self._get(self.ticket.sys_id, self._fields)
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
                Kind.TRANSIENT,
                Reason.BAD_ANSWER,
                "ServiceNow tells of the ticket as it was before our last change: its reads lag behind",
                retry_after_seconds=LAG_SECONDS * 10,
            )
        )

    def _get(self, sys_id: str, fields: Sequence[str]) -> Record:
        """Get the record *sys_id* and no other: an answer with another one is asked for again, once.

        An instance that keeps the sys_id from us must tell the correlation_id. Raises ServiceNowError.
        """
        try:
            return self._get_once(sys_id, fields)
        except ServiceNowError as error:
            if error.failure.reason is not Reason.WRONG_RECORD:
                raise
        return self._get_once(sys_id, fields)

    def _get_once(self, sys_id: str, fields: Sequence[str]) -> Record:
        record = self._line.get(self.rule.table, sys_id, fields=fields, deadline=self._deadline)
        if not record.get("sys_id") and record.get("correlation_id") != self._correlation:
            raise self._wrong_record(sys_id, record, writes=False)
        return record

    def _wrong_record(self, asked: str, given: Record, *, writes: bool) -> ServiceNowError:
        method: Literal["GET", "PATCH"] = "PATCH" if writes else "GET"
        return ServiceNowError(wrong_record(Request(method, self.rule.table, asked), asked=asked, given=given))

    def _is_older(self, record: Record) -> bool:
        """Whether *record* is from before what we know. A count that went back long ago is a restored instance's."""
        count = _count(record)
        recent = self._clock() - self.ticket.updated_at < IN_DOUBT_SECONDS
        return recent and count is not None and count < self.ticket.mod_count

    def _missing(self, error: ServiceNowError) -> bool:
        """The ticket is not there: by the rule's word it is made anew (True), ignored (False), or an error."""
        if error.failure.reason is not Reason.MISSING:
            raise error
        match self.rule.on_missing:
            case "recreate":
                # The number stays: it tells that there was a ticket.
                self.ticket = replace(
                    self.ticket,
                    sys_id="",
                    state="",
                    known={name: value for name, value in self.ticket.known.items() if name in self._link},
                    asked={},
                    left_empty={},
                    row_resolved=False,
                    sending=None,
                    suspect_until=None,
                    suspect_fields=frozenset(),
                )
                return True
            case "ignore":
                return False
            case _:
                hint = (
                    "the ticket was deleted in ServiceNow or is hidden from the integration user; somebody must "
                    "decide: restore it, or set on_missing to recreate or ignore, then replay"
                )
                raise ServiceNowError(replace(error.failure, kind=Kind.PERMANENT, hint=hint)) from error

    def _missing_ignored(self) -> Result:
        self.ticket = replace(self.ticket, sending=None, suspect_until=None, suspect_fields=frozenset())
        return Result(Status.SKIPPED, Reason.TICKET_MISSING, self.odd_fields)

    # Creating

    def _succeed(self) -> None:
        if self.ticket.generation >= GENERATIONS_MAX:
            raise ServiceNowError(
                Failure(Kind.PERMANENT, Reason.REFUSED, "this row's ticket was followed by a new one a thousand times")
            )
        self.ticket = replace(
            self.ticket,
            generation=self.ticket.generation + 1,
            sys_id="",
            number="",
            state="",
            known=dict.fromkeys(self._link, self.ticket.sys_id),
            asked={},
            left_empty={},
            row_resolved=False,
            sending=None,
            suspect_until=None,
            suspect_fields=frozenset(),
        )

    def _create(self, wants: Wants, *, resolved: bool) -> None:
        table, generation = self.rule.table, self.ticket.generation
        sys_id = address(table, self._correlation, generation)
        before = self.ticket.sending
        doubtful = before is not None and before.doubtful
        traits = self._ledger.traits(self._line.instance, self.rule.table)
        if (traits.honours_sys_id is False or (traits.honours_sys_id is None and doubtful)) and self._found_by_looking(
            sys_id, before, traits, wants
        ):
            return
        # An adopted ticket of an earlier attempt is told from an unknown one by this.
        recorded = before is not None or generation > 0
        named = {field: self._sent(field, value) for field, value in wants.fields.items()}
        sent = {field: value for field, value in named.items() if value is not None}
        marks = {"correlation_id": self._correlation, "correlation_display": self._display(traits)}
        values = {**sent, **marks, "sys_id": sys_id}
        if self._follows:
            values[self._states.link] = self._follows
        close = {**wants.close, "state": self._states.resolved} if resolved else {}
        self._mark(Sending("create", tuple(sorted({*sent, *close})), self._clock()))
        reached("before_call")
        try:
            record = self._line.create(
                table,
                {**values, **close},
                fields=[*self._fields, *self._link, "correlation_display"],
                deadline=self._deadline,
            )
            if not self._is_made(record, sys_id, {**sent, **marks}):
                raise self._wrong_record(sys_id, record, writes=True)
            reached("after_call")
        except ServiceNowError as error:
            reached("after_call")
            self._judge_create(error, sys_id, traits, recorded=recorded)
            return
        honoured = record["sys_id"].lower() == sys_id
        self._learn(traits, TableTraits(honoured, kept_mark(record, marks)))
        self._take({**record, "sys_id": sys_id} if honoured else record)
        self._looked = True
        self.ticket = replace(
            self.ticket,
            asked={},
            left_empty={},
            sending=None,
            # The primary key has decided: nothing that was sent before can commit any more.
            suspect_until=None,
            suspect_fields=frozenset(),
            row_resolved=resolved and self.ticket.state in self._states.ended,
        )
        self._remember_asked({**wants.fields, **(wants.close if resolved else {})})
        # A state that did not follow is written again, by itself.
        self._compare(record, {field: value for field, value in {**sent, **close}.items() if field != "state"})

    def _display(self, traits: TableTraits) -> str:
        """The ``correlation_display``: where an instance keeps that alone, it stands for the correlation_id."""
        return self._correlation if traits.kept_mark is KeptMark.CORRELATION_DISPLAY else CORRELATION_DISPLAY

    def _is_made(self, record: Record, sys_id: str, sent: Mapping[str, str]) -> bool:
        """Whether *record* is what a POST of *sent* made, be it under another sys_id than we chose, or without a mark.

        A stranger's has marks of its own, or none, and says something else. Of ours the instance may have changed
        some fields, but not all that tell it from others.
        """
        if record["sys_id"].lower() == sys_id:
            return True
        if self._follows and record["sys_id"].lower() == self._follows.lower():
            return False
        if record.get("correlation_id") == self._correlation:
            return True
        if record.get("correlation_id"):
            return False
        display = record.get("correlation_display", "")
        if display:
            return display == sent["correlation_display"]
        mapped = {field: value for field, value in sent.items() if value and field in self.rule.fields}
        if all(is_kept(record.get(field, ""), value) for field, value in mapped.items()):
            return True
        return not _count(record) and _resembles(record, mapped)

    def _judge_create(self, error: ServiceNowError, sys_id: str, traits: TableTraits, *, recorded: bool) -> None:
        """A POST was not answered by its record. Any 403 may hide a ticket that was made: look at its address first."""
        failure = error.failure
        before = self.ticket
        marked = before.sending
        if (failure.status == 403 or failure.reason is Reason.WRONG_RECORD) and marked is not None:
            # In doubt until the look has told; the look may fail too.
            self._doubt_create(marked)
            for _ in self._looks():
                if self._adopt_at(sys_id, traits, recorded=recorded):
                    return
                if failure.reason in _NEVER_WRITTEN:
                    break
            if traits.honours_sys_id is not True:
                if self._adopt_by_mark(sys_id, traits):
                    return
                if failure.reason is Reason.WRONG_RECORD and traits.kept_mark in (KeptMark.UNKNOWN, KeptMark.NONE):
                    # What was answered may be our ticket, with nothing left of what was sent.
                    marked = replace(marked, unmarked=True)
            if failure.reason is Reason.INSERT_FAILED:
                # Not a duplicate, then: the database failed, or the ticket is hidden from us.
                failure = replace(failure, kind=Kind.IN_DOUBT)
        if marked is not None and (marked.doubtful or failure.kind is Kind.IN_DOUBT):
            self._doubt_create(marked)
        else:
            self.ticket = replace(self.ticket, sending=None, suspect_until=before.suspect_until)
        error.failure = failure
        raise error

    def _doubt_create(self, marked: Sending) -> None:
        now = self._clock()
        self.ticket = replace(
            self.ticket, sending=replace(marked, at=now, doubtful=True), suspect_until=now + IN_DOUBT_SECONDS
        )

    def _is_ours(self, record: Record, traits: TableTraits) -> bool:
        """Whether the record at an address that is computed of our key alone is our ticket: only somebody else's mark
        says that it is not, and only where the instance keeps ours."""
        mark = record.get("correlation_id", "")
        dropped = traits.kept_mark in (KeptMark.CORRELATION_DISPLAY, KeptMark.NONE)
        return mark in ("", self._correlation) or dropped

    def _adopt_at(self, sys_id: str, traits: TableTraits, *, recorded: bool) -> bool:
        """Adopt the ticket at *sys_id* if it is ours; False when there is none. Raises on a stranger's."""
        record = self._get_or_none(sys_id)
        if record is None:
            return False
        if not self._is_ours(record, traits):
            self.ticket = replace(self.ticket, sending=None, suspect_until=None)
            raise ServiceNowError(
                Failure(
                    Kind.PERMANENT,
                    Reason.CONFLICT,
                    "a record that is not ours stands at this ticket's computed sys_id: "
                    "somebody changed its correlation_id, or made it by hand",
                    status=403,
                )
            )
        first = generation = self.ticket.generation
        if generation == 0 and not self.ticket.number:
            # We remember no ticket of this row, be it that the ledger was lost: the last of its generations is the one.
            while generation < GENERATIONS_MAX:
                following = self._get_or_none(address(self.rule.table, self._correlation, generation + 1))
                if following is None or not self._is_ours(following, traits):
                    break
                record, generation = following, generation + 1
        self._learn(traits, TableTraits(honours_sys_id=True))
        self.ticket = replace(self.ticket, generation=generation)
        # A field ACL may keep the sys_id from us; it is where we looked.
        at = address(self.rule.table, self._correlation, generation)
        self._adopt({**record, "sys_id": at}, recorded=recorded and generation == first)
        return True

    def _found_by_looking(self, sys_id: str, before: Sending | None, traits: TableTraits, wants: Wants | None) -> bool:
        """Before a POST is repeated whose address the instance may not honour: look by address, then by our mark.

        *wants* is what the row wants by now (None where that cannot be said). Raises IN_DOUBT while the first POST may
        still commit, and PERMANENT where it left nothing to be known by.
        """
        if traits.honours_sys_id is None and self._adopt_at(sys_id, traits, recorded=True):
            return True
        if self._adopt_by_mark(sys_id, traits):
            return True
        if before is not None and before.doubtful:
            wait = before.at + IN_DOUBT_SECONDS - self._clock()
            if wait > 0:
                raise ServiceNowError(
                    Failure(
                        Kind.IN_DOUBT,
                        Reason.IN_DOUBT,
                        "an earlier create may still commit; it is looked for again before anything else",
                        retry_after_seconds=wait,
                    )
                )
            if not self._replayed and self._is_unmarked(before, traits, wants):
                raise ServiceNowError(
                    Failure(
                        Kind.PERMANENT,
                        Reason.IN_DOUBT,
                        "the answer to a create was lost, and the instance keeps neither the sys_id nor the "
                        "correlation_id that it is given: see whether the ticket was made; if not, replay. Let the "
                        "integration user write sys_id or correlation_id at creation, and it is found by itself",
                    )
                )
        return False

    def _is_unmarked(self, before: Sending, traits: TableTraits, wants: Wants | None) -> bool:
        """Whether the create *before*, which was not found, may have made a ticket without a mark of ours."""
        if before.unmarked or traits.honours_sys_id is True:
            return before.unmarked
        if traits.kept_mark is not KeptMark.UNKNOWN:
            return traits.kept_mark is KeptMark.NONE
        # Nobody knows what the instance keeps: then it shows in a ticket that looks like this one.
        rows = self._line.find(
            self.rule.table,
            "ORDERBYDESCsys_created_on",
            fields=[*self._fields, "sys_created_on", "correlation_display"],
            limit=LOOK_ALIKES_MAX,
            deadline=self._deadline,
        )
        since = before.at - CLOCKS_APART_SECONDS
        recent = [row for row in rows if (made := instant(row.get("sys_created_on", ""))) and made.timestamp() >= since]
        mapped = wants.fields if wants is not None else {}
        return any(
            not row.get("correlation_id")
            and (row.get("correlation_display") == CORRELATION_DISPLAY or _resembles(row, mapped))
            for row in recent
        )

    @property
    def _create_in_doubt(self) -> bool:
        return not self.ticket.sys_id and self.ticket.sending is not None and self.ticket.sending.doubtful

    def settle_create(self, wants: Wants | None = None) -> None:
        """Find out what became of a create in doubt, though the row wants no ticket any more.

        *wants* is as in _found_by_looking. Afterwards the ticket is adopted, or known not to be. Raises IN_DOUBT while
        it may still commit.
        """
        sys_id = address(self.rule.table, self._correlation, self.ticket.generation)
        traits = self._ledger.traits(self._line.instance, self.rule.table)
        if traits.honours_sys_id is True and self._adopt_at(sys_id, traits, recorded=True):
            return
        if not self._found_by_looking(sys_id, self.ticket.sending, traits, wants):
            self.ticket = replace(self.ticket, sending=None, suspect_until=None, suspect_fields=frozenset())

    def _adopt_by_mark(self, sys_id: str, traits: TableTraits) -> bool:
        """Adopt the newest ticket that carries this row's mark, other than the one that this one follows.

        False when there is none. Raises in doubt where one is found that cannot be asked for.
        """
        if traits.kept_mark is KeptMark.NONE:
            return False
        mark = "correlation_display" if traits.kept_mark is KeptMark.CORRELATION_DISPLAY else "correlation_id"
        rows = self._line.find(
            self.rule.table,
            f"{term(mark, self._correlation)}^ORDERBYDESCsys_created_on",
            fields=[*self._fields, "sys_created_on", *self._link, mark],
            limit=GENERATIONS_MAX,
            deadline=self._deadline,
        )
        # An invalid term would have been dropped and everything returned: every row is checked.
        ours = [row for row in rows if row.get(mark) == self._correlation]
        if previous := self._follows:
            ours = self._following(previous, ours)
        if not ours:
            return False
        if not is_sys_id(ours[0].get("sys_id", "")):
            failure = self._wrong_record(sys_id, ours[0], writes=True).failure
            hint = "ServiceNow does not tell the sys_id of our own ticket: let the integration user read sys_id"
            raise ServiceNowError(replace(failure, hint=hint))
        if traits.honours_sys_id is None:
            self._learn(traits, TableTraits(ours[0]["sys_id"].lower() == sys_id))
        self._adopt(ours[0], recorded=self.ticket.sending is not None)
        return True

    def _following(self, previous: str, ours: Sequence[Record]) -> list[Record]:
        """Of this row's tickets, newest first, those that follow the ticket *previous*."""
        if any(self._states.link in row for row in ours):
            # Stamps are whole seconds: which one follows which is told by the link.
            return [row for row in ours if row.get("sys_id") != previous and row.get(self._states.link) == previous]
        # The table has no such column: what follows is not older.
        since = next((row.get("sys_created_on", "") for row in ours if row.get("sys_id") == previous), None)
        if since is None:
            return []
        return [row for row in ours if row.get("sys_id") != previous and row.get("sys_created_on", "") >= since]

    def _get_or_none(self, sys_id: str) -> Record | None:
        try:
            return self._get(sys_id, [*self._fields, *self._link])
        except ServiceNowError as error:
            if error.failure.reason is Reason.MISSING:
                return None
            if error.failure.kind is Kind.PERMANENT:
                raise
            # The POST is in doubt as long as we cannot look.
            error.failure = replace(error.failure, kind=Kind.IN_DOUBT)
            raise

    def _adopt(self, record: Record, *, recorded: bool) -> None:
        """Take *record* for this key's ticket. *recorded*: our own record says that we sent it."""
        log.info("adopted a ticket that was made before", extra={"ticket": record.get("number", "")})
        sent = self.ticket.sending
        self._take(record)
        self._looked = True
        # Sent resolved by us: then the row said so, and may be open again since. Without a record of that, nothing is
        # reopened on the word of one event.
        resolved_by_us = recorded and sent is not None and "state" in sent.fields
        ended = self.ticket.state in self._states.ended
        ours = frozenset(sent.fields) if recorded and sent is not None else frozenset()
        self.ticket = replace(
            self.ticket,
            asked={},
            left_empty=dict.fromkeys(self.rule.leave_empty - ours, ""),
            sending=None,
            suspect_until=None,
            suspect_fields=frozenset(),
            row_resolved=resolved_by_us and ended,
        )

    def _learn(self, known: TableTraits, shown: TableTraits) -> None:
        """Remember what a call has *shown* of the instance, where it is news to *known*; people hear of it once."""
        if shown.kept_mark is KeptMark.UNKNOWN:
            shown = replace(shown, kept_mark=known.kept_mark)
        if shown == known:
            return
        if known.honours_sys_id is None or known.kept_mark is KeptMark.UNKNOWN:
            # Another delivery may have learnt it meanwhile.
            known = self._ledger.traits(self._line.instance, self.rule.table)
            if shown == known:
                return
        self._ledger.learn_traits(self._line.instance, self.rule.table, shown)
        if shown.honours_sys_id is False and known.honours_sys_id is not False:
            log.warning(
                "the ServiceNow instance does not honour the sys_id it is given (an ACL on sys_id?): tickets are found "
                "by correlation_id instead, and a create in doubt is not repeated for 60 s"
            )
        if shown.kept_mark in (KeptMark.CORRELATION_DISPLAY, KeptMark.NONE) and shown.kept_mark is not known.kept_mark:
            log.warning("the ServiceNow instance does not keep the correlation_id it is given (an ACL, a rule?)")
            self.odd_fields |= {"correlation_id"}

    # Writing

    def _write(self, wants: Wants, decision: Write, changes: Mapping[str, str]) -> Written:
        """PATCH what differs."""
        values = dict(changes)
        assignee = self._wanted.get("assigned_to")
        if "assignment_group" in values and assignee and "assigned_to" not in values:
            # The platform clears the assignee when the group changes.
            values |= {"assigned_to": sent} if (sent := self._sent("assigned_to", assignee)) is not None else {}
        if decision.state:
            values["state"] = decision.state
            if self._states.paths:
                self._check_time()
        if decision.close:
            values |= wants.close
            if wants.gone and self.rule.on_delete == "cancel":
                # A canceled ticket was not solved.
                values.pop("close_code", None)
        before = self.ticket.known
        self._mark(Sending("update", tuple(sorted(values)), self._clock()))
        reached("before_call")
        try:
            record = self._line.update(
                self.rule.table, self.ticket.sys_id, values, fields=self._fields, deadline=self._deadline
            )
            reached("after_call")
        except ServiceNowError as error:
            reached("after_call")
            marked = self.ticket.sending
            self.ticket = replace(self.ticket, sending=None)
            if error.failure.status == 403 or error.failure.reason is Reason.WRONG_RECORD:
                found = self._look_after_refusal(error, values, before)
                if found is not None and _holds(found, values, before):
                    return self._written(found, values, wants, decision)
                if found is not None and error.failure.status == 403 and self._is_overtaken(found):
                    self._take(found)
                    self._looked = True
                    return Written.OVERTAKEN
            if error.failure.kind is Kind.IN_DOUBT and marked is not None:
                settled_at = self._clock() + IN_DOUBT_SECONDS
                self.ticket = replace(
                    self.ticket,
                    suspect_until=max(self.ticket.suspect_until or 0.0, settled_at),
                    suspect_fields=self.ticket.suspect_fields | set(marked.fields),
                )
                asked = max(IN_DOUBT_SECONDS, error.failure.retry_after_seconds or 0.0)
                error.failure = replace(error.failure, retry_after_seconds=asked)
                raise
            if decision.state and self._states.paths:
                error.failure = self._refused_transition(error.failure, decision.state)
            return Written.DONE if self._missing(error) else Written.MISSING
        return self._written(record, values, wants, decision)

    def _is_overtaken(self, found: Record) -> bool:
        """Whether people or a flow have moved the ticket on since we last knew its state."""
        return bool(found.get("state")) and found["state"] != self.ticket.state

    def _check_time(self) -> None:
        """Between two transitions: raise ServiceNowError where this delivery has no time for the next."""
        if self._transitions and self._deadline.left() < TRANSITION_SECONDS_MIN:
            raise ServiceNowError(
                Failure(
                    Kind.TRANSIENT,
                    Reason.DEADLINE,
                    "this delivery's time was used up between two states of the ticket; it goes on from there",
                )
            )
        self._transitions += 1

    def _refused_transition(self, failure: Failure, state: str) -> Failure:
        """*failure* with what to do about it, where the instance does not let the ticket go on to *state*."""
        if failure.status != 403 or failure.reason not in {Reason.BUSINESS_RULE, Reason.REFUSED}:
            return failure
        hint = (
            f"ServiceNow does not let the {self.rule.table} go from {self._states.named(self.ticket.state)} to "
            f"{self._states.named(state)}: an approval has to be given first, or its state model has no such "
            "transition; ServiceNow's own words say more. Approve it or move it on there, then replay"
        )
        return replace(failure, hint=hint)

    def _look_after_refusal(
        self, error: ServiceNowError, values: Mapping[str, str], before: Mapping[str, str]
    ) -> Record | None:
        """The ticket as it is after a refusal, or after an answer with another record: the write may have been made.

        None where the look fails; *error* is in doubt then, where looking later may tell. What was sent stays unknown,
        for reads may lag for longer.
        """
        record: Record | None = None
        for _ in self._looks():
            try:
                record = self._get(self.ticket.sys_id, self._fields)
            except ServiceNowError as blind:
                if blind.failure.kind is not Kind.PERMANENT:
                    error.failure = replace(error.failure, kind=Kind.IN_DOUBT)
                return None
            if error.failure.reason in _NEVER_WRITTEN or _holds(record, values, before):
                break
        return record

    def _written(self, record: Record, values: Mapping[str, str], wants: Wants, decision: Write) -> Written:
        """Remember that *values* stand in the ticket, as *record* has them."""
        before = self.ticket.state
        self._take(record)
        self._looked = True
        said = {field: self._wanted.get(field, wants.close.get(field, "")) for field in values if field != "state"}
        stuck = bool(decision.state) and not self._went_on(before, decision)
        self.ticket = replace(
            self.ticket,
            sending=None,
            row_resolved=self.ticket.row_resolved if stuck else decision.row_resolved,
        )
        self._remember_asked(said)
        if stuck:
            raise ServiceNowError(
                Failure(
                    Kind.PERMANENT,
                    Reason.REFUSED,
                    f"ServiceNow took {self._states.named(decision.state)} for the {self.rule.table}'s next state, and "
                    f"left it in {self._states.named(self.ticket.state)}: an access control on state, a business rule "
                    "or a workflow of the instance is against it. Let the integration user write state, or move the "
                    "ticket on there, then replay",
                )
            )
        # A workflow may have taken it further than asked.
        passing = {"state"} if self._states.paths else set()
        self._compare(record, {field: value for field, value in values.items() if field not in passing})
        return Written.DONE

    def _went_on(self, before: str, decision: Write) -> bool:
        """Whether the ticket is where *decision* was to take it, or further; a state that we may not read counts."""
        state = self.ticket.state
        if decision.status is Status.REOPENED:
            return state not in self._states.ended
        if state in self._states.ended or not state:
            return True
        return not decision.row_resolved and self._states.is_nearer(state, before)

    def _mark(self, sending: Sending) -> None:
        """Before a call: what is being sent is unknown from now on, so that a crash cannot leave a lie behind."""
        before = self.ticket.sending
        if before is not None and before.doubtful:
            sending = replace(before, at=sending.at, fields=tuple(sorted({*before.fields, *sending.fields})))
        unknown = {*sending.fields}
        self.ticket = replace(
            self.ticket,
            sending=sending,
            wrote=self.ticket.wrote | unknown,
            known={field: value for field, value in self.ticket.known.items() if field not in unknown},
            asked={field: value for field, value in self.ticket.asked.items() if field not in unknown},
        )
        if not self._ledger.save(self.ticket, owner=self._owner):
            raise LeaseLost

    def _take(self, record: Record) -> None:
        """Remember what ServiceNow returned: that is what is known."""
        told = {field: value for field, value in record.items() if field in {*self._fields, *self._link}}
        for name in ("sys_id", "number", "correlation_id", "sys_mod_count", "state"):
            told.pop(name, None)
        self.ticket = replace(
            self.ticket,
            sys_id=record.get("sys_id") or self.ticket.sys_id,
            number=record.get("number", "")[:NUMBER_CHARACTERS_MAX] or self.ticket.number,
            state=record.get("state", self.ticket.state)[:NUMBER_CHARACTERS_MAX],
            mod_count=_count(record) or 0,
            updated_at=self._clock(),
            known={**self.ticket.known, **told},
        )

    def _compare(self, record: Record, sent: Mapping[str, str]) -> None:
        odd = {field for field, value in sent.items() if not is_kept(record.get(field, ""), value)}
        self.odd_fields |= odd - {field for field in _RENAMED if record.get(field)}


def _holds(record: Record, values: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether all that was sent stands in *record*.

    What its column spells in its own way counts where something else stood there *before*.
    """
    return all(
        is_same_text(found := record.get(field, ""), value) or (is_kept(found, value) and found != before.get(field))
        for field, value in values.items()
    )


def _resembles(record: Mapping[str, str], sent: Mapping[str, str]) -> bool:
    """Whether *record* has one of the texts in *sent* that are long enough to be nobody else's."""
    return any(
        len(value) >= TEXT_CHARACTERS_MIN and is_same_text(record.get(field, ""), value)
        for field, value in sent.items()
    )


def _count(record: Record) -> int | None:
    """The record's ``sys_mod_count``, None where it tells none that can be one."""
    count = record.get("sys_mod_count", "")
    return int(count) if _COUNT.fullmatch(count) else None


def said_json(wants: Wants | Failure, to_json: Callable[[Wants], str]) -> str:
    """What a place wants said, for the trail; a place that could not be rendered says so."""
    if isinstance(wants, Wants):
        return to_json(wants)
    return json.dumps({"broken": [wants.reason.value, wants.hint]})


def said(written: str, from_json: Callable[[str], Wants]) -> Wants | Failure:
    """Read what said_json wrote."""
    if written.startswith('{"broken"'):
        reason, hint = json.loads(written)["broken"]
        return Failure(Kind.PERMANENT, Reason(reason), hint)
    return from_json(written)
