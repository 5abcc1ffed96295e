"""Tickets, as the engine knows them: a target."""

from function.connection.active import Connection, ConnectionProvider
from function.ledger.ledger import Ledger
from function.targets.base import Result, Task
from function.targets.session import ServiceNowSession
from function.targets.ticket.access import TicketAccess
from function.targets.ticket.adoption import ADOPT
from function.targets.ticket.creation import TicketCreation
from function.targets.ticket.reconciler import TicketReconciler


class TicketTarget:
    """Brings one ticket in ServiceNow about for each key, and keeps it in step with its row."""

    kind = "ticket"

    def __init__(
        self,
        connections: ConnectionProvider,
        ledger: Ledger,
        *,
        source_name: str,
        lease_seconds: float,
    ) -> None:
        self._connections = connections
        self._ledger = ledger
        self._source_name = source_name
        self._lease_seconds = lease_seconds

    def connect(self, *, at_once: bool = False) -> "TicketSession":
        """Raises LedgerUnavailable."""
        return TicketSession(
            self._connections.current(at_once=at_once),
            self._ledger,
            source_name=self._source_name,
            lease_seconds=self._lease_seconds,
        )


class TicketSession(ServiceNowSession):
    """Tickets on one connection to ServiceNow."""

    def __init__(
        self, connection: Connection, ledger: Ledger, *, source_name: str, lease_seconds: float
    ) -> None:
        super().__init__(connection)
        self._ledger = ledger
        self._source_name = source_name
        self._lease_seconds = lease_seconds

    def apply(self, task: Task) -> Result:
        assert task.desired is not None  # noqa: S101  # for the type checker: the engine has said what is desired
        return TicketReconciler(self._access(task)).reconcile(task.desired, task.step)

    def settle(self, task: Task) -> None:
        if task.desired is not None:
            self.apply(task)
        elif task.record.pending_write is not None and task.record.pending_write.kind != ADOPT:
            TicketCreation(self._access(task)).settle(None)
        elif task.record.sent_values:
            # Nothing can be sent; but the app is to know what of the ticket is ours.
            TicketReconciler(self._access(task)).look_again()
        else:
            # The row shares its ticket, or what it wants cannot be said: there is nothing to put
            # right. A ticket that was to be adopted is by the row's next event.
            task.record = task.record.without_suspicion()

    def _access(self, task: Task) -> TicketAccess:
        return TicketAccess(
            task,
            connection=self._connection,
            ledger=self._ledger,
            source_name=self._source_name,
            lease_seconds=self._lease_seconds,
        )
