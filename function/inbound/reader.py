"""One query of a table, read by key on (sys_updated_on, sys_id) from its watermark on, a page at a
time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from function.connection.active import Connection
from function.core.outcome import Failure, NotDone, Reason, Retryability
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.inbound.app_update import delivery_of, work_digest
from function.inbound.links import LinkChecker
from function.inbound.look import asked_columns, read_record
from function.inbound.page import PolledTicket, PollQuery, poll_ticket
from function.inbound.plan import TicketLook
from function.ledger.inbox import InboxEntry
from function.ledger.records import Shadow
from function.ledger.ticket_syncs import LinkedTicket
from function.ledger.watermarks import Watermark
from function.rules.model import Rules
from function.rules.ticket_change import TicketLink
from function.servicenow import InvalidArgument, Record, ServiceNowError, equals
from function.servicenow.fields import Condition
from function.servicenow.search import Search, narrow_query, records
from function.targets.ticket.address import is_of_source, query_of_source

# With what people see beside each value, a page of that many is a second's work, and less than a
# megabyte.
PAGE_ROWS: Final = 200
# Stamps are of whole seconds, and of when a transaction began: one that ended after a page was read
# stands before records that were on it. ServiceNow ends a transaction of the API after 60 seconds.
OVERLAP_SECONDS: Final = 60
# A record that is changed all the time is asked for again; then its time says nothing.
LOOKS_MAX: Final = 3
KEY: Final = "sys_updated_on"
_STAMP: Final = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class PollPage:
    """Tickets that have changed, oldest change first, and how far all was read with them."""

    tickets: tuple[PolledTicket, ...]
    position: Watermark

    @property
    def with_work(self) -> list[PolledTicket]:
        return [ticket for ticket in self.tickets if ticket.has_work]

    @property
    def entries(self) -> list[InboxEntry]:
        """What goes into the inbox: the tickets with work."""
        return [ticket.entry for ticket in self.with_work]


def list_queries(rules: Rules, source_name: str) -> list[PollQuery]:
    """What is read for *rules*: of each table the tickets of ours, and those of each `filter`."""
    asked = dict.fromkeys(
        (source.table, source.query)
        for rule in rules.rules
        if (source := rule.ticket_source) is not None
    )
    return [
        PollQuery(
            table,
            query,
            query or query_of_source(source_name),
            tuple(asked_columns(rules.from_table(table), None)),
            any(s.has_shown for rule in rules.from_table(table) if (s := rule.ticket_source)),
        )
        for table, query in asked
    ]


class QueryReader:
    """Reads what one query finds, in one run; *deadline* is asked for before each call.

    *watermark* is how far others have read, None where nobody has.
    """

    def __init__(
        self,
        context: DeliveryContext,
        connection: Connection,
        query: PollQuery,
        deadline: Callable[[], Deadline],
    ) -> None:
        self._context = context
        self._connection = connection
        self._rules = context.rules.from_table(query.table)
        self._deadline = deadline
        self._links = LinkChecker(context, connection, deadline)
        self.query = query
        self.watermark = context.ledger.watermarks.find(connection.instance_url, query.subject)

    @property
    def instance(self) -> str:
        return self._connection.instance_url

    def find_start(self, since: str = "") -> Watermark:
        """Where the first run begins: at *since*, else behind all that has changed by now. Raises
        NotDone."""
        newest = self._find_newest()
        if newest is None:
            return Watermark(since)
        self._demand_gmt(newest["sys_id"])
        return Watermark(since or shift_stamp(newest[KEY], 1))

    def begin(self, start: Watermark) -> None:
        """Write down where reading begins."""
        self._context.ledger.watermarks.begin(self.instance, self.query.subject, start)

    def read_pages(self, since: str = "", *, push: bool = False) -> Iterator[PollPage]:
        """What has changed since the watermark, or since *since*, as ServiceNow stamps it. *push*:
        the app is given all of it. Raises NotDone."""
        rows = records(
            self._search(since or self._overlap()),
            self._find,
            fields=self.query.columns,
            limit=None,
            page_rows=PAGE_ROWS,
        )
        checked = False
        while True:
            page = self._next_page(rows)
            # The last record that was seen is found again, if times are read as they are told.
            if not checked and (since or not self._holds_watermark(page)):
                self._demand_gmt(self.watermark.sys_id if self.watermark else "")
            checked = True
            if not page:
                return
            position = Watermark(page[-1].get(KEY, ""), page[-1]["sys_id"])
            yield PollPage(tuple(self._judge(page, push=push)), position)

    def save(self, page: PollPage, entries: Sequence[InboxEntry], *, since: str = "") -> None:
        """Put *entries* into the inbox, and move the watermark behind *page*; but where reading
        began *since* a time behind the watermark, for what is between was not read."""
        watermarks = self._context.ledger.watermarks
        if self.watermark is not None and self.watermark.updated_on < since:
            watermarks.put(entries)
        else:
            watermarks.advance(self.instance, self.query.subject, page.position, entries)

    def find_twins(self, page: PollPage) -> list[str]:
        """What is wrong with the tickets of *page* that say that they are a row's, and are not
        known to be. Raises NotDone."""
        looks = [ticket.look for ticket in page.tickets]
        strays = {
            look.values.get("correlation_id", "")
            for look in looks
            if look.is_ours and look.link is None
        }
        return self._links.find_twins(self.query.table, strays)

    def _overlap(self) -> str:
        if self.watermark is None:
            return ""
        # What was committed before the first run began is not read.
        seconds = OVERLAP_SECONDS if self.watermark.sys_id else 0
        return shift_stamp(self.watermark.updated_on, -seconds)

    def _search(self, since: str) -> Search:
        conditions = (Condition(KEY, ">", (shift_stamp(since, -1),)),) if since else ()
        return Search.by(conditions, KEY)

    def _find(self, query: str, fields: Sequence[str], limit: int) -> list[Record]:
        narrowed = narrow_query(query, self.query.encoded)
        return self._ask(narrowed, fields, limit, shown=self.query.shown and len(fields) > 1)

    def _ask(
        self, query: str, fields: Sequence[str], limit: int, *, shown: bool = False
    ) -> list[Record]:
        deadline = self._deadline()
        if deadline.left() < self._context.work_seconds_min:
            raise NotDone(_NO_TIME)
        return self._connection.tables.find(
            self.query.table, query, fields=fields, limit=limit, deadline=deadline, shown=shown
        )

    def _next_page(self, rows: Iterator[Record]) -> list[Record]:
        try:
            return list(islice(rows, PAGE_ROWS))
        except InvalidArgument as error:
            raise NotDone(replace(error.failure, reason=Reason.ACL)) from error
        except ServiceNowError as error:
            # What is older than was asked for: a term was left out, or read in another time zone.
            if error.failure.reason is Reason.BAD_ANSWER:
                self._demand_gmt(self.watermark.sys_id if self.watermark else "")
            raise

    def _judge(self, page: Sequence[Record], *, push: bool) -> list[PolledTicket]:
        """What there is to do of each record of *page*, without a call."""
        ledger, sys_ids = self._context.ledger, [row["sys_id"] for row in page]
        links = ledger.syncs.find_links(self.instance, sys_ids)
        shadows = ledger.shadows.find(self.instance, sys_ids)
        by_ticket: dict[str, list[Shadow]] = {}
        for shadow in shadows:
            by_ticket.setdefault(shadow.sys_id, []).append(shadow)
        now = ledger.now()
        looks = [self._look(row, links.get(row["sys_id"])) for row in page]
        tickets = [
            poll_ticket(
                self._rules,
                self.query,
                by_ticket.get(look.sys_id, ()),
                look,
                push=push,
                now=now,
            )
            for look in looks
        ]
        return tickets if push else self._leave_given_up(tickets)

    def _look(self, row: Record, link: LinkedTicket | None) -> TicketLook:
        values, seen = read_record(row, self.query.columns)
        source = self._context.settings.source_name
        is_ours = link is not None or is_of_source(source, values.get("correlation_id", ""))
        row_link = TicketLink(link.rule, link.key, link.generation) if link else None
        return TicketLook(self.query.table, row["sys_id"], values, seen, row_link, is_ours)

    def _leave_given_up(self, tickets: Sequence[PolledTicket]) -> list[PolledTicket]:
        """What was given up is tried again when somebody says so, not by each run."""
        digests = {
            delivery_of(ticket.event, work): work_digest(self._context, self._connection, work)
            for ticket in tickets
            for work in ticket.works
        }
        given_up = self._context.ledger.syncs.find_given_up(digests)
        return [ticket.without(given_up) for ticket in tickets]

    def _holds_watermark(self, page: Sequence[Record]) -> bool:
        mark = self.watermark
        return mark is not None and any(
            (row.get(KEY), row["sys_id"]) == (mark.updated_on, mark.sys_id) for row in page
        )

    def _demand_gmt(self, sys_id: str) -> None:
        """Raise NotDone unless a record is found by the time that it is stamped with: ServiceNow
        answers in GMT, and reads what is asked for in the time zone of who asks."""
        stamp = ""
        for _ in range(LOOKS_MAX):
            found = self._ask(equals("sys_id", sys_id), [KEY], 1) if sys_id else []
            record = found[0] if found else self._find_newest()
            if record is None:
                return
            sys_id, before, stamp = record["sys_id"], stamp, record.get(KEY, "")
            if stamp == before:
                raise NotDone(_OTHER_ZONE)
            here = f"{equals('sys_id', sys_id)}^{KEY}>={stamp}^{KEY}<={stamp}"
            if self._ask(here, [KEY], 1):
                return

    def _find_newest(self) -> Record | None:
        """The record of the table that was changed last, whosever it is. Raises NotDone."""
        found = self._ask(f"ORDERBYDESC{KEY}", [KEY], 1)
        if found and not shift_stamp(found[0].get(KEY, ""), 0):
            raise NotDone(_NO_STAMP)
        return found[0] if found else None


def shift_stamp(stamp: str, seconds: int) -> str:
    """*stamp*, as ServiceNow has it, *seconds* later; "" for one that is none."""
    try:
        at = datetime.strptime(stamp, _STAMP)  # noqa: DTZ007  # ServiceNow's are UTC, and so is what is asked
        return (at + timedelta(seconds=seconds)).strftime(_STAMP)
    except (ValueError, OverflowError):
        return ""


_NO_TIME: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "this run's time was used up; the next one goes on"
)
_NO_STAMP: Final = Failure(
    Retryability.PERMANENT,
    Reason.ACL,
    "records come without sys_updated_on: let the integration user read it",
)
_OTHER_ZONE: Final = Failure(
    Retryability.PERMANENT,
    Reason.TIME_ZONE,
    "ServiceNow reads the times of a query in another time zone than GMT, so changes would be "
    "missed: set the time zone of the integration user (sys_user, time_zone) to GMT. Nothing was "
    "read, and what was missed is read then",
)
