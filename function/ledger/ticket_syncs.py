"""A look at a ticket, and what the app is given of it: begun, intended and finished under the one
lease of the ticket."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from function.core.outcome import Outcome, Status
from function.core.trail import trail_from_json
from function.ledger.alerts import MAIL_IS_DUE, end_alert_if_none_left, raise_alert
from function.ledger.backend import Record
from function.ledger.database import Database, Transaction, name_values
from function.ledger.deliveries import count_attempt, find_delivery, save_delivery
from function.ledger.records import (
    Alert,
    AlreadyDead,
    Delivery,
    DeliveryId,
    DeliveryStatus,
    FinishResult,
    KeyBusy,
    Shadow,
    Ticket,
    one_row,
    read_ticket,
)
from function.ledger.shadows import drop_shadows, find_shadows, save_shadows
from function.ledger.tickets import TAKE_LEASE, find_lease_left, save_ticket

# A count that went back so long after the last look is a restored instance's.
COUNT_SECONDS: Final = 60.0
# The rule of a record that only serialises the work on a ticket that is no row's.
NO_RULE: Final = ""

_FIND_LINK = """
SELECT rule, key FROM servicenow.ticket
WHERE instance = :instance AND sys_id = :sys_id AND rule <> ''
ORDER BY created_at, rule, key LIMIT 1
"""
_FIND_OPEN = """
SELECT event, content, rule, target, key FROM servicenow.delivery
WHERE event = :event AND status <> 'done'
"""
_FIND_LINKS = """
SELECT rule, key, generation, "table", sys_id, number FROM servicenow.ticket
WHERE instance = :instance AND sys_id IN ({}) AND rule <> '' ORDER BY created_at, rule, key
"""
_LIST_LINKS = """
SELECT rule, key, generation, "table", sys_id, number FROM servicenow.ticket
WHERE instance = :instance AND sys_id <> '' AND rule <> '' AND (rule, key) > (:rule, :key)
ORDER BY rule, key LIMIT :most
"""
_RELEASE = """
UPDATE servicenow.ticket SET lease_owner = '' WHERE instance = :instance
AND rule = :rule AND key = :key AND lease_owner = :owner
"""


@dataclass(frozen=True, slots=True)
class SyncBegun:
    """The ticket is ours until the lease ends.

    *record* is that of the row that the ticket is for; its rule is "" where there is none. *opened*
    are the deliveries of the ticket's changes that wait or were given up. *now* is the ledger's
    clock, in UNIX seconds.
    """

    record: Ticket
    shadows: tuple[Shadow, ...]
    opened: tuple[DeliveryId, ...]
    now: float


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The ticket became another row's while its lease was waited for; nothing was begun."""


