"""What was done: tickets and their rows' trails, deliveries, alerts and holds.

Every method is one short transaction. Times are UNIX seconds by the database's clock, the only one that all instances
share. Nothing here decides anything about ServiceNow; it remembers, and it serialises work on one key by a lease.
"""

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from function.core.event import Event
from function.core.outcome import Failure, Outcome, Reason, Status
from function.core.step import Step
from function.core.trail import Trail, end, from_json, hear, restate, to_json
from function.ledger.database import Database, Record, Transaction

# ServiceNow's own limit for one Table API transaction (c_DefaultQuotaRules): what we sent may still commit that long
# after we stopped listening.
IN_DOUBT_SECONDS: Final = 60.0
# Of a table that no rule wants, so many events are kept: enough to write the rule from, not the whole table.
UNRULED_SAMPLES_MAX: Final = 10
# The outcome of a delivery that the rules do not want any more.
FORGIVEN: Final = "forgiven"
# A ticket that could not be looked at is left alone so long by the housekeeping, for others wait too.
POSTPONED_SECONDS: Final = 600.0
# So many holds, each for several rows that failed, were ended by a probe without one write since.
IN_VAIN_MANY: Final = 3
# Longer than one mail takes to send: whoever claimed it and vanished is replaced.
MAIL_CLAIM_SECONDS: Final = 30.0


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
    """What the first clean create showed of a table. *honours_sys_id*: it takes the one we choose."""

    honours_sys_id: bool | None = None
    kept_mark: KeptMark = KeptMark.UNKNOWN


@dataclass(frozen=True, slots=True)
class Sending:
    """A write that was begun and not yet recorded. *doubtful*: it was sent, and no answer told what became of it;
    *unmarked*: what it may have made holds nothing of ours to be found by, so that nobody repeats it unasked."""

    kind: str  # create, update
    fields: tuple[str, ...]
    at: float
    doubtful: bool = False
    unmarked: bool = False


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
    asked: Mapping[str, str] = field(default_factory=dict)
    # Fields that were left empty, each with the name that nobody goes by ("" where only so much is known: not by us).
    left_empty: Mapping[str, str] = field(default_factory=dict)
    row_resolved: bool = False
    trail: Trail = field(default_factory=Trail)
    sending: Sending | None = None
    suspect_until: float | None = None
    suspect_fields: frozenset[str] = frozenset()
    late_writes: int = 0
    late_seen: int = 0
    # What ServiceNow counted when it last told of the ticket, and when that was written down (UNIX seconds).
    mod_count: int = 0
    updated_at: float = 0.0
    # The last call for it failed in a way that may be ServiceNow's as a whole, or this row's alone.
    call_failed: bool = False
    # In this attempt; not kept.
    wrote: frozenset[str] = frozenset()

    def without_doubt(self) -> "Ticket":
        """Nothing that was sent can change it any more."""
        return replace(self, sending=None, suspect_until=None, suspect_fields=frozenset())

    def answered(self, *, suspect_until: float | None) -> "Ticket":
        """The write that was begun was answered; *suspect_until*: what was sent before may still commit until then."""
        return replace(self, sending=None, suspect_until=suspect_until)

    def made(self, *, row_resolved: bool, left_empty: Mapping[str, str] | None = None) -> "Ticket":
        """It was created, or found where nobody knew of it: what it was last sent is not known."""
        return replace(self.without_doubt(), asked={}, left_empty=left_empty or {}, row_resolved=row_resolved)

    def create_in_doubt(self, pending: Sending) -> "Ticket":
        """No answer told what became of the create *pending*."""
        doubt = replace(pending, doubtful=True)
        return replace(self, sending=doubt, suspect_until=pending.at + IN_DOUBT_SECONDS)

    def update_in_doubt(self, fields: Collection[str], *, until: float) -> "Ticket":
        """No answer told what became of an update of *fields*; it may commit until *until*."""
        return replace(
            self,
            suspect_until=max(self.suspect_until or 0.0, until),
            suspect_fields=self.suspect_fields | set(fields),
        )

    def forgotten(self, kept: Collection[str]) -> "Ticket":
        """It is not there any more, and may be made anew; what is known of the columns *kept* stays.

        The number stays too: it tells that there was a ticket.
        """
        known = {name: value for name, value in self.known.items() if name in kept}
        gone = replace(self, sys_id="", state="", known=known, asked={}, left_empty={}, row_resolved=False)
        return gone.without_doubt()

    def successor(self, link: Sequence[str]) -> "Ticket":
        """The one that follows it, not made yet; the columns *link* name the one that it follows."""
        known = dict.fromkeys(link, self.sys_id)
        following = replace(self.forgotten(()), number="", generation=self.generation + 1)
        return replace(following, known=known)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event's fate under one rule for one key."""

    event: str
    rule: str
    key: str
    content: str
    source: str
    status: str
    attempts: int
    first_seen: float
    reason: str
    hint: str
    words: str
    ticket: str
    fingerprint: str
    body: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that people must hear of. Same *fingerprint*: the same thing again.

    *kind* is what the mail says (see mail.Notice). An *episode* (a state that lasts) is told once when it began and
    once when it is over; anything else is told again every NOTIFY_EVERY_SECONDS, with how many more there were.
    *wait_seconds*: not told before it has lasted that long since *since*.
    """

    fingerprint: str
    kind: str
    facts: Mapping[str, Any]
    since: float
    episode: bool = False
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Mail:
    """An alert that is to be mailed now, claimed for whoever holds this record.

    *owed_to*: only those are to have it that the mail server refused *owed_tries* times; empty for everybody.
    """

    fingerprint: str
    kind: str
    facts: Mapping[str, Any]
    since: float
    last_at: float
    count: int
    recovered: bool
    now: float
    owed_to: tuple[str, ...] = ()
    owed_tries: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """The key is ours until the lease ends."""

    ticket: Ticket
    delivery: Delivery
    now: float


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
class Busy:
    """Somebody else works on the key, for *seconds* at most."""

    seconds: float


Beginning: TypeAlias = "Begun | AlreadyDone | AlreadyDead | Busy"


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a call may be made: *wait_seconds* is 0 when it may; otherwise which hold stands in its way.

    *probing*: nobody else may until this probe has ended; *held*: because calls were held. *waiting_for_probe*: no hold
    stands in the way, but somebody else's probe is finding out. *now* is when this was said.
    """

    wait_seconds: float = 0.0
    probing: bool = False
    held: bool = False
    kind: str = ""
    reason: str = ""
    words: str = ""
    since: float = 0.0
    waiting_for_probe: bool = False
    now: float = 0.0


