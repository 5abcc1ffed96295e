"""``sync``: what changed in ServiceNow since the last time, whether anybody told of it or not."""

import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from function.app import App
from function.cli.group import commands, counted, open_app
from function.core.event import Op
from function.core.outcome import NotDone, Outcome, Reason, Status
from function.core.values import instant
from function.ledger.backend import LedgerUnavailable
from function.parallel import WorkThreads

if TYPE_CHECKING:
    from function.inbound.inbox import InboxResult
    from function.inbound.page import PolledTicket
    from function.inbound.plan import RuleWork
    from function.inbound.reader import PollPage, QueryReader
    from function.inbound.sync import SyncResult
    from function.ledger.inbox import InboxEntry

# So many tickets are worked on before it is said what became of them.
BATCH_MAX: Final = 50


@commands.command()
@click.option(
    "--since",
    metavar="T",
    help="Read what changed at or after this ISO time (UTC), not since the last time.",
)
@click.option("--push", is_flag=True, help="Give the app all of each ticket, not only what is new.")
@click.option(
    "--dry-run", is_flag=True, help="Print what would be told; nothing is written or sent."
)
@click.option("--table", metavar="T", default="", help="Of this table only.")
@click.option(
    "--check-links", is_flag=True, help="Also look for the ticket of each row that has one."
)
def sync(*, since: str | None, push: bool, dry_run: bool, table: str, check_links: bool) -> None:
    """Look at what changed in ServiceNow since the last time, whether anybody told of it or not,
    and give the app what it does not have."""
    stamp = _read_since(since)
    app = open_app()
    try:
        run = SyncRun(app, since=stamp, push=push, dry_run=dry_run)
        run.read(table)
        if check_links:
            run.check_links()
        run.work()
    except LedgerUnavailable as error:
        raise click.ClickException(
            f"{error}: check DATABASE_URL; nothing was lost, sync again"
        ) from error
    finally:
        app.close()
    if run.is_unfinished:
        sys.exit(1)


def _read_since(since: str | None) -> str:
    """*since* as ServiceNow stamps it."""
    if since is None:
        return ""
    moment = instant(since) or instant(f"{since}T00:00:00")
    if moment is None:
        raise click.UsageError("--since takes an ISO time such as 2026-11-21T08:00:00Z")
    return f"{moment:%Y-%m-%d %H:%M:%S}"


