"""How far a table of ServiceNow's was read, by (sys_updated_on, sys_id)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from function.ledger.database import Database, Transaction
from function.ledger.inbox import InboxEntry, put_entry
from function.ledger.records import one_row

_FIND = """
SELECT updated_on, sys_id, updated_at FROM servicenow.watermark
WHERE instance = :instance AND subject = :subject {for_update}
"""
_BEGIN = """
INSERT INTO servicenow.watermark (instance, subject, updated_on, sys_id, updated_at)
VALUES (:instance, :subject, :updated_on, :sys_id, {now})
ON CONFLICT (instance, subject) DO NOTHING
"""
_MOVE = """
UPDATE servicenow.watermark SET updated_on = :updated_on, sys_id = :sys_id, updated_at = {now}
WHERE instance = :instance AND subject = :subject
"""


@dataclass(frozen=True, slots=True, order=True)
class Watermark:
    """All was read up to the record *sys_id*, changed at *updated_on*, as ServiceNow stamps it; ""
    where nothing was read yet. *updated_at* is when it came to stand there, in UNIX seconds."""

    updated_on: str = ""
    sys_id: str = ""
    updated_at: float = field(default=0.0, compare=False)


class WatermarkRepository:
    """One watermark for each *subject*: a table and the query that it is read by. Every method is
    one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, instance: str, subject: str) -> Watermark | None:
        return self._database.run(lambda transaction: _find(transaction, instance, subject))

    def begin(self, instance: str, subject: str, watermark: Watermark) -> None:
        """Where reading begins, unless somebody has begun."""
        self._database.run(lambda transaction: _begin(transaction, instance, subject, watermark))

    def advance(
        self, instance: str, subject: str, watermark: Watermark, entries: Sequence[InboxEntry]
    ) -> None:
        """All up to *watermark* was read, and *entries* are what is to be done of it.

        It only moves forward: who was overtaken by another has put his entries, and moves nothing.
        """

        def work(transaction: Transaction) -> None:
            _put_entries(transaction, entries)
            before = _find(transaction, instance, subject)
            if before is None:
                _begin(transaction, instance, subject, watermark)
            elif before < watermark:
                _execute(transaction, _MOVE, instance, subject, watermark)

        self._database.run(work)

    def put(self, entries: Sequence[InboxEntry]) -> None:
        """The same where what was read does not follow what was read before."""
        self._database.run(lambda transaction: _put_entries(transaction, entries))


def _find(transaction: Transaction, instance: str, subject: str) -> Watermark | None:
    row = one_row(transaction.execute(_FIND, instance=instance, subject=subject))
    return Watermark(row["updated_on"], row["sys_id"], row["updated_at"]) if row else None


def _begin(transaction: Transaction, instance: str, subject: str, watermark: Watermark) -> None:
    _execute(transaction, _BEGIN, instance, subject, watermark)


def _execute(
    transaction: Transaction, sql: str, instance: str, subject: str, watermark: Watermark
) -> None:
    transaction.execute(
        sql,
        instance=instance,
        subject=subject,
        updated_on=watermark.updated_on,
        sys_id=watermark.sys_id,
    )


def _put_entries(transaction: Transaction, entries: Sequence[InboxEntry]) -> None:
    for entry in entries:
        put_entry(transaction, entry)
