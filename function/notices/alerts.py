"""Alerts, made of failures. Pure.

An alert's fingerprint is what went wrong, not where: the same thing again is one alert.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from function.core.event import SCHEDULED, Event, source_table
from function.core.outcome import Failure, Outcome, Reason, Retryability, Status
from function.core.values import digest
from function.ledger.records import Alert, AlertKind, Delivery

# PostgreSQL indexes 2,704 bytes; a character takes up to four.
FINGERPRINT_CHARACTERS_MAX: Final = 500
OVERDUE: Final = (
    "it was interrupted, and Hasura has not sent it again: is its event trigger "
    "still there, and running?"
)
# What does not pass by itself.
_AT_ONCE: Final = frozenset({Reason.TOO_MANY_UPDATES})
# What waits so waits for no trouble of its own: time ran out, or a ticket is under way, of which
# people are told.
_OF_OTHERS: Final = frozenset({Reason.DEADLINE, Reason.NO_TICKET})
_WRITE_OR_REMOVE: Final = "write one, or remove the trigger that sends this"


def unread_fingerprint(instance: str, table: str) -> str:
    """The alert that changes in *table* cannot be read."""
    return f"unread {instance} {table}"


# Of a type, in its fingerprint; a longer one is told apart by its digest.
_TYPE_CHARACTERS_MAX: Final = 200
# Stands in no source's name.
_OF_TYPE: Final = "\t"


def unruled_fingerprint(source: str, event_type: str | None = None) -> str:
    """The alert of events from *source* that no rule wants.

    *event_type*: of those of one type, in capitals or not; "" stands for all types beyond the first
    few; None where the source has none.
    """
    if event_type is None:
        return f"unruled {source}"
    name = event_type.casefold()
    if len(name) > _TYPE_CHARACTERS_MAX:
        name = f"{name[: _TYPE_CHARACTERS_MAX - 40]} {digest(name)}"
    return f"unruled {source}{_OF_TYPE}{name}"


def list_ruled(fingerprints: Collection[str], named: Mapping[str, Collection[str]]) -> list[str]:
    """Which of these alerts of events without a rule are over, by the rules as they are now.

    *named*: by source that a rule is from, the types that its rules name; none where its events
    have no types.
    """
    known = {unruled_fingerprint(source) for source in named}
    untyped = {unruled_fingerprint(source) for source, types in named.items() if not types}
    known |= {
        unruled_fingerprint(source, name) for source, types in named.items() for name in types
    }
    return sorted(
        fingerprint
        for fingerprint in fingerprints
        if fingerprint in known or fingerprint.partition(_OF_TYPE)[0] in untyped
    )


class AlertBuilder:
    """Makes alerts in the name of *source_name*.

    *notify_after_seconds*: what may pass by itself is mailed once it has lasted so long. *system*
    is the name of the system that the alerts are about, *instance* where it is.
    """

    def __init__(
        self, *, source_name: str, notify_after_seconds: float, system: str = "", instance: str = ""
    ) -> None:
        self._source_name = source_name
        self._notify_after_seconds = notify_after_seconds
        self._system = system
        self._instance = instance

    def about(self, system: str, instance: str) -> "AlertBuilder":
        """One that makes the same alerts, about another system."""
        return AlertBuilder(
            source_name=self._source_name,
            notify_after_seconds=self._notify_after_seconds,
            system=system,
            instance=instance,
        )

    def held(
        self, failure: Failure, delivery: Delivery, *, fingerprint: str, since: float, at_once: bool
    ) -> Alert:
        """Calls to the system are held since *since*; *at_once*: nobody but people can end that."""
        return replace(
            self._of_delivery(AlertKind.HELD, failure, delivery),
            fingerprint=fingerprint,
            since=since,
            wait_seconds=0.0 if at_once else self._notify_after_seconds,
        )

    def held_reading(
        self, failure: Failure, table: str, *, fingerprint: str, since: float, at_once: bool
    ) -> Alert:
        """The same where *table* was to be read."""
        return replace(
            self._alert(AlertKind.HELD, failure, table=table, since=since),
            fingerprint=fingerprint,
            wait_seconds=0.0 if at_once else self._notify_after_seconds,
        )

    def dead(self, failure: Failure, outcome: Outcome, delivery: Delivery) -> Alert:
        """*outcome* is that *delivery* was given up."""
        failure = replace(failure, reason=outcome.reason or failure.reason)
        return self._of_delivery(AlertKind.DEAD, failure, delivery)

    def keyless(self, failure: Failure, event: Event, *, rule: str, now: float) -> Alert:
        """An event that is given up because *rule* finds no key in it."""
        return self._of_event(AlertKind.DEAD, failure, event, rule=rule, now=now)

    def waiting(self, failure: Failure, delivery: Delivery, *, earlier: AlertKind | None) -> Alert:
        """An event that fails while others get through; mailed once, whatever it waits for by now.

        *earlier* is the kind of the alert that *delivery* belongs to already, if any.
        """
        alert = self._of_delivery(AlertKind.WAITING, failure, delivery)
        if earlier is AlertKind.WAITING:
            return replace(alert, fingerprint=delivery.fingerprint)
        return alert

    def overdue(self, delivery: Delivery, *, gave_up: bool) -> Alert:
        """Hasura did not send *delivery* again when it should have."""
        if gave_up:
            kind, reason = AlertKind.DEAD, Reason.GAVE_UP
        else:
            kind, reason = AlertKind.WAITING, Reason(delivery.reason or Reason.IN_DOUBT)
        failure = Failure(
            Retryability.TRANSIENT, reason, delivery.hint or OVERDUE, delivery.remote_message
        )
        return self._of_delivery(kind, failure, delivery)

    def unruled(self, failure: Failure, event: Event, *, now: float, event_type: str = "") -> Alert:
        """No rule is for *event*, which is of a type that none names where it has an
        *event_type*."""
        alert = self._of_event(AlertKind.UNRULED, failure, event, now=now)
        fingerprint = unruled_fingerprint(event.source, event_type or None)
        return replace(alert, fingerprint=fingerprint, event_type=event_type[:_TYPE_CHARACTERS_MAX])

    def unread(self, failure: Failure, table: str, *, now: float) -> Alert:
        """What changed in *table* cannot be read; whatever may pass by itself is mailed once it has
        lasted."""
        at_once = failure.retryability is Retryability.PERMANENT
        return replace(
            self._alert(AlertKind.UNREAD, failure, table=table, since=now),
            fingerprint=unread_fingerprint(self._instance, table),
            wait_seconds=0.0 if at_once else self._notify_after_seconds,
        )

    def upstream(self, failure: Failure, source: str, *, now: float) -> Alert:
        """A request from *source* was no event."""
        return self._alert(AlertKind.UPSTREAM, failure, table=source, since=now)

    def left_empty(self, reasons: dict[str, str], delivery: Delivery) -> Alert:
        """Fields that were left empty, by field why."""
        hints = "; ".join(dict.fromkeys(reasons.values()))
        failure = Failure(
            Retryability.PERMANENT,
            Reason.UNKNOWN_REFERENCE,
            f"{hints}. It is filled in when the record is there and the row changes, unless "
            "people did so before",
        )
        return self._of_delivery(AlertKind.FIELD, failure, delivery, fields=sorted(reasons))

    def left_alone(self, reasons: dict[str, str], delivery: Delivery) -> Alert:
        """Fields of another system that were left as they are, by field why."""
        hints = "; ".join(dict.fromkeys(reasons.values()))
        failure = Failure(Retryability.PERMANENT, Reason.FOREIGN_MARK, hints)
        return self._of_delivery(AlertKind.FIELD, failure, delivery, fields=sorted(reasons))

    def mismatched(self, fields: frozenset[str], delivery: Delivery) -> Alert:
        """Fields that came back different or empty."""
        failure = Failure(Retryability.PERMANENT, Reason.NOT_KEPT, _not_kept(self._system, fields))
        return self._of_delivery(AlertKind.FIELD, failure, delivery, fields=sorted(fields))

    def _of_delivery(
        self, kind: AlertKind, failure: Failure, delivery: Delivery, *, fields: Sequence[str] = ()
    ) -> Alert:
        return self._alert(
            kind,
            failure,
            rule=delivery.rule,
            table=source_table(delivery.source),
            key=delivery.key,
            event=delivery.event,
            ticket=delivery.ticket,
            attempts=delivery.attempts,
            since=delivery.first_seen,
            fields=fields,
        )

    def _of_event(
        self, kind: AlertKind, failure: Failure, event: Event, *, now: float, rule: str = ""
    ) -> Alert:
        return self._alert(
            kind, failure, rule=rule, table=source_table(event.source), event=event.id, since=now
        )

    def _alert(
        self,
        kind: AlertKind,
        failure: Failure,
        *,
        table: str,
        since: float,
        rule: str = "",
        key: str = "",
        event: str = "",
        ticket: str = "",
        attempts: int = 1,
        fields: Sequence[str] = (),
    ) -> Alert:
        return Alert(
            fingerprint=_fingerprint(kind, failure, rule or table, fields),
            kind=kind,
            since=since,
            source_name=self._source_name,
            system=self._system,
            instance=self._instance,
            rule=rule,
            table=table,
            key=key,
            event=event,
            ticket=ticket,
            reason=failure.reason.value,
            hint=failure.hint,
            remote_message=failure.remote_message,
            attempts=attempts,
            fields=tuple(fields),
        )

    def needs_own_alert(
        self, outcome: Outcome, failure: Failure, *, age_seconds: float, held_later: float | None
    ) -> bool:
        """Whether an event that waits has an alert of its own: those of an outage share one.

        *held_later*: seconds between the event and the hold that keeps it (None: nothing is held).
        """
        waits_alone = held_later is None or held_later > self._notify_after_seconds
        waits_long = age_seconds >= self._notify_after_seconds or failure.reason in _AT_ONCE
        return (
            outcome.status is Status.RETRYING
            and waits_long
            and waits_alone
            and failure.reason not in _OF_OTHERS
        )


def _fingerprint(kind: AlertKind, failure: Failure, concerned: str, fields: Sequence[str]) -> str:
    """*concerned* is the rule, or the table where no rule is known."""
    details = fields or [failure.hint[:120]]
    fingerprint = " ".join([kind.value, concerned, failure.reason.value, *details])
    if len(fingerprint) > FINGERPRINT_CHARACTERS_MAX:
        return f"{fingerprint[: FINGERPRINT_CHARACTERS_MAX - 40]} {digest(fingerprint)}"
    return fingerprint


def no_rule(event: Event, rules_file: str) -> Failure:
    """Why nothing is done for an event that no rule wants."""
    trigger = f" (trigger {event.trigger})" if event.trigger else ""
    what = "write one, or schedule no such event" if event.source == SCHEDULED else _WRITE_OR_REMOVE
    hint = f"no rule in {PurePath(rules_file).name} is `from: {event.source}`{trigger}: {what}"
    return Failure(Retryability.PERMANENT, Reason.NO_RULE, hint)


def _not_kept(system: str, fields: frozenset[str]) -> str:
    """What to look at where *fields* came back different or empty."""
    hint = (
        f"{system} returned something else than was sent for: {', '.join(sorted(fields))}. A "
        "business rule, an ACL, a choice list, an unknown column or a reference that it does "
        "not know may be why"
    )
    if "correlation_id" in fields:
        hint += (
            ". Without correlation_id a ticket is known by its sys_id alone, and where the "
            "instance chooses that too, by correlation_display: let the integration user write "
            "correlation_id at creation"
        )
    return hint
