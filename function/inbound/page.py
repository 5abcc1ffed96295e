"""A page of tickets is a look at each of them: what there is to do is found without another call.
Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from function.inbound.app_update import delivery_of
from function.inbound.journal import base_mark
from function.inbound.plan import RuleWork, TicketLook, plan_works
from function.ledger.inbox import InboxEntry, ticket_entry
from function.ledger.records import DeliveryId, Shadow
from function.rules.model import Rule
from function.targets.ticket.access import count_of


@dataclass(frozen=True, slots=True)
class PollQuery:
    """What is read of a table: *query* is the `filter` of the rules that it is read for, "" where
    they have none, and *encoded* is the encoded query. *columns* are asked for, *shown*: with what
    people see."""

    table: str
    query: str
    encoded: str
    columns: tuple[str, ...]
    shown: bool

    @property
    def subject(self) -> str:
        """What its watermark is for."""
        return f"{self.table}?{self.encoded}"


@dataclass(frozen=True, slots=True)
class PolledTicket:
    """A ticket of a page, and what there is to do: *works* are what rules have to give, *journals*
    the rules that may not have read all of a journal; *unseen*: there are rules that have not seen
    it, so that it is to be noted."""

    look: TicketLook
    works: tuple[RuleWork, ...]
    journals: tuple[Rule, ...]
    unseen: bool

    @property
    def has_work(self) -> bool:
        return bool(self.works or self.journals or self.unseen)

    @property
    def event(self) -> str:
        """What the ticket's changes are called in deliveries."""
        return f"{self.look.table}/{self.look.sys_id}"

    def without(self, deliveries: Collection[DeliveryId]) -> "PolledTicket":
        """The same but for the works that are called *deliveries*."""
        left = (work for work in self.works if delivery_of(self.event, work) not in deliveries)
        return replace(self, works=tuple(left))

    @property
    def entry(self) -> InboxEntry:
        """What has it looked at."""
        return ticket_entry(self.look.table, self.look.sys_id)


def poll_ticket(
    rules: Sequence[Rule],
    query: PollQuery,
    shadows: Sequence[Shadow],
    look: TicketLook,
    *,
    push: bool,
    now: float,
) -> PolledTicket:
    """What there is to do of the ticket for the rules that *query* is read for. *rules* are all
    that hear of the table; *push* and *now* as in plan_works()."""
    known = {shadow.rule: shadow for shadow in shadows}
    concerned = {
        rule.id
        for rule in rules
        if (s := rule.ticket_source) is not None and s.query == query.query
    }
    works = [
        work
        for work in plan_works(rules, shadows, look, push=push, now=now)
        if work.rule.id in concerned
    ]
    return PolledTicket(
        look,
        works=tuple(work for work in works if work.to_be_done),
        journals=tuple(
            rule
            for rule in rules
            if rule.id in concerned and _has_unread(rule, known, look, push=push)
        ),
        unseen=any(work.noted and work.rule.id not in known for work in works),
    )


def _has_unread(rule: Rule, known: Mapping[str, Shadow], look: TicketLook, *, push: bool) -> bool:
    """Whether *rule* hears of a journal that may have entries which it has not read."""
    if rule.ticket_source is None or not rule.ticket_source.journal:
        return False
    if not (rule.ticket_source.query or look.is_ours):
        return False
    mark = base_mark(rule, known, look, push=push)
    return mark is None or mark.count != count_of(look.values)
