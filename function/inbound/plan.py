"""What each rule is to give the app of a ticket, from a look at it and from what the app was last
given. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from function.core.event import Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.values import digest
from function.ledger.records import Shadow
from function.rules.model import Rule, TicketSource
from function.rules.ticket_change import (
    Mutation,
    TicketChange,
    TicketLink,
    changed_columns,
    evaluate_change,
)
from function.servicenow import Record

# Two programs that answer each other would go on for ever.
UPDATES_MAX: Final = 30
UPDATES_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class TicketLook:
    """A ticket as it is. *link* is the row that it is for, None for none. *is_ours*: it is for a
    row of this source, be it that it is not known for which, or was followed by another ticket.
    *gone*: it was deleted, and *values* are what the app knows of it."""

    table: str
    sys_id: str
    values: Record
    shown: Record
    link: TicketLink | None
    is_ours: bool
    gone: bool = False

    @property
    def number(self) -> str:
        return self.values.get("number", "")


@dataclass(frozen=True, slots=True)
class RuleWork:
    """What one rule is to give the app; *key* is the ticket's sys_id, or that of a journal's entry,
    *changed* what of it is new to the app.

    One of *mutation*, *failure*, *skipped* says what follows; without any, there is nothing to
    give. *base* is the rule's shadow as it is; *intended* is it while what is sent may or may not
    have arrived, *given* once it has, *given_up* once it never will. *noted*: the base is kept.
    """

    rule: Rule
    op: Op
    key: str
    changed: frozenset[str]
    base: Shadow
    intended: Shadow
    given: Shadow
    given_up: Shadow
    noted: bool = True
    mutation: Mutation | None = None
    failure: Failure | None = None
    skipped: Reason | None = None

    @property
    def to_be_done(self) -> bool:
        return self.mutation is not None or self.failure is not None

    @property
    def is_quiet(self) -> bool:
        """Whether the rule heard of the ticket, and has nothing to give."""
        return self.noted and self.op in self.rule.ops and not self.to_be_done

    def passed_by(self) -> "RuleWork":
        """The same where the rule is not for this ticket."""
        return replace(self, mutation=None, failure=None, skipped=Reason.WHEN_FALSE, noted=False)

    @property
    def digest(self) -> str:
        """What stands for what is given: tried again, it is the same."""
        if self.mutation is None:
            return digest(self.op, self.failure.hint if self.failure else "")[:16]
        variables = json.dumps(self.mutation.variables, sort_keys=True, default=str)
        return digest(self.op, variables)[:16]


def decided(work: RuleWork, decision: Mutation | Failure | Reason) -> RuleWork:
    """*work* with what its rule makes of the change."""
    match decision:
        case Mutation():
            return replace(work, mutation=decision)
        case Failure():
            return replace(work, failure=decision, intended=work.base)
        case Reason():
            return replace(work, skipped=decision)


def plan_works(
    rules: Sequence[Rule], shadows: Sequence[Shadow], look: TicketLook, *, push: bool, now: float
) -> list[RuleWork]:
    """What each of *rules* that hears of columns is to give. *push*: also what none has given
    before. *now* is UNIX seconds by the ledger's clock."""
    journals = {rule.id for rule in rules if rule.ticket_source and rule.ticket_source.journal}
    known = {shadow.rule: shadow for shadow in shadows if shadow.rule not in journals}
    return [
        _plan_rule(rule, source, base_shadow(rule, source, known, look, push=push), look, now)
        for rule in rules
        if (source := rule.ticket_source) is not None
        and not source.journal
        # Of a ticket that is gone, whoever told of it tells that.
        and (not look.gone or rule.id in known)
    ]


