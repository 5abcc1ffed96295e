"""What was accepted and is not yet worked. Each row's INSERT is an event of Hasura's, which brings
the work back to us as a request of its own."""

from dataclasses import dataclass, field
from typing import Final

from function.ledger.backend import Record
from function.ledger.database import Database, Transaction
from function.ledger.records import one_row

# Hasura's event has come by then; where it has not, or where the ledger is in no database of
# Hasura's, the housekeeping does the work.
GRACE_SECONDS: Final = 5.0

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
    which is a secret."""

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
                grace=GRACE_SECONDS,
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

    def due(self, *, most: int) -> list[InboxEntry]:
        """What Hasura's events have not brought, oldest first."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.inbox WHERE due_at <= {now} ORDER BY due_at LIMIT :most",
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
                seconds=seconds + GRACE_SECONDS,
            )
        )


def put_entry(transaction: Transaction, entry: InboxEntry) -> None:
    transaction.execute(
        _PUT,
        id=entry.id,
        source=entry.source,
        subject=entry.subject,
        body=entry.body,
        grace=GRACE_SECONDS,
    )


def ticket_entry(table: str, sys_id: str) -> InboxEntry:
    """A ticket that is to be looked at."""
    subject = f"{table}/{sys_id}"
    return InboxEntry(f"servicenow/{subject}", "servicenow", subject, "")


def _read(row: Record) -> InboxEntry:
    return InboxEntry(
        row["id"], row["source"], row["subject"], row["body"], row["notified"], row["received"]
    )
