"""What the ledger keeps, as records, and how they are read from its rows. Pure."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from function.core.permit import CallPermit
from function.core.step import STATE
from function.core.trail import Trail
from function.ledger.backend import Record

# ServiceNow's own limit for one Table API transaction (c_DefaultQuotaRules): what we sent may still
# commit that long after we stopped listening.
IN_DOUBT_SECONDS: Final = 60.0


class KeptMark(StrEnum):
    """By what an instance lets us find our tickets again, beside their sys_id."""

    CORRELATION_ID = "correlation_id"
    CORRELATION_DISPLAY = "correlation_display"  # it drops the correlation_id
    NONE = "none"  # it drops both
    UNKNOWN = ""  # until the first clean create


def kept_mark(record: Mapping[str, str], marks: Mapping[str, str]) -> KeptMark:
    """Which of the *marks* that were sent stands in the *record* that was made."""
    for mark in (KeptMark.CORRELATION_ID, KeptMark.CORRELATION_DISPLAY):
        if record.get(mark.value) == marks[mark.value]:
            return mark
    return KeptMark.NONE


@dataclass(frozen=True, slots=True)
class TableTraits:
    """What the first clean create showed of a table. *honours_sys_id*: it takes the one
    we choose."""

    honours_sys_id: bool | None = None
    kept_mark: KeptMark = KeptMark.UNKNOWN


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A write that was begun and not yet recorded. *in_doubt*: it was sent, and no answer told what
    became of it; *unmarked*: what it may have made holds nothing of ours to be found by, so that
    nobody repeats it unasked."""

    kind: str  # create, update, adopt
    fields: tuple[str, ...]
    at: float
    in_doubt: bool = False
    unmarked: bool = False
    sys_id: str = ""  # of the ticket that is adopted


