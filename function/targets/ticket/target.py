"""Tickets, as the engine knows them: a target."""

from function.connection.active import Connection, ConnectionProvider
from function.ledger.ledger import Ledger
from function.targets.base import Result, Task
from function.targets.ticket.access import TicketAccess
from function.targets.ticket.creation import TicketCreation
from function.targets.ticket.reconciler import TicketReconciler


class TicketTarget:
    """Brings one ticket in ServiceNow about for each key, and keeps it in step with its row."""

    kind = "ticket"

    def __init__(
        self, connections: ConnectionProvider, ledger: Ledger, *, source_name: str
    ) -> None:
        self._connections = connections
        self._ledger = ledger
        self._source_name = source_name

    def connect(self, *, at_once: bool = False) -> "TicketSession":
        """Raises LedgerUnavailable."""
        return TicketSession(
            self._connections.current(at_once=at_once), self._ledger, source_name=self._source_name
        )


class TicketSession:
    """Tickets on one connection to ServiceNow."""

    system = "ServiceNow"

    def __init__(self, connection: Connection, ledger: Ledger, *, source_name: str) -> None:
        self._connection = connection
        self._ledger = ledger
        self._source_name = source_name

    @property
    def instance(self) -> str:
        return self._connection.instance_url

    @property
    def version(self) -> str:
        return self._connection.version

    @property
    def settings_digest(self) -> str:
        return self._connection.settings_digest

    @property
    def unverified(self) -> str | None:
        return self._connection.tables.unverified

    def apply(self, task: Task) -> Result:
        assert task.desired is not None  # noqa: S101  # for the type checker: the engine has said what is desired
        return TicketReconciler(self._access(task)).reconcile(task.desired, task.step)

    def settle(self, task: Task) -> None:
        if task.desired is not None:
            self.apply(task)
        elif task.record.pending_write is not None:
            TicketCreation(self._access(task)).settle(None)
        else:
            # The row shares its ticket, or what it wants cannot be said: there is nothing to put
            # right.
            task.record = task.record.without_suspicion()

    def _access(self, task: Task) -> TicketAccess:
        return TicketAccess(
            task, connection=self._connection, ledger=self._ledger, source_name=self._source_name
        )
