"""What the housekeeping's cron event does: what nothing else would wake a function for."""

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from function.core.outcome import Reason
from function.deadline import Deadline
from function.engine import Engine
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.inbox import InboxEntry
from function.log import fault
from function.rules.model import Rule
from function.settling import settle_ticket
from function.targets.base import LeaseLost, TargetSession

if TYPE_CHECKING:
    from function.inbound.inbox import InboxWorker

log = logging.getLogger(__name__)

SETTLE_MAX: Final = 200
OVERDUE_MAX: Final = 1000
INBOX_MAX: Final = 500
# What cannot be worked for a fault of ours is left alone so long.
DEFERRED_SECONDS: Final = 600.0


class Housekeeping:
    """Settles suspects, works the inbox, tells of what waits, forgets what is old."""

    def __init__(self, engine: Engine, inbox: Callable[[], "InboxWorker"]) -> None:
        self._engine = engine
        self._inbox = inbox
        self._ledger = engine.ledger
        self._settings = engine.settings

    def run(self) -> dict[str, int]:
        """Do all of it, as far as the time for one answer goes; gives how many of each."""
        deadline = self._engine.deadline()
        settled = self._settle_suspects(deadline)
        worked = self._work_inbox(deadline)
        self._ledger.inbox.forget_ended()
        told = self._tell_of_overdue(deadline)
        # What is old can wait, and mails cannot: they are left half of the time.
        keep_seconds = self._settings.keep_days * 86400.0
        forgotten = self._ledger.forget_older_than(
            keep_seconds, for_seconds=max(0.0, deadline.left() / 2)
        )
        mailed = self._engine.notices.flush(timeout_seconds=max(0.0, deadline.left()))
        return {
            "settled": settled,
            "worked": worked,
            "told": told,
            "forgotten": forgotten,
            "mailed": mailed,
        }

    def _work_inbox(self, deadline: Deadline) -> int:
        """Work what Hasura's events have not brought, for half of the time at most."""
        worked, until = 0, deadline.left() / 2
        for entry in self._ledger.inbox.due(most=INBOX_MAX):
            if deadline.left() < max(until, self._engine.context.work_seconds_min):
                break
            try:
                worked += self._inbox().work_due(entry, deadline).retry_after_seconds is None
            except LedgerUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # one that cannot be worked must not stop the others
                log.critical("a fault of ours: %s", fault(error))
                self._put_off(entry)
        return worked

    def _put_off(self, entry: InboxEntry) -> None:
        """Leave *entry*, which cannot be worked for a fault of ours, alone for a while. A command
        goes once nobody can be answered any more: what it holds is a secret."""
        from function.sources.slack import ANSWERED_SECONDS, SOURCE  # noqa: PLC0415  # for those who have Slack

        age_seconds = self._ledger.now() - entry.received
        if entry.source == SOURCE and age_seconds > ANSWERED_SECONDS:
            log.critical("a command is given up: it cannot be worked", extra={"event": entry.id})
            self._ledger.inbox.end(entry)
        else:
            self._ledger.inbox.defer(entry, seconds=DEFERRED_SECONDS)

    def _settle_suspects(self, deadline: Deadline) -> int:
        """Look again at what was left in doubt, of every target: two may stand on one instance."""
        sessions = {kind: target.connect() for kind, target in self._engine.targets.items()}
        instances = dict.fromkeys(session.instance for session in sessions.values())
        return sum(self._settle_instance(instance, sessions, deadline) for instance in instances)

    def _settle_instance(
        self, instance: str, sessions: Mapping[str, TargetSession], deadline: Deadline
    ) -> int:
        settled = 0
        rules = {rule.id: rule for rule in self._engine.rules.rules}
        for rule_id, key in self._ledger.tickets.suspects(instance, most=SETTLE_MAX):
            if deadline.left() < self._engine.context.work_seconds_min:
                break
            try:
                rule = rules.get(rule_id)
                session = sessions[rule.target.kind] if rule is not None else None
                done = (
                    rule is not None
                    and session is not None
                    and session.instance == instance
                    and self._settle(session, rule, key, deadline=deadline)
                )
            except LedgerUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # one that cannot be read must not stop the others
                log.critical("a fault of ours: %s", fault(error))
                done = False
            if done:
                settled += 1
            else:
                self._ledger.tickets.defer(instance, rule_id, key)
        return settled

    def _settle(self, session: TargetSession, rule: Rule, key: str, *, deadline: Deadline) -> bool:
        owner = uuid.uuid4().hex
        leased = self._ledger.tickets.begin_settling(
            instance=session.instance,
            rule=rule.id,
            key=key,
            owner=owner,
            lease_seconds=self._settings.lease_seconds,
        )
        if leased is None:
            return False
        ticket, now = leased
        try:
            record, failure = settle_ticket(
                self._ledger, session, rule, ticket, owner=owner, now=now, deadline=deadline
            )
        except LeaseLost:
            return False
        self._ledger.tickets.give_back(record, owner=owner)
        return failure is None

    def _tell_of_overdue(self, deadline: Deadline) -> int:
        """People hear of what Hasura did not send again when it should have; in the end
        it is dead."""
        told = 0
        rules = {(rule.id, rule.target.kind): rule for rule in self._engine.rules.rules}
        now = self._ledger.now()
        for delivery in self._ledger.deliveries.overdue(
            seconds=self._settings.notify_after_seconds,
            given_up_seconds=self._settings.retry_for_seconds,
            most=OVERDUE_MAX,
        ):
            if deadline.left() < self._engine.context.work_seconds_min:
                break
            gave_up = now - delivery.first_seen > self._settings.retry_for_seconds
            session = self._engine.session_of(delivery.id.target)
            if (rule := rules.get((delivery.rule, delivery.id.target))) is not None:
                session = session.for_rule(rule)
            reason = Reason(delivery.reason or Reason.IN_DOUBT)
            builder = self._engine.context.alerts.about(*session.find_system(reason))
            alert = builder.overdue(delivery, gave_up=gave_up)
            try:
                self._ledger.deliveries.mark_overdue(delivery, alert, gave_up=gave_up)
            except LedgerRefused as error:
                log.critical("a fault of ours: %s at %s", error, fault(error))
            else:
                told += 1
        return told