BeginSync: TypeAlias = SyncBegun | LinkChanged | KeyBusy


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rule is about to give the app something. *digest* stands for the rules and for what is
    given; *body* is what the work can be done from again."""

    delivery: DeliveryId
    source: str
    digest: str
    body: str


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """What became of an attempt. *fingerprint* is that of the alert that it belongs to."""

    delivery: DeliveryId
    outcome: Outcome
    hint: str = ""
    remote_message: str = ""
    duration_seconds: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class LinkedTicket:
    """The ticket that a row has: the last of those that it had."""

    rule: str
    key: str
    generation: int
    table: str
    sys_id: str
    number: str


class SyncRepository:
    """Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        instance: str,
        sys_id: str,
        *,
        event: str,
        owner: str,
        lease_seconds: float,
        link: tuple[str, str] | None = None,
    ) -> BeginSync:
        """Take the lease of the row's ticket; where the ticket is no row's, one of its own.

        *event* is what the ticket's changes are called in deliveries. *link* is the rule and the
        key of the row that the ticket says it is for, where the ledger does not know.
        """

        def work(transaction: Transaction) -> BeginSync:
            found = _find_link(transaction, instance, sys_id)
            rule, key = found or link or (NO_RULE, sys_id)
            keyed = {"instance": instance, "rule": rule, "key": key}
            row = one_row(
                transaction.execute(TAKE_LEASE, **keyed, owner=owner, seconds=lease_seconds)
            )
            if row is None:
                return KeyBusy(find_lease_left(transaction, **keyed))
            unlinked = found is None and row["sys_id"] not in ("", sys_id)
            moved = found is not None and row["sys_id"] != sys_id
            if moved or unlinked or (found is None and _find_link(transaction, instance, sys_id)):
                transaction.execute(_RELEASE, **keyed, owner=owner)
                return LinkChanged()
            shadows = tuple(find_shadows(transaction, instance, sys_id))
            opened = tuple(
                DeliveryId(**found) for found in transaction.execute(_FIND_OPEN, event=event)
            )
            record = read_ticket(row, trail_from_json(row["trail"]))
            return SyncBegun(record, shadows, opened, row["now"])

        return self._database.run(work)

    def intend(
        self,
        record: Ticket,
        shadows: Sequence[Shadow],
        attempts: Sequence[Attempt],
        *,
        owner: str,
        fresh: bool,
        dead_again: bool = False,
    ) -> list[Delivery | AlreadyDead] | None:
        """Write down what is about to be given to the app: *shadows* do not know it any more.

        Gives the delivery of each of *attempts*, counted; of one that was given up under the same
        digest, that, unless it is tried *fresh*, or begins again (*dead_again*). None where the
        lease is gone, and nothing was written.
        """

        def work(transaction: Transaction) -> list[Delivery | AlreadyDead] | None:
            if not save_ticket(transaction, record, owner, release=False):
                return None
            save_shadows(transaction, record.instance, shadows)
            return [
                _begin_attempt(transaction, attempt, fresh=fresh, dead_again=dead_again)
                for attempt in attempts
            ]

        return self._database.run(work)

    def finish(
        self,
        record: Ticket,
        sys_id: str,
        shadows: Sequence[Shadow],
        ends: Sequence[AttemptEnd],
        *,
        owner: str,
        alerts: Sequence[Alert] = (),
        mail_every_seconds: float,
        release: bool = True,
        dropped: Collection[str] = (),
    ) -> FinishResult:
        """Write down what came of it, and give the lease back unless there is more to do.

        *dropped* are the rules whose shadows go: the ticket was deleted. Nothing is written where
        the lease was gone: what was given to the app is not known to be, and is given again.
        """

        written = False

        def work(transaction: Transaction) -> FinishResult:
            nonlocal written
            if not save_ticket(transaction, record, owner, release=release):
                # Done a second time because the answer to the first commit was lost: the lease was
                # ours then, and it was given back.
                return FinishResult(stands=written, mail_due=written)
            written = True
            save_shadows(transaction, record.instance, shadows)
            drop_shadows(transaction, record.instance, sys_id, dropped)
            for end in ends:
                _end_attempt(transaction, end)
            for alert in alerts:
                raise_alert(transaction, alert)
            due = transaction.execute(MAIL_IS_DUE, every=mail_every_seconds)
            return FinishResult(stands=True, mail_due=bool(due))

        return self._database.run(work)

    def find_links(self, instance: str, sys_ids: Collection[str]) -> Mapping[str, LinkedTicket]:
        """Of several tickets those that are rows', by their sys_ids."""
        if not sys_ids:
            return {}
        listed, named = name_values(sys_ids)
        rows = self._database.run(
            lambda transaction: transaction.execute(
                _FIND_LINKS.format(listed), instance=instance, **named
            )
        )
        # Of two rows with one ticket, the first has it, as when it is looked at.
        return {row["sys_id"]: _read_link(row) for row in reversed(rows)}

    def list_links(self, instance: str, *, after: tuple[str, str], most: int) -> list[LinkedTicket]:
        """The rows' tickets in the order of rule and key, those behind *after*."""
        rule, key = after
        rows = self._database.run(
            lambda transaction: transaction.execute(
                _LIST_LINKS, instance=instance, rule=rule, key=key, most=most
            )
        )
        return [_read_link(row) for row in rows]

    def find_given_up(self, digests: Mapping[DeliveryId, str]) -> Collection[DeliveryId]:
        """Which deliveries were given up under the same digest, and would not be tried again."""

        def work(transaction: Transaction) -> set[DeliveryId]:
            return {
                delivery
                for delivery, digest in digests.items()
                if (before := find_delivery(transaction, delivery)) is not None
                and before["status"] == DeliveryStatus.DEAD
                and before["digest"] == digest
            }

        return self._database.run(work) if digests else set()

    def release(self, record: Ticket, *, owner: str) -> None:
        """Give the lease back; nothing has changed."""
        self._database.run(
            lambda transaction: transaction.execute(
                _RELEASE,
                instance=record.instance,
                rule=record.rule,
                key=record.key,
                owner=owner,
            )
        )


def find_known_count(record: Ticket, shadows: Sequence[Shadow], *, now: float) -> int:
    """The count of the ticket's changes that we have seen of late; 0 where we have seen none. *now*
    is the ledger's clock."""
    since = now - COUNT_SECONDS
    counted = [record.mod_count] if record.updated_at > since else []
    seen = [shadow.mod_count for shadow in shadows if shadow.updated_at > since]
    return max([*counted, *seen], default=0)


def _find_link(transaction: Transaction, instance: str, sys_id: str) -> tuple[str, str] | None:
    row = one_row(transaction.execute(_FIND_LINK, instance=instance, sys_id=sys_id))
    return (row["rule"], row["key"]) if row is not None else None


def _read_link(row: Record) -> LinkedTicket:
    return LinkedTicket(
        row["rule"], row["key"], row["generation"], row["table"], row["sys_id"], row["number"]
    )


def _begin_attempt(
    transaction: Transaction, attempt: Attempt, *, fresh: bool, dead_again: bool
) -> Delivery | AlreadyDead:
    before = find_delivery(transaction, attempt.delivery)
    dead = before is not None and before["status"] == DeliveryStatus.DEAD
    dead = dead and not (fresh or dead_again)
    if before is not None and dead and before["digest"] == attempt.digest:
        return AlreadyDead(before["ticket"], before["reason"], before["hint"])
    return count_attempt(
        transaction,
        attempt.delivery,
        source=attempt.source,
        digest=attempt.digest,
        body=attempt.body,
        fresh=fresh,
    )


def _end_attempt(transaction: Transaction, end: AttemptEnd) -> None:
    before: Record | None = find_delivery(transaction, end.delivery)
    done = end.outcome.status not in (Status.RETRYING, Status.DEAD)
    status = DeliveryStatus.DONE if done else DeliveryStatus.WAITING
    if end.outcome.status is Status.DEAD:
        status = DeliveryStatus.DEAD
    save_delivery(
        transaction,
        end.delivery,
        status=status,
        outcome=end.outcome,
        hint=end.hint,
        remote_message=end.remote_message,
        duration_seconds=end.duration_seconds,
        fingerprint=end.fingerprint,
    )
    if before and before["fingerprint"] and before["fingerprint"] != end.fingerprint:
        end_alert_if_none_left(transaction, before["fingerprint"], silently=not done)