@dataclass(frozen=True, slots=True)
class Shadow:
    """What the rule *rule* last gave the app of the ticket *sys_id*: *image*, by column. None: that
    is not known; a column that is missing was never looked at.

    *mod_count* is the ticket's at the last look. *awaits_insert*: the rule is still to tell of the
    ticket for the first time. *journal* is JSON text: which entries the app was given.
    *window_count* is how often the rule has told the app of it since *window_start*, in UNIX
    seconds.
    """

    rule: str
    sys_id: str
    image: Mapping[str, str | None] = field(default_factory=dict)
    mod_count: int = 0
    awaits_insert: bool = False
    journal: str = ""
    window_start: float = 0.0
    window_count: int = 0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ShadowUpdate:
    """What a write of ours says of the shadows of a ticket.

    *values* are those of the columns that it wrote, as ServiceNow returned them: the row said so,
    and is not told. *agreed* is what it did not have to write, because it stood there: of whoever
    wrote that, the app was perhaps not told; None where it is not known what stands there.
    *first_images* are, by rule, those of a ticket that we made: the rules have
    them from the start; those that are *inserting* are still to tell of it. Of a ticket that
    follows the row's *former* one (its sys_id), the app has in the columns *former_columns* what it
    was given of that. *look_again*: the ticket is to be looked at after this.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    agreed: Mapping[str, str | None] = field(default_factory=dict)
    first_images: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    inserting: tuple[str, ...] = ()
    mod_count: int = 0
    former: str = ""
    former_columns: frozenset[str] = frozenset()
    look_again: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of the ticket for one key. *sys_id* is empty while there is none."""

    instance: str
    rule: str
    key: str
    table: str = ""
    generation: int = 0
    sys_id: str = ""
    number: str = ""
    state: str = ""
    known: Mapping[str, str] = field(default_factory=dict)
    last_sent: Mapping[str, str] = field(default_factory=dict)
    # Fields that were left empty, each with the name that nobody goes by ("" where only so much is
    # known: not by us).
    left_empty: Mapping[str, str] = field(default_factory=dict)
    row_resolved: bool = False
    # By which sys_id the row names its ticket, that of whatever generation; "" where it names none.
    named_sys_id: str = ""
    # What the row wanted when its ticket was adopted, and was never sent: fields of `last_sent`,
    # and STATE for `row_resolved`.
    taken_fields: frozenset[str] = frozenset()
    trail: Trail = field(default_factory=Trail)
    pending_write: PendingWrite | None = None
    suspect_until: float | None = None
    suspect_fields: frozenset[str] = frozenset()
    stale_writes: int = 0
    stale_writes_seen: int = 0
    # What ServiceNow counted when it last told of the ticket, and when that was written down (UNIX
    # seconds).
    mod_count: int = 0
    updated_at: float = 0.0
    # The last call for it failed in a way that may be ServiceNow's as a whole, or this row's alone.
    call_failed: bool = False
    # What was sent and may still come to stand there, by field; of tickets that rules listen to.
    sent_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # What ServiceNow counted after our last write of a field; of tickets that rules listen to.
    written_counts: Mapping[str, int] = field(default_factory=dict)
    # In this attempt; not kept.
    written_fields: frozenset[str] = frozenset()
    shadow_update: ShadowUpdate | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether something that was sent may still change it, or have made it."""
        return self.suspect_until is not None or self.pending_write is not None

    def without_suspicion(self) -> "Ticket":
        """Nothing is left to look at."""
        return replace(self, suspect_until=None, suspect_fields=frozenset())

    def without_doubt(self) -> "Ticket":
        """Nothing that was sent can change it any more."""
        return replace(self.without_suspicion(), pending_write=None, sent_values={})

    def answered(self, *, suspect_until: float | None) -> "Ticket":
        """The write that was begun was answered; *suspect_until*: what was sent before may still
        commit until then."""
        kept = self.sent_values if suspect_until is not None else {}
        return replace(self, pending_write=None, suspect_until=suspect_until, sent_values=kept)

    def made(self, *, row_resolved: bool, left_empty: Mapping[str, str] | None = None) -> "Ticket":
        """It was created, or found where nobody knew of it: what it was last sent is not known."""
        return replace(
            self.without_doubt(),
            last_sent={},
            left_empty=left_empty or {},
            row_resolved=row_resolved,
            taken_fields=frozenset(),
        )

    def adopted(
        self, wanted: Mapping[str, str], *, row_resolved: bool, left_empty: Mapping[str, str]
    ) -> "Ticket":
        """It was there already, and what the row wants is taken for sent."""
        return replace(
            self.made(row_resolved=row_resolved, left_empty=left_empty),
            last_sent=dict(wanted),
            taken_fields=frozenset({*wanted, STATE}),
        )

    def progressed(self, fields: Collection[str]) -> "Ticket":
        """The row changed *fields*: of those, nothing is taken for sent any more."""
        changed = self.taken_fields.intersection(fields)
        last_sent = {name: value for name, value in self.last_sent.items() if name not in changed}
        row_resolved = self.row_resolved and STATE not in changed
        return replace(self.without_taken(changed), last_sent=last_sent, row_resolved=row_resolved)

    def without_taken(self, fields: Collection[str]) -> "Ticket":
        """Of *fields* it is known from now on what was sent."""
        return replace(self, taken_fields=self.taken_fields.difference(fields))

    def create_in_doubt(self, pending: PendingWrite) -> "Ticket":
        """No answer told what became of *pending*, which makes the ticket, or adopts it."""
        doubt = replace(pending, in_doubt=True)
        return replace(self, pending_write=doubt, suspect_until=pending.at + IN_DOUBT_SECONDS)

    def update_in_doubt(
        self,
        fields: Collection[str],
        *,
        until: float,
        sent_values: Mapping[str, tuple[str, ...]],
    ) -> "Ticket":
        """No answer told what became of an update of *fields*; it may commit until *until*, and
        *sent_values* may come to stand there."""
        return replace(
            self,
            sent_values=sent_values,
            suspect_until=max(self.suspect_until or 0.0, until),
            suspect_fields=self.suspect_fields | set(fields),
        )

    def forgotten(self, kept: Collection[str]) -> "Ticket":
        """It is not there any more, and may be made anew; what is known of the columns *kept*
        stays.

        The number stays too: it tells that there was a ticket.
        """
        known = {name: value for name, value in self.known.items() if name in kept}
        gone = replace(
            self, sys_id="", state="", known=known, last_sent={}, left_empty={}, row_resolved=False
        )
        return replace(gone.without_doubt(), taken_fields=frozenset())

    def successor(self, link: Sequence[str]) -> "Ticket":
        """The one that follows it, not made yet; the columns *link* name the one that
        it follows."""
        known = dict.fromkeys(link, self.sys_id)
        following = replace(self.forgotten(()), number="", generation=self.generation + 1)
        return replace(following, known=known)


@dataclass(frozen=True, slots=True)
class FoundTicket:
    """What is known of a ticket to one who has not leased its key. *ticket* is None where nothing
    is. *under_way*: somebody works on it, or is to make it."""

    ticket: Ticket | None
    under_way: bool


class DeliveryStatus(StrEnum):
    """Where a delivery is."""

    WAITING = "waiting"  # it is tried again
    DONE = "done"
    DEAD = "dead"  # given up on


@dataclass(frozen=True, slots=True)
class DeliveryId:
    """Which delivery: one event's, by one rule's target, for one key.

    An event is known by its id and its content: an id that is used again is another event. *rule*
    and *target* (its kind) are empty where no rule wants the event, *key* where it could not be
    told.
    """

    event: str
    content: str
    rule: str
    target: str
    key: str

    def parameters(self) -> dict[str, str]:
        """Its columns."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event's fate under one rule's target for one key."""

    id: DeliveryId
    source: str
    status: DeliveryStatus
    attempts: int
    first_seen: float
    reason: str
    hint: str
    remote_message: str
    ticket: str
    fingerprint: str
    body: str

    @property
    def event(self) -> str:
        return self.id.event

    @property
    def rule(self) -> str:
        return self.id.rule

    @property
    def key(self) -> str:
        return self.id.key

    @property
    def content(self) -> str:
        return self.id.content


