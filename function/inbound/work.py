"""What works on tickets' changes, put together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from function.connection.active import ConnectionProvider
from function.connection.guarded_hasura import GuardedGraphql
from function.engine import Engine
from function.inbound.inbox import InboxWorker
from function.inbound.poll import TicketPoll
from function.inbound.sync import TicketSync

if TYPE_CHECKING:
    from function.inbound.commands import CommandWorker


@dataclass(frozen=True, slots=True)
class InboundWork:
    """*tickets* gives the app what it does not have of a ticket; *inbox* is what waits for
    that; *poll* finds what nobody told of."""

    tickets: TicketSync
    inbox: InboxWorker
    poll: TicketPoll


def build_inbound(
    engine: Engine,
    connections: ConnectionProvider,
    graphql: GuardedGraphql,
    commands: Callable[[], "CommandWorker"],
) -> InboundWork:
    """It goes by the settings and the rules of *engine*. *commands* gives what works Slack's."""
    tickets = TicketSync(engine.context, connections, graphql, engine.notices)
    inbox = InboxWorker(engine.ledger, tickets, commands)
    # Hasura's event triggers are on PostgreSQL.
    worked_by = inbox if engine.settings.database_url.startswith("sqlite:") else None
    poll = TicketPoll(engine.context, connections, engine.notices, worked_by)
    return InboundWork(tickets, inbox, poll)