# An event is known by its id and its content: an id that is used again is another event.
_THIS_DELIVERY = "event = :event AND rule = :rule AND key = :key AND content = :content"
_FIND_DELIVERY = f"SELECT * FROM servicenow.delivery WHERE {_THIS_DELIVERY}"  # noqa: S608  # our own words

# A lease is free when it has ended, and when it is ours already (a transaction repeated after a lost connection).
_TAKE_LEASE = """
INSERT INTO servicenow.ticket AS t (instance, rule, key, lease_owner, lease_until, created_at, updated_at)
VALUES (:instance, :rule, :key, :owner, {now} + :seconds, {now}, {now})
ON CONFLICT (instance, rule, key) DO UPDATE SET
    vanished_until = CASE WHEN t.lease_owner = '' THEN NULL
                          WHEN t.lease_owner = :owner THEN t.vanished_until ELSE t.lease_until END,
    lease_owner = :owner,
    lease_until = {now} + :seconds
WHERE t.lease_owner = '' OR t.lease_owner = :owner OR t.lease_until <= {now}
RETURNING *, {now} AS now
"""

_LEASE_LEFT = """
SELECT lease_until - {now} AS seconds FROM servicenow.ticket
WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner <> ''
"""

_COUNT_ATTEMPT = """
INSERT INTO servicenow.delivery
    (event, rule, key, content, source, status, attempts, first_seen, last_at, digest, counted, body)
VALUES (:event, :rule, :key, :content, :source, 'waiting', 1, {now}, {now}, :digest, :counted, :body)
ON CONFLICT (event, rule, key, content) DO UPDATE SET
    source = :source, status = 'waiting', digest = :digest, body = :body,
    counted = servicenow.delivery.counted OR :counted,
    attempts = CASE WHEN :anew THEN 1 ELSE servicenow.delivery.attempts + 1 END,
    first_seen = CASE WHEN :anew THEN {now} ELSE servicenow.delivery.first_seen END,
    last_at = {now}
RETURNING event, rule, key, content, source, status, attempts, first_seen, reason, hint, words, ticket, fingerprint,
    '' AS body, last_at
"""

_SET_TRAIL = "UPDATE servicenow.ticket SET trail = :trail WHERE instance = :instance AND rule = :rule AND key = :key"

_LOCK_TICKET = """
UPDATE servicenow.ticket SET trail = trail WHERE instance = :instance AND rule = :rule AND key = :key
RETURNING trail, sys_id, row_resolved
"""

_SAVE_TICKET = """
UPDATE servicenow.ticket SET
    "table" = :table, generation = :generation, sys_id = :sys_id, number = :number, state = :state, known = :known,
    asked = :asked, left_empty = :left_empty, row_resolved = :row_resolved, mod_count = :mod_count,
    call_failed = :call_failed, sending = :sending, suspect_until = :suspect_until,
    suspect_fields = :suspect_fields, late_seen = :late_seen,
    late_fields = CASE WHEN late_writes = :late_seen THEN '[]' ELSE late_fields END, updated_at = {now},
    lease_owner = CASE WHEN :release THEN '' ELSE lease_owner END,
    vanished_until = CASE WHEN :release THEN NULL ELSE vanished_until END
WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner = :owner
RETURNING key, {now} AS now
"""

# Beside the lease: whoever holds it now cannot overwrite this by what it does not know of.
_ONLY_SUSPECT = """
UPDATE servicenow.ticket SET late_writes = late_writes + 1, late_fields = :fields
WHERE instance = :instance AND rule = :rule AND key = :key
"""

_SUSPECT = """
UPDATE servicenow.ticket SET late_writes = late_writes + 1
WHERE instance = :instance AND rule = :rule AND key = :key
"""

_CLAIM_TRIAL = """
INSERT INTO servicenow.trial AS t (instance, account, tries, last_at) VALUES (:instance, :account, 1, {now})
ON CONFLICT (instance, account) DO UPDATE SET
    tries = CASE WHEN t.last_at + :within <= {now} THEN 1 ELSE t.tries + 1 END, last_at = {now}
WHERE t.last_at + :within <= {now} OR t.tries < :most
RETURNING tries
"""

_SAVE_DELIVERY = f"""
UPDATE servicenow.delivery SET
    status = :status, outcome = :outcome, retry_at = :retry_at, reason = :reason, hint = :hint, words = :words,
    ticket = :ticket, duration = :duration, fingerprint = :fingerprint, last_at = {{now}},
    body = CASE WHEN :status = 'done' THEN '' ELSE body END
WHERE {_THIS_DELIVERY}
"""  # noqa: S608  # our own words

# Suspect by our own record, by a late writer's, or because a holder vanished with a write under way.
_SUSPECTS = """
SELECT rule, key FROM servicenow.ticket
WHERE instance = :instance AND (lease_owner = '' OR lease_until <= {now})
AND COALESCE(suspect_until, 0) <= {now} AND (
    suspect_until IS NOT NULL
    OR late_writes > late_seen
    OR (sending <> '' AND lease_owner <> '' AND lease_until + :doubt <= {now})
)
ORDER BY suspect_until, rule, key LIMIT :most
"""

_RAISE_ALERT = """
INSERT INTO servicenow.alert AS a (fingerprint, kind, facts, since, last_at, due_at, unsent, episode)
VALUES (:fingerprint, :kind, :facts, :since, {now}, :since + :wait, 1, 'quiet')
ON CONFLICT (fingerprint) DO UPDATE SET
    facts = :facts, last_at = {now},
    since = CASE WHEN a.episode IN ('closed', 'over') THEN :since ELSE a.since END,
    due_at = CASE WHEN a.episode IN ('closed', 'over') THEN :since + :wait ELSE a.due_at END,
    unsent = CASE WHEN a.episode = 'told' AND :lasts THEN 0 ELSE a.unsent + 1 END,
    episode = CASE WHEN a.episode IN ('closed', 'over') THEN 'quiet' ELSE a.episode END
"""

_OVER = """
UPDATE servicenow.alert SET
    episode = CASE WHEN episode = 'told' AND NOT :silently THEN 'over' ELSE 'closed' END, unsent = 0, last_at = {now}
WHERE fingerprint = :fingerprint AND episode IN ('quiet', 'told')
"""

_CLAIM_MAIL = """
UPDATE servicenow.alert SET claimed_until = {now} + :claim
WHERE fingerprint = (
    SELECT fingerprint FROM servicenow.alert
    WHERE claimed_until <= {now} AND (
        episode = 'over'
        OR (unsent > 0 AND due_at <= {now} AND (mailed_at IS NULL OR mailed_at + :every <= {now})
            AND episode IN ('quiet', 'told'))
        OR owed_at <= {now})
    ORDER BY due_at, fingerprint LIMIT 1 {for_update}
) AND claimed_until <= {now}
RETURNING *, {now} AS now
"""

