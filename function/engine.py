"""deliver(event): match, lease, have each target act, record. It names no kind of target."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.core.event import Event
from function.core.outcome import (
    Failure,
    Outcome,
    Reason,
    Status,
)
from function.core.step import Step
from function.deadline import Deadline, seconds_left
from function.delivery_context import DeliveryContext
from function.ledger.deliveries import UNRULED_SAMPLES_MAX
from function.ledger.ledger import Ledger
from function.ledger.records import (
    AlertKind,
    DeliveryId,
)
from function.log import log_event
from function.notices.alerts import AlertBuilder, list_ruled, no_rule, unruled_fingerprint
from function.notices.mailer import AlertMailer
from function.parallel import WorkThreads
from function.rule_delivery import RuleDelivery, delivery_id
from function.rules.evaluate import evaluate
from function.rules.event_types import RuleSelection, select_rules
from function.rules.model import Rule, Rules
from function.settings import Settings
from function.targets.base import Targets, TargetSession

log = logging.getLogger(__name__)

# Kept back from every deadline for the record and the answer.
ANSWER_SECONDS: Final = 2.0
# Mails that fall due by themselves are looked for so often; those of this event at once.
FLUSH_SECONDS: Final = 2.0


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
        alerts = AlertBuilder(
            source_name=settings.source_name, notify_after_seconds=settings.notify_after_seconds
        )
        self.context = DeliveryContext(settings, rules, ledger, targets, alerts, draw)
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
        deadline: Deadline | None = None,
    ) -> DeliveryResult:
        """Do what the rules say of *event*, remember it, and say what followed.

        *spent_seconds*: what it took to receive it, of the time within which it is to be answered;
        or *deadline*: by when.

        *fresh*: a dead letter is tried again with a new clock; by default when Hasura sends it as
        if for the first time (a console Redeliver sets the count of retries to 0). *only_rules*:
        the ids of those that are tried, all by default. Raises LedgerUnavailable, with nothing done
        that is not safe to do again.
        """
        deadline = deadline or self.deadline(spent_seconds)
        with log_event(event.id, event.correlation_id):
            return self._deliver(
                event,
                fresh=event.current_retry == 0 if fresh is None else fresh,
                deadline=deadline,
                only_rules=only_rules,
            )

    def _deliver(
        self, event: Event, *, fresh: bool, deadline: Deadline, only_rules: Collection[str] | None
    ) -> DeliveryResult:
        selection = select_rules(self.rules, event)
        rules = [rule for rule in selection.rules if only_rules is None or rule.id in only_rules]
        delivery = _EventDelivery(self, event, fresh=fresh, deadline=deadline)
        if not rules:
            outcomes = [delivery.dead_letter_unheard(selection)]
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
            self.context.alerts.about(session.system, session.instance).upstream(
                failure, source, now=now
            )
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

    def _clear_no_rule_alerts(self) -> None:
        """Once for each start, for rules change by a start: events that have a rule now are not
        told of any more."""
        if not self._cleared_no_rule:
            named: dict[str, set[str]] = {rule.source: set() for rule in self.rules.rules}
            for rule in self.rules.rules:
                named[rule.source].update(rule.event_types)
            alerts = self.ledger.alerts
            alerts.end_alerts(list_ruled(alerts.open_fingerprints(AlertKind.UNRULED), named))
            self._cleared_no_rule = True


class _EventDelivery:
    """One event, delivered once."""

    def __init__(self, engine: Engine, event: Event, *, fresh: bool, deadline: Deadline) -> None:
        self.engine = engine
        self.event = event
        self.fresh = fresh
        self._deadline = deadline
        self._sessions: dict[str, TargetSession] = {}
        self._lock = threading.Lock()
        self._first_try_taken = False
        # What has a record.
        self.kept: list[DeliveryId] = []
        # Whether the event has records besides, and whether mails are due: so until the ledger has
        # said otherwise.
        self.has_others = True
        self.mail_due = False

    def session(self, kind: str) -> TargetSession:
        """The session that all rules with this kind of target begin with."""
        with self._lock:
            if kind not in self._sessions:
                self._sessions[kind] = self.engine.targets[kind].connect()
            return self._sessions[kind]

    def apply(self, rules: Collection[Rule]) -> list[Outcome]:
        """Have each of *rules* applied, several at a time; gives what followed for each of its
        keys, in the order of the rules. One that is for after another of them comes last, and only
        where that one is over."""
        # Not kept here: they know this, and what knows each other waits for the garbage collector,
        # a large row with it.
        works: list[RuleDelivery] = []
        outcomes = self._apply_together([rule for rule in rules if not rule.after], works)
        waiting = {outcome.rule for outcome in outcomes if outcome.status is Status.RETRYING}
        followers = [rule for rule in rules if rule.after and rule.id not in waiting]
        if followers:
            outcomes += self._apply_together(followers, works)
        reports = [others for work in works for others in work.others]
        self.kept = [delivery for work in works for delivery in work.kept]
        self.has_others = any(reports) or not reports
        self.mail_due = any(work.mail_due for work in works)
        return outcomes

    def _apply_together(
        self, rules: Collection[Rule], all_works: list[RuleDelivery]
    ) -> list[Outcome]:
        """Have *rules* applied, none of which waits for another one; *all_works* gets what did
        it."""
        event = self.event
        steps = [(rule, evaluate(rule, event)) for rule in rules if event.op in rule.ops]
        not_due = self._not_due_yet(steps)
        works = [
            RuleDelivery(
                self.engine.context,
                event,
                rule,
                steps_of_rule,
                not_due,
                fresh=self.fresh,
                first_session=self.session,
                take_first_try=self.take_first_try,
                # What a call finds out of its row is this rule's alone.
                deadline=replace(self._deadline),
            )
            for rule, steps_of_rule in steps
        ]
        all_works += works
        return [outcome for of_rule in self._run(works) for outcome in of_rule]

    def _run(self, works: Sequence[RuleDelivery]) -> list[list[Outcome]]:
        """Do *works*, several at a time once a call of this event was let in; until then one after
        the other, for they would wait for the first one's call all the same."""
        outcomes: list[list[Outcome]] = []
        left = list(works)
        while len(left) > 1 and left[0].needs_leave():
            first = left.pop(0)
            outcomes.append(first.apply())
            for work in left:
                work.follow(first)
        return outcomes + self.engine.threads.run([work.apply for work in left])

    def take_first_try(self) -> bool:
        """Whether nothing of this event was tried yet: that is, however little time is left, so
        that each time that it comes leaves a record."""
        with self._lock:
            is_first, self._first_try_taken = not self._first_try_taken, True
        return is_first

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

    def dead_letter_unheard(self, selection: RuleSelection) -> Outcome:
        """No rule hears the event: that is a dead letter, for somebody sends it.

        Of those that no rule is for, a sample is kept; one whose type cannot be said is kept, as
        any that a rule cannot map.
        """
        self.mail_due = True
        failure = selection.failure or no_rule(self.event, self.engine.settings.rules_file)
        session = self.engine.session_of()
        builder = self.engine.context.alerts.about(session.system, session.instance)
        now = self.engine.ledger.now()
        is_unruled = failure.reason is Reason.NO_RULE
        if is_unruled:
            event_type = selection.event_type
            alert = builder.unruled(failure, self.event, event_type=event_type, now=now)
        else:
            alert = builder.keyless(failure, self.event, rule="", now=now)
        outcome = Outcome("", "", Status.DEAD, reason=failure.reason, hint=failure.hint)
        return self.engine.ledger.deliveries.record_without_ticket(
            self.event,
            outcome,
            failure,
            delivery=DeliveryId(self.event.id, self.event.content, "", "", ""),
            digest=self.engine.context.digest(session),
            fresh=self.fresh,
            alert=alert,
            samples_max=UNRULED_SAMPLES_MAX if is_unruled else None,
            crowded_fingerprint=unruled_fingerprint(self.event.source, "")
            if selection.event_type
            else "",
        )


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
