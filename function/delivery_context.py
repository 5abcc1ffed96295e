"""What every delivery works with, and what follows of its failures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from function.core.outcome import CircuitOpen, Failure, Outcome, Reason, Retryability, Status
from function.core.permit import HoldKind
from function.core.retry import wait_seconds
from function.ledger.holds import held_fingerprint
from function.ledger.ledger import Ledger
from function.ledger.records import Alert, Delivery
from function.notices.alerts import AlertBuilder
from function.rules.model import Rules
from function.settings import Settings
from function.targets.base import Targets, TargetSession

# Less than this is not enough for a call and its record.
WORK_SECONDS_MIN: Final = 1.0
# Where a person waits, the back-off ends there: half an hour has room for fifty attempts.
PERSON_WAIT_SECONDS_MAX: Final = 30.0

_NO_OUTAGE: Final = frozenset({Reason.DEADLINE, Reason.TARGET_BUSY})


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What every delivery works with. *draw* gives the jitter: a random number in [0, 1)."""

    settings: Settings
    rules: Rules
    ledger: Ledger
    targets: Targets
    alerts: AlertBuilder
    draw: Callable[[], float]

    @property
    def work_seconds_min(self) -> float:
        """Less time is not enough for a call and its record."""
        return min(WORK_SECONDS_MIN, self.settings.deadline_seconds / 4)

    def digest(self, session: TargetSession) -> str:
        """What stands for the rules and settings that decide what becomes of an event."""
        return f"{self.rules.digest[:16]}{session.settings_digest[:16]}"

    def failed_outcome(
        self,
        delivery: Delivery,
        failure: Failure,
        *,
        number: str,
        now: float,
        until: float | None = None,
    ) -> Outcome:
        """The outcome of a failure: to be tried again, or given up on. *number* is the ticket's;
        *now* is in UNIX seconds, and so is *until*, when it is given up (None: by the settings);
        it is tried once more then."""
        rule, key = delivery.rule, delivery.key
        if failure.retryability is Retryability.PERMANENT:
            return Outcome(rule, key, Status.DEAD, number, failure.reason, hint=failure.hint)
        end = delivery.first_seen + self.settings.retry_for_seconds if until is None else until
        if now > end:
            return Outcome(rule, key, Status.DEAD, number, Reason.GAVE_UP, hint=failure.hint)
        # Time that ran out, or a turn that did not come, is nobody's outage: the rest is done soon.
        attempt = 1 if failure.reason in _NO_OUTAGE else delivery.attempts
        asked = failure.retry_after_seconds or 0.0
        wait = wait_seconds(attempt, self.draw(), at_least=asked)
        if until is not None:
            wait = min(wait, max(PERSON_WAIT_SECONDS_MAX, asked), until - now)
        return Outcome(rule, key, Status.RETRYING, number, failure.reason, now + max(1.0, wait))

    def failure_alerts(
        self,
        builder: AlertBuilder,
        delivery: Delivery,
        outcome: Outcome,
        failure: Failure,
        held: CircuitOpen | None,
        *,
        instance: str,
        now: float,
    ) -> tuple[list[Alert], str]:
        """The alerts of a *failure*, and the fingerprint of the delivery's own. *held* is the hold
        that kept it from being done, at the system *instance*."""
        alerts = []
        fingerprint = delivery.fingerprint if outcome.status is Status.RETRYING else ""
        if outcome.status is Status.DEAD:
            dead = builder.dead(failure, outcome, delivery)
            alerts.append(dead)
            fingerprint = dead.fingerprint
        if held is not None:
            alerts.append(
                builder.held(
                    failure,
                    delivery,
                    fingerprint=held_fingerprint(instance, held.kind),
                    since=held.since,
                    at_once=held.kind in (HoldKind.AUTH, HoldKind.CONFIG),
                )
            )
        held_later = held.since - delivery.first_seen if held is not None else None
        if builder.needs_own_alert(
            outcome, failure, age_seconds=now - delivery.first_seen, held_later=held_later
        ):
            earlier = self.ledger.alerts.find_kind(delivery.fingerprint)
            waiting = builder.waiting(failure, delivery, earlier=earlier)
            alerts.append(waiting)
            fingerprint = waiting.fingerprint
        return alerts, fingerprint
