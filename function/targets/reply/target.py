"""Replies, as the engine knows them: a target. Its delivery begins once the command's is over."""

import logging
import time
from dataclasses import replace
from typing import Final, Self

from function.core.event import Event
from function.core.outcome import Failure, NotDone, Reason, Retryability, Status
from function.ledger.ledger import Ledger
from function.ledger.records import DeliveryId
from function.rules.model import Rule
from function.rules.reply import REPLY_GRACE_SECONDS
from function.targets.base import Result, Task
from function.targets.reply.client import ReplyClient
from function.targets.reply.words import compose_reply, write_message

log = logging.getLogger(__name__)

# What replies are kept under in the ledger; GovSlack's too.
INSTANCE: Final = "https://hooks.slack.com"
# Slack takes an answer for 30 minutes.
_LATE_SECONDS: Final = REPLY_GRACE_SECONDS + 60.0
_LATE: Final = "30 minutes are over, in which Slack takes an answer"


class ReplyTarget:
    """Tells the person who gave a command what became of it."""

    kind = "reply"

    def __init__(self, client: ReplyClient, ledger: Ledger, *, settings_digest: str) -> None:
        self._session = ReplySession(client, ledger, settings_digest=settings_digest)

    def connect(self, *, at_once: bool = False) -> "ReplySession":  # noqa: ARG002  # there is one Slack
        return self._session


class ReplySession:
    """Replies to Slack; threads share it."""

    system = "Slack"
    instance = INSTANCE
    version = None
    unverified = None

    def __init__(self, client: ReplyClient, ledger: Ledger, *, settings_digest: str) -> None:
        self._client = client
        self._ledger = ledger
        self._settings_digest = settings_digest

    @property
    def settings_digest(self) -> str:
        return self._settings_digest

    def for_rule(self, rule: Rule) -> Self:  # noqa: ARG002  # all replies go to one Slack
        return self

    def find_system(self, reason: Reason) -> tuple[str, str]:  # noqa: ARG002  # nothing else is asked
        return self.system, self.instance

    def apply(self, task: Task) -> Result:
        """Raises NotDone, LedgerUnavailable."""
        event, rule = task.event, task.rule
        if event is None or not event.reply_url:
            return Result(Status.SKIPPED, Reason.NO_REPLY_URL)
        command = DeliveryId(event.id, event.content, rule.id, rule.after, task.record.key)
        result = self._ledger.commands.find_result(command, reply_instance=INSTANCE)
        if result is None:
            return Result(Status.SKIPPED, Reason.NO_REPLY_URL)
        task.record = replace(task.record, number=result.number)
        if event.expires_at is not None and task.now > event.expires_at + _LATE_SECONDS:
            failure = Failure(Retryability.PERMANENT, Reason.REPLY_EXPIRED, _LATE)
            raise NotDone(_name_person(failure, event))
        reply = compose_reply(rule, event, result)
        if reply.problem:
            log.error("a reply could not be written as the rule says: %s", reply.problem)
        left_seconds = task.deadline.left()
        body = write_message(reply.text, in_channel=reply.in_channel)
        began = time.monotonic()
        try:
            self._client.post(event.reply_url, body, left_seconds=left_seconds)
        except NotDone as error:
            error.failure = _name_person(error.failure, event)
            raise
        log.info("answered in Slack", extra={"ms": int((time.monotonic() - began) * 1000)})
        return Result(Status.CREATED, None)

    def settle(self, task: Task) -> None:
        """Nothing is left to be found out: what is in doubt is sent again."""
        task.record = task.record.without_suspicion()


def _name_person(failure: Failure, event: Event) -> Failure:
    """*failure* with whom to tell, where Slack will never take the answer."""
    if failure.retryability is not Retryability.PERMANENT:
        return failure
    row = event.new if isinstance(event.new, dict) else {}
    hint = (
        f"{failure.hint}. The person may not have heard what became of the command: tell Slack's "
        f"user {row.get('user_id')}"
    )
    return replace(failure, hint=hint)
