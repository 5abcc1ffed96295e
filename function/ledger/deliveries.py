"""What became of each event, for each rule and key."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from function.core.event import Event
from function.core.outcome import Failure, Outcome, Reason, Status
from function.core.step import Step
from function.core.trail import (
    current_place,
    lacks_step,
    record_step,
    replace_desired,
    trail_from_json,
    trail_to_json,
)
from function.ledger.alerts import MAIL_IS_DUE, end_alert_if_none_left, raise_alert
from function.ledger.backend import Record
from function.ledger.database import Database, Transaction
from function.ledger.holds import request_permit, return_permit
from function.ledger.records import (
    Acquired,
    Alert,
    AlreadyDead,
    AlreadyDone,
    BeginResult,
    ConnectionChanged,
    Delivery,
    DeliveryId,
    DeliveryStatus,
    FinishResult,
    InstanceStatus,
    KeptMark,
    KeyBusy,
    PermitReturn,
    TableTraits,
    Ticket,
    one_row,
    read_delivery,
    read_ticket,
)
from function.ledger.tickets import TAKE_LEASE, find_lease_left, save_ticket

# Of a table that no rule wants, so many events are kept: enough to write the rule from, not the
# whole table.
UNRULED_SAMPLES_MAX: Final = 10
# So many unknown types of one source are told of by themselves. More are no types, but what stands
# in a column that is none: they share one alert.
UNRULED_TYPES_MAX: Final = 20
# Hasura counts whole seconds: an event that comes so much early is in time.
EARLY_SECONDS: Final = 1.0
# The outcome of a delivery that the rules do not want any more.
WITHDRAWN: Final = "withdrawn"

# What is asked of the instance at the beginning of each delivery, in one statement.
_INSTANCE_STATUS = """
SELECT COALESCE((SELECT version FROM servicenow.configuration WHERE one = 1), '') AS version,
    (SELECT honours_sys_id FROM servicenow.table_traits
        WHERE instance = :instance AND "table" = :table) AS honours_sys_id,
    (SELECT kept_mark FROM servicenow.table_traits
        WHERE instance = :instance AND "table" = :table) AS kept_mark,
    EXISTS (
        SELECT 1 FROM servicenow.delivery
        WHERE event = :event AND content = :content AND status <> 'done'
            AND NOT (rule = :rule AND target = :target AND key = :key)
    ) AS others
"""
_FIND_OPEN = """
SELECT 1 FROM servicenow.delivery
WHERE event = :event AND content = :content AND status <> 'done' LIMIT 1
"""
_THIS_DELIVERY = (
    "event = :event AND content = :content AND rule = :rule AND target = :target AND key = :key"
)

_FIND_DELIVERY = f"SELECT * FROM servicenow.delivery WHERE {_THIS_DELIVERY}"  # noqa: S608  # our own words

_COUNT_ATTEMPT = """
INSERT INTO servicenow.delivery
    (event, rule, target, key, content, source, status, attempts, first_seen, last_at, digest,
    counted, body)
VALUES (:event, :rule, :target, :key, :content, :source, 'waiting', 1, {now}, {now}, :digest,
    :counted, :body)
ON CONFLICT (event, rule, target, key, content) DO UPDATE SET
    source = :source, status = 'waiting', digest = :digest, body = :body,
    counted = servicenow.delivery.counted OR :counted,
    attempts = CASE WHEN :fresh THEN 1 ELSE servicenow.delivery.attempts + 1 END,
    first_seen = CASE WHEN :fresh THEN {now} ELSE servicenow.delivery.first_seen END,
    last_at = {now}
RETURNING event, rule, target, key, content, source, status, attempts, first_seen, reason, hint,
    remote_message, ticket, fingerprint, '' AS body, last_at
"""

_SET_TRAIL = (
    "UPDATE servicenow.ticket SET trail = :trail "
    "WHERE instance = :instance AND rule = :rule AND key = :key"
)

_LOCK_TICKET = """
UPDATE servicenow.ticket SET trail = trail
WHERE instance = :instance AND rule = :rule AND key = :key
RETURNING trail, sys_id, row_resolved
"""

_SUSPECT = """
UPDATE servicenow.ticket SET stale_writes = stale_writes + 1
WHERE instance = :instance AND rule = :rule AND key = :key
"""

_SAVE_DELIVERY = f"""
UPDATE servicenow.delivery SET
    status = :status, outcome = :outcome, retry_at = :retry_at, reason = :reason,
    hint = :hint, remote_message = :remote_message, ticket = :ticket, duration = :duration,
    fingerprint = :fingerprint, last_at = {{now}},
    body = CASE WHEN :status = 'done' THEN '' ELSE body END
