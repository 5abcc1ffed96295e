"""The `ticket` of a rule: what it says of a ticket's life, and what it wants of a row. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Op
from function.core.finding import FileLocation
from function.core.lifecycle import Lifecycle, invalid_choice
from function.core.outcome import Reason
from function.core.step import STATE, DesiredState
from function.core.values import truncate_field
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import Rule, Rules, RuleTemplate, evaluate_condition

# The column that names the template of a standard change.
TEMPLATE: Final = "std_change_producer_version"
CLOSE_NOTES_RESOLVED: Final = "Resolved in the app"
CLOSE_NOTES_GONE: Final = "The row was deleted in the app"
SYS_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TicketTemplates:
    """What a ticket says of a row."""

    fields: Mapping[str, RuleTemplate]
    resolve_when: RuleTemplate | None
    close_code: RuleTemplate | None
    close_notes: RuleTemplate | None
    template: RuleTemplate | None
    sys_id: RuleTemplate | None


@dataclass(frozen=True, slots=True)
class ChangeListeners:
    """The rules that hear of the changes of a table's tickets: by their ids, the columns that each
    names, none of a rule that hears of a journal. *inserting* are those that hear of a ticket the
    first time. *columns* are those of all."""

    rules: Mapping[str, frozenset[str]] = field(default_factory=dict)
    inserting: tuple[str, ...] = ()
    columns: frozenset[str] = frozenset()

    @property
    def fields(self) -> frozenset[str]:
        """The fields of the table that *columns* are of, or behind."""
        return frozenset(column.partition(".")[0] for column in self.columns)


@dataclass(frozen=True, slots=True)
class TicketRule:
    """How a rule's tickets live. *resolves*: the rule says when a ticket is resolved.

    *fields* are the columns that the rule writes, *create_only* those among them that are written
    at creation only. *closing_fields* are the columns that go with the state of a ticket that ends.
    *leave_empty* are those that are left empty where the row names nobody whom ServiceNow knows.
    *choices* are the values, with labels, that a column takes; of other columns they are not known.
    *locations* is the place of each of its keys in the rules file; of one that is left out, and of
    "", the ticket's own.
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
    templates: TicketTemplates = field(repr=False)
    locations: Mapping[str, FileLocation] = field(repr=False)
    listeners: ChangeListeners = field(default_factory=ChangeListeners)

    @property
    def kind(self) -> str:
        return "ticket"

    @property
    def follows(self) -> bool:
        """Whether it has one row; a ticket that many rows share follows none of them."""
        return not self.shared

    @property
    def heard_only(self) -> frozenset[str]:
        """The columns that rules from servicenow/TABLE name, and this one never writes."""
        written = {*self.fields, *self.closing_fields, STATE}
        return frozenset(
            column for column in self.listeners.columns if column.partition(".")[0] not in written
        )

    def all_templates(self) -> Iterator[RuleTemplate]:
        own = self.templates
        yield from own.fields.values()
        for rule_template in (
            own.resolve_when,
            own.close_code,
            own.close_notes,
            own.template,
            own.sys_id,
        ):
            if rule_template is not None:
                yield rule_template

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:
        """Whether the rule says so of the place that the row left; no where it cannot be said."""
        return evaluate_condition(
            self.templates.resolve_when, names, budget, without=False, unsaid=False
        )

    def desired(
        self, names: Mapping[str, Any], budget: RenderBudget, *, op: Op, when: bool, gone: bool
    ) -> DesiredState:
        """What the ticket should say. Raises RenderError.

        A field that cannot be rendered is a failure only where the row is to have a ticket. Of a
        row that is to have none any more, or is *gone* (Hasura may send but its key then), the
        ticket keeps what it says there.
        """
        strict = when and not gone
        resolved = not gone and evaluate_condition(
            self.templates.resolve_when,
            names,
            budget,
            without=False,
            unsaid=None if when or op is not Op.INSERT else False,
        )
        fields = self._render_fields(names, budget, strict=strict)
        close = self._render_close(names, budget, strict=strict and resolved, gone=gone)
        # Only a row that is to have a ticket is linked to the one that it names.
        sys_id = self._render_sys_id(names, budget) if strict else ""
        return DesiredState(when, resolved, gone, fields, close, sys_id)

    def _render_sys_id(self, names: Mapping[str, Any], budget: RenderBudget) -> str:
        """The ticket that the row names; empty where it names none. Raises RenderError."""
        rule_template = self.templates.sys_id
        if rule_template is None:
            return ""
        named = rule_template.value(names, budget)
        text = "" if named is None else named.strip() if isinstance(named, str) else None
        if text is None or (text and not SYS_ID.fullmatch(text)):
            raise RenderError(
                "is not a sys_id for this row: that is 32 hexadecimal digits, and null or empty "
                "where the row has no ticket yet",
                where=rule_template.where,
            )
        return text.lower()

    def desired_before(self, names: Mapping[str, Any], budget: RenderBudget) -> Mapping[str, str]:
        """What the ticket should have said at the place that the row left, in the columns that
        rules from servicenow/TABLE name; without those where that cannot be said."""
        heard = self.listeners.fields
        if not heard:
            return {}
        fields = self._render_fields(names, budget, strict=False)
        close = self._render_close(names, budget, strict=False, gone=False)
        both = {**fields, **close}
        return {column: value for column, value in both.items() if column in heard}

    def _render_fields(
        self, names: Mapping[str, Any], budget: RenderBudget, *, strict: bool
    ) -> dict[str, str]:
        fields = {}
        for column, rule_template in self.templates.fields.items():
            text = self._render(column, rule_template, names, budget, strict=strict)
            if text is not None:
                fields[column] = truncate_field(column, text)
        template = self._render(TEMPLATE, self.templates.template, names, budget, strict=strict)
        if template is not None:
            if not template.strip() and strict and self.templates.template is not None:
                raise RenderError(
                    "names no template for this row",
                    Reason.UNKNOWN_VALUE,
                    where=self.templates.template.where,
                )
            # The instance copies the template's own values into what the rule leaves empty.
            fields |= {"type": "standard", TEMPLATE: template}
        if (
            self.table == "change_request"
            and "chg_model" not in self.templates.fields
            and "type" in fields
        ):
            # The models that ship are called as the types are (change-management-api).
            fields["chg_model"] = fields["type"]
        return fields

    def _render_close(
        self, names: Mapping[str, Any], budget: RenderBudget, *, strict: bool, gone: bool
    ) -> dict[str, str]:
        """What goes with the state of a ticket that ends, of what its table has."""
        own = self.templates
        code = self._render("close_code", own.close_code, names, budget, strict=strict)
        notes = self._render("close_notes", own.close_notes, names, budget, strict=strict)
        texts = {
            "close_code": code or self.states.close_code,
            "close_notes": notes or (CLOSE_NOTES_GONE if gone else CLOSE_NOTES_RESOLVED),
        }
        return {
            column: truncate_field(column, texts[column])
            for column in self.closing_fields
            if texts[column]
        }

    def _render(
        self,
        column: str,
        rule_template: RuleTemplate | None,
        names: Mapping[str, Any],
        budget: RenderBudget,
        *,
        strict: bool,
    ) -> str | None:
        """What *rule_template* gives for *column*; None where it gives nothing, or nothing that the
        column takes."""
        if rule_template is None:
            return None
        try:
            text = rule_template.text(names, budget)
            if wrong := invalid_choice(self.choices.get(column), text):
                raise RenderError(
                    f"for this row it is none of ServiceNow's choices; it {wrong}",
                    Reason.UNKNOWN_VALUE,
                    where=rule_template.where,
                )
        except RenderError:
            if strict:
                raise
            return None
        return text


def ticket_of(rule: Rule) -> TicketRule:
    """The ticket of a *rule* that has one. Raises TypeError for any other."""
    if not isinstance(rule.target, TicketRule):
        raise TypeError(f"{rule.id} has no ticket")
    return rule.target


def has_ticket(rule: Rule) -> bool:
    return isinstance(rule.target, TicketRule)


def rules_with_tickets(rules: Rules) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules.rules if has_ticket(rule))
