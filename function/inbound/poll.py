"""What changed in ServiceNow since the last time is looked at, whether anybody told of it or not: a
notification is sent once, and may be lost.

A page of changed tickets is the look at each of them: what there is to do is put into the inbox in
the transaction that moves the watermark, so that a run that is killed between two pages loses
nothing. Two that read at once put the same work, which is done once, and the watermark only moves
forward.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from function.connection.active import ConnectionProvider
from function.core.outcome import CircuitOpen, Failure, NotDone, Reason
from function.core.permit import HoldKind
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.inbound.inbox import InboxWorker
from function.inbound.links import LinkBatch, LinkChecker
from function.inbound.reader import PollPage, QueryReader, list_queries
from function.ledger.holds import held_fingerprint
from function.ledger.inbox import InboxEntry
from function.notices.alerts import unread_fingerprint
from function.notices.mailer import AlertMailer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a run has read, put into the inbox, and done of that itself. *failure*: why not all was
    read."""

    read: int = 0
    queued: int = 0
    worked: int = 0
    failure: Failure | None = None


class TicketPoll:
    """Reads what has changed for all rules; one for a process."""

    def __init__(
        self,
        context: DeliveryContext,
        connections: ConnectionProvider,
        notices: AlertMailer,
        inbox: InboxWorker | None = None,
    ) -> None:
        """*inbox*: what a run puts there it works itself while there is time, because no event of
        Hasura's brings it."""
        self._context = context
        self._connections = connections
        self._notices = notices
        self._inbox = inbox

    def open(self, deadline: Callable[[], Deadline], table: str = "") -> list[QueryReader]:
        """A reader for each query, of *table* alone if it is named. Those whose watermark moved
        last come last, so that the backlog of one keeps no other waiting. Raises
        LedgerUnavailable."""
        connection, source = self._connections.current(), self._context.settings.source_name
        readers = [
            QueryReader(self._context, connection, query, deadline)
            for query in list_queries(self._context.rules, source)
            if table in ("", query.table)
        ]
        return sorted(
            readers, key=lambda reader: reader.watermark.updated_at if reader.watermark else 0.0
        )

    def check_links(self, deadline: Callable[[], Deadline]) -> Iterator[LinkBatch]:
        """Look for the ticket of each row. Raises NotDone, LedgerUnavailable."""
        return LinkChecker(self._context, self._connections.current(), deadline).check()

    def run(self, deadline: Deadline) -> PollResult:
        """Read what has changed, for as long as *deadline* allows; the next run goes on from there.

        Raises LedgerUnavailable.
        """
        count = 0
        entries: list[InboxEntry] = []
        failures: dict[tuple[str, str], Failure] = {}
        done: set[str] = set()
        for reader in self.open(lambda: deadline):
            try:
                for page in self._save_pages(reader):
                    count += len(page.tickets)
                    entries += page.entries
            except NotDone as error:
                if error.failure.reason is Reason.DEADLINE:
                    break
                failures[reader.instance, reader.query.table] = error.failure
                self._report(reader, error)
                if isinstance(error, CircuitOpen) or error.failure.reason is Reason.TIME_ZONE:
                    break  # no other query will do better
            else:
                done.add(unread_fingerprint(reader.instance, reader.query.table))
        failed = {unread_fingerprint(instance, table) for instance, table in failures}
        self._context.ledger.alerts.end_alerts(sorted(done - failed))
        worked = self._work(entries, deadline)
        if failures:
            self._notices.flush(timeout_seconds=max(0.0, min(5.0, deadline.left())))
        return PollResult(count, len(entries), worked, next(iter(failures.values()), None))

    def _save_pages(self, reader: QueryReader) -> Iterator[PollPage]:
        """The pages of *reader*, each once it is saved. Raises NotDone."""
        if reader.watermark is None:
            reader.begin(reader.find_start())
            return
        for page in reader.read_pages():
            reader.save(page, page.entries)
            yield page
            for problem in reader.find_twins(page):
                log.warning("%s", problem)

    def _work(self, entries: Sequence[InboxEntry], deadline: Deadline) -> int:
        worked = 0
        for entry in entries if self._inbox is not None else ():
            if deadline.left() < self._context.work_seconds_min:
                break
            assert self._inbox is not None  # noqa: S101  # for the type checker: see above
            result = self._inbox.work(entry.id, deadline=deadline)
            worked += result.retry_after_seconds is None
        return worked

    def _report(self, reader: QueryReader, error: NotDone) -> None:
        """Have people told that *reader* cannot read."""
        table, failure, ledger = reader.query.table, error.failure, self._context.ledger
        log.warning("changes of %s are not read: %s", table, failure.hint)
        builder = self._context.alerts.about("ServiceNow", reader.instance)
        alert = builder.unread(failure, table, now=ledger.now())
        if isinstance(error, CircuitOpen):
            alert = builder.held_reading(
                failure,
                table,
                fingerprint=held_fingerprint(reader.instance, error.kind),
                since=error.since,
                at_once=error.kind in (HoldKind.AUTH, HoldKind.CONFIG),
            )
        ledger.alerts.raise_alert(alert)
