"""The rules file: read once, checked whole, refused with every fault and its line.

Pure: the caller reads the file. What the rules then make of an event is in evaluate.py.

    RulesError   the file cannot be used; it names every fault with its line
"""

from collections.abc import Mapping
from typing import Final, Protocol

import yaml

from function.core.event import SCHEDULED, Op
from function.core.finding import FaultsError, Finding, Level
from function.core.values import digest
from function.rules.model import Rule, Rules, RuleTemplate, RuleTemplates, TargetRule
from function.rules.schema import NAME, RULE_KEYS, SOURCE, TOP_KEYS, VARIABLE
from function.rules.template_nodes import TemplateReader
from function.rules.ticket_parser import TicketRuleParser
from function.rules.yaml_nodes import ENTRIES_MAX, NodeReader, TooManyEntries, line_of, read_entries

FAULTS_MAX: Final = 100
_LATER_RULE_KEYS = ("note", "post", "mutate", "reply", "data")
TEMPLATE_NAMES = ("row", "old", "new", "op", "changed", "event", "env")


class RulesError(FaultsError):
    """The rules file cannot be used."""


def load_rules(text: str, *, name: str = "rules.yaml", environ: Mapping[str, str]) -> Rules:
    """Check a rules file whole. *name* is what faults call it; *environ* has the variables that its
    `env` may name.

    Raises RulesError with every fault.
    """
    nodes = NodeReader(name)
    reading = RulesParser(nodes, environ)
    rules = reading.rules(text)
    if nodes.faults:
        faults = sorted(nodes.faults, key=lambda fault: fault.line or 0)
        hidden = len(faults) - FAULTS_MAX
        if hidden > 0:
            more = Finding(Level.FAULT, name, f"and {hidden} more faults", end="")
            faults[FAULTS_MAX:] = [more]
        raise RulesError(*faults)
    read = digest(text, *(part for pair in sorted(reading.env.items()) for part in pair))
    return Rules(tuple(rules), read, tuple(nodes.warnings))


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

    def __init__(self, nodes: NodeReader, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.env: dict[str, str] = {}
        self._nodes = nodes
        self._templates = TemplateReader(nodes, self.env)
        self._targets: dict[str, TargetParser] = {
            "ticket": TicketRuleParser(nodes, self._templates),
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
        if "rules" not in entries:
            self._nodes.fault(line_of(root), "rules", "is missing")
            return []
        rules = []
        seen: dict[str, int] = {}
        for node, path in self._nodes.elements(
            entries["rules"], "rules", empty="has no rules in it"
        ):
            rule = self._rule(node, path, seen)
            if rule is not None:
                rules.append(rule)
        return rules

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
            else:
                self.env[variable] = self.environ[variable]

    def _rule(self, node: yaml.Node, path: str, seen: dict[str, int]) -> Rule | None:
        later = {key: f"this version does not have `{key}` rules yet" for key in _LATER_RULE_KEYS}
        entries = self._nodes.mapping(node, path, RULE_KEYS, refused=later)
        if entries is None:
            return None
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
        each = self._templates.expression(entries, "each", path, TEMPLATE_NAMES)
        names = (*TEMPLATE_NAMES, "item") if "each" in entries else TEMPLATE_NAMES
        when = self._templates.expression(entries, "when", path, names)
        ops = self._nodes.ops(entries, "ops", path, tuple(Op)) or frozenset(Op)
        trigger = ""
        if "trigger" in entries:
            trigger = self._nodes.text(entries["trigger"], f"{path}.trigger") or ""
            if not trigger:
                self._nodes.fault(
                    line_of(entries["trigger"]),
                    f"{path}.trigger",
                    "is empty; leave it out to hear any trigger",
                )
        source = self._source(entries, path, line)
        if source == SCHEDULED and trigger:
            what = "is for triggers, and a one-off scheduled event has none; leave it out"
            self._nodes.fault(line_of(entries["trigger"]), f"{path}.trigger", what)
        parsed = self._target(node, entries, path, names, later, when=when, each=each)
        if parsed is None:
            return None
        target, templates = parsed
        return Rule(
            name=name,
            id=identity,
            source=source,
            trigger=trigger,
            ops=ops,
            where=self._nodes.locate(line, path),
            target=target,
            templates=templates,
            env=self.env,
        )

    def _target(
        self,
        node: yaml.Node,
        entries: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        later: Mapping[str, str],
        *,
        when: RuleTemplate | None,
        each: RuleTemplate | None,
    ) -> tuple[TargetRule, RuleTemplates] | None:
        """What the row becomes: a rule has one target."""
        kinds = [kind for kind in self._targets if kind in entries]
        if not kinds:
            if not any(key in later for key, _, _ in read_entries(node)):
                self._nodes.fault(
                    node, f"{path}.ticket", "is missing: it says what the row becomes"
                )
            return None
        for kind in kinds[1:]:
            what = f"a rule has one target, and this one has `{kinds[0]}`; write a rule for each"
            self._nodes.fault(entries[kind], f"{path}.{kind}", what)
        return self._targets[kinds[0]].parse(
            entries[kinds[0]], f"{path}.{kinds[0]}", names, when=when, each=each
        )

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
        if kind in ("servicenow", "slack"):
            what = f"this version does not hear {kind}/… yet"
        elif kind == "hasura" and rest and "." not in rest:
            what = f"names no schema; did you mean `hasura/public.{rest}`?"
        else:
            what = "must be hasura/SCHEMA.TABLE, cron/NAME or scheduled"
        self._nodes.fault(line_of(node), f"{path}.from", what)
        return ""
