"""Notes, as the engine knows them: a target."""

from function.connection.active import Connection, ConnectionProvider
from function.ledger.ledger import Ledger
from function.targets.base import Result, Task
from function.targets.note.writer import NoteWriter
from function.targets.session import ServiceNowSession


class NoteTarget:
    """Writes what a row says into the journal of another row's ticket, once for each edit."""

    kind = "note"

    def __init__(
        self, connections: ConnectionProvider, ledger: Ledger, *, source_name: str
    ) -> None:
        self._connections = connections
        self._ledger = ledger
        self._source_name = source_name

    def connect(self, *, at_once: bool = False) -> "NoteSession":
        """Raises LedgerUnavailable."""
        return NoteSession(
            self._connections.current(at_once=at_once), self._ledger, source_name=self._source_name
        )


class NoteSession(ServiceNowSession):
    """Notes on one connection to ServiceNow."""

    def __init__(self, connection: Connection, ledger: Ledger, *, source_name: str) -> None:
        super().__init__(connection)
        self._ledger = ledger
        self._source_name = source_name

    def apply(self, task: Task) -> Result:
        assert task.desired is not None  # noqa: S101  # for the type checker: the engine has said what is desired
        return self._writer(task).write(task.desired)

    def settle(self, task: Task) -> None:
        """What is to be said is left to its event, which comes again by itself."""
        self._writer(task).settle()

    def _writer(self, task: Task) -> NoteWriter:
        return NoteWriter(
            task, connection=self._connection, ledger=self._ledger, source_name=self._source_name
        )
