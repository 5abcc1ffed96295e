"""sync_ticket: a ticket is looked at, compared rule by rule with what the app was last given of it,
and what differs is given to the app.

A notification says that a ticket changed, not what: so one that is lost, doubled, late, replayed or
forged is the same path as `sync`. All is done under the one lease of the ticket. Why the steps
stand in this order is tried in tests/two_way/model.py:

- a look that is older than what is known is made again; a ticket in doubt is settled first, then
  compared;
- before the mutation, in one save: known is what was seen, and the shadow of what is being sent is
  unknown;
- after it, the shadow is what was seen.

What a write of ours says of the shadows is written with it (targets/ticket/access.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.connection.active import ConnectionProvider
from function.core.outcome import Failure, NotDone, Outcome, Retryability, Status
from function.deadline import Deadline
from function.delivery_context import DeliveryContext
from function.failpoints import failpoint
from function.inbound.app_update import AppUpdate, MutationClient, outcome_of
from function.inbound.held_ticket import HeldTicket
from function.inbound.journal_sync import JournalSync
from function.inbound.plan import RuleWork, TicketLook, decided, plan_works
from function.ledger.records import DeliveryId, Shadow
from function.notices.mailer import AlertMailer
from function.servicenow import ServiceNowError
from function.targets.base import LeaseLost

# Somebody else works on the ticket just now: it is looked at again then.
BUSY_SECONDS: Final = 2.0
# A journal has more entries than one look reads.
MORE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What became of a ticket's change.

    *event* is what the change is called. *retry_after_seconds* is set when the ticket is to be
    looked at again, and only then.
    """

    event: str
    outcomes: tuple[Outcome, ...]
    retry_after_seconds: float | None = None


class TicketSync:
    """Brings the changes of tickets to the app; one for a process, used by many threads."""

    def __init__(
        self,
        context: DeliveryContext,
        connections: ConnectionProvider,
        graphql: MutationClient,
        notices: AlertMailer,
    ) -> None:
        self._context = context
        self._connections = connections
        self._graphql = graphql
        self._notices = notices

    def sync_ticket(
        self,
        table: str,
        sys_id: str,
        *,
        deadline: Deadline,
        mod_count: int = 0,
        push: bool = False,
        fresh: bool = False,
    ) -> SyncResult:
        """Look at the ticket, and give the app what it does not have.

        *mod_count*: the count of changes that somebody has heard of. *push*: the app is given also
        what it was never given before. *fresh*: what was given up is tried again. Raises
        LedgerUnavailable.
        """
        work = self._begin(table, sys_id, deadline=deadline, fresh=fresh)
        result = work.run(lambda look: work.give(look, push=push), mod_count)
        self._mail(work, deadline)
        return result

    def give_entry(
        self, table: str, sys_id: str, rule_id: str, entry_id: str, *, deadline: Deadline
    ) -> SyncResult:
        """Give the app one entry of a ticket's journal again, by the rule that gave it up. Raises
        LedgerUnavailable."""
        work = self._begin(table, sys_id, deadline=deadline, fresh=True)
        result = work.run(lambda look: work.give_again(rule_id, entry_id, look))
        self._mail(work, deadline)
        return result

    def _begin(self, table: str, sys_id: str, *, deadline: Deadline, fresh: bool) -> "_TicketWork":
        connection = self._connections.current()
        held = HeldTicket(self._context, connection, table=table, sys_id=sys_id, deadline=deadline)
        update = AppUpdate(
            self._context, connection, self._graphql, held, deadline=deadline, fresh=fresh
        )
        journals = JournalSync(connection, held, update, deadline=deadline)
        lease_seconds = self._context.settings.lease_seconds
        return _TicketWork(held, update, journals, lease_seconds=lease_seconds)

    def _mail(self, work: "_TicketWork", deadline: Deadline) -> None:
        if work.mail_due:
            self._notices.flush(timeout_seconds=max(0.0, min(5.0, deadline.left())))