_MAIL_SENT = """
UPDATE servicenow.alert SET
    claimed_until = 0, mailed_at = {now},
    unsent = CASE WHEN unsent > :count THEN unsent - :count ELSE 0 END,
    episode = CASE WHEN :recovered AND episode = 'over' THEN 'closed'
                   WHEN episode = 'quiet' AND NOT :recovered THEN 'told' ELSE episode END
WHERE fingerprint = :fingerprint
"""

_SET_OWED = """
UPDATE servicenow.alert SET claimed_until = 0, owed = :owed,
    owed_at = CASE WHEN :owed = '' THEN NULL ELSE {now} + :wait END
WHERE fingerprint = :fingerprint
"""

_CLAIM_PROBE = """
UPDATE servicenow.hold SET probe_until = {now} + :seconds
WHERE instance = :instance AND kind = :kind AND credential = :credential AND probe_until <= {now} AND until <= {now}
RETURNING kind
"""

_END_PROBE = """
UPDATE servicenow.hold SET probe_until = 0 WHERE instance = :instance AND credential IN ('', :credential)
"""

_KNOW_CREDENTIAL = """
INSERT INTO servicenow.hold (instance, kind, credential, since) VALUES (:instance, 'auth', :credential, {now})
ON CONFLICT (instance, kind, credential) DO NOTHING
"""

# Held for twice as long with each probe that failed, and with each one but the first that passed in vain.
_HOLD_SECONDS = """(
    SELECT CASE WHEN doubled > 4 THEN :seconds_max ELSE :seconds * (
        CASE WHEN doubled < 1 THEN 1 WHEN doubled = 1 THEN 2 WHEN doubled = 2 THEN 4 WHEN doubled = 3 THEN 8 ELSE 16 END
    ) END
    FROM (SELECT h.doublings + (CASE WHEN h.until = 0 THEN 0 ELSE 1 END)
        + (CASE WHEN h.in_vain > 2 THEN h.in_vain - 2 ELSE 0 END) AS doubled) AS counted
)"""

_COUNT_FAILURE = f"""
INSERT INTO servicenow.hold AS h (instance, kind, credential, reason, words, failures, since, until)
VALUES (:instance, :kind, :credential, :reason, :words, 1, {{now}},
    CASE WHEN :at_once OR CAST(:page_seconds AS DOUBLE PRECISION) IS NOT NULL THEN {{now}} + :seconds ELSE 0 END)
ON CONFLICT (instance, kind, credential) DO UPDATE SET
    reason = :reason, words = :words, failures = h.failures + 1,
    proven_at = CASE WHEN :kind = 'auth' THEN 0 ELSE h.proven_at END,
    since = CASE WHEN h.failures = 0 THEN {{now}} ELSE h.since END,
    doublings = CASE WHEN h.until = 0 OR h.until > {{now}} THEN h.doublings ELSE h.doublings + 1 END,
    until = CASE
        WHEN :fixed THEN {{now}} + :seconds
        WHEN h.until > {{now}} THEN h.until
        WHEN h.until = 0 AND h.failures + 1 < :in_a_row AND NOT :at_once
            AND NOT COALESCE(h.proven_at + CAST(:page_seconds AS DOUBLE PRECISION) <= {{now}}, FALSE) THEN 0
        ELSE {{now}} + {_HOLD_SECONDS}
    END
RETURNING since, until, {{now}} AS now
"""  # noqa: S608  # our own text


# What is old goes this many records at a time.
FORGET_MAX: Final = 500

_OLD: Final = (
    "DELETE FROM servicenow.delivery "
    "WHERE (event, rule, key, content) IN (SELECT event, rule, key, content FROM servicenow.delivery "
    "WHERE last_at < {now} - :seconds ORDER BY last_at LIMIT :most) RETURNING event, fingerprint",
    "DELETE FROM servicenow.ticket WHERE (instance, rule, key) IN (SELECT instance, rule, key FROM servicenow.ticket "
    "WHERE sys_id = '' AND lease_owner = '' AND updated_at < {now} - :seconds AND sending = '' LIMIT :most) "
    "AND lease_owner = '' AND updated_at < {now} - :seconds RETURNING key",
    "DELETE FROM servicenow.alert WHERE fingerprint IN (SELECT fingerprint FROM servicenow.alert "
    "WHERE episode = 'closed' AND last_at < {now} - :seconds LIMIT :most) AND episode = 'closed' RETURNING kind",
    "DELETE FROM servicenow.hold WHERE (instance, kind, credential) IN (SELECT instance, kind, credential "
    "FROM servicenow.hold WHERE kind IN ('auth', 'down', 'row') AND since < {now} - :seconds "
    "AND proven_at < {now} - :seconds AND until < {now} LIMIT :most) RETURNING kind",
    "DELETE FROM servicenow.trial WHERE (instance, account) IN (SELECT instance, account FROM servicenow.trial "
    "WHERE last_at < {now} - :seconds LIMIT :most) RETURNING account",
)