WHERE {_THIS_DELIVERY}
"""  # noqa: S608  # our own words


class DeliveryRepository:
    """Deliveries, each begun and finished in one transaction. Every method is one short
    transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        event: Event,
        step: Step,
        wanted: str,
        *,
        delivery: DeliveryId,
        instance: str,
        owner: str,
        lease_seconds: float,
        digest: str,
        fresh: bool,
        table: str,
        version: str | None,
        permit_for: str | None = None,
        probe_seconds: float = 0.0,
        with_trail: bool = True,
    ) -> BeginResult:
        """Take the key's lease, count the attempt, and count the event's step into the trail if it
        was not yet.

        *wanted* is what the step desires, as JSON text. *fresh*: a dead letter is tried again with
        a new clock; otherwise, under the same *digest*, it stays dead; so does one whose event is
        given up at a time of its own, whatever is asked. *version* is that of the
        stored connection that the work goes by (None: by none); where another is in force, nothing
        is begun. *table* is the one whose traits are asked for. *permit_for*: the digest of the
        credential for which leave to make the first call is asked, good for *probe_seconds*.
        """
        names = delivery.parameters()
        # Its person was told that it is not done, and that stays true.
        for_good = event.expires_at is not None

        def work(transaction: Transaction) -> BeginResult:
            status = _instance_status(transaction, instance=instance, table=table, names=names)
            if version is not None and status.version != version:
                return ConnectionChanged()
            before = one_row(transaction.execute(_FIND_DELIVERY, **names))
            ended = _ended(before, digest, fresh=fresh, for_good=for_good)
            if ended is not None:
                return ended
            keyed = {"instance": instance, "rule": delivery.rule, "key": delivery.key}
            leased = one_row(
                transaction.execute(TAKE_LEASE, **keyed, owner=owner, seconds=lease_seconds)
            )
            if leased is None:
                return KeyBusy(find_lease_left(transaction, **keyed))
            # Whoever held the lease a moment ago may have finished this very event.
            before = one_row(transaction.execute(_FIND_DELIVERY, **names))
            ended = _ended(before, digest, fresh=fresh, for_good=for_good)
            if ended is not None:
                transaction.execute(
                    "UPDATE servicenow.ticket SET lease_owner = '' WHERE instance = :instance "
                    "AND rule = :rule AND key = :key AND lease_owner = :owner",
                    **keyed,
                    owner=owner,
                )
                return ended
            trail = trail_from_json(leased["trail"])
            if with_trail:
                if before and before["counted"]:
                    trail = replace_desired(trail, step.entered, wanted)
                else:
                    trail = record_step(trail, step, wanted, sent_at=event.created_at)
                transaction.execute(_SET_TRAIL, **keyed, trail=trail_to_json(trail))
            counted = transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=with_trail,
                body=event.body,
                fresh=before is None or before["status"] != DeliveryStatus.WAITING,
            )[0]
            permit = None
            if permit_for is not None:
                permit = request_permit(
                    transaction,
                    instance,
                    permit_for,
                    probe_seconds=probe_seconds,
                    verified_after=None,
                    failed_before=bool(leased["call_failed"]),
                )
            if permit is not None and permit.wait_seconds > 0:
                # Whoever makes the call waits, or hears why it may not.
                permit = None
            return Acquired(
                read_ticket(leased, trail),
                read_delivery(counted),
                leased["now"],
                status,
                permit,
                permit_for or "",
            )

        return self._database.run(work)

    def record_step(
        self,
        event: Event,
        step: Step,
        wanted: str,
        *,
        delivery: DeliveryId,
        instance: str,
        digest: str,
        mail_every_seconds: float,
    ) -> tuple[bool, bool]:
        """Count the step of an event for which nothing is to be done, if its key is known.

        Gives whether the event has records that are not done, and whether a mail is due
        (*mail_every_seconds*: an alert is mailed so often at most).

        Of an unknown key nothing is kept. Needs no lease: the trail alone changes. Where it tells
        that the row of a ticket is gone, the ticket is suspect from now on, and brought in step
        when it is looked at.
        """
        names = delivery.parameters()
        keyed = {"instance": instance, "rule": delivery.rule, "key": delivery.key}

        def work(transaction: Transaction) -> tuple[bool, bool]:
            opened = transaction.execute(_FIND_OPEN, event=event.id, content=event.content)
            answer = bool(opened), bool(transaction.execute(MAIL_IS_DUE, every=mail_every_seconds))
            ticket = one_row(transaction.execute(_LOCK_TICKET, **keyed))
            if ticket is None or transaction.execute(_FIND_DELIVERY, **names):
                return answer
            before = trail_from_json(ticket["trail"])
            trail = record_step(before, step, wanted, sent_at=event.created_at)
            transaction.execute(_SET_TRAIL, **keyed, trail=trail_to_json(trail))
            place = current_place(trail)
            left_behind = (
                place is not None
                and bool(place.belongs_to_predecessor)
                and not ticket["row_resolved"]
            )
            # A step was missing, and what it may have said was left out until it came.
            waited = lacks_step(before) and not lacks_step(trail)
            if ticket["sys_id"] and (left_behind or waited):
                transaction.execute(_SUSPECT, **keyed)
            transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=True,
                body="",
                fresh=True,
            )
            transaction.execute(
                f"UPDATE servicenow.delivery "  # noqa: S608
                "SET status = 'done', outcome = :outcome, reason = :reason "
                f"WHERE {_THIS_DELIVERY}",
                **names,
                outcome=Status.SKIPPED.value,
                reason=Reason.WHEN_FALSE.value,
            )
            return answer

        return self._database.run(work)

    def finish(
        self,
        ticket: Ticket | None,
        *,
        owner: str,
        delivery: DeliveryId,
        outcome: Outcome,
        failure: Failure | None,
        duration_seconds: float,
        fingerprint: str = "",
        alerts: Sequence[Alert] = (),
        abandoned: Ticket | None = None,
        mail_every_seconds: float = 0.0,
        instance: str = "",
        permit: PermitReturn | None = None,
    ) -> FinishResult:
        """Record the outcome and give the lease back, all at once, and with it the *permit* to call
        *instance*.

        *mail_every_seconds*: an alert is mailed so often at most. *abandoned*, where there is no
        *ticket*: its lease ends now as that of a holder that vanished.

        A dead letter and the alert that tells of it are one transaction: neither is ever without
        the other.
        """
        done = outcome.status not in (Status.RETRYING, Status.DEAD)
        names = delivery.parameters()
        status = DeliveryStatus.DONE if done else DeliveryStatus.WAITING
        if outcome.status is Status.DEAD:
            status = DeliveryStatus.DEAD

        def work(transaction: Transaction) -> FinishResult:
            before = one_row(transaction.execute(_FIND_DELIVERY, **names))
            if (
                before
                and before["duration"] == duration_seconds
                and before["outcome"] == outcome.status.value
            ):
                # Committed already, and repeated because the answer to that was lost.
                return FinishResult(stands=True, mail_due=True)
            if ticket is not None and not save_ticket(transaction, ticket, owner, release=True):
                return FinishResult(stands=False, mail_due=False)
            if permit is not None:
                return_permit(transaction, instance, permit)
            if abandoned is not None and owner:
                transaction.execute(
                    "UPDATE servicenow.ticket SET lease_until = {now} WHERE instance = :instance "
                    "AND rule = :rule AND key = :key AND lease_owner = :owner",
                    instance=abandoned.instance,
                    rule=abandoned.rule,
                    key=abandoned.key,
                    owner=owner,
                )
            save_delivery(
                transaction,
                delivery,
                status=status,
                outcome=outcome,
                hint=failure.hint if failure else "",
                remote_message=failure.remote_message if failure else "",
                duration_seconds=duration_seconds,
                fingerprint=fingerprint,
            )
            for alert in alerts:
                raise_alert(transaction, alert)
            if before and before["fingerprint"] and before["fingerprint"] != fingerprint:
                end_alert_if_none_left(transaction, before["fingerprint"], silently=not done)
            due = transaction.execute(MAIL_IS_DUE, every=mail_every_seconds)
            return FinishResult(stands=True, mail_due=bool(due))

        return self._database.run(work)

    def count_attempt(
        self, event: Event, *, delivery: DeliveryId, digest: str, fresh: bool
    ) -> tuple[Delivery, float]:
        """Count an attempt that cannot begin, and give the ledger's time. The event is not counted
        into a trail."""

        def work(transaction: Transaction) -> tuple[Delivery, float]:
            names = delivery.parameters()
            before = one_row(transaction.execute(_FIND_DELIVERY, **names))
            row = transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=False,
                body=event.body,
                fresh=before is None or (fresh and before["status"] == DeliveryStatus.DEAD),
            )[0]
            return read_delivery(row), row["last_at"]

        return self._database.run(work)

    def not_due_yet(
        self, event: Event, deliveries: Collection[DeliveryId]
    ) -> Mapping[DeliveryId, tuple[Reason, float]]:
        """Of *deliveries* of the event, those that wait for later: why, and until when. Empty where
        none of them is due."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT event, content, rule, target, key, status, reason, retry_at, {now} AS now "
                "FROM servicenow.delivery WHERE event = :event AND content = :content",
                event=event.id,
                content=event.content,
            )
        )
        known = {
            DeliveryId(row["event"], row["content"], row["rule"], row["target"], row["key"]): row
            for row in rows
        }
        waiting = {name for name, row in known.items() if row["status"] == DeliveryStatus.WAITING}
        later = {
            name: (Reason(row["reason"]) if row["reason"] else Reason.IN_DOUBT, row["retry_at"])
            for name, row in known.items()
            if name in waiting and (row["retry_at"] or 0.0) > row["now"] + EARLY_SECONDS
        }
        due = [
            name
            for name in deliveries
            if name not in later and (name not in known or name in waiting)
        ]
        return later if due else {}

    def record_without_ticket(
        self,
        event: Event,
        outcome: Outcome,
        failure: Failure,
        *,
        delivery: DeliveryId,
        digest: str,
        fresh: bool,
        alert: Alert,
        samples_max: int | None = None,
        crowded_fingerprint: str = "",
    ) -> Outcome:
        """Keep a dead letter that has no key, hence no ticket. Gives the outcome that stands.

        *samples_max*: no more than so many are kept of this event's source and rule with one
        alert. *crowded_fingerprint*: that of the alert which all share that are more than
        UNRULED_TYPES_MAX.
        """
        names = delivery.parameters()
        own_alert = alert

        def work(transaction: Transaction) -> Outcome:
            alert = own_alert
            before = one_row(transaction.execute(_FIND_DELIVERY, **names))
            if isinstance(_ended(before, digest, fresh=fresh), AlreadyDead):
                return outcome
            if samples_max is not None:
                kept = {
                    row["fingerprint"]: row["n"]
                    for row in transaction.execute(
                        "SELECT fingerprint, count(*) AS n FROM servicenow.delivery "
                        "WHERE source = :source AND rule = :rule AND status = 'dead' "
                        "GROUP BY fingerprint",
                        source=event.source,
                        rule=delivery.rule,
                    )
                }
                others = kept.keys() - {alert.fingerprint, crowded_fingerprint}
                if crowded_fingerprint and len(others) >= UNRULED_TYPES_MAX:
                    alert = replace(alert, fingerprint=crowded_fingerprint)
                if before is None and kept.get(alert.fingerprint, 0) >= samples_max:
                    raise_alert(transaction, alert)
                    return outcome
            transaction.execute(
                _COUNT_ATTEMPT,
                **names,
                source=event.source,
                digest=digest,
                counted=False,
                body=event.body,
                fresh=before is None or before["status"] != DeliveryStatus.WAITING,
            )
            save_delivery(
                transaction,
                delivery,
                status=DeliveryStatus.DEAD,
                outcome=replace(outcome, reason=failure.reason),
                hint=failure.hint,
                remote_message=failure.remote_message,
                duration_seconds=0.0,
                fingerprint=alert.fingerprint,
            )
            raise_alert(transaction, alert)
            return outcome

        return self._database.run(work)

    def withdraw(
        self, event: Event, *, rules: Collection[str], but: Collection[DeliveryId]
    ) -> None:
        """What is kept of *event* as dead or waiting under *rules*, but for *but*, is over: they do
        not want it now. It is not done, though: should they want it again, it begins again.
        """

        def work(transaction: Transaction) -> None:
            rows = transaction.execute(
                "SELECT event, content, rule, target, key, fingerprint FROM servicenow.delivery "
                "WHERE event = :event AND content = :content AND status <> 'done'",
                event=event.id,
                content=event.content,
            )
            for row in rows:
                fingerprint = row.pop("fingerprint")
                if row["rule"] not in rules or DeliveryId(**row) in but:
                    continue
                transaction.execute(
                    "UPDATE servicenow.delivery "  # noqa: S608  # our own words
                    "SET status = 'done', outcome = :withdrawn, body = '', last_at = {now} "
                    f"WHERE {_THIS_DELIVERY}",
                    **row,
                    withdrawn=WITHDRAWN,
                )
                end_alert_if_none_left(transaction, fingerprint)

        self._database.run(work)

    def dead_letters(
        self, *, events: Sequence[str] = (), since: float | None = None, rule: str | None = None
    ) -> list[Delivery]:
        """The dead letters, oldest first; of *events* only (then those still waiting too), where
        any are named."""

        def work(transaction: Transaction) -> list[Delivery]:
            if events:
                rows = [
                    row
                    for event in events
                    for row in transaction.execute(
                        "SELECT * FROM servicenow.delivery "
                        "WHERE event = :event AND status <> 'done' "
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
            return [read_delivery(row) for row in rows if rule is None or row["rule"] == rule]

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

        Those that were told of are left out, until they are to be given up, *given_up_seconds*
        after the first attempt.
        """
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.delivery AS d WHERE status = 'waiting' "
                "AND COALESCE(retry_at, last_at) <= {now} - :seconds "
                "AND (first_seen < {now} - :given_up_seconds OR NOT EXISTS ("
                "SELECT 1 FROM servicenow.alert AS a "
                "WHERE a.fingerprint = d.fingerprint AND a.kind = 'waiting')) "
                "ORDER BY first_seen LIMIT :most",
                seconds=seconds,
                given_up_seconds=given_up_seconds,
                most=most,
            )
        )
        return [read_delivery(row) for row in rows]

    def mark_overdue(self, delivery: Delivery, alert: Alert, *, gave_up: bool) -> None:
        """Put *delivery*, if it still waits, under *alert*; *gave_up*: as a dead letter."""

        def work(transaction: Transaction) -> None:
            updated = transaction.execute(
                "UPDATE servicenow.delivery SET fingerprint = :fingerprint, "  # noqa: S608  # our own words
                "status = CASE WHEN :gave_up THEN 'dead' ELSE status END, "
                "reason = CASE WHEN :gave_up THEN 'gave_up' ELSE reason END "
                f"WHERE {_THIS_DELIVERY} AND status = 'waiting' RETURNING event",
                **delivery.id.parameters(),
                fingerprint=alert.fingerprint,
                gave_up=gave_up,
            )
            if updated:
                raise_alert(transaction, alert)
                if delivery.fingerprint:
                    end_alert_if_none_left(transaction, delivery.fingerprint, silently=True)

        self._database.run(work)


