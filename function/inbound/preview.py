"""What the app would be given of a ticket now; nothing is written or sent."""

from dataclasses import dataclass

from function.connection.active import Connection
from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.inbound.look import TicketReader, asked_columns
from function.inbound.plan import RuleWork, TicketLook, plan_works
from function.rules.ticket_change import TicketLink
from function.servicenow import ServiceNowError, equals
from function.targets.ticket.address import is_of_source

# Of one number there is one ticket; an instance that leaves a term of a query out gives others.
TICKETS_MAX = 5


@dataclass(frozen=True, slots=True)
class TicketPreview:
    """A ticket as it is, and what each rule would give the app."""

    look: TicketLook
    works: list[RuleWork]


def preview_ticket(
    context: DeliveryContext, connection: Connection, number: str, *, deadline: Deadline
) -> TicketPreview:
    """The ticket *number*, of a table that a rule is from. Raises NotDone, LedgerUnavailable."""
    tables = dict.fromkeys(
        source.table for rule in context.rules.rules if (source := rule.ticket_source) is not None
    )
    for table in tables:
        rows = connection.tables.find(
            table,
            equals("number", number),
            fields=["number"],
            limit=TICKETS_MAX,
            deadline=deadline,
        )
        found = [row["sys_id"] for row in rows if row.get("number") == number]
        if found:
            return _preview(context, connection, table, found[0], deadline=deadline)
    what = f"no table that a rule is from has the ticket {number}: {', '.join(tables)}"
    raise ServiceNowError(Failure(Retryability.PERMANENT, Reason.MISSING, what))


def _preview(
    context: DeliveryContext,
    connection: Connection,
    table: str,
    sys_id: str,
    *,
    deadline: Deadline,
) -> TicketPreview:
    rules = context.rules.from_table(table)
    reader = TicketReader(connection, table, sys_id, deadline)
    shown = any(rule.ticket_source.has_shown for rule in rules if rule.ticket_source)
    values, seen = reader.read(
        asked_columns(rules, None), shown=shown, known_count=0, heard_count=0
    )
    instance = connection.instance_url
    record = context.ledger.tickets.find_by_sys_id(instance, sys_id)
    link = TicketLink(record.rule, record.key, record.generation) if record else None
    ours = is_of_source(context.settings.source_name, values.get("correlation_id", ""))
    look = TicketLook(table, sys_id, values, seen, link, ours or link is not None)
    shadows = context.ledger.shadows.find(instance, [sys_id])
    works = plan_works(rules, shadows, look, push=False, now=context.ledger.now())
    return TicketPreview(look, works)
