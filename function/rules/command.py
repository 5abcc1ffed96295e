"""A rule from slack/COMMAND: who may give the command, which ticket it names, and what is done to
it. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Event, Op
from function.core.finding import FileLocation
from function.core.lifecycle import Lifecycle
from function.core.step import DesiredState
from function.core.values import truncate_field
from function.rules.budget import RenderBudget
from function.rules.evaluate import describe_event
from function.rules.model import Rule, Rules, RuleTemplate, evaluate_condition
from function.rules.template_values import RowImage

COMMAND: Final = "command"
# What a command's desired state holds: the ticket's number, and what is written behind it. Neither
# where the text is not understood.
NUMBER: Final = "number"
NOTES: Final = "notes"
# The columns that are asked for whatever the rule names: what a ticket says of its end, and how
# often it was written, by which a look that came too early is known.
OWN_COLUMNS: Final = (
    *("number", "state", "close_code", "close_notes", "sys_mod_count"),
    *("resolved_by", "resolved_at", "closed_by", "closed_at"),
)
# Nobody types more; and what is longer is not looked at.
TEXT_CHARACTERS_MAX: Final = 2000

# As ServiceNow makes numbers: a prefix, and digits with zeros before them. People leave a blank
# between; a word before a blank is a prefix only where it is one of ServiceNow's own.
_DIGITS: Final = "[0-9]{4,12}"
_PREFIXES: Final = "INC|CHG|CTASK|PRB|PTASK|REQ|RITM|SCTASK|TASK"
_NUMBER: Final = re.compile(
    rf"([A-Z]{{2,8}}(?={_DIGITS})|(?:{_PREFIXES})(?=\s))\s?({_DIGITS})", re.ASCII | re.IGNORECASE
)
# Slack's form of a link, of which the text is what people see.
_LINK: Final = re.compile(r"<https?://[^<>|\s]{1,1500}\|([^<>|]{1,100})>")
# What stands between two numbers that are listed.
_JOINT: Final = re.compile(r"^(?:and|&amp;|[&,;+/])\s*", re.IGNORECASE)
# Slack writes these three so in all that people type.
_ENTITIES: Final = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


@dataclass(frozen=True, slots=True)
class NamedTicket:
    """The ticket that a command names. *number* is in capital letters, *notes* what follows it, ""
    for nothing."""

    number: str
    notes: str


def parse_ticket(written: str) -> NamedTicket | None:
    """The one ticket that *written* begins with; None where it is not understood: nothing, help,
    two numbers, anything else."""
    if len(written) > TEXT_CHARACTERS_MAX:
        return None
    rest = written.strip()
    found = _take_number(rest)
    if found is None:
        return None
    number, rest = found
    if rest and not rest[0].isspace():
        return None
    rest = rest.strip()
    if _begins_with_number(rest):
        return None
    for entity, character in _ENTITIES:
        rest = rest.replace(entity, character)
    return NamedTicket(number, rest)


def _begins_with_number(rest: str) -> bool:
    """Whether what follows a number begins with another one."""
    found = _take_number(_JOINT.sub("", rest))
    return found is not None and not found[1][:1].isalnum()


def _take_number(text: str) -> tuple[str, str] | None:
    """The number that *text* begins with, and the rest."""
    link = _LINK.match(text)
    if link is not None:
        label = _NUMBER.fullmatch(link[1].strip())
        return (_join(label), text[link.end() :]) if label else None
    found = _NUMBER.match(text)
    return (_join(found), text[found.end() :]) if found else None


def _join(found: re.Match[str]) -> str:
    return f"{found[1].upper()}{found[2]}"


@dataclass(frozen=True, slots=True)
class CommandAllowance:
    """Who may give a command: *users* and *channels* by their ids, all where empty."""

    users: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()

    def permits(self, user: str, channel: str) -> bool:
        return (not self.users or user in self.users) and (
            not self.channels or channel in self.channels
        )


@dataclass(frozen=True, slots=True)
class CommandTemplates:
    """What a command asks and writes."""

    when: RuleTemplate | None = None
    number: RuleTemplate | None = None
    resolve_when: RuleTemplate | None = None
    close_code: RuleTemplate | None = None
    close_notes: RuleTemplate | None = None

    def all_templates(self) -> Iterator[RuleTemplate]:
        for rule_template in (
            self.when,
            self.number,
            self.resolve_when,
            self.close_code,
            self.close_notes,
        ):
            if rule_template is not None:
                yield rule_template


@dataclass(frozen=True, slots=True)
class CommandRule:
    """What a rule does for a command.

    *table* is that of the ticket, "" where the command names none. *columns* are those of the
    ticket that the rule's templates read, those of its reply too. *takes_notes*: what is written
    behind the number is used. *locations* is the place of each of its keys in the rules file; of
    one that is left out, and of "", its own.
    """

    command: str
    table: str
    states: Lifecycle
    allow: CommandAllowance
    columns: frozenset[str]
    takes_notes: bool
    templates: CommandTemplates = field(repr=False)
    locations: Mapping[str, FileLocation] = field(repr=False)

    @property
    def kind(self) -> str:
        return COMMAND

    @property
    def follows(self) -> bool:
        """Each command counts by itself."""
        return False

    @property
    def resolves(self) -> bool:
        return self.templates.resolve_when is not None

    @property
    def asked_columns(self) -> list[str]:
        """What every look at the ticket asks for."""
        return [*OWN_COLUMNS, *sorted(self.columns - {*OWN_COLUMNS, "sys_id"})]

    def all_templates(self) -> Iterator[RuleTemplate]:
        return self.templates.all_templates()

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:  # noqa: ARG002  # the protocol's
        """A command leaves no place."""
        return False

    def desired(
        self,
        names: Mapping[str, Any],
        budget: RenderBudget,
        *,
        op: Op,  # noqa: ARG002  # the protocol's
        when: bool,
        gone: bool,
    ) -> DesiredState:
        """Which ticket the command is for. Raises RenderError.

        Its `when` may name the ticket, so that it is asked once that was looked up.
        """
        fields: dict[str, str] = {}
        if self.templates.number is not None:
            named = parse_ticket(self.templates.number.text(names, budget))
            if named is not None and (self.takes_notes or not named.notes):
                fields = {NUMBER: named.number, NOTES: named.notes}
        return DesiredState(when=when, resolved=False, gone=gone, fields=fields, close={})

    def desired_before(
        self,
        names: Mapping[str, Any],  # noqa: ARG002  # the protocol's
        budget: RenderBudget,  # noqa: ARG002  # the protocol's
    ) -> Mapping[str, str]:
        return {}

    def is_allowed(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:
        """Whether its `when` holds. Raises RenderError."""
        return evaluate_condition(self.templates.when, names, budget, without=True, unsaid=None)

    def wants_end(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:
        """Whether the ticket is to be resolved. Raises RenderError."""
        return evaluate_condition(
            self.templates.resolve_when, names, budget, without=False, unsaid=None
        )

    def close_fields(self, names: Mapping[str, Any], budget: RenderBudget) -> dict[str, str]:
        """What goes with the state of a ticket that is resolved. Raises RenderError."""
        own = self.templates
        code = own.close_code.text(names, budget) if own.close_code else self.states.close_code
        notes = own.close_notes.text(names, budget) if own.close_notes else ""
        if not notes.strip():
            row = names["row"]
            notes = f"Resolved by {row['user_name']} ({row['user_id']}) in Slack"
        return {
            "state": self.states.resolved,
            "close_code": truncate_field("close_code", code),
            "close_notes": truncate_field("close_notes", notes),
        }


def command_names(
    rule: Rule,
    event: Event,
    *,
    notes: str,
    values: Mapping[str, str] | None,
    shown: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What templates of *rule* may name once the ticket was looked up: *values* of its columns, and
    what people see in their place; None where there is no ticket."""
    row = event.new if isinstance(event.new, dict) else {}
    return {
        "row": RowImage(row, ()),
        "event": describe_event(event),
        "env": rule.env,
        "notes": notes,
        "ticket": RowImage(dict(values), ()) if values is not None else RowImage(None, ()),
        "shown": RowImage(dict(shown), ()) if shown is not None else RowImage(None, ()),
    }


def command_of(rule: Rule) -> CommandRule:
    """The command of a *rule* that has one. Raises TypeError for any other."""
    if not isinstance(rule.target, CommandRule):
        raise TypeError(f"{rule.id} has no command")
    return rule.target


def rules_with_commands(rules: Rules) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules.rules if isinstance(rule.target, CommandRule))


def find_command(rules: Collection[Rule], name: str) -> CommandRule | None:
    """What the rules do for the command *name*; None where no rule is for it."""
    found = (rule.target for rule in rules if rule.source == f"slack/{name}")
    return next((target for target in found if isinstance(target, CommandRule)), None)


def write_usage(rule: CommandRule) -> str:
    """How the command is written."""
    if not rule.table:
        return f"/{rule.command}"
    notes = " [notes]" if rule.takes_notes else ""
    return f"/{rule.command} {_EXAMPLES.get(rule.table, 'NUMBER')}{notes}"


_EXAMPLES: Final[Mapping[str, str]] = {
    "incident": "INC0012345",
    "change_request": "CHG0012345",
    "problem": "PRB0012345",
    "sc_req_item": "RITM0012345",
    "sc_task": "SCTASK0012345",
}