class Ledger:
    """The function's memory, shared by all its instances."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def database(self) -> Database:
        return self._database

    # Work on one key

    def begin(
        self,
        event: Event,
        step: Step,
        said: str,
        *,
        instance: str,
        rule: str,
        owner: str,
        lease_seconds: float,
        digest: str,
        anew: bool,
        with_trail: bool = True,
    ) -> Beginning:
        """Take the key's lease, count the attempt, and count the event's step into the trail if it was not yet.

        *said* is the step's wants as JSON text. *anew*: a dead letter is tried again with a new clock; otherwise, under
        the same *digest*, it stays dead.
        """
        names = {"event": event.id, "rule": rule, "key": step.key, "content": event.content}

        def work(transaction: Transaction) -> Beginning:
            before = _one(transaction.execute(_FIND_DELIVERY, **names))
            ended = _ended(before, digest, anew=anew)
            if ended is not None:
                return ended
            keyed = {"instance": instance, "rule": rule, "key": step.key}
            leased = _one(transaction.execute(_TAKE_LEASE, **keyed, owner=owner, seconds=lease_seconds))
            if leased is None:
                left = _one(transaction.execute(_LEASE_LEFT, **keyed))
                return Busy(max(0.0, left["seconds"]) if left else 0.0)
            # Whoever held the lease a moment ago may have finished this very event.
            before = _one(transaction.execute(_FIND_DELIVERY, **names))
            ended = _ended(before, digest, anew=anew)
            if ended is not None:
                transaction.execute(
                    "UPDATE servicenow.ticket SET lease_owner = '' "
                    "WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner = :owner",
                    **keyed,
                    owner=owner,
                )
                return ended
            trail = from_json(leased["trail"])
            if with_trail:
                if before and before["counted"]:
                    trail = restate(trail, step.entered, said)
                else:
                    trail = hear(trail, step, said, sent_at=event.entered_at)
                transaction.execute(_SET_TRAIL, **keyed, trail=to_json(trail))
            delivery = transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=with_trail,
                body=event.body,
                anew=before is None or before["status"] != "waiting",
            )[0]
            return Begun(_ticket(leased, trail), _delivery(delivery), leased["now"])

        return self._database.run(work)

    def hear(self, event: Event, step: Step, said: str, *, instance: str, rule: str, digest: str) -> None:
        """Count the step of an event for which nothing is to be done, if its key was heard of before.

        Of a key that nobody has heard of nothing is kept. Needs no lease: the trail alone changes. Where it tells that
        the row of a ticket is gone, the ticket is suspect from now on, and brought in step when it is looked at.
        """
        names = {"event": event.id, "rule": rule, "key": step.key, "content": event.content}
        keyed = {"instance": instance, "rule": rule, "key": step.key}

        def work(transaction: Transaction) -> None:
            ticket = _one(transaction.execute(_LOCK_TICKET, **keyed))
            if ticket is None or transaction.execute(_FIND_DELIVERY, **names):
                return
            trail = hear(from_json(ticket["trail"]), step, said, sent_at=event.entered_at)
            transaction.execute(_SET_TRAIL, **keyed, trail=to_json(trail))
            place = end(trail)
            if place is not None and place.unwanted and ticket["sys_id"] and not ticket["row_resolved"]:
                transaction.execute(_SUSPECT, **keyed)
            transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=True,
                body="",
                anew=True,
            )
            transaction.execute(
                f"UPDATE servicenow.delivery SET status = 'done', outcome = :outcome, reason = :reason "  # noqa: S608
                f"WHERE {_THIS_DELIVERY}",
                **names,
                outcome=Status.SKIPPED.value,
                reason=Reason.WHEN_FALSE.value,
            )

        self._database.run(work)

    def begin_settling(
        self, *, instance: str, rule: str, key: str, owner: str, lease_seconds: float
    ) -> tuple[Ticket, float] | None:
        """Take the lease of a suspect ticket; None when somebody else has it."""

        def work(transaction: Transaction) -> tuple[Ticket, float] | None:
            row = _one(
                transaction.execute(
                    _TAKE_LEASE, instance=instance, rule=rule, key=key, owner=owner, seconds=lease_seconds
                )
            )
            return (_ticket(row, from_json(row["trail"])), row["now"]) if row else None

        return self._database.run(work)

    def save(self, ticket: Ticket, *, owner: str) -> bool:
        """Write *ticket* down in the middle of the work. False: the lease is gone, and only doubt was written."""
        return self._database.run(lambda transaction: _save_ticket(transaction, ticket, owner, release=False))

    def finish(
        self,
        ticket: Ticket | None,
        *,
        owner: str,
        event: Event,
        outcome: Outcome,
        failure: Failure | None,
        duration_seconds: float,
        fingerprint: str = "",
        alerts: Sequence[Alert] = (),
        abandoned: Ticket | None = None,
    ) -> bool:
        """Record the outcome and give the lease back, all at once. False: the lease was gone, nothing stands.

        *abandoned*, where there is no *ticket*: its lease ends now as that of a holder that vanished.

        A dead letter and the alert that tells of it are one transaction: neither is ever without the other.
        """
        done = outcome.status not in (Status.RETRYING, Status.DEAD)
        names = {"event": event.id, "rule": outcome.rule, "key": outcome.key, "content": event.content}

        def work(transaction: Transaction) -> bool:
            before = _one(transaction.execute(_FIND_DELIVERY, **names))
            if before and before["duration"] == duration_seconds and before["outcome"] == outcome.status.value:
                # Committed already, and repeated because the answer to that was lost.
                return True
            if ticket is not None and not _save_ticket(transaction, ticket, owner, release=True):
                return False
            if abandoned is not None and owner:
                transaction.execute(
                    "UPDATE servicenow.ticket SET lease_until = {now} "
                    "WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner = :owner",
                    instance=abandoned.instance,
                    rule=abandoned.rule,
                    key=abandoned.key,
                    owner=owner,
                )
            transaction.execute(
                _SAVE_DELIVERY,
                **names,
                status="done" if done else "dead" if outcome.status is Status.DEAD else "waiting",
                outcome=outcome.status.value,
                retry_at=outcome.retry_at,
                reason=outcome.reason.value if outcome.reason else "",
                hint=failure.hint if failure else "",
                words=failure.words if failure else "",
                ticket=outcome.ticket,
                duration=duration_seconds,
                fingerprint=fingerprint,
            )
            for alert in alerts:
                _raise(transaction, alert)
            if before and before["fingerprint"] and before["fingerprint"] != fingerprint:
                _over_if_none_left(transaction, before["fingerprint"], silently=not done)
            return True

        return self._database.run(work)

    def count_attempt(self, event: Event, *, rule: str, key: str, digest: str, anew: bool) -> tuple[Delivery, float]:
        """Count an attempt that cannot begin, and give the ledger's time. The event is not counted into a trail."""

        def work(transaction: Transaction) -> tuple[Delivery, float]:
            names = {"event": event.id, "rule": rule, "key": key, "content": event.content}
            before = _one(transaction.execute(_FIND_DELIVERY, **names))
            row = transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=False,
                body=event.body,
                anew=before is None or (anew and before["status"] == "dead"),
            )[0]
            return _delivery(row), row["last_at"]

        return self._database.run(work)

    def let_go(self, ticket: Ticket, *, owner: str) -> None:
        """Write *ticket* down and give the lease back; for work that has no delivery."""
        self._database.run(lambda transaction: _save_ticket(transaction, ticket, owner, release=True))

    def record_without_ticket(
        self,
        event: Event,
        outcome: Outcome,
        failure: Failure,
        *,
        digest: str,
        anew: bool,
        alert: Alert,
        samples_max: int | None = None,
    ) -> Outcome:
        """Keep a dead letter that has no key, hence no ticket. Gives the outcome that stands.

        *samples_max*: no more than so many are kept of this event's source and rule.
        """
        names = {"event": event.id, "rule": outcome.rule, "key": outcome.key, "content": event.content}

        def work(transaction: Transaction) -> Outcome:
            before = _one(transaction.execute(_FIND_DELIVERY, **names))
            if isinstance(_ended(before, digest, anew=anew), AlreadyDead):
                return outcome
            if before is None and samples_max is not None:
                kept = transaction.execute(
                    "SELECT count(*) AS n FROM servicenow.delivery "
                    "WHERE source = :source AND rule = :rule AND status = 'dead'",
                    source=event.source,
                    rule=outcome.rule,
                )
                if kept[0]["n"] >= samples_max:
                    _raise(transaction, alert)
                    return outcome
            transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=False,
                body=event.body,
                anew=before is None or before["status"] != "waiting",
            )
            transaction.execute(
                _SAVE_DELIVERY,
                **names,
                status="dead",
                outcome=outcome.status.value,
                retry_at=None,
                reason=failure.reason.value,
                hint=failure.hint,
                words=failure.words,
                ticket="",
                duration=0.0,
                fingerprint=alert.fingerprint,
            )
            _raise(transaction, alert)
            return outcome

        return self._database.run(work)

    def forgive(self, event: Event, *, rules: Sequence[str], but: Sequence[tuple[str, str]]) -> None:
        """What is kept of *event* as dead or waiting under *rules*, but for *but* (rule and key), is over: they do not
        want it now. It is not done, though: should they want it again, it begins again.
        """

        def work(transaction: Transaction) -> None:
            rows = transaction.execute(
                "SELECT rule, key, fingerprint FROM servicenow.delivery "
                "WHERE event = :event AND content = :content AND status <> 'done'",
                event=event.id,
                content=event.content,
            )
            for row in rows:
                if (row["rule"], row["key"]) in but or row["rule"] not in rules:
                    continue
                transaction.execute(
                    "UPDATE servicenow.delivery "  # noqa: S608  # our own words
                    "SET status = 'done', outcome = :forgiven, body = '', last_at = {now} "
                    f"WHERE {_THIS_DELIVERY}",
                    event=event.id,
                    content=event.content,
                    rule=row["rule"],
                    key=row["key"],
                    forgiven=FORGIVEN,
                )
                _over_if_none_left(transaction, row["fingerprint"])

        self._database.run(work)

    # What is known of an instance's tables

    def traits(self, instance: str, table: str) -> TableTraits:
        """What is known of *table* so far: an access control is a table's."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT honours_sys_id, kept_mark FROM servicenow.instance "
                'WHERE instance = :instance AND "table" = :table',
                instance=instance,
                table=table,
            )
        )
        if not rows:
            return TableTraits()
        return TableTraits(bool(rows[0]["honours_sys_id"]), KeptMark(rows[0]["kept_mark"]))

    def learn_traits(self, instance: str, table: str, traits: TableTraits) -> None:
        """Remember what a clean create showed; what it did not show (UNKNOWN) stays as it was."""
        self._database.run(
            lambda transaction: transaction.execute(
                'INSERT INTO servicenow.instance AS i (instance, "table", honours_sys_id, kept_mark) '
                'VALUES (:instance, :table, :honoured, :mark) ON CONFLICT (instance, "table") DO UPDATE SET '
                "honours_sys_id = :honoured, kept_mark = CASE WHEN :mark = '' THEN i.kept_mark ELSE :mark END",
                instance=instance,
                table=table,
                honoured=bool(traits.honours_sys_id),
                mark=traits.kept_mark.value,
            )
        )

    def has_ticket(self, instance: str, table: str, sys_id: str) -> bool:
        """Whether some key has the record *sys_id* for its ticket."""
        return bool(
            self._database.run(
                lambda transaction: transaction.execute(
                    "SELECT 1 FROM servicenow.ticket WHERE sys_id = :sys_id AND instance = :instance "
                    'AND "table" = :table LIMIT 1',
                    sys_id=sys_id,
                    instance=instance,
                    table=table,
                )
            )
        )

    # Holds

    def admit(
        self,
        instance: str,
        credential: str,
        *,
        probe_seconds: float,
        proven_after: float | None,
        failed_before: bool = False,
    ) -> Admission:
        """Ask whether the first of some calls may be made now.

        Under a hold nobody calls until it ends; then one probes and the others wait. Without one, it is the same with a
        credential: one call finds out whether it is still good, so that many waiting rows cannot lock the account.
        *proven_after*: since then the caller has waited for another's probe, which will do for its own if it passed.
        *failed_before*: it asks for a row whose last call failed. Where many rows failed and not one write has passed
        since, such rows are tried one at a time, now and then; others need not wait for them.
        """

        def work(transaction: Transaction) -> Admission:
            transaction.execute(_KNOW_CREDENTIAL, instance=instance, credential=credential)
            rows = transaction.execute(
                "SELECT *, {now} AS now FROM servicenow.hold "
                "WHERE instance = :instance AND credential IN ('', :credential) ORDER BY until DESC",
                instance=instance,
                credential=credential,
            )
            many_failed = any(row["kind"] == "down" and row["in_vain"] >= IN_VAIN_MANY for row in rows)
            if not (failed_before and many_failed):
                rows = [row for row in rows if row["kind"] != "row"]
            for row in rows:
                if row["until"] > row["now"]:
                    return _not_admitted(row, row["until"] - row["now"], waiting_for_probe=False)
            needed = [row for row in rows if row["kind"] != "row" and (row["until"] > 0 or row["kind"] == "auth")]
            if proven_after is not None and all(
                row["kind"] == "auth" and row["until"] == 0 and row["proven_at"] >= proven_after for row in needed
            ):
                return Admission()
            probed = next((row for row in needed if row["probe_until"] > row["now"]), None)
            for row in needed if probed is None else ():
                if not transaction.execute(
                    _CLAIM_PROBE,
                    instance=instance,
                    kind=row["kind"],
                    credential=row["credential"],
                    seconds=probe_seconds,
                ):
                    probed = row
                    break
            if probed is not None:
                return _not_admitted(probed, max(0.001, probed["probe_until"] - probed["now"]), waiting_for_probe=True)
            return Admission(probing=True, held=any(row["until"] > 0 for row in needed))

        return self._database.run(work)

    def call_passed(self, instance: str, credential: str, *, sent_seconds_ago: float) -> None:
        """ServiceNow answered: no hold that began before the call stands any more, and what was held is over."""
        self._database.run(
            lambda transaction: _end_holds(transaction, instance, credential, sent_seconds_ago, by_probe=False)
        )

    def probe_passed(self, instance: str, credential: str, *, sent_seconds_ago: float) -> None:
        """ServiceNow answered a probe: the same, but should event after event fail again before one of them passes,
        the next hold is a longer one."""
        self._database.run(
            lambda transaction: _end_holds(transaction, instance, credential, sent_seconds_ago, by_probe=True)
        )

    def row_failed_again(self, instance: str, *, failure: Failure, seconds: float, seconds_max: float) -> None:
        """A call failed for a row whose last call failed. If they are many, such rows wait *seconds*, doubling."""
        self.call_failed(
            instance,
            kind="row",
            credential="",
            failure=failure,
            seconds=seconds,
            seconds_max=seconds_max,
            in_a_row=1,
            at_once=True,
            fixed=False,
            claimed=False,
        )

    def probe_ended(self, instance: str, credential: str) -> None:
        """Our probe found out nothing about the instance as a whole: let the next one try."""
        self._database.run(
            lambda transaction: transaction.execute(_END_PROBE, instance=instance, credential=credential)
        )

    def call_failed(
        self,
        instance: str,
        *,
        kind: str,
        credential: str,
        failure: Failure,
        seconds: float,
        seconds_max: float,
        in_a_row: int,
        at_once: bool,
        fixed: bool,
        claimed: bool,
        at_once_unless_proven_seconds: float | None = None,
    ) -> tuple[float, float]:
        """Count a failure that concerns every event; gives (since when, seconds that calls are held: 0 for not).

        Held from *in_a_row* failures on, or *at_once*, for *seconds*; each probe that fails doubles it up to
        *seconds_max*, unless it is *fixed*. *claimed*: it was a probe of ours, which has ended.
        *at_once_unless_proven_seconds*: at once, unless a hold of its kind was ended by a probe so short a time ago.
        """

        def work(transaction: Transaction) -> tuple[float, float]:
            row = transaction.execute(
                _COUNT_FAILURE,
                instance=instance,
                kind=kind,
                credential=credential if kind == "auth" else "",
                reason=failure.reason.value,
                words=failure.words,
                seconds=seconds,
                seconds_max=seconds_max,
                in_a_row=in_a_row,
                at_once=at_once,
                page_seconds=at_once_unless_proven_seconds,
                fixed=fixed,
            )[0]
            if claimed:
                transaction.execute(_END_PROBE, instance=instance, credential=credential)
            return row["since"], max(0.0, row["until"] - row["now"])

        return self._database.run(work)

    # Connection tests

    def claim_trial(self, instance: str, account: str, *, most: int, within_seconds: float) -> float:
        """Count a connection test of *account* before it is made; gives the seconds to wait, 0 for none.

        *most* may be refused, or under way, until *within_seconds* have passed since the last of them.
        """
        names = {"instance": instance, "account": account}

        def work(transaction: Transaction) -> float:
            if transaction.execute(_CLAIM_TRIAL, **names, most=most, within=within_seconds):
                return 0.0
            left = transaction.execute(
                "SELECT last_at + :within - {now} AS seconds FROM servicenow.trial "
                "WHERE instance = :instance AND account = :account",
                **names,
                within=within_seconds,
            )
            return max(1.0, left[0]["seconds"]) if left else 1.0

        return self._database.run(work)

    def trial_ended(self, instance: str, account: str, *, signed_in: bool | None) -> None:
        """The test was let in (then those that were refused before count no more), refused, or (None) nobody knows."""
        names = {"instance": instance, "account": account}

        def work(transaction: Transaction) -> None:
            if signed_in:
                transaction.execute(
                    "DELETE FROM servicenow.trial WHERE instance = :instance AND account = :account", **names
                )
            elif signed_in is None:
                transaction.execute(
                    "UPDATE servicenow.trial SET tries = tries - 1 "
                    "WHERE instance = :instance AND account = :account AND tries > 0",
                    **names,
                )

        self._database.run(work)

    def newest_tickets(self, instance: str, table: str, *, most: int) -> list[tuple[str, int]]:
        """(sys_id, generation) of tickets in *table*, the newest first."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT sys_id, generation FROM servicenow.ticket "
                "WHERE instance = :instance AND \"table\" = :table AND sys_id <> '' "
                "ORDER BY created_at DESC LIMIT :most",
                instance=instance,
                table=table,
                most=most,
            )
        )
        return [(row["sys_id"], row["generation"]) for row in rows]

    # Mail

    def raise_alert(self, alert: Alert) -> None:
        """Have people told of *alert*."""
        self._database.run(lambda transaction: _raise(transaction, alert))

    def claim_mail(self, *, every_seconds: float) -> Mail | None:
        """Take one mail that is due; nobody else gets it for MAIL_CLAIM_SECONDS. None: there is none."""

        def work(transaction: Transaction) -> Mail | None:
            row = _one(transaction.execute(_CLAIM_MAIL, claim=MAIL_CLAIM_SECONDS, every=every_seconds))
            if row is None:
                return None
            mail = Mail(
                row["fingerprint"],
                row["kind"],
                json.loads(row["facts"]),
                row["since"],
                row["last_at"],
                row["unsent"],
                row["episode"] == "over",
                row["now"],
            )
            if row["owed_at"] is None or row["owed_at"] > row["now"]:
                return mail
            # What is owed is sent first, and by itself; what is new follows, for all.
            owed = json.loads(row["owed"])
            return replace(
                mail,
                count=owed["count"],
                recovered=owed["recovered"],
                owed_to=tuple(owed["to"]),
                owed_tries=owed["tries"],
            )

        return self._database.run(work)

    def mail_sent(self, mail: Mail, *, owed_to: Sequence[str] = (), owed_wait_seconds: float = 0.0) -> None:
        """The mail is out; to those of *owed_to* it is to be sent again in *owed_wait_seconds*."""
        owed = {"to": [*owed_to], "tries": mail.owed_tries + 1, "count": mail.count, "recovered": mail.recovered}

        def work(transaction: Transaction) -> None:
            if not mail.owed_to:
                transaction.execute(
                    _MAIL_SENT, fingerprint=mail.fingerprint, count=mail.count, recovered=mail.recovered
                )
            if mail.owed_to or owed_to:
                written = json.dumps(owed) if owed_to else ""
                transaction.execute(_SET_OWED, fingerprint=mail.fingerprint, owed=written, wait=owed_wait_seconds)

        self._database.run(work)

    def mail_not_sent(self, mail: Mail) -> None:
        """The mail is not out: whoever comes next may try."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.alert SET claimed_until = 0 WHERE fingerprint = :fingerprint",
                fingerprint=mail.fingerprint,
            )
        )

    def end_alerts(self, fingerprints: Sequence[str]) -> None:
        """What these alerts told of is over."""

        def work(transaction: Transaction) -> None:
            for fingerprint in fingerprints:
                transaction.execute(_OVER, fingerprint=fingerprint, silently=False)

        self._database.run(work)

    # Looking back

    def dead_letters(
        self, *, events: Sequence[str] = (), since: float | None = None, rule: str | None = None
    ) -> list[Delivery]:
        """The dead letters, oldest first; of *events* only (then those still waiting too), where any are named."""

        def work(transaction: Transaction) -> list[Delivery]:
            if events:
                rows = [
                    row
                    for event in events
                    for row in transaction.execute(
                        "SELECT * FROM servicenow.delivery WHERE event = :event AND status <> 'done' "
                        "ORDER BY rule, key",
                        event=event,
                    )
                ]
            else:
                rows = transaction.execute(
                    "SELECT * FROM servicenow.delivery WHERE status = 'dead' AND last_at >= :since "
                    "ORDER BY first_seen, event, rule, key",
                    since=since or 0.0,
                )
            return [_delivery(row) for row in rows if rule is None or row["rule"] == rule]

        return self._database.run(work)

    def is_known(self, event: str) -> bool:
        """Whether anything is remembered of *event*."""
        return bool(
            self._database.run(
                lambda transaction: transaction.execute(
                    "SELECT 1 FROM servicenow.delivery WHERE event = :event LIMIT 1", event=event
                )
            )
        )

    def overdue(self, *, seconds: float, given_up_seconds: float, most: int) -> list[Delivery]:
        """Deliveries that should have come back *seconds* ago and are to be told of, oldest first.

        Those that were told of are left out, until they are to be given up, *given_up_seconds* after the first attempt.
        """
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.delivery AS d WHERE status = 'waiting' "
                "AND COALESCE(retry_at, last_at) <= {now} - :seconds "
                "AND (first_seen < {now} - :given_up_seconds OR NOT EXISTS ("
                "SELECT 1 FROM servicenow.alert AS a WHERE a.fingerprint = d.fingerprint AND a.kind = 'waiting')) "
                "ORDER BY first_seen LIMIT :most",
                seconds=seconds,
                given_up_seconds=given_up_seconds,
                most=most,
            )
        )
        return [_delivery(row) for row in rows]

    def tell_of(self, delivery: Delivery, alert: Alert, *, gave_up: bool) -> None:
        """Put *delivery*, if it still waits, under *alert*; *gave_up*: as a dead letter."""

        def work(transaction: Transaction) -> None:
            told = transaction.execute(
                "UPDATE servicenow.delivery SET fingerprint = :fingerprint, "  # noqa: S608  # our own words
                "status = CASE WHEN :gave_up THEN 'dead' ELSE status END, "
                "reason = CASE WHEN :gave_up THEN 'gave_up' ELSE reason END "
                f"WHERE {_THIS_DELIVERY} AND status = 'waiting' RETURNING event",
                event=delivery.event,
                content=delivery.content,
                rule=delivery.rule,
                key=delivery.key,
                fingerprint=alert.fingerprint,
                gave_up=gave_up,
            )
            if told:
                _raise(transaction, alert)
                if delivery.fingerprint:
                    _over_if_none_left(transaction, delivery.fingerprint, silently=True)

        self._database.run(work)

    def suspects(self, instance: str, *, most: int) -> list[tuple[str, str]]:
        """(rule, key) of tickets that are due for a look."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                _SUSPECTS,
                instance=instance,
                most=most,
                doubt=IN_DOUBT_SECONDS,
            )
        )
        return [(row["rule"], row["key"]) for row in rows]

    def postpone(self, instance: str, rule: str, key: str) -> None:
        """A suspect could not be looked at: leave it for a while, unless somebody works on it just now."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.ticket SET suspect_until = {now} + :seconds "
                "WHERE instance = :instance AND rule = :rule AND key = :key "
                "AND (lease_owner = '' OR lease_until <= {now})",
                instance=instance,
                rule=rule,
                key=key,
                seconds=POSTPONED_SECONDS,
            )
        )

    def forget_older_than(self, seconds: float, *, for_seconds: float = math.inf) -> int:
        """Apply retention for about *for_seconds*; gives how many records went. What is left goes the next time.

        Deliveries, closed alerts and old holds go; the evidence on a row that never had a ticket goes; a ticket's own
        record stays, because it is what keeps a closed ticket closed. It goes in short transactions with pauses: events
        wait for none of it.
        """
        until = time.monotonic() + for_seconds
        gone = 0
        for sql in _OLD:
            while time.monotonic() < until:
                began = time.monotonic()
                count = self._database.run(lambda transaction, sql=sql: _forget(transaction, sql, seconds))  # type: ignore[misc]  # mypy loses the lambda's type with a default
                gone += count
                if count < FORGET_MAX:
                    break
                # As long as it took: whoever waits for SQLite's only writer comes in between.
                time.sleep(min(1.0, time.monotonic() - began))
        return gone

    def now(self) -> float:
        """The database's clock."""
        return float(self._database.run(lambda transaction: transaction.execute("SELECT {now} AS now"))[0]["now"])


