"""A command of Slack's that was accepted is worked: delivered by its rule, and answered."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.command_access import refuse_command
from function.core.event import Event
from function.core.outcome import Failure, NotDone, Outcome, Reason, Retryability, Status
from function.deadline import Deadline
from function.engine import Engine
from function.ledger.commands import CommandResult
from function.ledger.inbox import InboxEntry, ticket_entry
from function.ledger.records import DeliveryId
from function.rules.command import COMMAND, CommandRule
from function.sources.slack import (
    ANSWERED_SECONDS,
    KeptCommand,
    read_command,
    to_event,
    write_command,
)
from function.targets.reply.client import ReplyClient
from function.targets.reply.target import INSTANCE
from function.targets.reply.words import compose_interim, compose_no_rule, write_message

log = logging.getLogger(__name__)

# So many for each call to ServiceNow that is made at a time: while those wait, others are got
# ready. More would take the threads that new commands are acknowledged by.
PER_CALL: Final = 2
# Where all of them are at work, one is brought again after up to this many seconds.
CROWDED_SECONDS_MAX: Final = 6.0
# No rule is for a command while another revision is deployed, which may know it: it is asked for so
# long.
REVISIONS_SECONDS: Final = 180.0
# So often meanwhile, and so often where Slack does not take what is told.
TELL_AGAIN_SECONDS: Final = 10.0
# These pass by themselves within seconds: nobody need be told.
_UNTOLD: Final = frozenset({Reason.BUSY, Reason.DEADLINE, Reason.NO_CAPACITY})


@dataclass(frozen=True, slots=True)
class WorkResult:
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

    def work(self, identity: str, deadline: Deadline, *, only_due: bool = False) -> WorkResult:
        """Work the command *identity*, if the inbox still keeps it; *only_due*: and if nobody else
        may be working it. Raises LedgerUnavailable."""
        if not self._slots.acquire(blocking=False):
            # New ones need the threads to be acknowledged by, and the database.
            wait = 1.0 + (CROWDED_SECONDS_MAX - 1.0) * self._engine.context.draw()
            return WorkResult((), wait)
        try:
            return self._work_claimed(identity, deadline, only_due=only_due)
        finally:
            self._slots.release()

    def _work_claimed(self, identity: str, deadline: Deadline, *, only_due: bool) -> WorkResult:
        inbox = self._ledger.inbox
        # The housekeeping is to leave it alone for as long as this attempt may take.
        left_seconds = max(0.0, deadline.left())
        entry = inbox.claim(identity, seconds=left_seconds, only_due=only_due)
        if entry is None:
            return WorkResult((), None)
        result = self._work(entry, deadline)
        if result.retry_after_seconds is None:
            inbox.end(entry)
        else:
            inbox.defer(entry, seconds=result.retry_after_seconds)
        return result

    def _work(self, entry: InboxEntry, deadline: Deadline) -> WorkResult:
        kept = read_command(entry.body)
        event = to_event(kept.command, entry.id, received=entry.received)
        if kept.refusal:
            outcome = _NO_RULE if kept.is_dead else _NOT_ALLOWED
            return self._tell_refusal(entry, event, kept.refusal, (outcome,), deadline)
        if not self._engine.rules.concerning(event):
            return self._refuse_without_rule(entry, kept, event, deadline)
        refusal = refuse_command(kept.command, self._engine.settings, self._engine.rules.rules)
        if refusal is not None and not self._is_begun(event):
            text, why = refusal
            log.warning("a command that was taken is refused: %s", why)
            self._ledger.deliveries.withdraw(event, rules=self._rule_ids(event), but=())
            refused = replace(kept, refusal=text)
            return self._refuse(entry, refused, event, (_NOT_ALLOWED,), deadline)
        # A copy that comes late is no new attempt: what its person was told stays true.
        delivered = self._engine.deliver(event, fresh=False, deadline=deadline)
        if delivered.retry_after_seconds is not None:
            self._tell_interim(entry, kept, event, delivered.outcomes, deadline)
        return WorkResult(
            delivered.outcomes,
            delivered.retry_after_seconds,
            self._find_ticket_entry(event, delivered.outcomes),
        )

    # Where it is not done

    def _refuse_without_rule(
        self, entry: InboxEntry, kept: KeptCommand, event: Event, deadline: Deadline
    ) -> WorkResult:
        """No rule is for it here: another revision of the function may have taken it, which is
        asked in its turn; after a while it is a dead letter."""
        if self._ledger.now() - entry.received < REVISIONS_SECONDS:
            return WorkResult((), TELL_AGAIN_SECONDS)
        begun = self._ledger.deliveries.is_known(event.id)
        outcomes = self._engine.deliver(event, fresh=False, deadline=deadline).outcomes
        text = compose_no_rule(kept.command.name, begun=begun)
        refused = replace(kept, refusal=text, is_dead=True)
        return self._refuse(entry, refused, event, outcomes, deadline)

    def _is_begun(self, event: Event) -> bool:
        """Whether something was sent by it that may be done, or it is over: then nobody can say
        that nothing was done."""
        results = [self._find_result(event, rule) for rule in self._rule_ids(event)]
        return any(
            result is not None and (result.in_doubt or result.status is not Status.RETRYING)
            for result in results
        )

    def _refuse(
        self,
        entry: InboxEntry,
        refused: KeptCommand,
        event: Event,
        outcomes: tuple[Outcome, ...],
        deadline: Deadline,
    ) -> WorkResult:
        """Have it kept as *refused*, whatever rules and settings say later, and tell its person
        so."""
        if not self._ledger.inbox.replace_body(entry, write_command(refused)):
            return WorkResult(outcomes, TELL_AGAIN_SECONDS)  # another one works it
        return self._tell_refusal(entry, event, refused.refusal, outcomes, deadline)

    def _tell_refusal(
        self,
        entry: InboxEntry,
        event: Event,
        text: str,
        outcomes: tuple[Outcome, ...],
        deadline: Deadline,
    ) -> WorkResult:
        """Tell it, for as long as Slack takes an answer."""
        failure = self._tell(event, text, deadline)
        is_over = self._ledger.now() > entry.received + ANSWERED_SECONDS
        if failure is None or failure.retryability is Retryability.PERMANENT or is_over:
            return WorkResult(outcomes, None)
        wait = max(TELL_AGAIN_SECONDS, failure.retry_after_seconds or 0.0)
        return WorkResult(outcomes, wait)

    # What is told

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
        result = self._find_result(event, rule)
        if result is None or result.status is Status.RETRYING:
            # Where it is over by now, its last word may have been said.
            number = result.number if result is not None else ""
            in_doubt = result is not None and result.in_doubt
            self._tell(event, compose_interim(number, reason, in_doubt=in_doubt), deadline)

    def _tell(self, event: Event, text: str, deadline: Deadline) -> Failure | None:
        """Say *text*; gives why it did not reach Slack, or perhaps did."""
        try:
            self._replies.post(
                event.reply_url, write_message(text), left_seconds=max(0.0, deadline.left())
            )
        except NotDone as error:
            reason = error.failure.reason.value
            log.warning("an answer did not reach Slack", extra={"reason": reason})
            return error.failure
        return None

    # What is known

    def _rule_ids(self, event: Event) -> list[str]:
        return list(dict.fromkeys(rule.id for rule in self._engine.rules.concerning(event)))

    def _find_result(self, event: Event, rule: str) -> CommandResult | None:
        """What became of it under the rule of that id."""
        delivery = DeliveryId(event.id, event.content, rule, COMMAND, event.id)
        return self._ledger.commands.find_result(delivery, reply_instance=INSTANCE)

    def _find_ticket_entry(self, event: Event, outcomes: Sequence[Outcome]) -> str | None:
        """The inbox's entry for the ticket that the command resolved just now."""
        resolved = [outcome for outcome in outcomes if outcome.status is Status.RESOLVED]
        for rule in self._engine.rules.concerning(event) if resolved else ():
            if isinstance(rule.target, CommandRule) and rule.id == resolved[0].rule:
                result = self._find_result(event, rule.id)
                if result is not None and (sys_id := result.record.get("sys_id")):
                    return ticket_entry(rule.target.table, sys_id).id
        return None


_NOT_ALLOWED: Final = Outcome("", "", Status.SKIPPED, reason=Reason.NOT_ALLOWED)
_NO_RULE: Final = Outcome("", "", Status.DEAD, reason=Reason.NO_RULE)


def _find_wait(outcomes: Sequence[Outcome]) -> tuple[str, Reason] | None:
    """The rule that waits for longer, and why; None where nothing does but Slack."""
    for outcome in outcomes:
        reason = outcome.reason
        if outcome.status is not Status.RETRYING or reason is None or reason in _UNTOLD:
            continue
        if not reason.value.startswith("slack_"):
            return outcome.rule, reason
    return None