def find_delivery(transaction: Transaction, delivery: DeliveryId) -> Record | None:
    return one_row(transaction.execute(_FIND_DELIVERY, **delivery.parameters()))


def count_attempt(
    transaction: Transaction,
    delivery: DeliveryId,
    *,
    source: str,
    digest: str,
    body: str,
    fresh: bool,
) -> Delivery:
    """Count an attempt at *delivery*; its clock begins anew where *fresh*, or where it did not
    wait."""
    before = find_delivery(transaction, delivery)
    row = transaction.execute(
        _COUNT_ATTEMPT,
        **delivery.parameters(),
        source=source,
        digest=digest,
        counted=False,
        body=body,
        fresh=fresh or before is None or before["status"] != DeliveryStatus.WAITING,
    )[0]
    return read_delivery(row)


def save_delivery(
    transaction: Transaction,
    delivery: DeliveryId,
    *,
    status: DeliveryStatus,
    outcome: Outcome,
    hint: str,
    remote_message: str,
    duration_seconds: float,
    fingerprint: str,
) -> None:
    transaction.execute(
        _SAVE_DELIVERY,
        **delivery.parameters(),
        status=status.value,
        outcome=outcome.status.value,
        retry_at=outcome.retry_at,
        reason=outcome.reason.value if outcome.reason else "",
        hint=hint,
        remote_message=remote_message,
        ticket=outcome.ticket,
        duration=duration_seconds,
        fingerprint=fingerprint,
    )