def unruled_fingerprint(source: str) -> str:
    """The alert that tells of events from *source* that no rule wants."""
    return f"unruled {source}"


def held_fingerprint(instance: str, kind: str) -> str:
    """The alert that tells of a hold. Without a configuration there is no instance that it could be about."""
    return f"held {kind}" if kind == "config" else f"held {kind} {instance}"


def _forget(transaction: Transaction, sql: str, seconds: float) -> int:
    gone = transaction.execute(sql, seconds=seconds, most=FORGET_MAX)
    for fingerprint in {row.get("fingerprint", "") for row in gone if "event" in row} - {""}:
        _over_if_none_left(transaction, fingerprint, silently=True)
    return len(gone)


def _end_holds(
    transaction: Transaction, instance: str, credential: str, sent_seconds_ago: float, *, by_probe: bool
) -> None:
    """*by_probe*: nothing was written, so whether that can be done is still to be seen."""
    if transaction.execute(
        "SELECT 1 FROM servicenow.hold WHERE instance = :instance AND credential IN ('', :credential) "
        "AND kind <> 'row' AND until > 0 AND since > {now} - :seconds",
        instance=instance,
        credential=credential,
        seconds=sent_seconds_ago,
    ):
        # Another instance's call, sent later, was refused: what passed says nothing of now.
        transaction.execute(_END_PROBE, instance=instance, credential=credential)
        return
    transaction.execute(
        "UPDATE servicenow.hold SET proven_at = {now}, probe_until = 0, until = 0, failures = 0, "
        "doublings = 0, reason = '', words = '' "
        "WHERE instance = :instance AND kind = 'auth' AND credential = :credential",
        instance=instance,
        credential=credential,
    )
    transaction.execute(
        "DELETE FROM servicenow.hold WHERE instance = :instance AND kind NOT IN ('auth', 'down') "
        "AND NOT (kind = 'row' AND :by_probe)",
        instance=instance,
        by_probe=by_probe,
    )
    transaction.execute(
        "UPDATE servicenow.hold SET proven_at = CASE WHEN until > 0 THEN {now} ELSE proven_at END, "
        "failures = CASE WHEN :by_probe AND until = 0 THEN failures ELSE 0 END, "
        "probe_until = 0, until = 0, reason = '', words = '', "
        "doublings = 0, in_vain = CASE WHEN NOT :by_probe THEN 0 WHEN until > 0 THEN in_vain + 1 ELSE in_vain END "
        "WHERE instance = :instance AND kind = 'down'",
        instance=instance,
        by_probe=by_probe,
    )
    # A hold of another credential says nothing any more once this one works.
    transaction.execute(
        "DELETE FROM servicenow.hold "
        "WHERE instance = :instance AND kind = 'auth' AND credential <> :credential "
        "AND until > 0 AND until <= {now}",
        instance=instance,
        credential=credential,
    )
    for kind in ("down", "rate", "auth", "config"):
        transaction.execute(_OVER, fingerprint=held_fingerprint(instance, kind), silently=False)