class _TicketWork:
    """One ticket, looked at once, and what the app is given of it."""

    def __init__(
        self,
        held: HeldTicket,
        update: AppUpdate,
        journals: JournalSync,
        *,
        lease_seconds: float,
    ) -> None:
        self._ticket = held
        self._update = update
        self._journals = journals
        self._lease_seconds = lease_seconds

    @property
    def mail_due(self) -> bool:
        return self._update.mail_due

    def run(self, give: Callable[[TicketLook], None], heard_count: int = 0) -> SyncResult:
        """Look at the ticket under its lease, and *give* the app what is to be given of it."""
        if not self._ticket.take_lease():
            return self._result(BUSY_SECONDS)
        try:
            try:
                look = self._ticket.look(heard_count)
                failpoint("looked")
                give(look)
            except NotDone as error:
                self._update.fail_look(error, key=self._ticket.sys_id, release=True)
        except LeaseLost:
            return self._result(self._lease_seconds)
        except Exception:
            self._ticket.release()
            raise
        return self._result(MORE_SECONDS if self._journals.more_follow else None)

    def _result(self, wait: float | None = None) -> SyncResult:
        now, outcomes = self._ticket.now, self._update.outcomes
        waits = [outcome.retry_at - now for outcome in outcomes if outcome.retry_at]
        waits += [wait] if wait is not None else []
        soonest = max(1.0, min(waits)) if waits else None
        return SyncResult(self._ticket.event, tuple(outcomes), soonest)

    def give(self, look: TicketLook, *, push: bool) -> None:
        """Give the app what differs; after the columns, the journals. Raises NotDone before
        anything is given, LeaseLost."""
        works = self._plan(look, push=push)
        journals = self._journals.find_unread(look, push=push)
        self._update.outcomes += [_quiet_outcome(work, look) for work in works if work.is_quiet]
        self._update.give(
            [work for work in works if work.to_be_done],
            [*self._news(works), *self._journals.begin_new(works, look)],
            look,
            settled=self._is_settled,
            release=not journals,
        )
        for rule, source in journals:
            self._journals.give(rule, source, look, push=push)
        if journals:
            self._ticket.release()

    def give_again(self, rule_id: str, entry_id: str, look: TicketLook) -> None:
        """Give the app one entry of a journal. Raises NotDone before anything is given,
        LeaseLost."""
        for rule in self._ticket.rules:
            if rule.id == rule_id and rule.ticket_source is not None:
                self._journals.give_again(rule, rule.ticket_source, entry_id, look)
        self._ticket.release()

    def _plan(self, look: TicketLook, *, push: bool) -> list[RuleWork]:
        """What each rule is to give. One whose `filter` is for other tickets has nothing to. Raises
        NotDone."""
        shadows, now = self._ticket.shadows, self._ticket.now
        works = plan_works(self._ticket.rules, shadows, look, push=push, now=now)
        matching: dict[str, bool | Failure] = {}
        chosen = []
        for work in works:
            source = work.rule.ticket_source
            query = source.query if source is not None and not look.gone else ""
            if query and query not in matching and self._is_news(work):
                matching[query] = self._match(query)
            match matching.get(query, True):
                case True:
                    chosen.append(work)
                case False:
                    chosen.append(work.passed_by())
                case Failure() as failure:
                    chosen.append(decided(replace(work, mutation=None), failure))
        return chosen

    def _match(self, query: str) -> bool | Failure:
        """Whether the ticket is one of those of *query*; why that is not told, where the instance
        refuses to. Raises NotDone."""
        try:
            return self._ticket.matches(query)
        except ServiceNowError as error:
            if error.failure.retryability is not Retryability.PERMANENT:
                raise
            return error.failure

    def _is_news(self, work: RuleWork) -> bool:
        return work.to_be_done or (work.noted and work.base not in self._ticket.shadows)

    def _news(self, works: Sequence[RuleWork]) -> list[Shadow]:
        """What is only written down."""
        return [work.base for work in works if not work.to_be_done and self._is_news(work)]

    def _is_settled(self, opened: DeliveryId) -> bool:
        """Whether a good look at the columns leaves nothing to do for a delivery of before."""
        return opened.key == self._ticket.sys_id


def _quiet_outcome(work: RuleWork, look: TicketLook) -> Outcome:
    if work.skipped is not None:
        return outcome_of(work, look, Status.SKIPPED, work.skipped)
    return outcome_of(work, look, Status.UNCHANGED)
