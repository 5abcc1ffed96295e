"""What was left in doubt of a record is found out, under its lease."""

import logging
from dataclasses import replace

from function.core.outcome import Failure, NotDone
from function.core.step import DesiredState
from function.core.trail import current_place
from function.deadline import Deadline
from function.ledger.ledger import Ledger
from function.ledger.records import Ticket
from function.rule_delivery import save_under_lease, wanted_at
from function.rules.model import Rule
from function.targets.base import TargetSession, Task

log = logging.getLogger(__name__)


def settle_ticket(
    ledger: Ledger,
    session: TargetSession,
    rule: Rule,
    record: Ticket,
    *,
    owner: str,
    now: float,
    deadline: Deadline,
) -> tuple[Ticket, Failure | None]:
    """Look again at what *record* has in doubt, and bring it in step with its row.

    Gives what is known then, for the caller to write down, and why it was not settled, None where
    it was. *now* is the ledger's clock. Raises LeaseLost, LedgerUnavailable.
    """
    place = current_place(record.trail)
    deadline.begin_row(failed_before=record.call_failed)
    wants = wanted_at(place) if place is not None else None
    desired = wants if isinstance(wants, DesiredState) else None
    traits = ledger.tickets.traits(session.instance, rule.target.table)
    save = save_under_lease(ledger, owner)
    task = Task(rule, None, None, desired, record, now, deadline, save, traits)
    failure = None
    try:
        session.settle(task)
    except NotDone as error:
        failure = error.failure
        log.warning(
            "a %s could not be looked at",
            rule.target.kind,
            extra={"rule": rule.id, "reason": error.failure.reason.value},
        )
    done = failure is None
    return replace(task.record, call_failed=deadline.failed_now(done=done)), failure