def _not_admitted(row: Record, wait_seconds: float, *, waiting_for_probe: bool) -> Admission:
    return Admission(
        wait_seconds,
        kind=row["kind"],
        reason=row["reason"],
        words=row["words"],
        since=row["since"],
        waiting_for_probe=waiting_for_probe,
        now=row["now"],
    )


def _ended(before: Record | None, digest: str, *, anew: bool) -> AlreadyDone | AlreadyDead | None:
    if before is None:
        return None
    # What the rules did not want is wanted again by others, perhaps.
    unwanted = before["reason"] == Reason.WHEN_FALSE and before["digest"] != digest
    if before["status"] == "done" and before["outcome"] != FORGIVEN and not unwanted:
        return AlreadyDone(before["ticket"])
    if before["status"] == "dead" and not anew and before["digest"] == digest:
        return AlreadyDead(before["ticket"], before["reason"], before["hint"])
    return None


def _save_ticket(transaction: Transaction, ticket: Ticket, owner: str, *, release: bool) -> bool:
    saved = transaction.execute(
        _SAVE_TICKET,
        instance=ticket.instance,
        rule=ticket.rule,
        key=ticket.key,
        owner=owner,
        release=release,
        table=ticket.table,
        generation=ticket.generation,
        sys_id=ticket.sys_id,
        number=ticket.number,
        state=ticket.state,
        known=json.dumps(dict(ticket.known)),
        asked=json.dumps(dict(ticket.asked)),
        left_empty=json.dumps(dict(ticket.left_empty)),
        row_resolved=ticket.row_resolved,
        mod_count=ticket.mod_count,
        call_failed=ticket.call_failed,
        sending=_sending_json(ticket.sending),
        suspect_until=ticket.suspect_until,
        suspect_fields=json.dumps(sorted(ticket.suspect_fields)),
        late_seen=ticket.late_writes if ticket.suspect_until is None else ticket.late_seen,
    )
    if saved:
        return True
    # Our lease was taken over while we were away: what we know may be old, and what we did is to be found by looking.
    if ticket.wrote:
        keyed = {"instance": ticket.instance, "rule": ticket.rule, "key": ticket.key}
        late = transaction.execute(
            "SELECT late_fields FROM servicenow.ticket WHERE instance = :instance AND rule = :rule AND key = :key",
            **keyed,
        )
        fields = ticket.wrote.union(*(json.loads(row["late_fields"]) for row in late))
        transaction.execute(_ONLY_SUSPECT, **keyed, fields=json.dumps(sorted(fields)))
    return False


