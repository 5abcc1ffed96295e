"""Rules from slack/COMMAND, read and checked: each is two, the command and its reply. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import yaml

from function.core.lifecycle import NO_LIFECYCLE, invalid_choice, lifecycle_of, shipped_choices
from function.rules.command import CommandAllowance, CommandRule, CommandTemplates
from function.rules.model import RuleTemplate, RuleTemplates
from function.rules.reply import ReplyRule
from function.rules.schema import (
    ALLOW_KEYS,
    COLUMN,
    COMMAND_TICKET_KEYS,
    DEFAULT_TABLE,
    REPLY_KEYS,
)
from function.rules.template_nodes import NO_TEMPLATE, TemplateReader
from function.rules.templates import parse_template
from function.rules.yaml_nodes import NodeReader, is_bool, is_true

# What templates of such rules may name; with a ticket, those below too.
COMMAND_NAMES: Final = ("row", "event", "env")
TICKET_NAMES: Final = ("ticket", "shown", "notes")
_IMAGES: Final = ("ticket", "shown")
_IDS: Final = {
    "users": (re.compile(r"[UW][A-Z0-9]{2,30}", re.ASCII), "the id of a person, such as U0123ABCD"),
    "channels": (
        re.compile(r"[CDG][A-Z0-9]{2,30}", re.ASCII),
        "the id of a channel, such as C0123ABCD",
    ),
}
_NOT_FOR_COMMANDS: Final[Mapping[str, str]] = {
    "each": "is for rules from hasura/…: a command is no list; leave it out",
    "trigger": "is for rules from hasura/…, and Slack has no triggers; leave it out",
    "ops": "is for rules from hasura/…: a command is given once; leave it out",
    "note": "is for rules from hasura/…; leave it out",
    "post": "is for rules from hasura/…: a command is told in its `reply`; leave it out",
    "data": "is fetched for a `post`, and a command has none; leave it out",
    "mutate": "is for rules from servicenow/TABLE, which tell the app of a ticket",
    "filter": "is for rules from servicenow/TABLE, which tell the app of a ticket",
    "answer": "is for rules from servicenow/TABLE, which tell the app of a ticket",
}


@dataclass(frozen=True, slots=True)
class ParsedCommand:
    """What is read of a rule from slack/COMMAND; *templates* are for both."""

    command: CommandRule
    reply: ReplyRule
    templates: RuleTemplates


class CommandParser:
    """Parses rules from slack/COMMAND, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self._nodes = nodes
        self._templates = templates
        # Of the rule that is being read: the columns of its ticket that its templates name.
        self._columns: set[str] = set()
        self._names_notes = False

    def parse(
        self, node: yaml.Node, entries: Mapping[str, yaml.Node], path: str, source: str
    ) -> ParsedCommand | None:
        """A rule at *node* whose `from` is *source*."""
        for key in _NOT_FOR_COMMANDS.keys() & entries.keys():
            self._nodes.fault(entries[key], f"{path}.{key}", _NOT_FOR_COMMANDS[key])
        if "reply" not in entries:
            what = "is missing: it says what the person is told when the command is done"
            self._nodes.fault(node, f"{path}.reply", what)
            return None
        self._columns, self._names_notes = set(), False
        names = (*COMMAND_NAMES, *TICKET_NAMES) if "ticket" in entries else COMMAND_NAMES
        when = self._expression(entries, "when", path, names)
        ticket = self._parse_ticket(entries, path, names)
        if ticket is None:
            return None
        table, own, places = ticket
        text, in_channel = self._parse_reply(entries["reply"], f"{path}.reply", names)
        here = self._nodes.locate(node, path)
        locations = dict.fromkeys(("", "key", *COMMAND_TICKET_KEYS), here) | {
            key: self._nodes.locate(value, f"{path}.ticket.{key}") for key, value in places.items()
        }
        command = CommandRule(
            command=source.removeprefix("slack/"),
            table=table,
            states=lifecycle_of(table) if table else NO_LIFECYCLE,
            allow=self._parse_allow(entries, path),
            columns=frozenset(self._columns),
            takes_notes=self._names_notes,
            templates=CommandTemplates(when=when, **own),
            locations=locations,
        )
        where = self._nodes.locate(entries["reply"], f"{path}.reply")
        reply = ReplyRule(command, text, in_channel, {"": where, "key": where})
        identity = RuleTemplate(parse_template("{{ event.id }}", names=("event",)), here)
        templates = RuleTemplates(key=(identity,), when=None, each=None, order_by=None)
        return ParsedCommand(command, reply, templates)

    def _parse_ticket(
        self, entries: Mapping[str, yaml.Node], path: str, names: tuple[str, ...]
    ) -> tuple[str, dict[str, RuleTemplate | None], Mapping[str, yaml.Node]] | None:
        """The ticket's table, its templates, and where its keys stand; "" and nothing where the
        command names no ticket."""
        if "ticket" not in entries:
            return "", {}, {}
        node, path = entries["ticket"], f"{path}.ticket"
        found = self._nodes.mapping(node, path, COMMAND_TICKET_KEYS)
        if found is None:
            return None
        table = self._parse_table(found, path)
        if "number" not in found:
            what = 'is missing; write number: "{{ row.text }}", what is typed behind the command'
            self._nodes.fault(node, f"{path}.number", what)
        own: dict[str, RuleTemplate | None] = {
            "number": self._templates.template(found["number"], f"{path}.number", COMMAND_NAMES)
            if "number" in found
            else None,
            "resolve_when": self._expression(found, "resolve_when", path, names),
            **{key: self._template(found, key, path, names) for key in _CLOSING},
        }
        self._check_end(found, path, table)
        return table, own, found

    def _parse_table(self, found: Mapping[str, yaml.Node], path: str) -> str:
        if "table" not in found:
            return DEFAULT_TABLE
        table = self._nodes.text(found["table"], f"{path}.table")
        if table is not None and not COLUMN.fullmatch(table):
            what = "is not the name of a table (such as incident)"
            self._nodes.fault(found["table"], f"{path}.table", what)
            return DEFAULT_TABLE
        return table or DEFAULT_TABLE

    def _check_end(self, found: Mapping[str, yaml.Node], path: str, table: str) -> None:
        """Refuse what a command cannot do to a ticket of *table*."""
        states = lifecycle_of(table)
        if "resolve_when" not in found:
            for key in _CLOSING:
                if key in found:
                    what = "goes with `resolve_when`; write `resolve_when: true` or take it out"
                    self._nodes.fault(found[key], f"{path}.{key}", what)
        elif not states.resolved or states.paths:
            what = (
                f"a command resolves incidents: a {table} has other states, or passes through "
                "several; take it out"
            )
            self._nodes.fault(found["resolve_when"], f"{path}.resolve_when", what)
        code = found.get("close_code")
        if isinstance(code, yaml.ScalarNode) and "{" not in code.value:
            wrong = invalid_choice(shipped_choices(table).get("close_code"), code.value)
            if wrong:
                self._nodes.fault(code, f"{path}.close_code", wrong)

    def _parse_reply(
        self, node: yaml.Node, path: str, names: tuple[str, ...]
    ) -> tuple[RuleTemplate, bool]:
        """What is answered, and whether all who are in the channel see it."""
        if not isinstance(node, yaml.MappingNode):
            return self._heed(self._templates.template(node, path, names), node, path), False
        found = self._nodes.mapping(node, path, REPLY_KEYS) or {}
        in_channel = found.get("in_channel")
        if in_channel is not None and not is_bool(in_channel):
            self._nodes.fault(in_channel, f"{path}.in_channel", "must be true or false")
        text = self._template(found, "text", path, names)
        if text is None:
            self._nodes.fault(node, f"{path}.text", "is missing; it says what is answered")
            text = RuleTemplate(NO_TEMPLATE, self._nodes.locate(node, path))
        return text, in_channel is not None and is_true(in_channel)

    def _parse_allow(self, entries: Mapping[str, yaml.Node], path: str) -> CommandAllowance:
        if "allow" not in entries:
            return CommandAllowance()
        path = f"{path}.allow"
        found = self._nodes.mapping(entries["allow"], path, ALLOW_KEYS) or {}
        ids = {key: self._parse_ids(found, key, path) for key in ALLOW_KEYS}
        return CommandAllowance(ids["users"], ids["channels"])

    def _parse_ids(self, found: Mapping[str, yaml.Node], key: str, path: str) -> frozenset[str]:
        if key not in found:
            return frozenset()
        form, what = _IDS[key]
        ids = set()
        empty = "is empty, which would let everybody in; leave it out for that"
        for node, below in self._nodes.elements(found[key], f"{path}.{key}", empty=empty):
            written = self._nodes.text(node, below)
            if written is not None and not form.fullmatch(written):
                self._nodes.fault(node, below, f"must be {what}: names can be changed")
            ids.add(written or "")
        return frozenset(ids)

    def _template(
        self, found: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]
    ) -> RuleTemplate | None:
        if key not in found:
            return None
        rule_template = self._templates.template(found[key], f"{path}.{key}", names)
        return self._heed(rule_template, found[key], f"{path}.{key}")

    def _expression(
        self, found: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]
    ) -> RuleTemplate | None:
        rule_template = self._templates.expression(found, key, path, names)
        if rule_template is None:
            return None
        return self._heed(rule_template, found[key], f"{path}.{key}")

    def _heed(self, rule_template: RuleTemplate, node: yaml.Node, path: str) -> RuleTemplate:
        """Note what of the ticket *rule_template* names."""
        self._names_notes |= "notes" in rule_template.syntax.names
        for image in _IMAGES:
            if image in rule_template.syntax.names:
                self._columns |= self._templates.columns(node, path, rule_template, image)
        return rule_template


_CLOSING: Final = ("close_code", "close_notes")
