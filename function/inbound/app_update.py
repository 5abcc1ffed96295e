"""What the app is given of one ticket: written down before it is sent, sent, and written down
after."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from function.connection.active import Connection
from function.core.event import Op
from function.core.outcome import (
    CircuitOpen,
    Failure,
    NotDone,
    Outcome,
    Reason,
    Retryability,
    Status,
)
from function.core.values import Json, digest
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.failpoints import failpoint
from function.inbound.held_ticket import HeldTicket
from function.inbound.plan import RuleWork, TicketLook
from function.ledger.records import Alert, AlreadyDead, Delivery, DeliveryId, Shadow
from function.ledger.ticket_syncs import Attempt, AttemptEnd
from function.notices.alerts import AlertBuilder
from function.rules.budget import RenderError
from function.rules.mutate import MutateRule
from function.rules.ticket_change import Mutation
from function.targets.ticket.access import count_of

# The kind of a delivery that is a look at the ticket, and not yet any rule's.
LOOK: Final = "look"


class MutationClient(Protocol):
    """Sends mutations to the app's Hasura."""

    @property
    def address(self) -> str: ...

    def execute(
        self,
        query: str,
        variables: Mapping[str, Json],
        *,
        operation_name: str,
        event: str,
        deadline: Deadline,
    ) -> Mapping[str, Json]:
        """The data of the answer. *event* marks the events that it makes. Raises NotDone."""


@dataclass(slots=True)
class RuleAttempt:
    """One rule's work, as it goes. *delivery* is None where it was given up before."""

    work: RuleWork
    shadow: Shadow
    delivery: Delivery | None
    outcome: Outcome
    failure: Failure | None = None
    held: CircuitOpen | None = None
    seconds: float = 0.0