def _sending_json(sending: Sending | None) -> str:
    if sending is None:
        return ""
    return json.dumps(asdict(sending))


def _ticket(row: Record, trail: Trail) -> Ticket:
    sending = None
    if row["sending"]:
        read = json.loads(row["sending"])
        unmarked = read.get("unmarked", False)  # a ledger of before has none
        sending = Sending(read["kind"], tuple(read["fields"]), read["at"], read["doubtful"], unmarked)
    suspect_until: float | None = row["suspect_until"]
    suspect_fields = frozenset(json.loads(row["suspect_fields"]))
    if sending is not None and row["vanished_until"] is not None and not sending.doubtful:
        # The holder vanished with a write under way, which it may have sent until its lease ended.
        sending = replace(sending, at=row["vanished_until"], doubtful=True)
    if sending is not None and sending.kind == "create" and sending.doubtful:
        suspect_until = max(suspect_until or 0.0, sending.at + IN_DOUBT_SECONDS)
    if sending is not None and sending.kind == "update":
        suspect_until = max(suspect_until or 0.0, sending.at + IN_DOUBT_SECONDS)
        suspect_fields |= frozenset(sending.fields)
        sending = None
    if row["late_writes"] > row["late_seen"]:
        # What a holder without its lease wrote has been written by now: it is to be found by looking, at once.
        suspect_until = suspect_until or 0.0
        suspect_fields |= frozenset(json.loads(row["late_fields"]))
        if sending is None and not row["sys_id"]:
            # No ticket is known, so what it wrote was one: whoever settles this looks for it.
            sending = Sending("create", tuple(sorted(suspect_fields)), 0.0, doubtful=True)
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
        asked=json.loads(row["asked"]),
        left_empty=json.loads(row["left_empty"]),
        row_resolved=bool(row["row_resolved"]),
        trail=trail,
        sending=sending,
        suspect_until=suspect_until,
        suspect_fields=suspect_fields,
        late_writes=row["late_writes"],
        mod_count=row["mod_count"],
        call_failed=bool(row["call_failed"]),
        updated_at=row["updated_at"],
        late_seen=row["late_seen"],
    )


def _delivery(row: Record) -> Delivery:
    return Delivery(
        row["event"],
        row["rule"],
        row["key"],
        row["content"],
        row["source"],
        row["status"],
        row["attempts"],
        row["first_seen"],
        row["reason"],
        row["hint"],
        row["words"],
        row["ticket"],
        row["fingerprint"],
        row["body"],
    )


def _raise(transaction: Transaction, alert: Alert) -> None:
    transaction.execute(
        _RAISE_ALERT,
        fingerprint=alert.fingerprint,
        kind=alert.kind,
        facts=json.dumps(dict(alert.facts)),
        since=alert.since,
        wait=alert.wait_seconds,
        lasts=alert.episode,
    )


def _over_if_none_left(transaction: Transaction, fingerprint: str, *, silently: bool = False) -> None:
    """The alert is over once no delivery belongs to it any more; *silently*: because they were given up on."""
    left = transaction.execute(
        "SELECT 1 FROM servicenow.delivery WHERE fingerprint = :fingerprint AND status <> 'done' LIMIT 1",
        fingerprint=fingerprint,
    )
    if not left:
        transaction.execute(_OVER, fingerprint=fingerprint, silently=silently)


def _one(rows: list[Record]) -> Record | None:
    return rows[0] if rows else None
