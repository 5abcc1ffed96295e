"""The `types` of a rules file and the `type` of its rules, read and checked. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

import yaml

from function.rules.model import Rule, RuleTemplate
from function.rules.schema import TYPED_SOURCE
from function.rules.template_nodes import TemplateReader
from function.rules.yaml_nodes import NodeReader

# A type is a property of the event, whichever rule hears it.
TYPE_NAMES: Final = ("row", "old", "new", "op", "event", "env")


class TypesParser:
    """Reads the types of one rules file: first the entries, then each rule's, then their use."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self.expressions: dict[str, RuleTemplate] = {}
        self._nodes = nodes
        self._templates = templates
        self._entries: dict[str, yaml.Node] = {}
        self._is_given = False

    def parse_entries(self, node: yaml.Node) -> None:
        """Read the top-level `types`."""
        self._is_given = True
        if not isinstance(node, yaml.MappingNode):
            self._nodes.fault(node, "types", "must be a mapping of sources to expressions")
            return
        if not node.value:
            self._nodes.fault(node, "types", "is empty; leave it out")
        entries = self._nodes.members(node, "types")
        for source, value in entries.items():
            self._entries[source] = value
            if not TYPED_SOURCE.fullmatch(source):
                what = (
                    "is no source whose events have types: those are hasura/SCHEMA.TABLE, "
                    "cron/NAME and scheduled"
                )
                self._nodes.fault(value, f"types.{source}", what)
                continue
            expression = self._templates.expression(entries, source, "types", TYPE_NAMES)
            if expression is not None:
                self.expressions[source] = expression

    def parse_rule(
        self, entries: Mapping[str, yaml.Node], path: str, source: str
    ) -> tuple[str, ...]:
        """The types that a rule from *source* names, as they are written."""
        if "type" not in entries:
            return ()
        node, path = entries["type"], f"{path}.type"
        if source and not TYPED_SOURCE.fullmatch(source):
            what = "is for rules from hasura/SCHEMA.TABLE, cron/NAME and scheduled; take it out"
            self._nodes.fault(node, path, what)
            return ()
        if source and source not in self._entries:
            what = (
                f"`types` has no entry for `{source}`; write `types: {{{source}: row.event_type}}` "
                "beside `version`, with what gives the type"
            )
            self._nodes.fault(node, path, what)
        if not isinstance(node, yaml.SequenceNode):
            return tuple(self._one_type(node, path))
        return tuple(
            name
            for element, below in self._nodes.elements(
                node, path, empty="is empty; leave it out to hear every type"
            )
            for name in self._one_type(element, below)
        )

    def _one_type(self, node: yaml.Node, path: str) -> Sequence[str]:
        written = self._nodes.text(node, path)
        if written is None:
            return ()
        name = written.strip()
        if not name:
            self._nodes.fault(node, path, "is empty; leave it out to hear every type")
            return ()
        if "{{" in name or "{%" in name:
            what = "is the text of a type, and no template; what gives it stands under `types`"
            self._nodes.fault(node, path, what)
            return ()
        return (name,)

    def check_use(self, rules: Sequence[Rule]) -> None:
        """Report entries that concern no rule, or under which every event would be an error."""
        for source, node in self._entries.items():
            if not TYPED_SOURCE.fullmatch(source):
                continue
            heard = [rule for rule in rules if rule.source == source]
            if not heard:
                what = f"no rule is `from: {source}`; write one, or take this out"
                self._nodes.fault(node, f"types.{source}", what)
            elif not any(rule.event_types for rule in heard):
                what = (
                    f"no rule that is `from: {source}` has a `type`, so that each of its events "
                    "would be of an unknown one; name the types, or take this out"
                )
                self._nodes.fault(node, f"types.{source}", what)
