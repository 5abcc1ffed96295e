"""What was done: tickets and their rows' trails, deliveries, alerts and holds.

Every method is one short transaction. Times are UNIX seconds by the database's clock, the only one
that all instances share. Nothing here decides anything about ServiceNow; it remembers, and it
serialises work on one key by a lease.
"""

import math
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from function.ledger.alerts import AlertRepository, end_alert_if_none_left
from function.ledger.database import Database, Transaction
from function.ledger.deliveries import DeliveryRepository
from function.ledger.holds import HoldRepository
from function.ledger.inbox import InboxRepository
from function.ledger.shadows import ShadowRepository
from function.ledger.tickets import TicketRepository

if TYPE_CHECKING:
    from function.ledger.commands import CommandRepository
    from function.ledger.ticket_syncs import SyncRepository
    from function.ledger.watermarks import WatermarkRepository

# What is old goes this many records at a time.
FORGET_MAX: Final = 500

_OLD: Final = (
    "DELETE FROM servicenow.delivery WHERE (event, rule, target, key, content) IN "
    "(SELECT event, rule, target, key, content FROM servicenow.delivery "
    "WHERE last_at < {now} - :seconds ORDER BY last_at LIMIT :most) RETURNING event, fingerprint",
    "DELETE FROM servicenow.ticket WHERE (instance, rule, key) IN (SELECT instance, rule, key "
    "FROM servicenow.ticket WHERE sys_id = '' AND lease_owner = '' AND updated_at < {now} - "
    ":seconds AND pending_write = '' LIMIT :most) AND lease_owner = '' AND updated_at < {now} - "
    ":seconds RETURNING key",
    "DELETE FROM servicenow.alert WHERE fingerprint IN (SELECT fingerprint FROM servicenow.alert "
    "WHERE state = 'closed' AND last_at < {now} - :seconds LIMIT :most) AND state = "
    "'closed' RETURNING kind",
    "DELETE FROM servicenow.hold WHERE (instance, kind, credential) IN (SELECT instance, kind, "
    "credential FROM servicenow.hold WHERE since < {now} - :seconds AND verified_at < {now} - "
    ":seconds AND until < {now} LIMIT :most) RETURNING kind",
    "DELETE FROM servicenow.login_attempt WHERE (instance, account) IN "
    "(SELECT instance, account FROM servicenow.login_attempt "
    "WHERE last_at < {now} - :seconds LIMIT :most) RETURNING account",
)


class Ledger:
    """All of it, in one database; threads share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.tickets = TicketRepository(database)
        self.deliveries = DeliveryRepository(database)
        self.holds = HoldRepository(database)
        self.alerts = AlertRepository(database)
        self.shadows = ShadowRepository(database)
        self.inbox = InboxRepository(database)

    @cached_property
    def syncs(self) -> "SyncRepository":
        from function.ledger.ticket_syncs import SyncRepository  # noqa: PLC0415  # for those whom ServiceNow answers

        return SyncRepository(self._database)

    @cached_property
    def watermarks(self) -> "WatermarkRepository":
        from function.ledger.watermarks import WatermarkRepository  # noqa: PLC0415  # likewise

        return WatermarkRepository(self._database)

    @cached_property
    def commands(self) -> "CommandRepository":
        from function.ledger.commands import CommandRepository  # noqa: PLC0415  # for those who have Slack

        return CommandRepository(self._database)

    @property
    def database(self) -> Database:
        return self._database

    def forget_older_than(self, seconds: float, *, for_seconds: float = math.inf) -> int:
        """Apply retention for about *for_seconds*; gives how many records went. What is left goes
        the next time.

        Deliveries, closed alerts and old holds go; the evidence on a row that never had a ticket
        goes; a ticket's own record stays, because it is what keeps a closed ticket closed. It goes
        in short transactions with pauses: events wait for none of it.
        """
        until = time.monotonic() + for_seconds
        gone = 0
        for sql in _OLD:
            while time.monotonic() < until:
                began = time.monotonic()
                count = self._database.run(partial(_forget, sql=sql, seconds=seconds))
                gone += count
                if count < FORGET_MAX:
                    break
                # As long as it took: whoever waits for SQLite's only writer comes in between.
                time.sleep(min(1.0, time.monotonic() - began))
        return gone

    def now(self) -> float:
        """The database's clock."""
        return float(
            self._database.run(lambda transaction: transaction.execute("SELECT {now} AS now"))[0][
                "now"
            ]
        )


def _forget(transaction: Transaction, sql: str, seconds: float) -> int:
    gone = transaction.execute(sql, seconds=seconds, most=FORGET_MAX)
    for fingerprint in {row.get("fingerprint", "") for row in gone if "event" in row} - {""}:
        end_alert_if_none_left(transaction, fingerprint, silently=True)
    return len(gone)
