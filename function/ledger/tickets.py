"""The tickets' own records, under the leases of their keys, and what is known of an instance's
tables."""

import json
from typing import Final

from function.core.trail import trail_from_json
from function.ledger.database import Database, Transaction
from function.ledger.inbox import put_entry, ticket_entry
from function.ledger.records import (
    IN_DOUBT_SECONDS,
    FoundTicket,
    KeptMark,
    ShadowUpdate,
    TableTraits,
    Ticket,
    one_row,
    pending_write_to_json,
    read_ticket,
)
from function.ledger.shadows import update_shadows

# A ticket that could not be looked at is left alone so long by the housekeeping, for others wait
# too.
POSTPONED_SECONDS: Final = 600.0

# A lease is free when it has ended, and when it is ours already (a transaction repeated after a
# lost connection).
TAKE_LEASE = """
INSERT INTO servicenow.ticket AS t
    (instance, rule, key, lease_owner, lease_until, created_at, updated_at)
VALUES (:instance, :rule, :key, :owner, {now} + :seconds, {now}, {now})
ON CONFLICT (instance, rule, key) DO UPDATE SET
    abandoned_lease_until = CASE
        WHEN t.lease_owner = '' THEN NULL
        WHEN t.lease_owner = :owner THEN t.abandoned_lease_until
        ELSE t.lease_until END,
    lease_owner = :owner,
    lease_until = {now} + :seconds
WHERE t.lease_owner = '' OR t.lease_owner = :owner OR t.lease_until <= {now}
RETURNING *, {now} AS now
"""

_LEASE_LEFT = """
SELECT lease_until - {now} AS seconds FROM servicenow.ticket
WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner <> ''
"""

_SAVE_TICKET = """
UPDATE servicenow.ticket SET
    "table" = :table, generation = :generation, sys_id = :sys_id, number = :number,
    state = :state, known = :known, last_sent = :last_sent, left_empty = :left_empty,
    row_resolved = :row_resolved, mod_count = :mod_count, call_failed = :call_failed,
    named_sys_id = :named_sys_id, taken_fields = :taken_fields,
    pending_write = :pending_write, suspect_until = :suspect_until,
    suspect_fields = :suspect_fields, stale_writes_seen = :stale_writes_seen,
    sent_values = :sent_values, written_counts = :written_counts,
    stale_fields = CASE WHEN stale_writes = :stale_writes_seen THEN '[]' ELSE stale_fields END,
    updated_at = {now},
    lease_owner = CASE WHEN :release THEN '' ELSE lease_owner END,
    abandoned_lease_until = CASE WHEN :release THEN NULL ELSE abandoned_lease_until END
WHERE instance = :instance AND rule = :rule AND key = :key AND lease_owner = :owner
RETURNING key, {now} AS now
"""

# Beside the lease: whoever holds it now cannot overwrite this by what it does not know of.
_ONLY_SUSPECT = """
UPDATE servicenow.ticket SET stale_writes = stale_writes + 1, stale_fields = :fields
WHERE instance = :instance AND rule = :rule AND key = :key
"""

# Suspect by our own record, by a late writer's, or because a holder vanished with a write under
# way.
_SUSPECTS = """
SELECT rule, key FROM servicenow.ticket
WHERE instance = :instance AND (lease_owner = '' OR lease_until <= {now})
AND COALESCE(suspect_until, 0) <= {now} AND (
    suspect_until IS NOT NULL
    OR stale_writes > stale_writes_seen
    OR (pending_write <> '' AND lease_owner <> '' AND lease_until + :doubt <= {now})
)
ORDER BY suspect_until, rule, key LIMIT :most
"""


# Without the lease: what is read may change at any time.
_FIND_TICKET = """
SELECT *, CASE WHEN lease_owner <> '' AND lease_until > {now} THEN 1 ELSE 0 END AS leased
FROM servicenow.ticket WHERE instance = :instance AND rule = :rule AND key = :key
"""
_FIND_WAITING = """
SELECT 1 FROM servicenow.delivery
WHERE status = 'waiting' AND rule = :rule AND target = :target AND key = :key LIMIT 1
"""


