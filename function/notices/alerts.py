"""What people are told: alerts made of failures. Pure.

An alert's fingerprint is what went wrong, not where: the same thing again is one alert.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

from function.core.event import SCHEDULED, Event, table_of
from function.core.outcome import Failure, Kind, Outcome, Reason, Status
from function.core.values import digest
from function.ledger.records import Alert, AlertKind, Delivery

# PostgreSQL indexes 2,704 bytes; a character takes up to four.
FINGERPRINT_CHARACTERS_MAX: Final = 500
OVERDUE: Final = (
    "it was interrupted, and Hasura has not sent it again: is its event trigger "
    "still there, and running?"
)
_WRITE_OR_REMOVE: Final = "write one, or remove the trigger that sends this"


@dataclass(frozen=True, slots=True)
class AlertSubject:
    """What an alert is about; *since* is UNIX seconds, *ticket* its number ("" where there is
    none)."""

    rule: str
    table: str
    key: str
    event: str
    attempts: int
    since: float
    ticket: str = ""


def subject_of(delivery: Delivery, *, ticket: str = "") -> AlertSubject:
    """*ticket* is its number, where there is one that the delivery's record does not have yet."""
    return AlertSubject(
        delivery.rule,
        table_of(delivery.source),
        delivery.key,
        delivery.event,
        delivery.attempts,
        delivery.first_seen,
        ticket or delivery.ticket,
    )


def unruled_fingerprint(source: str) -> str:
    """The alert that tells of events from *source* that no rule wants."""
    return f"unruled {source}"


class AlertBuilder:
    """Makes alerts as *source_name* tells them; *notify_after_seconds*: what may pass by itself is
    told after that."""

    def __init__(self, *, source_name: str, notify_after_seconds: float) -> None:
        self._source_name = source_name
        self._notify_after_seconds = notify_after_seconds

    def alert(
        self,
        kind: AlertKind,
        failure: Failure,
        subject: AlertSubject,
        *,
        instance: str,
        fields: Sequence[str] = (),
    ) -> Alert:
        """An alert about one delivery."""
        fingerprint = " ".join(
            [
                kind.value,
                subject.rule or subject.table,
                failure.reason.value,
                *(fields or [failure.hint[:120]]),
            ]
        )
        if len(fingerprint) > FINGERPRINT_CHARACTERS_MAX:
            fingerprint = f"{fingerprint[: FINGERPRINT_CHARACTERS_MAX - 40]} {digest(fingerprint)}"
        facts = {
            "source_name": self._source_name,
            "instance": instance,
            "rule": subject.rule,
            "table": subject.table,
            "key": subject.key,
            "event": subject.event,
            "ticket": subject.ticket,
            "reason": failure.reason.value,
            "hint": failure.hint,
            "words": failure.words,
            "attempts": subject.attempts,
            "fields": list(fields),
        }
        return Alert(fingerprint, kind, facts, subject.since)

    def held(
        self,
        failure: Failure,
        subject: AlertSubject,
        *,
        instance: str,
        fingerprint: str,
        since: float,
        at_once: bool,
    ) -> Alert:
        """Calls to *instance* are held since *since*; *at_once*: nobody but people can end that."""
        alert = self.alert(
            AlertKind.HELD, failure, replace(subject, since=since), instance=instance
        )
        wait_seconds = 0.0 if at_once else self._notify_after_seconds
        return replace(alert, fingerprint=fingerprint, wait_seconds=wait_seconds)

    def dead(
        self, failure: Failure, outcome: Outcome, subject: AlertSubject, *, instance: str
    ) -> Alert:
        return self.alert(
            AlertKind.DEAD,
            replace(failure, reason=outcome.reason or failure.reason),
            subject,
            instance=instance,
        )

    def waiting(
        self, failure: Failure, delivery: Delivery, *, earlier: AlertKind | None, instance: str
    ) -> Alert:
        """An event that fails while others get through; mailed once, whatever it waits for by now.

        *earlier* is the kind of the alert that *delivery* belongs to already, if any.
        """
        alert = self.alert(AlertKind.WAITING, failure, subject_of(delivery), instance=instance)
        if earlier is AlertKind.WAITING:
            return replace(alert, fingerprint=delivery.fingerprint)
        return alert

    def overdue(self, delivery: Delivery, *, gave_up: bool, instance: str) -> Alert:
        """Hasura did not send *delivery* again when it should have."""
        reason = (
            Reason.GAVE_UP
            if gave_up
            else Reason(delivery.reason)
            if delivery.reason
            else Reason.IN_DOUBT
        )
        failure = Failure(Kind.TRANSIENT, reason, delivery.hint or OVERDUE, delivery.words)
        return self.alert(
            AlertKind.DEAD if gave_up else AlertKind.WAITING,
            failure,
            subject_of(delivery),
            instance=instance,
        )

    def unruled(self, failure: Failure, event: Event, *, instance: str, now: float) -> Alert:
        subject = AlertSubject("", table_of(event.source), "", event.id, 1, now)
        alert = self.alert(AlertKind.UNRULED, failure, subject, instance=instance)
        return replace(alert, fingerprint=unruled_fingerprint(event.source))

    def left_empty(self, reasons: dict[str, str], subject: AlertSubject, *, instance: str) -> Alert:
        """Fields that were left empty, by field why."""
        hints = "; ".join(dict.fromkeys(reasons.values()))
        failure = Failure(
            Kind.PERMANENT,
            Reason.UNKNOWN_REFERENCE,
            f"{hints}. It is filled in when the record is there and the row changes, unless "
            "people did so before",
        )
        return self.alert(
            AlertKind.FIELD, failure, subject, instance=instance, fields=sorted(reasons)
        )

    def mismatched(self, fields: frozenset[str], subject: AlertSubject, *, instance: str) -> Alert:
        """Fields that came back different or empty."""
        failure = Failure(Kind.PERMANENT, Reason.NOT_KEPT, _not_kept(fields))
        return self.alert(
            AlertKind.FIELD, failure, subject, instance=instance, fields=sorted(fields)
        )

    def is_told_alone(
        self, outcome: Outcome, failure: Failure, *, age_seconds: float, held_later: float | None
    ) -> bool:
        """Whether an event that waits is told by itself: an outage has its own alert.

        *held_later*: seconds between the event and the hold that keeps it (None: nothing is held).
        """
        alone = held_later is None or held_later > self._notify_after_seconds
        late = age_seconds >= self._notify_after_seconds
        return (
            outcome.status is Status.RETRYING
            and late
            and alone
            and failure.reason is not Reason.DEADLINE
        )


def no_rule(event: Event, rules_file: str) -> Failure:
    """Why nothing is done for an event that no rule wants."""
    trigger = f" (trigger {event.trigger})" if event.trigger else ""
    what = "write one, or schedule no such event" if event.source == SCHEDULED else _WRITE_OR_REMOVE
    hint = f"no rule in {PurePath(rules_file).name} is `from: {event.source}`{trigger}: {what}"
    return Failure(Kind.PERMANENT, Reason.NO_RULE, hint)


def _not_kept(fields: frozenset[str]) -> str:
    """What to look at where *fields* came back different or empty."""
    hint = (
        f"ServiceNow returned something else than was sent for: {', '.join(sorted(fields))}. A "
        "business rule, an ACL, "
        "a choice list, an unknown column or a reference that it does not know may be why"
    )
    if "correlation_id" in fields:
        hint += (
            ". Without correlation_id a ticket is known by its sys_id alone, and where the "
            "instance chooses that too, "
            "by correlation_display: let the integration user write correlation_id at creation"
        )
    return hint