class AppUpdate:
    """What the app is given of the ticket *held*. *outcomes* are what followed by now; *mail_due*:
    people are to be told of it."""

    def __init__(
        self,
        context: DeliveryContext,
        connection: Connection,
        graphql: MutationClient,
        held: HeldTicket,
        *,
        deadline: Deadline,
        fresh: bool,
    ) -> None:
        """*fresh*: what was given up is tried again."""
        self._context = context
        self._connection = connection
        self._graphql = graphql
        self._ticket = held
        self._deadline = deadline
        self._fresh = fresh
        self.outcomes: list[Outcome] = []
        self.mail_due = False

    def give(
        self,
        works: Sequence[RuleWork],
        noted: Sequence[Shadow],
        look: TicketLook,
        *,
        settled: Callable[[DeliveryId], bool] = lambda _: False,
        release: bool,
    ) -> list[RuleAttempt]:
        """Do *works*, and keep the shadows *noted*.

        *settled* says of a delivery that was open before whether nothing is left to do for it.
        Raises LeaseLost.
        """
        attempts = self._begin(works, noted, look) if works else []
        for attempt in attempts:
            self._send(attempt, look)
        begun = {self._delivery_id(work) for work in works}
        over = [one for one in self._ticket.opened if one not in begun and settled(one)]
        self._finish(attempts, [] if works else noted, over, look, release=release)
        return attempts

    def fail_look(self, error: NotDone, *, key: str, release: bool) -> None:
        """The ticket, or what *key* names, could not be looked at. Raises LeaseLost."""
        held = error if isinstance(error, CircuitOpen) else None
        sys_id, table = self._ticket.sys_id, self._ticket.table
        attempt = Attempt(
            DeliveryId(self._ticket.event, "", "", LOOK, key),
            f"servicenow/{table}",
            "",
            self._body(),
        )
        # What was given up is begun anew: a look finds what is there now.
        [begun] = self._ticket.intend((), [attempt], fresh=self._fresh, dead_again=True)
        assert isinstance(begun, Delivery)  # noqa: S101  # for the type checker: see dead_again
        instance = self._connection.instance_url
        builder = self._context.alerts.about("ServiceNow", instance)
        end, alerts = self._failed(begun, error.failure, held, builder, instance, 0.0)
        self.outcomes.append(replace(end.outcome, key=sys_id))
        self.mail_due |= self._ticket.finish((), [end], alerts, release=release)

    def _begin(
        self, works: Sequence[RuleWork], noted: Sequence[Shadow], look: TicketLook
    ) -> list[RuleAttempt]:
        """Write down that *works* are being done. Raises LeaseLost."""
        begun = self._ticket.intend(
            [*noted, *(work.intended for work in works)],
            [self._attempt(work) for work in works],
            fresh=self._fresh,
        )
        return [
            _rule_attempt(work, delivery, look) for work, delivery in zip(works, begun, strict=True)
        ]

    def _attempt(self, work: RuleWork) -> Attempt:
        stands_for = work_digest(self._context, self._connection, work)
        return Attempt(self._delivery_id(work), work.rule.source, stands_for, self._body())

    def _delivery_id(self, work: RuleWork) -> DeliveryId:
        return delivery_of(self._ticket.event, work)

    def _body(self) -> str:
        """From what the work can be done again."""
        sys_id, table = self._ticket.sys_id, self._ticket.table
        return json.dumps({"version": 1, "table": table, "sys_id": sys_id, "mod_count": 0})

    def _send(self, attempt: RuleAttempt, look: TicketLook) -> None:
        """Send one rule's mutation, if it is to be sent, and say what followed."""
        mutation, began = attempt.work.mutation, time.monotonic()
        if mutation is None or attempt.delivery is None:
            return
        try:
            data = self._execute(mutation, look)
            attempt.outcome = _told(attempt, mutation, data, look)
        except NotDone as error:
            attempt.failure = error.failure
            attempt.held = error if isinstance(error, CircuitOpen) else None
        except RenderError as unsaid:
            attempt.failure = unsaid.failure
        attempt.seconds = time.monotonic() - began

    def _execute(self, mutation: Mutation, look: TicketLook) -> Mapping[str, Json]:
        """Raises NotDone."""
        target = mutation.rule.target
        assert isinstance(target, MutateRule)  # noqa: S101  # for the type checker: see evaluate_change
        if self._deadline.left() < self._context.work_seconds_min:
            what = "this delivery's time was used up; the rest follows"
            raise NotDone(Failure(Retryability.TRANSIENT, Reason.DEADLINE, what))
        failpoint("before_mutation")
        try:
            return self._graphql.execute(
                target.query,
                mutation.variables,
                operation_name=target.operation_name,
                event=mark_of(look),
                # What fails there says nothing of ServiceNow.
                deadline=replace(self._deadline),
            )
        finally:
            failpoint("after_mutation")

    def _finish(
        self,
        attempts: Sequence[RuleAttempt],
        noted: Sequence[Shadow],
        over: Sequence[DeliveryId],
        look: TicketLook,
        *,
        release: bool,
    ) -> None:
        """Write down what came of *attempts*; the deliveries *over* have nothing left to do. Raises
        LeaseLost."""
        ends = [AttemptEnd(one, _unchanged(one, look)) for one in over]
        alerts: list[Alert] = []
        for attempt in attempts:
            if attempt.delivery is not None:
                end, more = self._end(attempt, attempt.delivery, look)
                ends.append(end)
                alerts += more
            self.outcomes.append(attempt.outcome)
        count = count_of(look.values) or 0
        shadows = [*noted, *(attempt.shadow for attempt in attempts)]
        told = [replace(shadow, mod_count=count) for shadow in shadows]
        dropped = [attempt.work.rule.id for attempt in attempts if _is_dropped(attempt)]
        self.mail_due |= self._ticket.finish(told, ends, alerts, release=release, dropped=dropped)

    def _end(
        self, attempt: RuleAttempt, delivery: Delivery, look: TicketLook
    ) -> tuple[AttemptEnd, list[Alert]]:
        if attempt.failure is None:
            end = AttemptEnd(delivery.id, attempt.outcome, duration_seconds=attempt.seconds)
            return end, []
        address = self._graphql.address
        end, alerts = self._failed(
            replace(delivery, ticket=look.number),
            attempt.failure,
            attempt.held,
            self._context.alerts.about("Hasura", address),
            address,
            attempt.seconds,
        )
        attempt.outcome = end.outcome
        if end.outcome.status is Status.DEAD:
            attempt.shadow = attempt.work.given_up
        return end, alerts

    def _failed(
        self,
        delivery: Delivery,
        failure: Failure,
        held: CircuitOpen | None,
        builder: AlertBuilder,
        instance: str,
        seconds: float,
    ) -> tuple[AttemptEnd, list[Alert]]:
        """What is written down of a failure, and who is told. *instance* is where it failed."""
        now = self._ticket.now
        outcome = self._context.failed_outcome(delivery, failure, number=delivery.ticket, now=now)
        alerts, fingerprint = self._context.failure_alerts(
            builder, delivery, outcome, failure, held, instance=instance, now=now
        )
        end = AttemptEnd(
            delivery.id, outcome, failure.hint, failure.remote_message, seconds, fingerprint
        )
        return end, alerts


