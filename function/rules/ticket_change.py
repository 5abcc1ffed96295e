"""What a rule from servicenow/TABLE makes of a ticket's change. Pure.

A rule hears only of columns that it names: a new assignee must not rewrite a status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Op
from function.core.outcome import Failure, Reason
from function.core.values import Json
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import Rule, evaluate_condition
from function.rules.mutate import LINK, MutateRule
from function.rules.template_values import RowImage

# What each look asks for, whatever the rules name.
OWN_COLUMNS: Final = ("number", "correlation_id", "sys_mod_count", "sys_updated_on", "state")


@dataclass(frozen=True, slots=True)
class TicketLink:
    """The row that a ticket is for: its ticket's rule and key, and which of the row's tickets it
    is."""

    rule: str
    key: str
    generation: int

    def described(self) -> dict[str, Json]:
        return {"rule": self.rule, "key": self.key, "generation": self.generation}


@dataclass(frozen=True, slots=True)
class TicketChange:
    """What a rule hears of: a ticket that differs from what the app was last given of it.

    *values* are the ticket's columns, or those of a journal's entry; *shown* what people see in
    their place. *old* is what the app was last given. *changed* are the columns that differ. *link*
    is None where the ticket is no row's. *is_new*: the app has nothing of it.
    """

    op: Op
    table: str
    sys_id: str
    number: str
    values: Mapping[str, str]
    shown: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, str | None] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    link: TicketLink | None = None
    is_new: bool = False

    def names(self, env: Mapping[str, str]) -> dict[str, Any]:
        """What the rule's templates call it."""
        image = RowImage(dict(self.values), ())
        identity = f"{self.table}/{self.sys_id}"
        return {
            "row": image,
            "new": image,
            "old": RowImage(dict(self.old), self.values),
            "shown": RowImage(dict(self.shown), ()),
            "changed": sorted(self.changed),
            "op": self.op.value,
            "link": self.link.described() if self.link else None,
            "ticket": {"number": self.number, "sys_id": self.sys_id, "table": self.table},
            "event": {"id": identity, "correlation_id": identity, "op": self.op.value},
            "env": env,
        }


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is to be sent to the app."""

    rule: Rule
    variables: Mapping[str, Json]
    names: Mapping[str, Any] = field(repr=False)
    budget: RenderBudget = field(repr=False)

    def answer(self, data: Mapping[str, Json]) -> Json:
        """What the rule answers, once the app has answered *data*. Raises RenderError."""
        source = self.rule.ticket_source
        if source is None or source.answer is None:
            return None
        answer: Json = source.answer.value({**self.names, "data": data}, self.budget)
        return answer


def changed_columns(
    columns: frozenset[str], old: Mapping[str, str | None], values: Mapping[str, str]
) -> frozenset[str]:
    """Those of *columns* whose value is another than the app was last given; of one that it was
    not given, that is not known, and it counts."""
    return frozenset(name for name in columns if old.get(name) != values.get(name))


def evaluate_change(rule: Rule, change: TicketChange) -> Mutation | Reason | Failure | None:
    """What *rule* sends to the app; None where nothing that it sends has changed, a Reason where it
    does not want to, a Failure where that cannot be said."""
    target = rule.target
    assert isinstance(target, MutateRule)  # noqa: S101  # for the type checker: what is from servicenow/TABLE has one
    names, budget = change.names(rule.env), RenderBudget()
    unlinked = change.link is None
    try:
        wanted = evaluate_condition(rule.templates.when, names, budget, without=True, unsaid=None)
    except RenderError as unsaid:
        return Reason.NOT_LINKED if unlinked and _names_link(rule) else unsaid.failure
    if not wanted:
        # It may be linked later, and be wanted then.
        return Reason.NOT_LINKED if unlinked and _names_link(rule) else Reason.WHEN_FALSE
    if unlinked and target.needs_link:
        return Reason.NOT_LINKED
    try:
        is_new = change.is_new or not _was_wanted(rule, names, budget)
        changed = None if is_new else change.changed
        variables = target.render(names, budget, changed=changed)
    except RenderError as unsaid:
        return unsaid.failure
    return None if variables is None else Mutation(rule, variables, names, budget)


def _was_wanted(rule: Rule, names: Mapping[str, Any], budget: RenderBudget) -> bool:
    """Whether its `when` held for what the app was last given: if not, the app is told all."""
    before = {**names, "row": names["old"], "new": names["old"]}
    return evaluate_condition(rule.templates.when, before, budget, without=True, unsaid=True)


def _names_link(rule: Rule) -> bool:
    when = rule.templates.when
    return when is not None and LINK in when.syntax.names