class TicketRepository:
    """The record of each ticket, and what is known of their tables. Every method is one short
    transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_settling(
        self, *, instance: str, rule: str, key: str, owner: str, lease_seconds: float
    ) -> tuple[Ticket, float] | None:
        """Take the lease of a suspect ticket; None when somebody else has it."""

        def work(transaction: Transaction) -> tuple[Ticket, float] | None:
            row = one_row(
                transaction.execute(
                    TAKE_LEASE,
                    instance=instance,
                    rule=rule,
                    key=key,
                    owner=owner,
                    seconds=lease_seconds,
                )
            )
            return (read_ticket(row, trail_from_json(row["trail"])), row["now"]) if row else None

        return self._database.run(work)

    def find_by_sys_id(self, instance: str, sys_id: str) -> Ticket | None:
        """The record of the row whose ticket *sys_id* is; None where it is no row's."""
        row = self._database.run(
            lambda transaction: one_row(
                transaction.execute(
                    "SELECT * FROM servicenow.ticket WHERE instance = :instance "
                    "AND sys_id = :sys_id AND rule <> '' ORDER BY created_at LIMIT 1",
                    instance=instance,
                    sys_id=sys_id,
                )
            )
        )
        return read_ticket(row, trail_from_json(row["trail"])) if row is not None else None

    def find(self, *, instance: str, rule: str, key: str, target: str) -> FoundTicket:
        """What is known of the ticket for *key*, and whether it is being made or waits to be: by a
        delivery of the *rule*'s *target* (its kind), which may have come before it has a record.
        """

        def work(transaction: Transaction) -> FoundTicket:
            row = one_row(transaction.execute(_FIND_TICKET, instance=instance, rule=rule, key=key))
            ticket = read_ticket(row, trail_from_json(row["trail"])) if row else None
            under_way = row is not None and bool(row["leased"] or row["pending_write"])
            if ticket is None or not ticket.sys_id:
                waiting = transaction.execute(_FIND_WAITING, rule=rule, target=target, key=key)
                under_way = under_way or bool(waiting)
            return FoundTicket(ticket, under_way)

        return self._database.run(work)

    def save(self, ticket: Ticket, *, owner: str) -> bool:
        """Write *ticket* down in the middle of the work. False: the lease is gone, and only doubt
        was written."""
        return self._database.run(
            lambda transaction: save_ticket(transaction, ticket, owner, release=False)
        )

    def give_back(self, ticket: Ticket, *, owner: str) -> None:
        """Write *ticket* down and give the lease back; for work that has no delivery."""
        self._database.run(
            lambda transaction: save_ticket(transaction, ticket, owner, release=True)
        )

    def traits(self, instance: str, table: str) -> TableTraits:
        """What is known of *table* so far: an access control is a table's."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT honours_sys_id, kept_mark FROM servicenow.table_traits "
                'WHERE instance = :instance AND "table" = :table',
                instance=instance,
                table=table,
            )
        )
        if not rows:
            return TableTraits()
        return TableTraits(bool(rows[0]["honours_sys_id"]), KeptMark(rows[0]["kept_mark"]))

    def learn_traits(self, instance: str, table: str, traits: TableTraits) -> None:
        """Remember what a clean create showed; what it did not show (UNKNOWN) stays as it was."""
        self._database.run(
            lambda transaction: transaction.execute(
                'INSERT INTO servicenow.table_traits AS i (instance, "table", honours_sys_id, '
                "kept_mark) "
                'VALUES (:instance, :table, :honoured, :mark) ON CONFLICT (instance, "table") DO '
                "UPDATE SET "
                "honours_sys_id = :honoured, kept_mark = CASE WHEN :mark = '' THEN i.kept_mark "
                "ELSE :mark END",
                instance=instance,
                table=table,
                honoured=bool(traits.honours_sys_id),
                mark=traits.kept_mark.value,
            )
        )

    def holders(self, ticket: Ticket, sys_id: str) -> list[Ticket]:
        """The records of other rows that have the ticket *sys_id*, or had it for an earlier
        generation."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.ticket WHERE (sys_id = :sys_id OR named_sys_id = :sys_id)"
                " AND instance = :instance AND NOT (rule = :rule AND key = :key)",
                sys_id=sys_id,
                instance=ticket.instance,
                rule=ticket.rule,
                key=ticket.key,
            )
        )
        return [read_ticket(row, trail_from_json(row["trail"])) for row in rows]

    def suspects(self, instance: str, *, most: int) -> list[tuple[str, str]]:
        """(rule, key) of tickets that are due for a look."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                _SUSPECTS,
                instance=instance,
                most=most,
                doubt=IN_DOUBT_SECONDS,
            )
        )
        return [(row["rule"], row["key"]) for row in rows]

    def defer(self, instance: str, rule: str, key: str) -> None:
        """A suspect could not be looked at: leave it for a while, unless somebody works on it just
        now."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.ticket SET suspect_until = {now} + :seconds "
                "WHERE instance = :instance AND rule = :rule AND key = :key "
                "AND (lease_owner = '' OR lease_until <= {now})",
                instance=instance,
                rule=rule,
                key=key,
                seconds=POSTPONED_SECONDS,
            )
        )