class AlertKind(StrEnum):
    """What has happened, as far as a mail is concerned."""

    DEAD = "dead"  # an event failed for good, or was given up
    WAITING = "waiting"  # an event has failed for too long, and is tried again
    HELD = "held"  # no calls are made, because the other system as a whole does not work
    FIELD = "field"  # fields were left empty, or came back different
    UPSTREAM = "upstream"  # a request was no event
    UNRULED = "unruled"  # no rule is for an event
    UNREAD = "unread"  # what changed in the other system cannot be read

    @classmethod
    def _missing_(cls, value: object) -> "AlertKind":  # noqa: ARG003  # its base's signature
        """A newer version's kind, while both are deployed: its mail says what it can."""
        return cls.UPSTREAM


# These last until they are over; the others happen.
_EPISODES: Final = frozenset(
    {AlertKind.WAITING, AlertKind.HELD, AlertKind.UNRULED, AlertKind.UNREAD}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that people must hear of, and all that a mail may say of it: of a row the key and
    nothing else.

    Same *fingerprint*: the same thing again, and a mail in the same thread. *since* is UNIX
    seconds; nobody is mailed before it has lasted *wait_seconds*. *reason* may be one that only
    another version has. *system* is the name of the system that failed, *instance* where it is;
    *remote_message* are its own. *rule*, *table*, *key*, *event* (its
    id), *ticket* (its number) and *event_type* may be "".
    """

    fingerprint: str
    kind: AlertKind
    since: float
    wait_seconds: float = 0.0
    # What follows is kept as JSON, under these names.
    source_name: str
    system: str
    instance: str
    rule: str = ""
    table: str = ""
    key: str = ""
    event: str = ""
    ticket: str = ""
    reason: str
    hint: str
    remote_message: str = ""
    attempts: int = 1
    fields: tuple[str, ...] = ()
    event_type: str = ""

    @property
    def is_episode(self) -> bool:
        """Whether it lasts: then it is mailed once when it began and once when it is over. Anything
        else is mailed again every NOTIFY_EVERY_SECONDS, with how many more there were."""
        return self.kind in _EPISODES


@dataclass(frozen=True, slots=True)
class DueMail:
    """An *alert* that is to be mailed now, claimed for whoever holds this record.

    *count* is how many such there were since the last mail, *last_at* when the last of them was.
    *recovered*: it was over then. *owed_to*: only those are to have the mail that the mail server
    refused *owed_tries* times; empty for everybody.
    """

    alert: Alert
    last_at: float
    count: int
    recovered: bool
    now: float
    owed_to: tuple[str, ...] = ()
    owed_tries: int = 0

    @property
    def lasted_seconds(self) -> float:
        return self.last_at - self.alert.since


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """What is known of an instance when a key is leased.

    *version* is the stored connection's ("" for none). *traits* are those of the table. *others*:
    the event has records under other rules or keys, which are not done.
    """

    version: str
    traits: TableTraits
    others: bool


@dataclass(frozen=True, slots=True)
class Acquired:
    """The key is ours until the lease ends."""

    ticket: Ticket
    delivery: Delivery
    now: float
    status: InstanceStatus
    # Leave to make the first call, where it was asked for and nothing stands in its way.
    permit: CallPermit | None = None
    permit_for: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """Another connection is in force by now; nothing was begun."""


@dataclass(frozen=True, slots=True)
class PermitReturn:
    """The permit of a delivery that is finished: *passed*, a call was let in with it; otherwise it
    was not used."""

    credential: str
    passed: bool


@dataclass(frozen=True, slots=True)
class FinishResult:
    """*stands* is false where the lease was gone, and nothing was written. *mail_due*: a mail is to
    be sent."""

    stands: bool
    mail_due: bool


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """This very event was done before."""

    ticket: str


@dataclass(frozen=True, slots=True)
class AlreadyDead:
    """This very event was given up on, under the same rules and settings."""

    ticket: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class KeyBusy:
    """Somebody else works on the key, for *seconds* at most."""

    seconds: float


BeginResult: TypeAlias = "Acquired | ConnectionChanged | AlreadyDone | AlreadyDead | KeyBusy"


def pending_write_to_json(pending_write: PendingWrite | None) -> str:
    if pending_write is None:
        return ""
    return json.dumps(asdict(pending_write))


def read_ticket(row: Record, trail: Trail) -> Ticket:
    pending_write = None
    if row["pending_write"]:
        read = json.loads(row["pending_write"])
        # A ledger of before has other names, and no mark.
        pending_write = PendingWrite(
            read["kind"],
            tuple(read["fields"]),
            read["at"],
            in_doubt=read.get("in_doubt", read.get("doubtful", False)),
            unmarked=read.get("unmarked", False),
            sys_id=read.get("sys_id", ""),
        )
    suspect_until: float | None = row["suspect_until"]
    suspect_fields = frozenset(json.loads(row["suspect_fields"]))
    if (
        pending_write is not None
        and row["abandoned_lease_until"] is not None
        and not pending_write.in_doubt
    ):
        # The holder vanished with a write under way, which it may have sent until its lease ended.
        pending_write = replace(pending_write, at=row["abandoned_lease_until"], in_doubt=True)
    if pending_write is not None and pending_write.kind != "update" and pending_write.in_doubt:
        suspect_until = max(suspect_until or 0.0, pending_write.at + IN_DOUBT_SECONDS)
    if pending_write is not None and pending_write.kind == "update":
        suspect_until = max(suspect_until or 0.0, pending_write.at + IN_DOUBT_SECONDS)
        suspect_fields |= frozenset(pending_write.fields)
        pending_write = None
    if row["stale_writes"] > row["stale_writes_seen"]:
        # What a holder without its lease wrote has been written by now: it is to be found by
        # looking, at once.
        suspect_until = suspect_until or 0.0
        suspect_fields |= frozenset(json.loads(row["stale_fields"]))
        if pending_write is None and not row["sys_id"]:
            # No ticket is known, so what it wrote was one: whoever settles this looks for it.
            pending_write = PendingWrite(
                "create", tuple(sorted(suspect_fields)), 0.0, in_doubt=True
            )
    return Ticket(
        instance=row["instance"],
        rule=row["rule"],
        key=row["key"],
        table=row["table"],
        generation=row["generation"],
        sys_id=row["sys_id"],
        number=row["number"],
        state=row["state"],
        known=json.loads(row["known"]),
        last_sent=json.loads(row["last_sent"]),
        left_empty=json.loads(row["left_empty"]),
        row_resolved=bool(row["row_resolved"]),
        named_sys_id=row["named_sys_id"],
        taken_fields=frozenset(json.loads(row["taken_fields"])),
        trail=trail,
        pending_write=pending_write,
        suspect_until=suspect_until,
        suspect_fields=suspect_fields,
        stale_writes=row["stale_writes"],
        mod_count=row["mod_count"],
        call_failed=bool(row["call_failed"]),
        updated_at=row["updated_at"],
        stale_writes_seen=row["stale_writes_seen"],
        sent_values={field: tuple(sent) for field, sent in json.loads(row["sent_values"]).items()},
        written_counts=json.loads(row["written_counts"]),
    )


def read_delivery(row: Record) -> Delivery:
    return Delivery(
        DeliveryId(row["event"], row["content"], row["rule"], row["target"], row["key"]),
        row["source"],
        DeliveryStatus(row["status"]),
        row["attempts"],
        row["first_seen"],
        row["reason"],
        row["hint"],
        row["remote_message"],
        row["ticket"],
        row["fingerprint"],
        row["body"],
    )


def facts_to_json(alert: Alert) -> str:
    """Write what has no column of its own."""
    facts = asdict(alert)
    for column in ("fingerprint", "kind", "since", "wait_seconds"):
        del facts[column]
    return json.dumps(facts)


def read_alert(row: Record) -> Alert:
    facts = json.loads(row["facts"])
    return Alert(
        fingerprint=row["fingerprint"],
        kind=AlertKind(row["kind"]),
        since=row["since"],
        source_name=facts["source_name"],
        system=facts.get("system", "ServiceNow"),  # there was no other, and none was named
        instance=facts["instance"],
        rule=facts["rule"],
        table=facts["table"],
        key=facts["key"],
        event=facts["event"],
        ticket=facts.get("ticket", ""),  # an alert of before has none
        reason=facts["reason"],
        hint=facts["hint"],
        # A ledger of before has it as `words`.
        remote_message=facts.get("remote_message", facts.get("words", "")),
        attempts=facts["attempts"],
        fields=tuple(facts["fields"]),
        event_type=facts.get("event_type", ""),  # of before, when events had none
    )


def one_row(rows: list[Record]) -> Record | None:
    return rows[0] if rows else None