class SyncRun:
    """One run of the command."""

    def __init__(self, app: App, *, since: str, push: bool, dry_run: bool) -> None:
        self._app = app
        self._since = since
        self._push = push
        self._dry_run = dry_run
        self._threads = WorkThreads(app.engine.settings.servicenow_max_concurrency)
        self._entries: list[InboxEntry] = []
        self._tally: Counter[str] = Counter()
        self.is_unfinished = False

    # What has changed

    def read(self, table: str) -> None:
        """Read each query to its end; where one cannot be read, the next one is."""
        readers = self._app.inbound().poll.open(self._app.engine.deadline, table)
        if not readers:
            of_table = f"/{table}" if table else "/…"
            raise click.ClickException(f"no rule in the rules file is from servicenow{of_table}")
        for reader in readers:
            click.echo(f"{reader.query.table}, {reader.query.encoded}:")
            try:
                self._read_query(reader)
            except NotDone as error:
                self._say_not_read(error)

    def _read_query(self, reader: "QueryReader") -> None:
        if reader.watermark is None:
            self._begin(reader)
            if not self._since:
                return
        count = told = 0
        for page in reader.read_pages(self._since, push=self._push):
            count, told = count + len(page.tickets), told + len(page.with_work)
            position = page.position.updated_on
            click.echo(f"  {count} read, {told} to look at, up to {position}")
            self._handle_page(reader, page)
        if not count:
            click.echo("  0 read: nothing has changed")

    def _begin(self, reader: "QueryReader") -> None:
        """Say and write down where the first run begins."""
        start = reader.find_start(self._since)
        if not self._dry_run:
            reader.begin(start)
        if not self._since:
            begins = start.updated_on or "the first record"
            click.echo(f"  the first run reads from {begins} on; --since T reads from T on")

    def _handle_page(self, reader: "QueryReader", page: "PollPage") -> None:
        if self._dry_run:
            for ticket in page.with_work:
                _print_ticket(ticket)
        else:
            entries = self._push_page(page) if self._push else page.entries
            reader.save(page, entries, since=self._since)
            self._entries += [] if self._push else entries
        for problem in reader.find_twins(page):
            click.echo(f"  {problem}")

    def _push_page(self, page: "PollPage") -> "list[InboxEntry]":
        """Give the app all of the page's tickets; those that have to wait are left to the inbox."""
        waiting: list[InboxEntry] = []
        for start in range(0, len(page.tickets), BATCH_MAX):
            batch = page.tickets[start : start + BATCH_MAX]
            results = self._threads.run([partial(self._push_ticket, each) for each in batch])
            for ticket, result in zip(batch, results, strict=True):
                self._print_result(result)
                if result.retry_after_seconds is not None:
                    waiting.append(ticket.entry)
        return waiting

    def _push_ticket(self, ticket: "PolledTicket") -> "SyncResult":
        look = ticket.look
        return self._app.inbound().tickets.sync_ticket(
            look.table, look.sys_id, deadline=self._app.engine.deadline(), push=True
        )

    def _say_not_read(self, error: NotDone) -> None:
        self.is_unfinished = True
        again = "" if error.failure.reason is Reason.TIME_ZONE else "; sync again later"
        click.echo(f"  not read: {error.failure.hint.removesuffix('.')}{again}", err=True)

    # Rows and tickets

    def check_links(self) -> None:
        """Look for the ticket of each row."""
        click.echo("tickets of rows:")
        checked = problems = 0
        try:
            for batch in self._app.inbound().poll.check_links(self._app.engine.deadline):
                checked, problems = checked + batch.checked, problems + len(batch.problems)
                for problem in batch.problems:
                    click.echo(f"  {problem}")
        except NotDone as error:
            self._say_not_read(error)
        click.echo(f"  {checked} looked for, {counted(problems, 'problem')}")

    # What there is to do

    def work(self) -> None:
        """Work what was put into the inbox. Hasura's events may have done so by now."""
        entries = self._entries
        for start in range(0, len(entries), BATCH_MAX):
            batch = entries[start : start + BATCH_MAX]
            results = self._threads.run([partial(self._work_entry, entry) for entry in batch])
            for result in results:
                if result.sync is not None:
                    self._print_result(result.sync)
            click.echo(f"[{start + len(batch)}/{len(entries)}] {self._count_up()}")
            if all(result.retry_after_seconds is not None for result in results):
                left = len(entries) - start - len(batch)
                if left:
                    click.echo(f"{left} more are in the inbox, and are done when that works again")
                break
        if self._push and not entries and not self._dry_run:
            click.echo(self._count_up())

    def _work_entry(self, entry: "InboxEntry") -> "InboxResult":
        return self._app.inbound().inbox.work(entry.id, deadline=self._app.engine.deadline())

    def _print_result(self, result: "SyncResult") -> None:
        for outcome in result.outcomes:
            self._tally[outcome.status.value] += 1
            if outcome.status not in (Status.UNCHANGED, Status.SKIPPED):
                _print_outcome(result.event, outcome)
            self.is_unfinished |= outcome.status in (Status.DEAD, Status.RETRYING)
        if result.retry_after_seconds is not None and not result.outcomes:
            self._tally[Status.RETRYING.value] += 1
            self.is_unfinished = True

    def _count_up(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self._tally.items()) or "nothing new"


def _print_outcome(ticket: str, outcome: Outcome) -> None:
    said = [outcome.status.value, outcome.reason.value if outcome.reason else ""]
    click.echo(f"  {outcome.ticket or ticket} {outcome.rule}: {' '.join(filter(None, said))}")
    if outcome.hint:
        click.echo(f"    {outcome.hint}")


def _print_ticket(ticket: "PolledTicket") -> None:
    """What would be told of a ticket: rules and columns, no values."""
    name = ticket.look.number or ticket.look.sys_id
    for work in ticket.works:
        click.echo(f"  {name} {work.rule.id}: {_describe_work(work)}")
    for rule in ticket.journals:
        journal = rule.ticket_source.journal if rule.ticket_source else ""
        click.echo(f"  {name} {rule.id}: its {journal} are looked at")
    if ticket.unseen and not ticket.works:
        click.echo(f"  {name}: not seen before; it is noted, and told of from then on")


def _describe_work(work: "RuleWork") -> str:
    if work.failure is not None:
        return f"cannot be told ({work.failure.reason.value}): {work.failure.hint}"
    if work.op is Op.INSERT:
        return "new to the app"
    return ", ".join(sorted(work.changed))
