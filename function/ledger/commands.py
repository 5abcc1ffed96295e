"""What became of a command, for whoever tells its person."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from function.core.outcome import Reason, Status
from function.ledger.database import Database, Transaction
from function.ledger.deliveries import find_delivery
from function.ledger.records import DeliveryId, one_row

# The record of the command itself: its key is the event's id, which no row's is.
_FIND_RECORD = """
SELECT known, last_sent, number FROM servicenow.ticket
WHERE rule = :rule AND key = :key AND instance <> :reply_instance
ORDER BY updated_at DESC LIMIT 1
"""
# A command is tried for less than half an hour, and what it sent is in doubt for minutes more.
_IN_DOUBT_MAX_SECONDS: Final = 3600.0
# Those that are tried again, or were given up on.
_FIND_SENT = """
SELECT t.last_sent FROM servicenow.delivery AS d
JOIN servicenow.ticket AS t ON t.instance = :instance AND t.rule = d.rule AND t.key = d.key
WHERE d.status IN ('waiting', 'dead') AND d.first_seen > {now} - :seconds
AND d.target = :target AND d.event <> :event AND t."table" = :table AND t.number = :number
"""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a command: *status* and *reason* are its delivery's, *hint* says what to do
    about a failure. *number* is the ticket's, "" where it names none. *record* is what ServiceNow
    told of the ticket last, with what people see. *in_doubt*: something was sent that may be done.
    """

    status: Status
    reason: Reason | None
    hint: str = ""
    number: str = ""
    record: Mapping[str, str] = field(default_factory=dict)
    in_doubt: bool = False


class CommandRepository:
    """Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_sent(
        self, instance: str, *, target: str, table: str, number: str, other_than: str
    ) -> list[Mapping[str, str]]:
        """What other commands than the event *other_than* have sent to the ticket *number*, and may
        still be done. *target* is the kind of all commands."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                _FIND_SENT,
                instance=instance,
                target=target,
                table=table,
                number=number,
                event=other_than,
                seconds=_IN_DOUBT_MAX_SECONDS,
            )
        )
        return [sent for row in rows if (sent := json.loads(row["last_sent"]))]

    def find_result(self, delivery: DeliveryId, *, reply_instance: str) -> CommandResult | None:
        """What became of the command *delivery*; None where it was never begun. *reply_instance* is
        where replies go, whose record has the same key."""

        def work(transaction: Transaction) -> CommandResult | None:
            found = find_delivery(transaction, delivery)
            if found is None:
                return None
            record = one_row(
                transaction.execute(
                    _FIND_RECORD,
                    rule=delivery.rule,
                    key=delivery.key,
                    reply_instance=reply_instance,
                )
            )
            known = json.loads(record["known"]) if record else {}
            return CommandResult(
                Status(found["outcome"] or Status.RETRYING),
                Reason(found["reason"]) if found["reason"] else None,
                found["hint"],
                record["number"] if record else "",
                known,
                in_doubt=bool(record and json.loads(record["last_sent"])),
            )

        return self._database.run(work)
