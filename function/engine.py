"""deliver(event): match, lease, act, record. The only place that knows all the others."""

import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.connection.breaker import HINTS, Deadline, Line, UnwellError
from function.core.event import SCHEDULED, Event, Op
from function.core.outcome import Failure, Kind, Outcome, Reason, Status
from function.core.retry import wait_seconds
from function.core.step import Step, Wants, wanted_from_json, wanted_to_json
from function.core.trail import Place, end
from function.core.values import digest
from function.deadline import seconds_left
from function.failpoints import reached
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.deliveries import UNRULED_SAMPLES_MAX, unruled_fingerprint
from function.ledger.holds import held_fingerprint
from function.ledger.ledger import Ledger
from function.ledger.records import Alert, AlreadyDead, AlreadyDone, Begun, Busy, Delivery, Ticket
from function.log import fault
from function.notices.mailer import Notices
from function.rules.evaluate import evaluate
from function.rules.model import Rule, Rules
from function.servicenow import ServiceNowError
from function.settings import Settings
from function.targets.ticket.access import LeaseLost, TicketAccess
from function.targets.ticket.reconciler import Result, TicketReconciler
from function.targets.ticket.references import References

log = logging.getLogger(__name__)

# A waiter polls the key's lease that long, then Hasura is asked to come back: threads and its pool are not for waiting.
LEASE_PATIENCE_SECONDS: Final = 2.0
# A key is busy for as long as a call takes, seldom for the whole lease of a holder that vanished: asking costs little.
BUSY_SECONDS_MAX: Final = 10.0
# Less than this is not enough for a call to ServiceNow and its record.
WORK_SECONDS_MIN: Final = 1.0
# Kept back from every deadline for the record and the answer.
ANSWER_SECONDS: Final = 2.0
SETTLE_MAX: Final = 200
OVERDUE_MAX: Final = 1000
# Hasura is asked to send again after that, where only the time ran out.
SOON_SECONDS: Final = 3.0
_WRITE_OR_REMOVE: Final = "write one, or remove the trigger that sends this"
# PostgreSQL indexes 2,704 bytes; a character takes up to four.
FINGERPRINT_CHARACTERS_MAX: Final = 500
OVERDUE: Final = "it was interrupted, and Hasura has not sent it again: is its event trigger still there, and running?"


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of an event.

    *retry_after_seconds* is set when it should be sent again, and only then.
    """

    event: str
    outcomes: tuple[Outcome, ...]
    retry_after_seconds: float | None

    @property
    def dead(self) -> bool:
        return any(outcome.status is Status.DEAD for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class About:
    """What an alert is about; *since* is UNIX seconds."""

    rule: str
    table: str
    key: str
    event: str
    attempts: int
    since: float


class Engine:
    """Delivers events by the rules; one for a process, used by many threads."""

    def __init__(
        self,
        *,
        settings: Settings,
        rules: Rules,
        ledger: Ledger,
        line: Line,
        notices: Notices,
        draw: Callable[[], float],
    ) -> None:
        """*draw* gives the jitter: a random number in [0, 1)."""
        self._settings = settings
        self._rules = rules
        self._ledger = ledger
        self._line = line
        self._notices = notices
        self._draw = draw
        self._references = References(line)
        self._welcomed = False
        self._digest = f"{rules.digest[:16]}{settings.digest[:16]}"

    def deliver(self, event: Event, *, anew: bool | None = None, spent_seconds: float = 0.0) -> Delivered:
        """Do what the rules say of *event*, remember it, and say what followed.

        *spent_seconds*: what it took to receive it, of the time within which it is to be answered.

        *anew*: a dead letter is tried again with a new clock; by default when Hasura sends it as if for the first time
        (a console Redeliver sets the count of retries to 0). Raises LedgerUnavailable, with nothing done that is not
        safe to do again.
        """
        deadline = self._deadline(spent_seconds)
        if anew is None:
            anew = event.current_retry == 0
        rules = self._rules.concerning(event)
        if not rules:
            outcomes = [self._unruled(event, anew=anew)]
        else:
            self._welcome()
            outcomes = []
            kept = []
            for rule in rules:
                for step in evaluate(rule, event) if event.op in rule.ops else ():
                    if isinstance(step.wants, Wants) and _deserves_nothing(event, step, step.wants):
                        # The common case of a row that deserves no ticket costs no record, not even evidence; but where
                        # its key had a row before, that one's end would be taken for this one's.
                        if not rule.ticket.shared:
                            written = wanted_to_json(step.wants)
                            try:
                                self._ledger.deliveries.hear(
                                    event,
                                    step,
                                    written,
                                    instance=self._line.instance,
                                    rule=rule.id,
                                    digest=self._digest,
                                )
                            except LedgerRefused as error:
                                outcomes.append(self._unbegun(event, rule, step, error, anew=anew))
                                kept.append((rule.id, step.key))
                                continue
                        outcomes.append(Outcome(rule.id, step.key, Status.SKIPPED, reason=Reason.WHEN_FALSE))
                        continue
                    kept.append((rule.id, step.key))
                    if len(kept) > 1 and deadline.left() < self._work_seconds_min:
                        # Hasura comes back for the rest.
                        outcomes.append(self._retrying(rule, step, Reason.DEADLINE, self._ledger.now() + SOON_SECONDS))
                        continue
                    outcomes.append(self._one(event, rule, step, anew=anew, deadline=deadline))
            # Under other rules it may have been dead or waiting: no rule, no mapping of the key, another key.
            # What a rule has that this instance does not know is another instance's, in the middle of a deployment.
            self._ledger.deliveries.forgive(event, rules=["", *(rule.id for rule in rules)], but=kept)
        self._notices.flush(timeout_seconds=max(0.0, min(5.0, deadline.left())))
        now = None
        waits = []
        for outcome in outcomes:
            if outcome.status is Status.RETRYING and outcome.retry_at is not None:
                now = self._ledger.now() if now is None else now
                waits.append(outcome.retry_at - now)
        for outcome in outcomes:
            _log(event, outcome)
        return Delivered(event.id, tuple(outcomes), max(waits) if waits else None)

    def housekeep(self) -> dict[str, int]:
        """Do what nothing else would wake a function for: settle suspects, tell of what waits, forget what is old."""
        deadline = self._deadline()
        settled = 0
        rules = {rule.id: rule for rule in self._rules.rules}
        for rule_id, key in self._ledger.tickets.suspects(self._line.instance, most=SETTLE_MAX):
            if deadline.left() < self._work_seconds_min:
                break
            try:
                done = rule_id in rules and self._settle(rules[rule_id], key, deadline=deadline)
            except LedgerUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # one that cannot be read must not stop the others
                log.critical("a fault of ours: %s", fault(error))
                done = False
            if done:
                settled += 1
            else:
                self._ledger.tickets.postpone(self._line.instance, rule_id, key)
        told = 0
        now = self._ledger.now()
        for delivery in self._ledger.deliveries.overdue(
            seconds=self._settings.notify_after_seconds,
            given_up_seconds=self._settings.retry_for_seconds,
            most=OVERDUE_MAX,
        ):
            if deadline.left() < self._work_seconds_min:
                break
            try:
                self._tell_of_overdue(delivery, gave_up=now - delivery.first_seen > self._settings.retry_for_seconds)
            except LedgerRefused as error:
                log.critical("a fault of ours: %s at %s", error, fault(error))
            else:
                told += 1
        # What is old can wait, and mails cannot: they are left half of the time.
        keep_seconds = self._settings.keep_days * 86400.0
        forgotten = self._ledger.forget_older_than(keep_seconds, for_seconds=max(0.0, deadline.left() / 2))
        mailed = self._notices.flush(timeout_seconds=max(0.0, deadline.left()))
        return {"settled": settled, "told": told, "forgotten": forgotten, "mailed": mailed}

    def _tell_of_overdue(self, delivery: Delivery, *, gave_up: bool) -> None:
        """Hasura did not send *delivery* again when it should have: people hear of it, and in the end it is dead."""
        reason = Reason.GAVE_UP if gave_up else Reason(delivery.reason) if delivery.reason else Reason.IN_DOUBT
        alert = self._alert(
            "dead" if gave_up else "waiting",
            Failure(Kind.TRANSIENT, reason, delivery.hint or OVERDUE, delivery.words),
            About(
                delivery.rule,
                _table(delivery.source),
                delivery.key,
                delivery.event,
                delivery.attempts,
                delivery.first_seen,
            ),
        )
        self._ledger.deliveries.tell_of(delivery, alert, gave_up=gave_up)

    def complain(self, failure: Failure, *, source: str) -> None:
        """Have people told that an authenticated request was no event: something upstream changed."""
        self._ledger.alerts.raise_alert(
            self._alert("upstream", failure, About("", source, "", "", 1, self._ledger.now()))
        )
        self._notices.flush(timeout_seconds=5.0)

    def _deadline(self, spent_seconds: float = 0.0) -> Deadline:
        allowed = self._settings.deadline_seconds
        return Deadline.after(min(allowed - spent_seconds, seconds_left()) - min(ANSWER_SECONDS, allowed / 10))

    @property
    def _work_seconds_min(self) -> float:
        return min(WORK_SECONDS_MIN, self._settings.deadline_seconds / 4)

    def _welcome(self) -> None:
        """Once for each start, for rules change by a start: what has a rule now is told to be no stranger any more."""
        if not self._welcomed:
            self._ledger.alerts.end_alerts(sorted({unruled_fingerprint(rule.source) for rule in self._rules.rules}))
            self._welcomed = True

    # One rule and key

    def _one(self, event: Event, rule: Rule, step: Step, *, anew: bool, deadline: Deadline) -> Outcome:
        if isinstance(step.wants, Failure) and not step.key:
            return self._keyless(event, rule, step.wants, anew=anew)
        owner = uuid.uuid4().hex
        started = time.monotonic()
        try:
            beginning = self._begin(event, rule, step, owner=owner, anew=anew, deadline=deadline)
        except LedgerRefused as error:
            return self._unbegun(event, rule, step, error, anew=anew)
        match beginning:
            case AlreadyDone():
                return Outcome(rule.id, step.key, Status.UNCHANGED, beginning.ticket)
            case AlreadyDead():
                reason = Reason(beginning.reason) if beginning.reason else Reason.GAVE_UP
                return Outcome(rule.id, step.key, Status.DEAD, beginning.ticket, reason, hint=beginning.hint)
            case Busy():
                return Outcome(
                    rule.id,
                    step.key,
                    Status.RETRYING,
                    reason=Reason.BUSY,
                    retry_at=self._ledger.now() + max(1.0, min(beginning.seconds, BUSY_SECONDS_MAX) * self._draw()),
                )
            case Begun():
                reached("leased")
                return self._work(event, rule, step, beginning, owner=owner, started=started, deadline=deadline)

    def _begin(
        self, event: Event, rule: Rule, step: Step, *, owner: str, anew: bool, deadline: Deadline
    ) -> AlreadyDone | AlreadyDead | Busy | Begun:
        patience = Deadline.after(min(LEASE_PATIENCE_SECONDS, max(0.0, deadline.left())))
        while True:
            beginning = self._ledger.deliveries.begin(
                event,
                step,
                wanted_to_json(step.wants),
                instance=self._line.instance,
                rule=rule.id,
                owner=owner,
                lease_seconds=self._settings.lease_seconds,
                digest=self._digest,
                anew=anew,
                with_trail=not rule.ticket.shared,
            )
            if not isinstance(beginning, Busy) or patience.left() <= 0:
                return beginning
            time.sleep(min(0.02 + 0.1 * random.random(), max(0.0, patience.left())))  # noqa: S311  # jitter

    def _work(
        self, event: Event, rule: Rule, step: Step, begun: Begun, *, owner: str, started: float, deadline: Deadline
    ) -> Outcome:
        place = end(begun.ticket.trail)
        moved = place is None or place.digest == step.entered
        wants = _wanted_of(place, step.wants if moved else None) if place is not None else step.wants
        deadline.begin_row(failed_before=begun.ticket.call_failed)
        # A dead letter begins anew: its reason is that of before.
        replayed = begun.delivery.attempts == 1 and begun.delivery.reason == Reason.IN_DOUBT
        work = self._ticket_work(rule, begun.ticket, now=begun.now, owner=owner, deadline=deadline, replayed=replayed)
        failure: Failure | None = None
        unwell: UnwellError | None = None
        try:
            if isinstance(wants, Failure):
                # The place where the row is cannot be said; the event that took it there answers for that.
                result = Result(Status.SUPERSEDED, None)
                failure = wants if moved else None
            else:
                if deadline.left() < self._work_seconds_min:
                    raise ServiceNowError(
                        Failure(Kind.TRANSIENT, Reason.DEADLINE, "this delivery's time was used up; the rest follows")
                    )
                result = work.bring(wants, step)
        except ServiceNowError as error:
            failure = error.failure
            unwell = error if isinstance(error, UnwellError) else None
        except LeaseLost:
            return self._retrying(rule, step, Reason.BUSY, begun.now + self._settings.lease_seconds)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours must not cost the event
            failure = Failure(Kind.TRANSIENT, Reason.FAULT, f"a fault of ours ({fault(error)}); the log has more")
        if failure is None and work.access.ticket.suspect_until is not None and begun.delivery.attempts > 1:
            # What this event sent may still change the ticket: it comes back to look.
            failure = Failure(
                Kind.IN_DOUBT,
                Reason.IN_DOUBT,
                "an earlier write may still commit; the ticket is looked at again then",
                retry_after_seconds=work.access.ticket.suspect_until - begun.now,
            )
        if failure is None:
            if result.status in (Status.UNCHANGED, Status.SKIPPED) and not moved:
                result = Result(Status.SUPERSEDED, None, result.odd_fields)
            outcome = Outcome(rule.id, step.key, result.status, work.access.ticket.number, result.reason)
        else:
            outcome = self._failed(rule, step, begun, failure, work.access.ticket.number, started=started)
        alerts, fingerprint = self._alerts(event, rule, step, begun, outcome, failure, unwell, work)
        work.access.ticket = replace(work.access.ticket, call_failed=deadline.failed_now(done=failure is None))
        try:
            stands = self._record(event, work, outcome, failure, alerts, fingerprint, owner=owner, started=started)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # what the ledger does not take must not cost the event
            return self._unrecorded(event, rule, step, begun, error, owner=owner, started=started)
        if not stands:
            return self._retrying(
                rule, step, Reason.BUSY, begun.now + 1.0 + self._settings.lease_seconds * self._draw()
            )
        return outcome

    def _record(
        self,
        event: Event,
        work: TicketReconciler,
        outcome: Outcome,
        failure: Failure | None,
        alerts: Sequence[Alert],
        fingerprint: str,
        *,
        owner: str,
        started: float,
    ) -> bool:
        """Write down what came of the work; False: the lease was gone, nothing stands."""
        stands = self._ledger.deliveries.finish(
            work.access.ticket,
            owner=owner,
            event=event,
            outcome=outcome,
            failure=failure,
            duration_seconds=time.monotonic() - started,
            fingerprint=fingerprint,
            alerts=alerts,
        )
        reached("recorded")
        return stands

    def _unbegun(self, event: Event, rule: Rule, step: Step, error: Exception, *, anew: bool) -> Outcome:
        """The outcome where the ledger does not take the beginning of the work; nothing was called."""
        started = time.monotonic()
        delivery, now = self._ledger.deliveries.count_attempt(
            event, rule=rule.id, key=step.key, digest=self._digest, anew=anew
        )
        ticket = Ticket(self._line.instance, rule.id, step.key)
        return self._unrecorded(event, rule, step, Begun(ticket, delivery, now), error, owner="", started=started)

    def _unrecorded(
        self, event: Event, rule: Rule, step: Step, begun: Begun, error: Exception, *, owner: str, started: float
    ) -> Outcome:
        """The outcome of what the ledger did not take, recorded in words of our own alone.

        The ticket's record stays as it was, and whoever comes next finds out what was done, as after a holder that
        vanished.
        """
        why = str(error) if isinstance(error, LedgerRefused) else type(error).__name__
        log.critical("a fault of ours: what came of an event cannot be recorded: %s at %s", why, fault(error))
        failure = Failure(
            Kind.TRANSIENT,
            Reason.FAULT,
            f"a fault of ours: the ledger does not take what came of it ({why}); the log has more",
        )
        outcome = self._failed(rule, step, begun, failure, "", started=started)
        alerts, fingerprint = self._alerts(event, rule, step, begun, outcome, failure, None, None)
        self._ledger.deliveries.finish(
            None,
            owner=owner,
            event=event,
            outcome=outcome,
            failure=failure,
            duration_seconds=time.monotonic() - started,
            fingerprint=fingerprint,
            alerts=alerts,
            abandoned=begun.ticket,
        )
        return outcome

    def _ticket_work(
        self, rule: Rule, ticket: Ticket, *, now: float, owner: str, deadline: Deadline, replayed: bool = False
    ) -> TicketReconciler:
        access = TicketAccess(
            rule.ticket,
            ticket,
            line=self._line,
            ledger=self._ledger,
            references=self._references,
            owner=owner,
            source_name=self._settings.source_name,
            now=now,
            deadline=deadline,
        )
        return TicketReconciler(access, replayed=replayed)

    def _failed(
        self, rule: Rule, step: Step, begun: Begun, failure: Failure, number: str, *, started: float
    ) -> Outcome:
        """The outcome of a failure: to be tried again, or given up on."""
        if failure.kind is Kind.PERMANENT:
            return Outcome(rule.id, step.key, Status.DEAD, number, failure.reason, hint=failure.hint)
        now = begun.now + time.monotonic() - started
        if now - begun.delivery.first_seen > self._settings.retry_for_seconds:
            return Outcome(rule.id, step.key, Status.DEAD, number, Reason.GAVE_UP, hint=failure.hint)
        # Time that ran out is nobody's outage: the rest is done soon.
        attempt = 1 if failure.reason is Reason.DEADLINE else begun.delivery.attempts
        wait = wait_seconds(attempt, self._draw(), at_least=failure.retry_after_seconds or 0.0)
        return Outcome(rule.id, step.key, Status.RETRYING, number, failure.reason, now + max(1.0, wait))

    def _retrying(self, rule: Rule, step: Step, reason: Reason, retry_at: float) -> Outcome:
        return Outcome(rule.id, step.key, Status.RETRYING, reason=reason, retry_at=retry_at)

    # What people are told

    def _alerts(
        self,
        event: Event,
        rule: Rule,
        step: Step,
        begun: Begun,
        outcome: Outcome,
        failure: Failure | None,
        unwell: UnwellError | None,
        work: TicketReconciler | None,
    ) -> tuple[list[Alert], str]:
        """The alerts of one outcome, and of the *work* if it counts; and the fingerprint of the delivery's own."""
        alerts = []
        fingerprint = ""
        delivery = begun.delivery
        about = About(rule.id, _table(event.source), step.key, event.id, delivery.attempts, delivery.first_seen)
        if work is not None and work.access.left_empty:
            hints = "; ".join(dict.fromkeys(work.access.left_empty.values()))
            nobody = Failure(
                Kind.PERMANENT,
                Reason.UNKNOWN_REFERENCE,
                f"{hints}. It is filled in when the record is there and the row changes, unless people did so before",
            )
            alerts.append(self._alert("field", nobody, about, fields=sorted(work.access.left_empty)))
        if work is not None and work.access.odd_fields:
            odd = Failure(Kind.PERMANENT, Reason.NOT_KEPT, _not_kept(work.access.odd_fields))
            alerts.append(self._alert("field", odd, about, fields=sorted(work.access.odd_fields)))
        if failure is not None and outcome.status is Status.DEAD:
            dead = self._alert("dead", replace(failure, reason=outcome.reason or failure.reason), about)
            alerts.append(dead)
            fingerprint = dead.fingerprint
        if failure is not None and unwell is not None:
            alerts.append(self._held(failure, unwell, about))
        if failure is not None and outcome.status is Status.RETRYING:
            age = begun.now - begun.delivery.first_seen
            # An outage has its own alert; this one is for an event that fails while others get through.
            alone = unwell is None or unwell.since - begun.delivery.first_seen > self._settings.notify_after_seconds
            if age >= self._settings.notify_after_seconds and alone and failure.reason is not Reason.DEADLINE:
                waiting = self._alert("waiting", failure, about)
                if begun.delivery.fingerprint.startswith("waiting "):
                    # Told once, whatever it waits for by now.
                    waiting = replace(waiting, fingerprint=begun.delivery.fingerprint)
                alerts.append(waiting)
                fingerprint = waiting.fingerprint
            elif begun.delivery.fingerprint:
                fingerprint = begun.delivery.fingerprint
        return alerts, fingerprint

    def _held(self, failure: Failure, unwell: UnwellError, about: About) -> Alert:
        at_once = unwell.kind in ("auth", "config")
        alert = self._alert(
            "held", replace(failure, hint=failure.hint or HINTS[unwell.kind]), replace(about, since=unwell.since)
        )
        return replace(
            alert,
            fingerprint=held_fingerprint(self._line.instance, unwell.kind),
            wait_seconds=0.0 if at_once else self._settings.notify_after_seconds,
        )

    def _alert(self, kind: str, failure: Failure, about: About, *, fields: Sequence[str] = ()) -> Alert:
        """An alert about one delivery. Its fingerprint is what went wrong, not where."""
        fingerprint = " ".join(
            [kind, about.rule or about.table, failure.reason.value, *(fields or [failure.hint[:120]])]
        )
        if len(fingerprint) > FINGERPRINT_CHARACTERS_MAX:
            fingerprint = f"{fingerprint[: FINGERPRINT_CHARACTERS_MAX - 40]} {digest(fingerprint)}"
        facts = {
            "source_name": self._settings.source_name,
            "instance": self._line.instance,
            "rule": about.rule,
            "table": about.table,
            "key": about.key,
            "event": about.event,
            "reason": failure.reason.value,
            "hint": failure.hint,
            "words": failure.words,
            "attempts": about.attempts,
            "fields": list(fields),
        }
        return Alert(fingerprint, kind, facts, about.since, episode=kind in ("held", "waiting", "unruled"))

    # Events without a ticket

    def _keyless(self, event: Event, rule: Rule, failure: Failure, *, anew: bool) -> Outcome:
        alert = self._alert("dead", failure, About(rule.id, _table(event.source), "", event.id, 1, self._ledger.now()))
        outcome = Outcome(rule.id, "", Status.DEAD, reason=failure.reason, hint=failure.hint)
        return self._ledger.deliveries.record_without_ticket(
            event, outcome, failure, digest=self._digest, anew=anew, alert=alert
        )

    def _unruled(self, event: Event, *, anew: bool) -> Outcome:
        trigger = f" (trigger {event.trigger})" if event.trigger else ""
        message = f"no rule in {self._settings.rules_file.rpartition('/')[2]} is `from: {event.source}`{trigger}: " + (
            "write one, or schedule no such event" if event.source == SCHEDULED else _WRITE_OR_REMOVE
        )
        failure = Failure(Kind.PERMANENT, Reason.NO_RULE, message)
        alert = replace(
            self._alert("unruled", failure, About("", _table(event.source), "", event.id, 1, self._ledger.now())),
            fingerprint=unruled_fingerprint(event.source),
        )
        outcome = Outcome("", "", Status.DEAD, reason=Reason.NO_RULE, hint=message)
        return self._ledger.deliveries.record_without_ticket(
            event, outcome, failure, digest=self._digest, anew=anew, alert=alert, samples_max=UNRULED_SAMPLES_MAX
        )

    # Looking again

    def _settle(self, rule: Rule, key: str, *, deadline: Deadline) -> bool:
        owner = uuid.uuid4().hex
        leased = self._ledger.tickets.begin_settling(
            instance=self._line.instance,
            rule=rule.id,
            key=key,
            owner=owner,
            lease_seconds=self._settings.lease_seconds,
        )
        if leased is None:
            return False
        ticket, now = leased
        place = end(ticket.trail)
        deadline.begin_row(failed_before=ticket.call_failed)
        work = self._ticket_work(rule, ticket, now=now, owner=owner, deadline=deadline)
        wants = _wanted_of(place) if place is not None else None
        settled = False
        try:
            if isinstance(wants, Wants):
                work.bring(wants, None)
            elif work.access.ticket.sending is not None:
                work.settle_create()
            else:
                # The row shares its ticket, or what it wants cannot be said: there is nothing to put right.
                work.access.ticket = replace(work.access.ticket, suspect_until=None, suspect_fields=frozenset())
            settled = True
        except ServiceNowError as error:
            log.warning(
                "a ticket could not be looked at", extra={"rule": rule.id, "reason": error.failure.reason.value}
            )
        except LeaseLost:
            return False
        work.access.ticket = replace(work.access.ticket, call_failed=deadline.failed_now(done=settled))
        self._ledger.tickets.let_go(work.access.ticket, owner=owner)
        return settled


