"""deliver(event): match, lease, have each target act, record. It names no kind of target."""

import logging
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from function.core.permit import HoldKind
from function.core.retry import wait_seconds
from function.core.step import DesiredState, Step, wanted_from_json, wanted_to_json
from function.core.trail import Place, current_place
from function.deadline import Deadline, seconds_left
from function.failpoints import failpoint
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.deliveries import UNRULED_SAMPLES_MAX
from function.ledger.holds import PROBE_SECONDS, held_fingerprint
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
from function.notices.alerts import AlertBuilder, no_rule, unruled_fingerprint
from function.notices.mailer import AlertMailer
from function.parallel import WorkThreads
from function.rules.evaluate import evaluate
from function.rules.model import Rule, Rules
from function.settings import Settings
from function.targets.base import LeaseLost, Result, Targets, TargetSession, Task

log = logging.getLogger(__name__)

# A waiter polls the key's lease that long, then Hasura is asked to come back: threads and its pool
# are not for waiting.
LEASE_PATIENCE_SECONDS: Final = 2.0
# A key is busy for as long as a call takes, seldom for the whole lease of a holder that vanished:
# asking costs little.
BUSY_SECONDS_MAX: Final = 10.0
# Less than this is not enough for a call and its record.
WORK_SECONDS_MIN: Final = 1.0
# Kept back from every deadline for the record and the answer.
ANSWER_SECONDS: Final = 2.0
# How often an event is begun on another connection because its own was replaced. After that it is
# answered 503, and Hasura sends it again.
CHANGES_MAX: Final = 3
# Mails that fall due by themselves are looked for so often; those of this event at once.
FLUSH_SECONDS: Final = 2.0
# Hasura is asked to send again after that, where only the time ran out.
SOON_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What became of an event.

    *retry_after_seconds* is set when it should be sent again, and only then.
    """

    event: str
    outcomes: tuple[Outcome, ...]
    retry_after_seconds: float | None

    @property
    def dead(self) -> bool:
        return any(outcome.status is Status.DEAD for outcome in self.outcomes)


class Engine:
    """Delivers events by the rules; one for a process, used by many threads."""

    def __init__(
        self,
        *,
        settings: Settings,
        rules: Rules,
        ledger: Ledger,
        targets: Targets,
        notices: AlertMailer,
        draw: Callable[[], float],
    ) -> None:
        """*draw* gives the jitter: a random number in [0, 1)."""
        self.settings = settings
        self.rules = rules
        self.ledger = ledger
        self.targets = targets
        self.notices = notices
        self.draw = draw
        self.alerts = AlertBuilder(
            source_name=settings.source_name, notify_after_seconds=settings.notify_after_seconds
        )
        self._cleared_no_rule = False
        self.threads = WorkThreads(settings.rules_at_once)
        self._flushed_at = -math.inf

    def deliver(
        self,
        event: Event,
        *,
        fresh: bool | None = None,
        spent_seconds: float = 0.0,
        only_rules: Collection[str] | None = None,
    ) -> DeliveryResult:
        """Do what the rules say of *event*, remember it, and say what followed.

        *spent_seconds*: what it took to receive it, of the time within which it is to be answered.

        *fresh*: a dead letter is tried again with a new clock; by default when Hasura sends it as
        if for the first time (a console Redeliver sets the count of retries to 0). *only_rules*:
        the ids of those that are tried, all by default. Raises LedgerUnavailable, with nothing done
        that is not safe to do again.
        """
        deadline = self.deadline(spent_seconds)
        if fresh is None:
            fresh = event.current_retry == 0
        rules = [
            rule
            for rule in self.rules.concerning(event)
            if only_rules is None or rule.id in only_rules
        ]
        delivery = _EventDelivery(self, event, fresh=fresh, deadline=deadline)
        if not rules:
            outcomes = [delivery.dead_letter_no_rule()]
        else:
            self._clear_no_rule_alerts()
            outcomes = delivery.apply(rules)
            # Under other rules it may have been dead or waiting: no rule, no mapping of the key,
            # another key. What a rule has that this instance does not know is another instance's,
            # in the middle of a deployment.
            if delivery.has_others:
                ids = (
                    [rule.id for rule in rules]
                    if only_rules is not None
                    else ["", *(rule.id for rule in rules)]
                )
                self.ledger.deliveries.withdraw(event, rules=ids, but=delivery.kept)
        if delivery.mail_due or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._flushed_at = time.monotonic()
            self.notices.flush(timeout_seconds=max(0.0, min(5.0, deadline.left())))
        for outcome in outcomes:
            _log(event, outcome)
        waits = [outcome.retry_at for outcome in outcomes if outcome.retry_at is not None]
        retry_after = min(waits) - self.ledger.now() if waits else None
        return DeliveryResult(event.id, tuple(outcomes), retry_after)

    def report_bad_request(self, failure: Failure, *, source: str) -> None:
        """Have people told that an authenticated request was no event: something
        upstream changed."""
        session, now = self.session_of(), self.ledger.now()
        self.ledger.alerts.raise_alert(
            self.alerts.about(session.system, session.instance).upstream(failure, source, now=now)
        )
        self.notices.flush(timeout_seconds=5.0)

    def session_of(self, kind: str = "") -> TargetSession:
        """A session of the target *kind*, whose instance people are told of; of any where no rule
        says which."""
        target = self.targets.get(kind) or next(iter(self.targets.values()))
        return target.connect()

    def deadline(self, spent_seconds: float = 0.0) -> Deadline:
        allowed = self.settings.deadline_seconds
        return Deadline.after(
            min(allowed - spent_seconds, seconds_left()) - min(ANSWER_SECONDS, allowed / 10)
        )

    @property
    def work_seconds_min(self) -> float:
        return min(WORK_SECONDS_MIN, self.settings.deadline_seconds / 4)

    def digest(self, session: TargetSession) -> str:
        """What stands for the rules and settings that decide what becomes of an event."""
        return f"{self.rules.digest[:16]}{session.settings_digest[:16]}"

    def _clear_no_rule_alerts(self) -> None:
        """Once for each start, for rules change by a start: events that have a rule now are not
        told of any more."""
        if not self._cleared_no_rule:
            self.ledger.alerts.end_alerts(
                sorted({unruled_fingerprint(rule.source) for rule in self.rules.rules})
            )
            self._cleared_no_rule = True


class _EventDelivery:
    """One event, delivered once."""

    def __init__(self, engine: Engine, event: Event, *, fresh: bool, deadline: Deadline) -> None:
        self.engine = engine
        self.event = event
        self.fresh = fresh
        self._deadline = deadline
        self._sessions: dict[str, TargetSession] = {}
        self._connecting = threading.Lock()
        # What has a record.
        self.kept: list[DeliveryId] = []
        # Whether the event has records besides, and whether mails are due: so until the ledger has
        # said otherwise.
        self.has_others = True
        self.mail_due = False

    def session(self, kind: str) -> TargetSession:
        """The session that all rules with this kind of target begin with."""
        with self._connecting:
            if kind not in self._sessions:
                self._sessions[kind] = self.engine.targets[kind].connect()
            return self._sessions[kind]

    def apply(self, rules: Collection[Rule]) -> list[Outcome]:
        """Have each of *rules* applied, several at a time; gives what followed for each of its
        keys, in the order of the rules."""
        event = self.event
        steps = [(rule, evaluate(rule, event)) for rule in rules if event.op in rule.ops]
        not_due = self._not_due_yet(steps)
        works = [
            _RuleDelivery(
                self,
                rule,
                steps_of_rule,
                not_due,
                # What a call finds out of its row is this rule's alone.
                deadline=replace(self._deadline),
                is_first=number == 0,
            )
            for number, (rule, steps_of_rule) in enumerate(steps)
        ]
        outcomes = self.engine.threads.run([work.apply for work in works])
        reports = [others for work in works for others in work.others]
        self.kept = [delivery for work in works for delivery in work.kept]
        self.has_others = any(reports) or not reports
        self.mail_due = any(work.mail_due for work in works)
        return [outcome for of_rule in outcomes for outcome in of_rule]

    def _not_due_yet(
        self, steps: Collection[tuple[Rule, Sequence[Step]]]
    ) -> Mapping[DeliveryId, tuple[Reason, float]]:
        """Of an event that came again for what is due: why the rest waits, and until when (UNIX
        seconds).

        Where nothing is due it came early, and all is tried.
        """
        deliveries = [
            delivery_id(self.event, rule, step) for rule, of_rule in steps for step in of_rule
        ]
        if len(deliveries) < 2 or self.fresh:
            return {}
        return self.engine.ledger.deliveries.not_due_yet(self.event, deliveries)

    def dead_letter_no_rule(self) -> Outcome:
        """No rule wants the event: that is a dead letter, for somebody sends it."""
        self.mail_due = True
        failure = no_rule(self.event, self.engine.settings.rules_file)
        session = self.engine.session_of()
        builder = self.engine.alerts.about(session.system, session.instance)
        alert = builder.unruled(failure, self.event, now=self.engine.ledger.now())
        outcome = Outcome("", "", Status.DEAD, reason=Reason.NO_RULE, hint=failure.hint)
        return self.engine.ledger.deliveries.record_without_ticket(
            self.event,
            outcome,
            failure,
            delivery=DeliveryId(self.event.id, self.event.content, "", "", ""),
            digest=self.engine.digest(session),
            fresh=self.fresh,
            alert=alert,
            samples_max=UNRULED_SAMPLES_MAX,
        )


class _RuleDelivery:
    """One event under one rule; a thread of its own may do it."""

    def __init__(
        self,
        delivery: _EventDelivery,
        rule: Rule,
        steps: Sequence[Step],
        not_due: Mapping[DeliveryId, tuple[Reason, float]],
        *,
        deadline: Deadline,
        is_first: bool,
    ) -> None:
        self._delivery = delivery
        self._engine = delivery.engine
        self._ledger = delivery.engine.ledger
        self._settings = delivery.engine.settings
        self._event = delivery.event
        self._fresh = delivery.fresh
        self._rule = rule
        self._steps = steps
        self._not_due = not_due
        self._deadline = deadline
        self._is_first = is_first
        self._own_session: TargetSession | None = None
        # What has a record.
        self.kept: list[DeliveryId] = []
        # Whether the event has records besides, each time that the ledger said so.
        self.others: list[bool] = []
        self.mail_due = False

    def apply(self) -> list[Outcome]:
        """Give what followed for each key."""
        return [self._apply_step(step) for step in self._steps]

    def _apply_step(self, step: Step) -> Outcome:
        if isinstance(step.wants, DesiredState) and _wants_nothing(self._event, step, step.wants):
            return self._record_nothing_wanted(step)
        delivery = self._delivery_id(step)
        must_try = self._is_first and not self.kept
        self.kept.append(delivery)
        if waiting := self._not_due.get(delivery):
            return _retrying(self._rule, step, *waiting)
        if not must_try and self._deadline.left() < self._engine.work_seconds_min:
            # Hasura comes back for the rest.
            return _retrying(self._rule, step, Reason.DEADLINE, self._ledger.now() + SOON_SECONDS)
        return self._deliver_step(step)

    def _delivery_id(self, step: Step) -> DeliveryId:
        return delivery_id(self._event, self._rule, step)

    def _session(self, *, at_once: bool = False) -> TargetSession:
        kind = self._rule.target.kind
        if at_once:
            self._own_session = self._engine.targets[kind].connect(at_once=True)
        elif self._own_session is None:
            self._own_session = self._delivery.session(kind)
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
                    digest=self._engine.digest(session),
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
                wait = max(1.0, min(beginning.seconds, BUSY_SECONDS_MAX) * self._engine.draw())
                return _retrying(self._rule, step, Reason.BUSY, self._ledger.now() + wait)
            case Acquired():
                failpoint("leased")
                return self._attempt(step, beginning, owner=owner, started=started)

    def _begin(self, step: Step, *, owner: str) -> BeginResult:
        session = self._session()
        changes_left = CHANGES_MAX
        patience = Deadline.after(min(LEASE_PATIENCE_SECONDS, max(0.0, self._deadline.left())))
        while True:
            beginning = self._ledger.deliveries.begin(
                self._event,
                step,
                wanted_to_json(step.wants),
                delivery=self._delivery_id(step),
                instance=session.instance,
                owner=owner,
                lease_seconds=self._settings.lease_seconds,
                digest=self._engine.digest(session),
                fresh=self._fresh,
                table=self._rule.target.table,
                version=session.version,
                permit_for=session.unverified,
                probe_seconds=PROBE_SECONDS,
                with_trail=self._rule.target.follows,
            )
            if isinstance(beginning, ConnectionChanged) and changes_left:
                session = self._session(at_once=True)
                changes_left -= 1
                continue
            if not isinstance(beginning, KeyBusy) or patience.left() <= 0:
                return beginning
            time.sleep(min(0.02 + 0.1 * random.random(), max(0.0, patience.left())))  # noqa: S311  # jitter

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
            outcome = self._failed(step, begun, failure, task.record.number, started=started)
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
            return self._not_recorded(step, begun, error, owner=owner, started=started)
        if not stands:
            self._release_permit(begun)
            retry_at = begun.now + 1.0 + self._settings.lease_seconds * self._engine.draw()
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
            if self._deadline.left() < self._engine.work_seconds_min:
                what = "this delivery's time was used up; the rest follows"
                return nothing, Failure(Retryability.TRANSIENT, Reason.DEADLINE, what), None
            return self._session().apply(task), None, None
        except NotDone as error:
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
            digest=self._engine.digest(session),
            fresh=self._fresh,
        )
        ticket = Ticket(session.instance, self._rule.id, step.key)
        status = InstanceStatus(session.version or "", traits=TableTraits(), others=True)
        acquired = Acquired(ticket, delivery, now, status)
        return self._not_recorded(step, acquired, error, owner="", started=started)

    def _not_recorded(
        self,
        step: Step,
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
        outcome = self._failed(step, begun, failure, "", started=started)
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
        step: Step,
        begun: Acquired,
        failure: Failure,
        number: str,
        *,
        started: float,
    ) -> Outcome:
        """The outcome of a failure: to be tried again, or given up on."""
        if failure.retryability is Retryability.PERMANENT:
            return Outcome(
                self._rule.id, step.key, Status.DEAD, number, failure.reason, hint=failure.hint
            )
        now = begun.now + time.monotonic() - started
        if now - begun.delivery.first_seen > self._settings.retry_for_seconds:
            return Outcome(
                self._rule.id, step.key, Status.DEAD, number, Reason.GAVE_UP, hint=failure.hint
            )
        # Time that ran out is nobody's outage: the rest is done soon.
        attempt = 1 if failure.reason is Reason.DEADLINE else begun.delivery.attempts
        wait = wait_seconds(
            attempt, self._engine.draw(), at_least=failure.retry_after_seconds or 0.0
        )
        return Outcome(
            self._rule.id, step.key, Status.RETRYING, number, failure.reason, now + max(1.0, wait)
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
        session, delivery = self._session(), begun.delivery
        builder = self._engine.alerts.about(session.system, session.instance)
        # Its record may not have the ticket's number yet.
        known = replace(delivery, ticket=outcome.ticket or delivery.ticket)
        alerts = []
        if task is not None and task.left_empty:
            alerts.append(builder.left_empty(task.left_empty, known))
        if task is not None and task.mismatched_fields:
            alerts.append(builder.mismatched(task.mismatched_fields, known))
        if failure is None:
            return alerts, ""
        fingerprint = delivery.fingerprint if outcome.status is Status.RETRYING else ""
        if outcome.status is Status.DEAD:
            dead = builder.dead(failure, outcome, known)
            alerts.append(dead)
            fingerprint = dead.fingerprint
        if held is not None:
            alerts.append(
                builder.held(
                    failure,
                    known,
                    fingerprint=held_fingerprint(session.instance, held.kind),
                    since=held.since,
                    at_once=held.kind in (HoldKind.AUTH, HoldKind.CONFIG),
                )
            )
        age = begun.now - delivery.first_seen
        held_later = held.since - delivery.first_seen if held is not None else None
        if builder.needs_own_alert(outcome, failure, age_seconds=age, held_later=held_later):
            earlier = self._ledger.alerts.find_kind(delivery.fingerprint)
            waiting = builder.waiting(failure, delivery, earlier=earlier)
            alerts.append(waiting)
            fingerprint = waiting.fingerprint
        return alerts, fingerprint

    # Without a key

    def _dead_letter_no_key(self, step: Step, failure: Failure) -> Outcome:
        self.mail_due = True
        self.others.append(True)
        session = self._session()
        builder = self._engine.alerts.about(session.system, session.instance)
        now = self._ledger.now()
        alert = builder.keyless(failure, self._event, rule=self._rule.id, now=now)
        outcome = Outcome(self._rule.id, "", Status.DEAD, reason=failure.reason, hint=failure.hint)
        return self._ledger.deliveries.record_without_ticket(
            self._event,
            outcome,
            failure,
            delivery=self._delivery_id(step),
            digest=self._engine.digest(session),
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


def _wants_nothing(event: Event, step: Step, wants: DesiredState) -> bool:
    return event.op is Op.INSERT and step.op is Op.INSERT and not wants.when


def _retrying(rule: Rule, step: Step, reason: Reason, retry_at: float) -> Outcome:
    return Outcome(rule.id, step.key, Status.RETRYING, reason=reason, retry_at=retry_at)


def _log(event: Event, outcome: Outcome) -> None:
    """One line an outcome, as loud as it is bad; the key is row content, and stays out."""
    level, message = logging.INFO, "delivered"
    if outcome.status is Status.DEAD:
        level, message = logging.ERROR, f"gave up: {outcome.hint}"
    elif outcome.status is Status.RETRYING:
        level, message = logging.WARNING, "will be tried again"
    fields = {
        "event": event.id,
        "source": event.source,
        "op": event.op.value,
        "rule": outcome.rule,
        "status": outcome.status.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "ticket": outcome.ticket or None,
    }
    log.log(level, message, extra=fields)
