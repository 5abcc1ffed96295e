"""One event under one rule: for each of its keys lease, have the target act, record."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from function.core.event import Event, Op
from function.core.outcome import (
    CircuitOpen,
    Failure,
    NotDone,
    Outcome,
    Reason,
    Retryability,
    Status,
)
from function.core.step import DesiredState, Step, wanted_from_json, wanted_to_json
from function.core.trail import Place, current_place, is_overtaken
from function.deadline import Deadline, lease_tries
from function.delivery_context import DeliveryContext
from function.failpoints import failpoint
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.holds import PROBE_SECONDS
from function.ledger.ledger import Ledger
from function.ledger.records import (
    Acquired,
    Alert,
    AlreadyDead,
    AlreadyDone,
    BeginResult,
    ConnectionChanged,
    DeliveryId,
    InstanceStatus,
    KeyBusy,
    PermitReturn,
    TableTraits,
    Ticket,
)
from function.log import fault
from function.rules.model import Rule
from function.targets.base import LeaseLost, Result, TargetSession, Task

log = logging.getLogger(__name__)

# A key is busy for as long as a call takes, seldom for the whole lease of a holder that vanished:
# asking costs little.
BUSY_SECONDS_MAX: Final = 10.0
# How often an event is begun on another connection because its own was replaced. After that it is
# answered 503, and Hasura sends it again.
CHANGES_MAX: Final = 3
# Hasura is asked to send again after that, where only the time ran out.
SOON_SECONDS: Final = 3.0


class RuleDelivery:
    """One event under one rule; a thread of its own may do it."""

    def __init__(
        self,
        context: DeliveryContext,
        event: Event,
        rule: Rule,
        steps: Sequence[Step],
        not_due: Mapping[DeliveryId, tuple[Reason, float]],
        *,
        fresh: bool,
        first_session: Callable[[str], TargetSession],
        take_first_try: Callable[[], bool],
        deadline: Deadline,
    ) -> None:
        """*first_session* gives the session that all of the event's rules with a kind of target
        begin with. *not_due*: what of the event waits for later. *take_first_try*: whether nothing
        of the event was tried yet."""
        self._context = context
        self._ledger = context.ledger
        self._settings = context.settings
        self._event = event
        self._fresh = fresh
        self._first_session = first_session
        self._rule = rule
        self._steps = steps
        self._not_due = not_due
        self._deadline = deadline
        self._take_first_try = take_first_try
        self._own_session: TargetSession | None = None
        # What has a record.
        self.kept: list[DeliveryId] = []
        # Whether the event has records besides, each time that the ledger said so.
        self.others: list[bool] = []
        self.mail_due = False

    def needs_leave(self) -> bool:
        """Whether its first call finds out whether the credential is good: others wait for that."""
        return (
            self._deadline.proven is None
            and any(map(self._calls, self._steps))
            and self._session().unverified is not None
        )

    def follow(self, earlier: "RuleDelivery") -> None:
        """A call of *earlier* may have been let in, of the same event."""
        self._deadline.proven = earlier._deadline.proven

    def _calls(self, step: Step) -> bool:
        """Whether a call may be made for *step*."""
        return bool(step.key) and not self._wants_nothing(step)

    def _wants_nothing(self, step: Step) -> bool:
        """Whether there is nothing that *step* could be needed for: no row was there before, or
        each event is told by itself."""
        if not isinstance(step.wants, DesiredState) or step.wants.when:
            return False
        is_first = self._event.op is Op.INSERT and step.op is Op.INSERT
        return is_first or not self._rule.target.follows

    def apply(self) -> list[Outcome]:
        """Give what followed for each key."""
        return [self._apply_step(step) for step in self._steps]

    def _apply_step(self, step: Step) -> Outcome:
        if self._wants_nothing(step):
            return self._record_nothing_wanted(step)
        delivery = self._delivery_id(step)
        self.kept.append(delivery)
        if waiting := self._not_due.get(delivery):
            return _retrying(self._rule, step, *waiting)
        if not self._take_first_try() and self._deadline.left() < self._context.work_seconds_min:
            # Hasura comes back for the rest.
            return _retrying(self._rule, step, Reason.DEADLINE, self._ledger.now() + SOON_SECONDS)
        return self._deliver_step(step)

    def _delivery_id(self, step: Step) -> DeliveryId:
        return delivery_id(self._event, self._rule, step)

    def _session(self, *, at_once: bool = False) -> TargetSession:
        kind = self._rule.target.kind
        if at_once:
            session = self._context.targets[kind].connect(at_once=True)
            self._own_session = session.for_rule(self._rule)
        elif self._own_session is None:
            self._own_session = self._first_session(kind).for_rule(self._rule)
        return self._own_session

    def _record_nothing_wanted(self, step: Step) -> Outcome:
        """The common case of a row below `when` costs no record, not even evidence; but where its
        key had a row before, that one's end would be taken for this one's."""
        if self._rule.target.follows:
            session = self._session()
            try:
                others, mail_due = self._ledger.deliveries.record_step(
                    self._event,
                    step,
                    wanted_to_json(step.wants),
                    delivery=self._delivery_id(step),
                    instance=session.instance,
                    digest=self._context.digest(session),
                    mail_every_seconds=self._settings.notify_every_seconds,
                )
                self.others.append(others)
                self.mail_due = self.mail_due or mail_due
            except LedgerRefused as error:
                self.kept.append(self._delivery_id(step))
                return self._not_begun(step, error)
        return Outcome(self._rule.id, step.key, Status.SKIPPED, reason=Reason.WHEN_FALSE)

    def _deliver_step(self, step: Step) -> Outcome:
        if isinstance(step.wants, Failure) and not step.key:
            return self._dead_letter_no_key(step, step.wants)
        owner = uuid.uuid4().hex
        started = time.monotonic()
        try:
            beginning = self._begin(step, owner=owner)
        except LedgerRefused as error:
            return self._not_begun(step, error)
        match beginning:
            case AlreadyDone():
                return Outcome(self._rule.id, step.key, Status.UNCHANGED, beginning.ticket)
            case AlreadyDead():
                reason = Reason(beginning.reason) if beginning.reason else Reason.GAVE_UP
                return Outcome(
                    self._rule.id,
                    step.key,
                    Status.DEAD,
                    beginning.ticket,
                    reason,
                    hint=beginning.hint,
                )
            case ConnectionChanged():
                return _retrying(
                    self._rule, step, Reason.NOT_CONFIGURED, self._ledger.now() + SOON_SECONDS
                )
            case KeyBusy():
                wait = max(1.0, min(beginning.seconds, BUSY_SECONDS_MAX) * self._context.draw())
                return _retrying(self._rule, step, Reason.BUSY, self._ledger.now() + wait)
            case Acquired():
                failpoint("leased")
                return self._attempt(step, beginning, owner=owner, started=started)

    def _begin(self, step: Step, *, owner: str) -> BeginResult:
        beginning: BeginResult = KeyBusy(0.0)
        for _ in lease_tries(self._deadline):
            beginning = self._begin_once(step, owner=owner)
            if not isinstance(beginning, KeyBusy):
                break
        return beginning

    def _begin_once(self, step: Step, *, owner: str) -> BeginResult:
        """Begin on the connection that is in force."""
        session = self._session()
        changes_left = CHANGES_MAX
        while True:
            beginning = self._ledger.deliveries.begin(
                self._event,
                step,
                wanted_to_json(step.wants),
                delivery=self._delivery_id(step),
                instance=session.instance,
                owner=owner,
                lease_seconds=self._settings.lease_seconds,
                digest=self._context.digest(session),
                fresh=self._fresh,
                table=self._rule.target.table,
                version=session.version,
                permit_for=session.unverified if self._deadline.proven is None else None,
                probe_seconds=PROBE_SECONDS,
                with_trail=self._rule.target.follows,
            )
            if not isinstance(beginning, ConnectionChanged) or not changes_left:
                return beginning
            session = self._session(at_once=True)
            changes_left -= 1

    def _attempt(self, step: Step, begun: Acquired, *, owner: str, started: float) -> Outcome:
        place = current_place(begun.ticket.trail)
        moved = place is None or place.digest == step.entered
        wants = wanted_at(place, step.wants if moved else None) if place is not None else step.wants
        self._deadline.begin_row(failed_before=begun.ticket.call_failed, permit=begun.permit)
        self.others.append(begun.status.others)
        task = Task(
            self._rule,
            self._event,
            step,
            wants if isinstance(wants, DesiredState) else None,
            begun.ticket,
            begun.now,
            self._deadline,
            save_under_lease(self._ledger, owner),
            begun.status.traits,
            # A dead letter begins anew: its reason is that of before.
            replayed=begun.delivery.attempts == 1 and begun.delivery.reason == Reason.IN_DOUBT,
            moved=moved,
            overtaken=place is not None
            and moved
            and is_overtaken(place, step, sent_at=self._event.created_at),
            attempt=begun.delivery.attempts,
            first_seen=begun.delivery.first_seen,
            last_reason=begun.delivery.reason if begun.delivery.attempts > 1 else "",
        )
        try:
            result, failure, held = self._apply(task, wants, moved=moved)
        except LeaseLost:
            self._release_permit(begun)
            return _retrying(
                self._rule, step, Reason.BUSY, begun.now + self._settings.lease_seconds
            )
        if (
            failure is None
            and task.record.suspect_until is not None
            and begun.delivery.attempts > 1
        ):
            # What this event sent may still change the ticket: it comes back to look.
            failure = Failure(
                Retryability.IN_DOUBT,
                Reason.IN_DOUBT,
                f"an earlier write may still commit; the {self._rule.target.kind} is "
                "looked at again then",
                retry_after_seconds=task.record.suspect_until - begun.now,
            )
        if failure is None:
            if result.status in (Status.UNCHANGED, Status.SKIPPED) and not moved:
                result = Result(Status.SUPERSEDED, None)
            outcome = Outcome(
                self._rule.id, step.key, result.status, task.record.number, result.reason
            )
        else:
            outcome = self._failed(begun, failure, task.record.number, started=started)
        alerts, fingerprint = self._alerts(begun, outcome, failure, held, task)
        record = replace(task.record, call_failed=self._deadline.failed_now(done=failure is None))
        try:
            stands = self._finish(
                record,
                outcome,
                failure,
                alerts,
                fingerprint,
                delivery=begun.delivery.id,
                owner=owner,
                started=started,
                instance=begun.ticket.instance,
                permit=self._permit_return(begun),
            )
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # what the ledger does not take must not cost the event
            self._release_permit(begun)
            return self._not_recorded(begun, error, owner=owner, started=started)
        if not stands:
            self._release_permit(begun)
            retry_at = begun.now + 1.0 + self._settings.lease_seconds * self._context.draw()
            return _retrying(self._rule, step, Reason.BUSY, retry_at)
        return outcome

    def _apply(
        self, task: Task, wants: DesiredState | Failure, *, moved: bool
    ) -> tuple[Result, Failure | None, CircuitOpen | None]:
        """Have the target act. Gives what it did, why it did not, and the hold that kept it from
        it."""
        nothing = Result(Status.SUPERSEDED, None)
        if isinstance(wants, Failure):
            # The place where the row is cannot be said; the event that took it there answers for
            # that.
            return nothing, wants if moved else None, None
        try:
            if self._deadline.left() < self._context.work_seconds_min:
                what = "this delivery's time was used up; the rest follows"
                return nothing, Failure(Retryability.TRANSIENT, Reason.DEADLINE, what), None
            return self._session().apply(task), None, None
        except NotDone as error:
            # Its frames know the event, a large one too, and would keep it until the garbage
            # collector comes.
            error.__traceback__ = None
            return nothing, error.failure, error if isinstance(error, CircuitOpen) else None
        except (LeaseLost, LedgerUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours must not cost the event
            what = f"a fault of ours ({fault(error)}); the log has more"
            return nothing, Failure(Retryability.TRANSIENT, Reason.FAULT, what), None

    def _finish(
        self,
        record: Ticket | None,
        outcome: Outcome,
        failure: Failure | None,
        alerts: Sequence[Alert],
        fingerprint: str,
        *,
        delivery: DeliveryId,
        owner: str,
        started: float,
        abandoned: Ticket | None = None,
        instance: str = "",
        permit: PermitReturn | None = None,
    ) -> bool:
        """Write down what came of the work; False: the lease was gone, nothing stands."""
        finished = self._ledger.deliveries.finish(
            record,
            owner=owner,
            delivery=delivery,
            outcome=outcome,
            failure=failure,
            duration_seconds=time.monotonic() - started,
            fingerprint=fingerprint,
            alerts=alerts,
            abandoned=abandoned,
            mail_every_seconds=self._settings.notify_every_seconds,
            instance=instance,
            permit=permit,
        )
        failpoint("recorded")
        self.mail_due = self.mail_due or finished.mail_due
        return finished.stands

    def _permit_return(self, begun: Acquired) -> PermitReturn | None:
        """What is to be said of the permit that was given at the beginning; None where its call has
        said it already."""
        if begun.permit is None or not (self._deadline.passed or self._deadline.permit is not None):
            return None
        return PermitReturn(begun.permit_for, self._deadline.passed)

    def _release_permit(self, begun: Acquired) -> None:
        """Give the permit back by itself, where what came of the work does not stand."""
        if self._permit_return(begun) is not None:
            with suppress(LedgerUnavailable):
                self._ledger.holds.release_probe(self._session().instance, begun.permit_for)

    def _not_begun(self, step: Step, error: Exception) -> Outcome:
        """The outcome where the ledger does not take the beginning of the work; nothing
        was called."""
        started = time.monotonic()
        session = self._session()
        delivery, now = self._ledger.deliveries.count_attempt(
            self._event,
            delivery=self._delivery_id(step),
            digest=self._context.digest(session),
            fresh=self._fresh,
        )
        ticket = Ticket(session.instance, self._rule.id, step.key)
        status = InstanceStatus(session.version or "", traits=TableTraits(), others=True)
        acquired = Acquired(ticket, delivery, now, status)
        return self._not_recorded(acquired, error, owner="", started=started)

    def _not_recorded(
        self,
        begun: Acquired,
        error: Exception,
        *,
        owner: str,
        started: float,
    ) -> Outcome:
        """The outcome of what the ledger did not take, recorded in words of our own alone.

        The ticket's record stays as it was, and whoever comes next finds out what was done, as
        after a holder that vanished.
        """
        why = str(error) if isinstance(error, LedgerRefused) else type(error).__name__
        log.critical(
            "a fault of ours: what came of an event cannot be recorded: %s at %s", why, fault(error)
        )
        failure = Failure(
            Retryability.TRANSIENT,
            Reason.FAULT,
            f"a fault of ours: the ledger does not take what came of it ({why}); the log has more",
        )
        outcome = self._failed(begun, failure, "", started=started)
        alerts, fingerprint = self._alerts(begun, outcome, failure, None, None)
        self._finish(
            None,
            outcome,
            failure,
            alerts,
            fingerprint,
            delivery=begun.delivery.id,
            owner=owner,
            started=started,
            abandoned=begun.ticket,
        )
        return outcome

    def _failed(
        self,
        begun: Acquired,
        failure: Failure,
        number: str,
        *,
        started: float,
    ) -> Outcome:
        """The outcome of a failure: to be tried again, or given up on."""
        now = begun.now + time.monotonic() - started
        expires_at = self._event.expires_at
        until = None if expires_at is None else expires_at + self._rule.grace_seconds
        return self._context.failed_outcome(
            begun.delivery, failure, number=number, now=now, until=until
        )

    def _alerts(
        self,
        begun: Acquired,
        outcome: Outcome,
        failure: Failure | None,
        held: CircuitOpen | None,
        task: Task | None,
    ) -> tuple[list[Alert], str]:
        """The alerts of one outcome, and of the *task* if it counts; and the fingerprint of the
        delivery's own."""
        delivery = begun.delivery
        system, address = self._session().find_system(
            failure.reason if failure is not None else Reason.FAULT
        )
        builder = self._context.alerts.about(system, address)
        # Its record may not have the ticket's number yet.
        known = replace(delivery, ticket=outcome.ticket or delivery.ticket)
        alerts = []
        if task is not None and task.left_empty:
            alerts.append(builder.left_empty(task.left_empty, known))
        if task is not None and task.left_alone:
            alerts.append(builder.left_alone(task.left_alone, known))
        if task is not None and task.mismatched_fields:
            alerts.append(builder.mismatched(task.mismatched_fields, known))
        if failure is None:
            return alerts, ""
        more, fingerprint = self._context.failure_alerts(
            builder, known, outcome, failure, held, instance=address, now=begun.now
        )
        return alerts + more, fingerprint

    # Without a key

    def _dead_letter_no_key(self, step: Step, failure: Failure) -> Outcome:
        self.mail_due = True
        self.others.append(True)
        session = self._session()
        builder = self._context.alerts.about(*session.find_system(failure.reason))
        now = self._ledger.now()
        alert = builder.keyless(failure, self._event, rule=self._rule.id, now=now)
        outcome = Outcome(self._rule.id, "", Status.DEAD, reason=failure.reason, hint=failure.hint)
        return self._ledger.deliveries.record_without_ticket(
            self._event,
            outcome,
            failure,
            delivery=self._delivery_id(step),
            digest=self._context.digest(session),
            fresh=self._fresh,
            alert=alert,
        )


def delivery_id(event: Event, rule: Rule, step: Step) -> DeliveryId:
    return DeliveryId(event.id, event.content, rule.id, rule.target.kind, step.key)


def save_under_lease(ledger: Ledger, owner: str) -> Callable[[Ticket], None]:
    """What writes a ticket's record down while *owner* has its lease, and raises LeaseLost where it
    has not."""

    def save(ticket: Ticket) -> None:
        if not ledger.tickets.save(ticket, owner=owner):
            raise LeaseLost

    return save


def wanted_at(place: Place, fresh: DesiredState | Failure | None = None) -> DesiredState | Failure:
    """What is wanted when the row is at *place*; *fresh* where it was rendered just now."""
    wants = fresh or wanted_from_json(place.wants)
    if place.belongs_to_predecessor and isinstance(wants, DesiredState):
        # The row that the ticket was for is gone; none is wanted for the one that came under its
        # key.
        return replace(wants, gone=True, resolved=False, fields={})
    return wants


def _retrying(rule: Rule, step: Step, reason: Reason, retry_at: float) -> Outcome:
    return Outcome(rule.id, step.key, Status.RETRYING, reason=reason, retry_at=retry_at)
