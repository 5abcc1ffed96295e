"""The lease of the ticket that a command is for: the linked row's, so that nothing else works on
the ticket meanwhile."""

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.ledger.ledger import Ledger
from function.ledger.ticket_syncs import SyncBegun
from function.servicenow import ServiceNowError

# A waiter polls the lease that long; then the inbox keeps the work.
PATIENCE_SECONDS: Final = 2.0
_BUSY: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BUSY,
    "somebody else works on the ticket just now",
    retry_after_seconds=2.0,
)


@contextmanager
def hold_ticket(
    ledger: Ledger,
    *,
    instance: str,
    table: str,
    sys_id: str,
    lease_seconds: float,
    deadline: Deadline,
) -> Iterator[None]:
    """Hold the lease of the ticket *sys_id*. Raises ServiceNowError where somebody else has it.

    What is known of the linked row stays as it is: to it, a command is an edit of a person's. Where
    its last holder vanished in the middle of a write, that is written down as doubt.
    """
    owner = uuid.uuid4().hex
    patience = Deadline.after(min(PATIENCE_SECONDS, max(0.0, deadline.left())))
    while True:
        begun = ledger.syncs.begin(
            instance, sys_id, event=f"{table}/{sys_id}", owner=owner, lease_seconds=lease_seconds
        )
        if isinstance(begun, SyncBegun):
            break
        if patience.left() <= 0:
            raise ServiceNowError(_BUSY)
        time.sleep(min(0.02 + 0.1 * random.random(), max(0.0, patience.left())))  # noqa: S311  # jitter
    try:
        yield
    finally:
        ledger.tickets.give_back(begun.record, owner=owner)
