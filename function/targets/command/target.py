"""Commands, as the engine knows them: a target."""

from collections.abc import Collection

from function.connection.active import Connection, ConnectionProvider
from function.ledger.ledger import Ledger
from function.targets.base import Result, Task
from function.targets.command.work import CommandWork
from function.targets.session import ServiceNowSession


class CommandTarget:
    """Looks up the ticket that a command names, and resolves it where the rule says so."""

    kind = "command"

    def __init__(
        self,
        connections: ConnectionProvider,
        ledger: Ledger,
        *,
        lease_seconds: float,
        heard_tables: Collection[str],
    ) -> None:
        """*heard_tables*: the tables whose tickets' changes the app is told of."""
        self._connections = connections
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._heard_tables = heard_tables

    def connect(self, *, at_once: bool = False) -> "CommandSession":
        """Raises LedgerUnavailable."""
        return CommandSession(
            self._connections.current(at_once=at_once),
            self._ledger,
            lease_seconds=self._lease_seconds,
            heard_tables=self._heard_tables,
        )


class CommandSession(ServiceNowSession):
    """Commands on one connection to ServiceNow."""

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        *,
        lease_seconds: float,
        heard_tables: Collection[str],
    ) -> None:
        super().__init__(connection)
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._heard_tables = heard_tables

    def apply(self, task: Task) -> Result:
        """Raises NotDone, LeaseLost, LedgerUnavailable."""
        work = CommandWork(
            task,
            connection=self._connection,
            ledger=self._ledger,
            lease_seconds=self._lease_seconds,
            heard_tables=self._heard_tables,
        )
        return work.run()

    def settle(self, task: Task) -> None:
        """What a command left in doubt is found out by the command itself, while its person
        waits."""
        task.record = task.record.without_suspicion()