def base_shadow(
    rule: Rule,
    source: TicketSource,
    known: Mapping[str, Shadow],
    look: TicketLook,
    *,
    push: bool,
) -> Shadow:
    """What *rule* last gave, each column that it never looked at as it is.

    A rule that is new to the ticket begins from what another has given. What none has seen is noted
    where it is a row's: the app is not told of all its tickets when the way back is switched on.
    One that is nobody's is told of by the rules that hear an INSERT.
    """
    seen = seen_columns(source, look)
    unknown: dict[str, str | None] = dict.fromkeys(seen)
    shadow = known.get(rule.id)
    if shadow is not None:
        image = {**(unknown if shadow.awaits_insert else seen), **shadow.image}
        return replace(shadow, image=unknown if push else image)
    if push:
        return Shadow(rule.id, look.sys_id, unknown, awaits_insert=Op.UPDATE not in rule.ops)
    if not look.is_ours and Op.INSERT in rule.ops:
        return Shadow(rule.id, look.sys_id, unknown, awaits_insert=True)
    others = [shadow for shadow in known.values() if not shadow.awaits_insert]
    other = max(others, key=lambda shadow: shadow.mod_count, default=None)
    given = other.image if other is not None else {}
    return Shadow(rule.id, look.sys_id, {name: given.get(name, seen[name]) for name in seen})


def seen_columns(source: TicketSource, look: TicketLook) -> dict[str, str | None]:
    """What stands in the columns that a rule names."""
    return {name: look.values[name] for name in source.columns if name in look.values}


def _seen_image(
    rule: Rule, source: TicketSource, base: Shadow, look: TicketLook, op: Op
) -> dict[str, str | None]:
    """What the rule remembers of *look*. One that hears of new tickets remembers the whole of what
    it first saw: another one, to which the ticket is new when it has its row, begins from that."""
    first = look.values if op is Op.INSERT else base.image if Op.INSERT in rule.ops else {}
    return {**first, **seen_columns(source, look)}


def _plan_rule(
    rule: Rule, source: TicketSource, base: Shadow, look: TicketLook, now: float
) -> RuleWork:
    op = Op.DELETE if look.gone else Op.INSERT if base.awaits_insert else Op.UPDATE
    changed = source.columns
    if op is not Op.DELETE:
        changed = changed_columns(source.columns, base.image, look.values)
    seen = replace(base, image=_seen_image(rule, source, base, look, op), awaits_insert=False)
    nothing = RuleWork(rule, op, look.sys_id, changed, base, base, base, base)
    if not (source.query or look.is_ours):
        return nothing.passed_by()
    if op not in rule.ops:
        # Who is to tell of the end has to know of the ticket.
        return replace(nothing, noted=Op.DELETE in rule.ops and not base.updated_at)
    if op is not Op.DELETE and not changed and (source.columns or op is Op.UPDATE):
        return replace(nothing, base=seen)
    intended = replace(base, image={**base.image, **dict.fromkeys(changed)})
    given = count_update(seen, now)
    work = RuleWork(rule, op, look.sys_id, changed, base, intended, given, intended)
    if failure := too_many(base, now):
        return decided(work, failure)
    change = TicketChange(
        op,
        look.table,
        look.sys_id,
        look.number,
        look.values,
        look.shown,
        base.image,
        changed,
        look.link,
        is_new=op is Op.INSERT and not look.is_ours,
    )
    decision = evaluate_change(rule, change)
    if decision is Reason.WHEN_FALSE and op is Op.UPDATE:
        # Once it is wanted again, the app is told all.
        work = replace(work, base=seen)
    # Where nothing that it sends has changed, it has nothing to give of what has.
    return replace(nothing, base=seen) if decision is None else decided(work, decision)


def count_update(shadow: Shadow, now: float) -> Shadow:
    """*shadow* once the app was told of the ticket."""
    if now - shadow.window_start < UPDATES_SECONDS:
        return replace(shadow, window_count=shadow.window_count + 1)
    return replace(shadow, window_start=now, window_count=1)


def too_many(shadow: Shadow, now: float) -> Failure | None:
    """Why the rule must not tell of the ticket now, where it has told of it too often."""
    wait = shadow.window_start + UPDATES_SECONDS - now
    if shadow.window_count < UPDATES_MAX or wait <= 0:
        return None
    return Failure(
        Retryability.TRANSIENT,
        Reason.TOO_MANY_UPDATES,
        f"this rule has told the app of one ticket {UPDATES_MAX} times in "
        f"{UPDATES_SECONDS / 60:.0f} minutes, and is held for that ticket: look for two programs "
        "that answer each other's changes",
        retry_after_seconds=wait,
    )
