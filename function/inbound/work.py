"""What works on tickets' changes, put together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from function.connection.active import ConnectionProvider
from function.connection.guarded_hasura import GuardedGraphql
from function.engine import Engine
from function.hasura.graphql import GraphqlClient
from function.http.network import NetworkSettings
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
    network: NetworkSettings,
    commands: Callable[[], "CommandWorker"],
) -> InboundWork:
    """It goes by the settings and the rules of *engine*. *commands* gives what works Slack's."""
    settings = engine.settings
    client = GraphqlClient(
        settings.hasura_graphql_url,
        admin_secret=settings.hasura_admin_secret,
        role=settings.hasura_role,
        timeout_seconds=settings.hasura_timeout_seconds,
        network=network,
    )
    graphql = GuardedGraphql(
        client,
        engine.ledger.holds,
        admin_secret=settings.hasura_admin_secret,
        auth_hold_seconds=settings.auth_hold_seconds,
    )
    tickets = TicketSync(engine.context, connections, graphql, engine.notices)
    inbox = InboxWorker(engine.ledger, tickets, commands)
    # Hasura's event triggers are on PostgreSQL.
    worked_by = inbox if settings.database_url.startswith("sqlite:") else None
    poll = TicketPoll(engine.context, connections, engine.notices, worked_by)
    return InboundWork(tickets, inbox, poll)
