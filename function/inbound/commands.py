"""A command of Slack's that was accepted is worked: delivered by its rule, and answered."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.core.event import Event
from function.core.outcome import NotDone, Outcome, Reason, Status
from function.deadline import Deadline
from function.engine import Engine
from function.ledger.inbox import InboxEntry, ticket_entry
from function.ledger.records import DeliveryId
from function.rules.command import COMMAND, CommandRule
from function.sources.slack import KeptCommand, read_command, to_event, write_command
from function.targets.reply.client import ReplyClient
from function.targets.reply.target import INSTANCE
from function.targets.reply.words import compose_interim, compose_no_rule, write_message

log = logging.getLogger(__name__)

# So many for each call to ServiceNow that is made at a time: while those wait, others are got
# ready. More would take the threads that new commands are acknowledged by.
PER_CALL: Final = 2
# Where all of them are at work, one is brought again after up to this many seconds.
CROWDED_SECONDS_MAX: Final = 6.0
# These pass by themselves within seconds: nobody need be told.
_SOON: Final = frozenset({Reason.BUSY, Reason.DEADLINE, Reason.NO_CAPACITY})


@dataclass(frozen=True, slots=True)
class CommandWorkResult:
    """What became of a command. *ticket_entry* is the inbox's entry by which the app is told of the
    ticket that it resolved; None for none."""

    outcomes: tuple[Outcome, ...]
    retry_after_seconds: float | None
    ticket_entry: str | None = None


class CommandWorker:
    """Works commands; one for a process, used by many threads."""

    def __init__(self, engine: Engine, replies: ReplyClient) -> None:
        self._engine = engine
        self._ledger = engine.ledger
        self._replies = replies
        concurrency_max = engine.settings.servicenow_max_concurrency
        self._slots = threading.BoundedSemaphore(PER_CALL * concurrency_max)

    def work(
        self, identity: str, deadline: Deadline, *, only_due: bool = False
    ) -> CommandWorkResult:
        """Work the command *identity*, if the inbox still keeps it; *only_due*: and if nobody else
        may be working it. Raises LedgerUnavailable."""
        if not self._slots.acquire(blocking=False):
            # New ones need the threads to be acknowledged by, and the database.
            wait = 1.0 + (CROWDED_SECONDS_MAX - 1.0) * self._engine.context.draw()
            return CommandWorkResult((), wait)
        try:
            return self._work_claimed(identity, deadline, only_due=only_due)
        finally:
            self._slots.release()

    def _work_claimed(
        self, identity: str, deadline: Deadline, *, only_due: bool
    ) -> CommandWorkResult:
        inbox = self._ledger.inbox
        # The housekeeping is to leave it alone for as long as this attempt may take.
        left_seconds = max(0.0, deadline.left())
        entry = inbox.claim(identity, seconds=left_seconds, only_due=only_due)
        if entry is None:
            return CommandWorkResult((), None)
        result = self._work(entry, deadline)
        if result.retry_after_seconds is None:
            inbox.end(entry)
        else:
            inbox.defer(entry, seconds=result.retry_after_seconds)
        return result

    def _work(self, entry: InboxEntry, deadline: Deadline) -> CommandWorkResult:
        kept = read_command(entry.body)
        event = to_event(kept.command, entry.id, received=entry.received)
        # A copy that comes late is no new attempt: what its person was told stays true.
        delivered = self._engine.deliver(event, fresh=False, deadline=deadline)
        if not self._engine.rules.concerning(event):
            self._tell(event, compose_no_rule(kept.command.name), deadline)
        elif delivered.retry_after_seconds is not None:
            self._tell_interim(entry, kept, event, delivered.outcomes, deadline)
        return CommandWorkResult(
            delivered.outcomes,
            delivered.retry_after_seconds,
            self._find_ticket_entry(event, delivered.outcomes),
        )

    def _tell_interim(
        self,
        entry: InboxEntry,
        kept: KeptCommand,
        event: Event,
        outcomes: Sequence[Outcome],
        deadline: Deadline,
    ) -> None:
        """Tell the person once that it takes longer."""
        wait = _find_wait(outcomes)
        if kept.interim or wait is None:
            return
        rule, reason = wait
        if not self._ledger.inbox.replace_body(entry, write_command(replace(kept, interim=True))):
            return
        result = self._ledger.commands.find_result(
            DeliveryId(event.id, event.content, rule, COMMAND, event.id),
            reply_instance=INSTANCE,
        )
        if result is None or result.status is Status.RETRYING:
            # Where it is over by now, its last word may have been said.
            number = result.number if result is not None else ""
            in_doubt = result is not None and result.in_doubt
            self._tell(event, compose_interim(number, reason, in_doubt=in_doubt), deadline)

    def _tell(self, event: Event, text: str, deadline: Deadline) -> None:
        """Say *text*, which nothing depends on: it is said once, or not."""
        try:
            self._replies.post(
                event.reply_url, write_message(text), left_seconds=max(0.0, deadline.left())
            )
        except NotDone as error:
            reason = error.failure.reason.value
            log.warning("an interim word did not reach Slack", extra={"reason": reason})

    def _find_ticket_entry(self, event: Event, outcomes: Sequence[Outcome]) -> str | None:
        """The inbox's entry for the ticket that the command resolved just now."""
        resolved = [outcome for outcome in outcomes if outcome.status is Status.RESOLVED]
        for rule in self._engine.rules.concerning(event) if resolved else ():
            if isinstance(rule.target, CommandRule) and rule.id == resolved[0].rule:
                delivery = DeliveryId(event.id, event.content, rule.id, COMMAND, event.id)
                result = self._ledger.commands.find_result(delivery, reply_instance=INSTANCE)
                if result is not None and (sys_id := result.record.get("sys_id")):
                    return ticket_entry(rule.target.table, sys_id).id
        return None


def _find_wait(outcomes: Sequence[Outcome]) -> tuple[str, Reason] | None:
    """The rule that waits for longer, and why; None where nothing does but Slack."""
    for outcome in outcomes:
        reason = outcome.reason
        if outcome.status is not Status.RETRYING or reason is None or reason in _SOON:
            continue
        if not reason.value.startswith("slack_"):
            return outcome.rule, reason
    return None
