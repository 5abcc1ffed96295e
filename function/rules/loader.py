"""The rules file: read once, checked whole, refused with every fault and its line.

Pure: the caller reads the file. What the rules then make of an event is in evaluate.py.

    RulesError   the file cannot be used; it names every fault with its line
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol

import yaml

from function.core.event import SCHEDULED, Op
from function.core.finding import FaultsError, Finding, Level
from function.core.values import digest
from function.rules.listeners import introduce_listeners
from function.rules.model import Rule, Rules, RuleTemplate, RuleTemplates, TargetRule
from function.rules.note_parser import NoteRuleParser, resolve_tickets
from function.rules.schema import NAME, RULE_KEYS, SOURCE, TOP_KEYS, VARIABLE
from function.rules.template_nodes import TemplateReader
from function.rules.ticket_parser import TicketRuleParser
from function.rules.types_parser import TypesParser
from function.rules.yaml_nodes import (
    ENTRIES_MAX,
    NodeReader,
    TooManyEntries,
    line_of,
    read_items,
    read_text,
)

FAULTS_MAX: Final = 100
_COMMANDS_ONLY: Final = frozenset({"allow", "reply"})
_CHANGES_ONLY: Final = frozenset({"filter", "answer"})
_MISSING: Final = {
    "ticket": "is missing: it says what the row becomes",
    "mutate": "is missing: it says what the app is told",
}
_MISPLACED: Final = {
    "ticket": "is for rules that hear of rows; what the app is told of a ticket is a `mutate`",
    "note": "is for rules that hear of rows; what the app is told of a ticket is a `mutate`",
    "mutate": "is for rules from servicenow/TABLE, which tell the app of a ticket",
    "post": "is for rules that hear of rows; what the app is told of a ticket is a `mutate`",
}
TEMPLATE_NAMES = ("row", "old", "new", "op", "changed", "event", "env")


class RulesError(FaultsError):
    """The rules file cannot be used."""


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def load_rules(
    text: str,
    *,
    name: str = "rules.yaml",
    environ: Mapping[str, str],
    references: Mapping[str, str] = _NONE,
    unread: Mapping[str, str] = _NONE,
) -> Rules:
    """Check a rules file whole. *name* is what faults call it; *environ* has the variables that its
    `env` may name.

    *references*: of those whose value is a secret that was read, by variable what stood in its
    place; no secret is part of the digest. *unread*: by variable, what is wrong with one that could
    not be read. Raises RulesError with every fault.
    """
    nodes = NodeReader(name)
    reading = RulesParser(nodes, environ, unread)
    rules = reading.rules(text)
    if nodes.faults:
        faults = sorted(nodes.faults, key=lambda fault: fault.line or 0)
        hidden = len(faults) - FAULTS_MAX
        if hidden > 0:
            more = Finding(Level.FAULT, name, f"and {hidden} more faults", end="")
            faults[FAULTS_MAX:] = [more]
        raise RulesError(*faults)
    named = {variable: references.get(variable, value) for variable, value in reading.env.items()}
    read = digest(text, *(part for pair in sorted(named.items()) for part in pair))
    return Rules(
        introduce_listeners(rules),
        read,
        tuple(nodes.warnings),
        types=reading.types.expressions,
        env=reading.env,
    )


def list_variables(text: str) -> tuple[str, ...]:
    """The variables that the `env` of a rules file names; what is wrong with it, load_rules()
    says."""
    nodes = NodeReader("")
    root = nodes.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return ()
    try:
        variables = nodes.members(root, "").get("env")
    except TooManyEntries:
        return ()
    return tuple(map(read_text, read_items(variables)))


class TargetParser(Protocol):
    """Parses the rules of one kind of target, and reports each fault with its line."""

    def parse(
        self,
        node: yaml.Node,
        path: str,
        names: tuple[str, ...],
        *,
        when: RuleTemplate | None,
        each: RuleTemplate | None,
    ) -> tuple[TargetRule, RuleTemplates] | None: ...


class RulesParser:
    """Parses one file of rules."""

    def __init__(
        self, nodes: NodeReader, environ: Mapping[str, str], unread: Mapping[str, str] = _NONE
    ) -> None:
        self.environ = environ
        self.env: dict[str, str] = {}
        self._nodes = nodes
        self._unread = unread
        # The line of the rule for each command.
        self._commands: dict[str, int] = {}
        self._templates = TemplateReader(nodes, self.env)
        self.types = TypesParser(nodes, self._templates)
        self._targets: dict[str, TargetParser] = {
            "ticket": TicketRuleParser(nodes, self._templates),
            "note": NoteRuleParser(nodes, self._templates),
        }

    def rules(self, text: str) -> list[Rule]:
        root = self._nodes.compose(text)
        if root is None:
            return []
        try:
            return self._file(root)
        except TooManyEntries:
            self._nodes.faults.clear()
            self._nodes.fault(
                1, "", f"has more than {ENTRIES_MAX} entries once its aliases are followed"
            )
        return []

    def _file(self, root: yaml.Node) -> list[Rule]:
        entries = self._nodes.mapping(root, "", TOP_KEYS)
        if entries is None:
            return []
        version = entries.get("version")
        if version is None:
            self._nodes.fault(line_of(root), "version", "is missing; write `version: 1`")
        elif not isinstance(version, yaml.ScalarNode) or version.value != "1":
            self._nodes.fault(
                line_of(version),
                "version",
                "is not one that this program knows; write `version: 1`",
            )
        if "env" in entries:
            self._environment(entries["env"])
        if "types" in entries:
            self.types.parse_entries(entries["types"])
        if "rules" not in entries:
            self._nodes.fault(line_of(root), "rules", "is missing")
            return []
        rules: list[Rule] = []
        seen: dict[str, int] = {}
        for node, path in self._nodes.elements(
            entries["rules"], "rules", empty="has no rules in it"
        ):
            rules += self._rule(node, path, seen)
        self.types.check_use(rules)
        return resolve_tickets(rules, seen, self._nodes)

    def _environment(self, node: yaml.Node) -> None:
        for entry, path in self._nodes.elements(node, "env"):
            variable = self._nodes.text(entry, path)
            if variable is None:
                continue
            if not VARIABLE.fullmatch(variable):
                self._nodes.fault(
                    line_of(entry), path, "is not the name of an environment variable"
                )
            elif variable not in self.environ:
                self._nodes.fault(
                    line_of(entry),
                    path,
                    f"the environment has no `{variable}`; set it or take it out",
                )
                self.env[variable] = ""
            elif variable in self._unread:
                what = f"the variable `{variable}` {self._unread[variable]}"
                self._nodes.fault(entry, path, what)
                self.env[variable] = ""
            else:
                self.env[variable] = self.environ[variable]

    def _rule(self, node: yaml.Node, path: str, seen: dict[str, int]) -> list[Rule]:
        """The rule at *node*: one, or several with the same name; none after a fault."""
        entries = self._nodes.mapping(node, path, RULE_KEYS)
        if entries is None:
            return []
        line = line_of(node)
        name = self._name(entries, "name", path) or ""
        identity = self._name(entries, "id", path) or name
        if "name" not in entries:
            self._nodes.fault(line, f"{path}.name", "is missing")
        for label, key in ((name, "name"), (identity, "id")):
            if label and key in entries and label in seen:
                self._nodes.fault(
                    line_of(entries[key]),
                    f"{path}.{key}",
                    f"`{label}` is already used by the rule in line {seen[label]}",
                )
        seen.update({label: line for label in (name, identity) if label and label not in seen})
        source = self._source(entries, path, line)
        event_types = self.types.parse_rule(entries, path, source)
        parsed: list[Rule | None]
        if source.startswith("slack/"):
            parsed = [*self._command_rules(node, entries, path, source)]
        elif source.startswith("servicenow/"):
            parsed = [self._change_rule(node, entries, path, source)]
        else:
            parsed = [self._row_rule(node, entries, path, source)]
        where = self._nodes.locate(line, path)
        return [
            replace(
                rule, name=name, id=identity, source=source, event_types=event_types, where=where
            )
            for rule in parsed
            if rule is not None
        ]

    def _command_rules(
        self, node: yaml.Node, entries: Mapping[str, yaml.Node], path: str, source: str
    ) -> list[Rule]:
        """A rule that hears a slash command: the command, and after it the reply."""
        from function.rules.command_parser import CommandParser  # noqa: PLC0415  # for those who have Slack
        from function.rules.reply import REPLY_GRACE_SECONDS  # noqa: PLC0415  # likewise

        line = self._commands.setdefault(source, line_of(node))
        if line != line_of(node):
            what = f"`{source}` has a rule already, in line {line}: a command is answered once"
            self._nodes.fault(entries["from"], f"{path}.from", what)
        parsed = CommandParser(self._nodes, self._templates).parse(node, entries, path, source)
        if parsed is None:
            return []
        ops = frozenset({Op.INSERT})
        command = self._new_rule(parsed.command, parsed.templates, ops=ops)
        reply = self._new_rule(parsed.reply, parsed.templates, ops=ops)
        kind = parsed.command.kind
        return [command, replace(reply, after=kind, grace_seconds=REPLY_GRACE_SECONDS)]

    def _row_rule(
        self, node: yaml.Node, entries: Mapping[str, yaml.Node], path: str, source: str
    ) -> Rule | None:
        """A rule that hears of rows."""
        self._refuse_commands_keys(entries, path)
        for key in _CHANGES_ONLY & entries.keys():
            what = "is for rules from servicenow/TABLE, which tell the app of a ticket"
            self._nodes.fault(entries[key], f"{path}.{key}", what)
        each = self._templates.expression(entries, "each", path, TEMPLATE_NAMES)
        names = (*TEMPLATE_NAMES, "item") if "each" in entries else TEMPLATE_NAMES
        ops = self._nodes.ops(entries, "ops", path, tuple(Op)) or frozenset(Op)
        trigger = self._trigger(entries, path, source)
        kind = self._kind(node, entries, path, ("ticket", "note", "post"))
        if kind == "post":
            post = self._post_rule(entries, path, names, each)
            return self._new_rule(*post, ops=ops, trigger=trigger) if post else None
        if "data" in entries:
            what = "is fetched for a `post`, and this rule has none; take it out"
            self._nodes.fault(entries["data"], f"{path}.data", what)
        when = self._templates.expression(entries, "when", path, names)
        if kind is None:
            return None
        parsed = self._targets[kind].parse(
            entries[kind], f"{path}.{kind}", names, when=when, each=each
        )
        if parsed is None:
            return None
        return self._new_rule(*parsed, ops=ops, trigger=trigger)

    def _post_rule(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        each: RuleTemplate | None,
    ) -> tuple[TargetRule, RuleTemplates] | None:
        from function.rules.post_parser import PostRuleParser  # noqa: PLC0415  # for those who have posts

        parser = PostRuleParser(self._nodes, self._templates, self.environ)
        return parser.parse(entries, path, names, each=each)

    def _change_rule(
        self, node: yaml.Node, entries: Mapping[str, yaml.Node], path: str, source: str
    ) -> Rule | None:
        """A rule that hears of the changes of tickets."""
        self._refuse_commands_keys(entries, path)
        from function.rules.change_parser import ChangeRuleParser  # noqa: PLC0415  # for those whom ServiceNow answers

        if self._kind(node, entries, path, ("mutate",)) is None:
            return None
        parsed = ChangeRuleParser(self._nodes, self._templates).parse(entries, path, source)
        if parsed is None:
            return None
        rule = self._new_rule(parsed.target, parsed.templates, ops=parsed.ops)
        return replace(rule, ticket_source=parsed.source)

    def _refuse_commands_keys(self, entries: Mapping[str, yaml.Node], path: str) -> None:
        for key in _COMMANDS_ONLY & entries.keys():
            what = "is for rules from slack/COMMAND, which a person gives and waits for"
            self._nodes.fault(entries[key], f"{path}.{key}", what)

    def _new_rule(
        self,
        target: TargetRule,
        templates: RuleTemplates,
        *,
        ops: frozenset[Op],
        trigger: str = "",
    ) -> Rule:
        """What its target and its events are; the rest is the same for all rules."""
        return Rule(
            name="",
            id="",
            source="",
            trigger=trigger,
            ops=ops,
            where=target.locations[""],
            target=target,
            templates=templates,
            env=self.env,
        )

    def _trigger(self, entries: Mapping[str, yaml.Node], path: str, source: str) -> str:
        if "trigger" not in entries:
            return ""
        node, path = entries["trigger"], f"{path}.trigger"
        trigger = self._nodes.text(node, path) or ""
        if not trigger:
            self._nodes.fault(line_of(node), path, "is empty; leave it out to hear any trigger")
        elif source == SCHEDULED:
            what = "is for triggers, and a one-off scheduled event has none; leave it out"
            self._nodes.fault(line_of(node), path, what)
        return trigger

    def _kind(
        self,
        node: yaml.Node,
        entries: Mapping[str, yaml.Node],
        path: str,
        fitting: tuple[str, ...],
    ) -> str | None:
        """The kind of the rule's target, of which it has one: one of those *fitting* where its
        events come from."""
        kinds = [kind for kind in (*self._targets, "mutate", "post") if kind in entries]
        for kind in kinds[1:]:
            what = f"a rule has one target, and this one has `{kinds[0]}`; write a rule for each"
            self._nodes.fault(entries[kind], f"{path}.{kind}", what)
        if not kinds:
            self._nodes.fault(node, f"{path}.{fitting[0]}", _MISSING[fitting[0]])
            return None
        if kinds[0] in fitting:
            return kinds[0]
        self._nodes.fault(entries[kinds[0]], f"{path}.{kinds[0]}", _MISPLACED[kinds[0]])
        return None

    def _name(self, entries: Mapping[str, yaml.Node], key: str, path: str) -> str | None:
        if key not in entries:
            return None
        name = self._nodes.text(entries[key], f"{path}.{key}")
        if name is not None and not NAME.fullmatch(name):
            self._nodes.fault(
                line_of(entries[key]),
                f"{path}.{key}",
                "must be 1 to 60 letters, digits, hyphens and underscores (A-Z only)",
            )
            return None
        return name

    def _source(self, entries: Mapping[str, yaml.Node], path: str, line: int) -> str:
        if "from" not in entries:
            self._nodes.fault(line, f"{path}.from", "is missing; write `from: hasura/public.TABLE`")
            return ""
        node = entries["from"]
        source = self._nodes.text(node, f"{path}.from")
        if source is None or SOURCE.fullmatch(source):
            return source or ""
        kind, _, rest = source.partition("/")
        if kind == "slack":
            what = "must be slack/COMMAND: the command without its slash, of a-z, 0-9, - and _"
        elif kind == "servicenow":
            what = (
                "must be servicenow/TABLE, servicenow/TABLE.comments or servicenow/TABLE.work_notes"
            )
        elif kind == "hasura" and rest and "." not in rest:
            what = f"names no schema; did you mean `hasura/public.{rest}`?"
        else:
            what = (
                "must be hasura/SCHEMA.TABLE, cron/NAME, scheduled, servicenow/TABLE or "
                "slack/COMMAND"
            )
        self._nodes.fault(line_of(node), f"{path}.from", what)
        return ""