def _not_kept(fields: frozenset[str]) -> str:
    """What to look at where *fields* came back different or empty."""
    hint = (
        f"ServiceNow returned something else than was sent for: {', '.join(sorted(fields))}. A business rule, an ACL, "
        "a choice list, an unknown column or a reference that it does not know may be why"
    )
    if "correlation_id" in fields:
        hint += (
            ". Without correlation_id a ticket is known by its sys_id alone, and where the instance chooses that too, "
            "by correlation_display: let the integration user write correlation_id at creation"
        )
    return hint


def _deserves_nothing(event: Event, step: Step, wants: Wants) -> bool:
    return event.op is Op.INSERT and step.op is Op.INSERT and not wants.when


def _wanted_of(place: Place, fresh: Wants | Failure | None = None) -> Wants | Failure:
    """What is wanted of the ticket when its row is at *place*; *fresh* where it was rendered just now."""
    wants = fresh or wanted_from_json(place.wants)
    if place.unwanted and isinstance(wants, Wants):
        # The row that the ticket was for is gone; the one that came under its key deserves none.
        return replace(wants, gone=True, resolved=False, fields={})
    return wants


def _log(event: Event, outcome: Outcome) -> None:
    """One line an outcome, as loud as it is bad; the key is row content, and stays out."""
    level, message = logging.INFO, "delivered"
    if outcome.status is Status.DEAD:
        level, message = logging.ERROR, f"gave up: {outcome.hint}"
    elif outcome.status is Status.RETRYING:
        level, message = logging.WARNING, "will be tried again"
    said = {
        "event": event.id,
        "source": event.source,
        "op": event.op.value,
        "rule": outcome.rule,
        "status": outcome.status.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "ticket": outcome.ticket or None,
    }
    log.log(level, message, extra=said)


def _table(source: str) -> str:
    """``public.outages`` of ``hasura/public.outages``; a source without a table is its own name."""
    return source.partition("/")[2] or source
