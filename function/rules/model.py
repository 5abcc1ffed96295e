"""The rules of a file, as they are once it was read and checked. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from function.core.event import Event, Op
from function.core.finding import FileLocation, Finding
from function.core.step import DesiredState
from function.core.values import Json
from function.rules.budget import RenderBudget, RenderError
from function.rules.syntax import TemplateSyntax
from function.rules.templates import Template


@dataclass(frozen=True, slots=True)
class RuleTemplate:
    """A template and where it stands."""

    template: Template
    where: FileLocation

    @property
    def syntax(self) -> TemplateSyntax:
        return self.template.syntax

    def value(self, names: Mapping[str, Any], budget: RenderBudget) -> Any:
        try:
            return self.template.value(names, budget)
        except RenderError as why:
            raise RenderError(why.sentence, why.reason, where=self.where) from None

    def plain_value(self, names: Mapping[str, Any], budget: RenderBudget) -> Json:
        try:
            return self.template.plain_value(names, budget)
        except RenderError as why:
            raise RenderError(why.sentence, why.reason, where=self.where) from None

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        try:
            return self.template.text(names, budget, in_key=in_key)
        except RenderError as why:
            raise type(why)(why.sentence, why.reason, where=self.where) from None


def evaluate_condition(
    rule_template: RuleTemplate | None,
    names: Mapping[str, Any],
    budget: RenderBudget,
    *,
    without: bool,
    unsaid: bool | None,
) -> bool:
    """Whether *rule_template* holds. *without* is the answer where there is none, *unsaid* where it
    cannot be said.

    Raises RenderError where *unsaid* is None.
    """
    if rule_template is None:
        return without
    try:
        return bool(rule_template.value(names, budget))
    except RenderError:
        if unsaid is None:
            raise
        return unsaid


class TargetRule(Protocol):
    """What a rule says of its target, and what it wants there: the pure half of a target.

    *kind* is its key in the rules file; *table* is where what it makes stands; *follows*: it keeps
    one thing in step with a row, so that the row's trail decides what is wanted. *locations* is the
    place of each of its keys in the rules file; of one that is left out, its own.
    """

    @property
    def kind(self) -> str: ...

    @property
    def table(self) -> str: ...

    @property
    def follows(self) -> bool: ...

    @property
    def locations(self) -> Mapping[str, FileLocation]: ...

    def all_templates(self) -> Iterator[RuleTemplate]: ...


@runtime_checkable
class RowTargetRule(TargetRule, Protocol):
    """A target whose rules hear of rows: what is wanted there is a function of the row."""

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:
        """Whether what it keeps in step was over at the place that the row left."""

    def desired(
        self, names: Mapping[str, Any], budget: RenderBudget, *, op: Op, when: bool, gone: bool
    ) -> DesiredState:
        """What is wanted where the row is. *gone*: there is no row any more. Raises
        RenderError."""

    def desired_before(self, names: Mapping[str, Any], budget: RenderBudget) -> Mapping[str, str]:
        """What was wanted where the row was, in what the other system changes too."""


@dataclass(frozen=True, slots=True)
class RuleTemplates:
    """What a rule asks of a row, whatever its target. *key* has one part, or several where the rule
    gives a list."""

    key: tuple[RuleTemplate, ...]
    when: RuleTemplate | None
    each: RuleTemplate | None
    order_by: RuleTemplate | None


@dataclass(frozen=True, slots=True)
class TicketSource:
    """What a rule from servicenow/TABLE hears of.

    *journal* is the journal field whose entries it hears of, "" where it hears of the ticket's
    columns. *query* is the encoded query of the tickets that it is for; "" for those of ours.
    *columns* are those that it names, whose changes it hears; *answered_columns* those that only
    its *answer* names. *has_shown*: it names display values.
    """

    table: str
    journal: str
    query: str
    columns: frozenset[str]
    answered_columns: frozenset[str]
    has_shown: bool
    answer: RuleTemplate | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows become what; or, with a *ticket_source*, which changes of tickets.

    *after* is the kind of the target of another rule with the same id, which is to be over before
    this one is begun; "" for none. An event that expires is still tried for *grace_seconds*.
    """

    name: str
    id: str
    source: str
    trigger: str
    ops: frozenset[Op]
    where: FileLocation
    target: TargetRule
    templates: RuleTemplates = field(repr=False)
    env: Mapping[str, str] = field(repr=False)  # may hold secrets
    ticket_source: TicketSource | None = None
    # The types of event that it hears, as the file spells them; any where it names none.
    event_types: tuple[str, ...] = ()
    after: str = ""
    grace_seconds: float = 0.0

    def all_templates(self) -> Iterator[RuleTemplate]:
        """Its own and its target's."""
        own = self.templates
        yield from own.key
        yield from self.target.all_templates()
        answer = self.ticket_source.answer if self.ticket_source else None
        for rule_template in (own.when, own.each, own.order_by, answer):
            if rule_template is not None:
                yield rule_template


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file. *digest* stands for its text and the values of the variables that it
    names.

    *warnings*: what is allowed, and seldom meant. *types*: by source, what gives the type of its
    events; event_types.py has which rules hear them. *env* is what all rules share, and may hold
    secrets: rule_variables.py replaces their values in place.
    """

    rules: tuple[Rule, ...]
    digest: str
    warnings: tuple[Finding, ...] = ()
    types: Mapping[str, RuleTemplate] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def hears_tickets(self) -> bool:
        """Whether any rule is from servicenow/TABLE: those need Hasura's GraphQL, and events of the
        function's own."""
        return any(rule.ticket_source is not None for rule in self.rules)

    @property
    def hears_slack(self) -> bool:
        """Whether any rule is from slack/COMMAND."""
        return any(rule.source.startswith("slack/") for rule in self.rules)

    def has_kind(self, kind: str) -> bool:
        """Whether any rule's target is of that kind."""
        return any(rule.target.kind == kind for rule in self.rules)

    def concerning(self, event: Event) -> tuple[Rule, ...]:
        """The rules whose `from` and `trigger` fit; which of them hear this op, and this type, is
        not asked here."""
        return tuple(
            rule
            for rule in self.rules
            if rule.source == event.source and rule.trigger in ("", event.trigger)
        )

    def from_table(self, table: str) -> tuple[Rule, ...]:
        """The rules that hear of changes of *table*'s tickets, those of its journals last."""
        heard = [
            (bool(rule.ticket_source.journal), rule)
            for rule in self.rules
            if rule.ticket_source is not None and rule.ticket_source.table == table
        ]
        return tuple(rule for _, rule in sorted(heard, key=lambda pair: pair[0]))
