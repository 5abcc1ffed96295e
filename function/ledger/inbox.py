"""What was accepted and is not yet worked. Each row's INSERT is an event of Hasura's, which brings
the work back to us as a request of its own."""

from dataclasses import dataclass, field
from typing import Final

from function.ledger.backend import Record
from function.ledger.database import Database, Transaction
from function.ledger.records import one_row

# Hasura's event has come by then; where it has not, or where the ledger is in no database of
# Hasura's, the housekeeping does the work.
EVENT_WAIT_SECONDS: Final = 5.0

# The source of what is over and only leaves its id behind, so that a copy of it is no new work. A
# copy that comes later than this has a signature that is too old.
ENDED: Final = "ended"
ENDED_SECONDS: Final = 15 * 60.0

_PUT = """
INSERT INTO servicenow.inbox AS i (id, source, subject, body, notified, received, due_at)
VALUES (:id, :source, :subject, :body, 1, {now}, {now} + :grace)
ON CONFLICT (id) DO UPDATE SET notified = i.notified + 1, body = :body
"""

_PUT_NEW = """
INSERT INTO servicenow.inbox (id, source, subject, body, notified, received, due_at)
VALUES (:id, :source, :subject, :body, 1, {now}, {now} + :grace)
ON CONFLICT (id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """Work that is to be done. *notified*: how often it was asked for. *received* is when it was
    first, in UNIX seconds by the ledger's clock. A command's *body* holds where it is answered,
    which is a secret; it is blank once the command is over."""

    id: str
    source: str
    subject: str
    body: str = field(repr=False)
    notified: int = 1
    received: float = 0.0


class InboxRepository:
    """The inbox. Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, entry: InboxEntry) -> None:
        """Keep *entry*; where it is there already, it is worked once more."""
        self._database.run(lambda transaction: put_entry(transaction, entry))

    def put_new(self, entry: InboxEntry) -> None:
        """Keep *entry*, unless it is there already: what is said twice is done once."""
        self._database.run(
            lambda transaction: transaction.execute(
                _PUT_NEW,
                id=entry.id,
                source=entry.source,
                subject=entry.subject,
                body=entry.body,
                grace=EVENT_WAIT_SECONDS,
            )
        )

    def replace_body(self, entry: InboxEntry, body: str) -> bool:
        """Have *entry* say *body* from now on. False where it is gone, or says something else than
        *entry* by now: of several who ask, one is told True."""
        replaced = self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.inbox SET body = :body WHERE id = :id AND body = :before "
                "RETURNING id",
                id=entry.id,
                body=body,
                before=entry.body,
            )
        )
        return bool(replaced)

    def find(self, identity: str) -> InboxEntry | None:
        row = self._database.run(
            lambda transaction: one_row(
                transaction.execute("SELECT * FROM servicenow.inbox WHERE id = :id", id=identity)
            )
        )
        return _read(row) if row is not None else None

    def claim(self, identity: str, *, seconds: float, only_due: bool = False) -> InboxEntry | None:
        """The entry *identity*, which the housekeeping leaves alone for *seconds* from now on. None
        where it is over; *only_due*: or where it is not due."""
        row = self._database.run(
            lambda transaction: one_row(
                transaction.execute(
                    "UPDATE servicenow.inbox SET due_at = {now} + :seconds "
                    "WHERE id = :id AND source <> :ended AND (due_at <= {now} OR NOT :only_due) "
                    "RETURNING *",
                    id=identity,
                    seconds=seconds,
                    ended=ENDED,
                    only_due=only_due,
                )
            )
        )
        return _read(row) if row is not None else None

    def end(self, entry: InboxEntry) -> None:
        """*entry*, which is asked for once, is over: nothing but its id is left, for a while."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.inbox SET source = :ended, body = '', "
                "due_at = {now} + :seconds WHERE id = :id",
                id=entry.id,
                ended=ENDED,
                seconds=ENDED_SECONDS,
            )
        )

    def forget_ended(self) -> int:
        """Forget what has been over for ENDED_SECONDS; gives how many went."""
        gone = self._database.run(
            lambda transaction: transaction.execute(
                "DELETE FROM servicenow.inbox WHERE source = :ended AND due_at <= {now} "
                "RETURNING id",
                ended=ENDED,
            )
        )
        return len(gone)

    def due(self, *, most: int) -> list[InboxEntry]:
        """What Hasura's events have not brought, oldest first."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.inbox WHERE due_at <= {now} AND source <> :ended "
                "ORDER BY due_at LIMIT :most",
                ended=ENDED,
                most=most,
            )
        )
        return [_read(row) for row in rows]

    def remove(self, entry: InboxEntry) -> bool:
        """*entry* is done. False: it was asked for again meanwhile, and stays."""
        gone = self._database.run(
            lambda transaction: transaction.execute(
                "DELETE FROM servicenow.inbox WHERE id = :id AND notified = :notified RETURNING id",
                id=entry.id,
                notified=entry.notified,
            )
        )
        return bool(gone)

    def defer(self, entry: InboxEntry, *, seconds: float) -> None:
        """*entry* could not be done; the housekeeping leaves it alone for *seconds* and more."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.inbox SET due_at = {now} + :seconds WHERE id = :id",
                id=entry.id,
                seconds=seconds + EVENT_WAIT_SECONDS,
            )
        )


def put_entry(transaction: Transaction, entry: InboxEntry) -> None:
    transaction.execute(
        _PUT,
        id=entry.id,
        source=entry.source,
        subject=entry.subject,
        body=entry.body,
        grace=EVENT_WAIT_SECONDS,
    )


def ticket_entry(table: str, sys_id: str) -> InboxEntry:
    """A ticket that is to be looked at."""
    subject = f"{table}/{sys_id}"
    return InboxEntry(f"servicenow/{subject}", "servicenow", subject, "")


def _read(row: Record) -> InboxEntry:
    return InboxEntry(
        row["id"], row["source"], row["subject"], row["body"], row["notified"], row["received"]
    )