def find_lease_left(transaction: Transaction, **keyed: str) -> float:
    """How many seconds the lease of another has left, at most."""
    left = one_row(transaction.execute(_LEASE_LEFT, **keyed))
    return max(0.0, left["seconds"]) if left else 0.0


def save_ticket(transaction: Transaction, ticket: Ticket, owner: str, *, release: bool) -> bool:
    saved = transaction.execute(
        _SAVE_TICKET,
        instance=ticket.instance,
        rule=ticket.rule,
        key=ticket.key,
        owner=owner,
        release=release,
        table=ticket.table,
        generation=ticket.generation,
        sys_id=ticket.sys_id,
        number=ticket.number,
        state=ticket.state,
        known=json.dumps(dict(ticket.known)),
        last_sent=json.dumps(dict(ticket.last_sent)),
        left_empty=json.dumps(dict(ticket.left_empty)),
        row_resolved=ticket.row_resolved,
        named_sys_id=ticket.named_sys_id,
        taken_fields=json.dumps(sorted(ticket.taken_fields)),
        mod_count=ticket.mod_count,
        call_failed=ticket.call_failed,
        pending_write=pending_write_to_json(ticket.pending_write),
        suspect_until=ticket.suspect_until,
        suspect_fields=json.dumps(sorted(ticket.suspect_fields)),
        sent_values=json.dumps({name: list(sent) for name, sent in ticket.sent_values.items()}),
        written_counts=json.dumps(dict(ticket.written_counts)),
        stale_writes_seen=ticket.stale_writes
        if ticket.suspect_until is None
        else ticket.stale_writes_seen,
    )
    if saved:
        if ticket.shadow_update is not None:
            _record_write(transaction, ticket, ticket.shadow_update)
        return True
    # Our lease was taken over while we were away: what we know may be old, and what we did is to be
    # found by looking.
    if ticket.written_fields:
        keyed = {"instance": ticket.instance, "rule": ticket.rule, "key": ticket.key}
        late = transaction.execute(
            "SELECT stale_fields FROM servicenow.ticket WHERE instance = :instance AND rule = "
            ":rule AND key = :key",
            **keyed,
        )
        fields = ticket.written_fields.union(*(json.loads(row["stale_fields"]) for row in late))
        transaction.execute(_ONLY_SUSPECT, **keyed, fields=json.dumps(sorted(fields)))
    return False


def _record_write(transaction: Transaction, ticket: Ticket, update: ShadowUpdate) -> None:
    """What we wrote, the app is not told; what it is to be told of the ticket besides, it is told
    by a look of its own."""
    update_shadows(transaction, ticket.instance, ticket.sys_id, update)
    if update.look_again or update.inserting:
        put_entry(transaction, ticket_entry(ticket.table, ticket.sys_id))