def delivery_of(event: str, work: RuleWork) -> DeliveryId:
    """What *work* is called, of the ticket whose changes are called *event*."""
    rule = work.rule
    return DeliveryId(event, "", rule.id, rule.target.kind, work.key)


def work_digest(context: DeliveryContext, connection: Connection, work: RuleWork) -> str:
    """What stands for *work*, and for the rules and settings that decide what becomes of it."""
    settings = digest(connection.settings_digest, context.settings.mutate_digest, work.digest)
    return f"{context.rules.digest[:16]}{settings[:16]}"


def mark_of(look: TicketLook) -> str:
    """What our mutation carries, and what comes back among the session variables of the events that
    it makes: which ticket was seen, and when by its count of changes."""
    return f"{look.sys_id}:{count_of(look.values) or 0}"


def outcome_of(
    work: RuleWork, look: TicketLook, status: Status, reason: Reason | None = None
) -> Outcome:
    return Outcome(work.rule.id, work.key, status, look.number, reason)


def _told(
    attempt: RuleAttempt, mutation: Mutation, data: Mapping[str, Json], look: TicketLook
) -> Outcome:
    """The outcome of a mutation that was answered. Raises RenderError."""
    work = attempt.work
    attempt.shadow = work.given
    if _row_is_gone(data):
        return outcome_of(work, look, Status.SKIPPED, Reason.ROW_GONE)
    status = Status.CREATED if work.op is Op.INSERT else Status.UPDATED
    return replace(outcome_of(work, look, status), answer=mutation.answer(data))


def _rule_attempt(
    work: RuleWork, delivery: Delivery | AlreadyDead, look: TicketLook
) -> RuleAttempt:
    if isinstance(delivery, AlreadyDead):
        outcome = outcome_of(work, look, Status.DEAD, read_reason(delivery.reason))
        return RuleAttempt(work, work.given_up, None, replace(outcome, hint=delivery.hint))
    waiting = outcome_of(work, look, Status.RETRYING)
    return RuleAttempt(work, work.intended, delivery, waiting, failure=work.failure)


def read_reason(written: str) -> Reason | None:
    """None for one that only another version has."""
    return Reason(written) if written in {reason.value for reason in Reason} else None


def _unchanged(delivery: DeliveryId, look: TicketLook) -> Outcome:
    return Outcome(delivery.rule, delivery.key, Status.UNCHANGED, look.number)


def _is_dropped(attempt: RuleAttempt) -> bool:
    """Whether the app was told that the ticket is gone."""
    return attempt.work.op is Op.DELETE and attempt.failure is None and bool(attempt.delivery)


def _row_is_gone(data: Mapping[str, Json]) -> bool:
    """Whether the mutation found no row: each of its fields is null, or says that none was
    changed."""
    return all(
        value is None or (isinstance(value, dict) and value.get("affected_rows") == 0)
        for value in data.values()
    )
