"""The rules of a file, as they are once it was read and checked. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from function.core.event import Event, Op
from function.core.lifecycle import Lifecycle
from function.rules.budget import RenderBudget, RenderError
from function.rules.syntax import TemplateSyntax
from function.rules.templates import Template

# The column that names the template of a standard change.
TEMPLATE: Final = "std_change_producer_version"
CLOSE_NOTES_RESOLVED: Final = "Resolved in the app"
CLOSE_NOTES_GONE: Final = "The row was deleted in the app"


@dataclass(frozen=True, slots=True)
class RuleTemplate:
    """A template and where it stands, as ``rules.yaml:17: rules[0].ticket.key``."""

    template: Template
    where: str

    @property
    def syntax(self) -> TemplateSyntax:
        return self.template.syntax

    def value(self, names: Mapping[str, Any], budget: RenderBudget) -> Any:
        try:
            return self.template.value(names, budget)
        except RenderError as why:
            raise RenderError(why.sentence, why.reason, where=self.where) from None

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        try:
            return self.template.text(names, budget, in_key=in_key)
        except RenderError as why:
            raise RenderError(why.sentence, why.reason, where=self.where) from None


class TargetRule(Protocol):
    """The pure half of a target, as far as the engine asks. *kind* is its key in the rules file;
    *table* is where what it makes stands; *follows*: it keeps one thing in step with a row, so that
    the row's trail decides what is wanted."""

    @property
    def kind(self) -> str: ...

    @property
    def table(self) -> str: ...

    @property
    def follows(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class TicketRule:
    """How a rule's tickets live. *resolves*: the rule says when a ticket is resolved.

    *fields* are the columns that the rule writes, *create_only* those among them that are written
    at creation only. *closing_fields* are the columns that go with the state of a ticket that ends.
    *leave_empty* are those that are left empty where the row names nobody whom ServiceNow knows.
    *choices* are the values, with labels, that a column takes; of other columns they are not known.
    *locations* is the place of each of its keys in the rules file, as ``rules.yaml:17:
    rules[0].ticket.table``; of one that is left out, and of "", the ticket's own.
    """

    table: str
    states: Lifecycle
    shared: bool
    creates: frozenset[Op]
    after_close: str
    on_delete: str
    on_missing: str
    fields: tuple[str, ...]
    create_only: frozenset[str]
    leave_empty: frozenset[str]
    closing_fields: tuple[str, ...]
    choices: Mapping[str, Mapping[str, str]]
    resolves: bool
    locations: Mapping[str, str] = field(repr=False)

    @property
    def kind(self) -> str:
        return "ticket"

    @property
    def follows(self) -> bool:
        """Whether it has one row; a ticket that many rows share follows none of them."""
        return not self.shared


@dataclass(frozen=True, slots=True)
class RuleTemplates:
    """What a rule gives for a row. *key* has one part, or several where the rule gives a list."""

    key: tuple[RuleTemplate, ...]
    fields: Mapping[str, RuleTemplate]
    when: RuleTemplate | None
    each: RuleTemplate | None
    resolve_when: RuleTemplate | None
    close_code: RuleTemplate | None
    close_notes: RuleTemplate | None
    order_by: RuleTemplate | None
    template: RuleTemplate | None

    def all(self) -> Iterator[RuleTemplate]:
        closing = (self.resolve_when, self.close_code, self.close_notes)
        others = (self.when, self.each, *closing, self.order_by, self.template)
        yield from (*self.key, *self.fields.values())
        yield from (rule_template for rule_template in others if rule_template is not None)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows become which tickets. *line* is where it stands, *where* says so in words."""

    name: str
    id: str
    source: str
    trigger: str
    ops: frozenset[Op]
    line: int
    where: str
    ticket: TicketRule
    templates: RuleTemplates = field(repr=False)
    env: Mapping[str, str] = field(repr=False)  # may hold secrets

    @property
    def target(self) -> TargetRule:
        """What the engine asks of it, whatever its kind."""
        return self.ticket


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file. *digest* stands for its text and the values of the variables that it
    names.

    *warnings* are sentences with the file's name and line: what is allowed, and seldom meant.
    """

    rules: tuple[Rule, ...]
    digest: str
    warnings: tuple[str, ...] = ()

    def concerning(self, event: Event) -> tuple[Rule, ...]:
        """The rules whose `from` and `trigger` fit; which of them hear this op is not
        asked here."""
        return tuple(
            rule
            for rule in self.rules
            if rule.source == event.source and rule.trigger in ("", event.trigger)
        )