def _ended(
    before: Record | None, digest: str, *, fresh: bool, for_good: bool = False
) -> AlreadyDone | AlreadyDead | None:
    """How a delivery has ended; None where it has not, or begins again. One that is dead *for_good*
    does not, whatever the rules and settings say by now."""
    if before is None:
        return None
    # What the rules did not want is wanted again by others, perhaps.
    belongs_to_predecessor = before["reason"] == Reason.WHEN_FALSE and before["digest"] != digest
    if (
        before["status"] == DeliveryStatus.DONE
        and before["outcome"] != WITHDRAWN
        and not belongs_to_predecessor
    ):
        return AlreadyDone(before["ticket"])
    stays_dead = for_good or (not fresh and before["digest"] == digest)
    if before["status"] == DeliveryStatus.DEAD and stays_dead:
        return AlreadyDead(before["ticket"], before["reason"], before["hint"])
    return None


def _instance_status(
    transaction: Transaction, *, instance: str, table: str, names: Record
) -> InstanceStatus:
    row = transaction.execute(_INSTANCE_STATUS, instance=instance, table=table, **names)[0]
    honours = None if row["honours_sys_id"] is None else bool(row["honours_sys_id"])
    traits = TableTraits(honours, KeptMark(row["kept_mark"] or ""))
    return InstanceStatus(row["version"], traits, bool(row["others"]))
