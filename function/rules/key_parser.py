"""The `key` of a rule's target: what identifies a row, read and checked. Pure."""

from collections.abc import Mapping

import yaml

from function.rules.model import RuleTemplate
from function.rules.schema import KEY_PARTS_MAX
from function.rules.template_nodes import NO_TEMPLATE, TemplateReader
from function.rules.yaml_nodes import NodeReader


class KeyParser:
    """Parses the keys of one kind of target, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader, *, kind: str) -> None:
        self._nodes = nodes
        self._templates = templates
        self._kind = kind

    def parse(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        target: yaml.Node,
        *,
        shared: bool | None = None,
    ) -> tuple[RuleTemplate, ...]:
        """The parts of the key. *shared*: all rows may have one; None where that cannot be said in
        the rule."""
        path = f"{path}.key"
        if "key" not in entries:
            self._nodes.fault(
                target, path, 'is missing; write what identifies the row, such as "{{ row.id }}"'
            )
            return (RuleTemplate(NO_TEMPLATE, self._nodes.locate(target, path)),)
        node = entries["key"]
        faults = len(self._nodes.faults)
        parts = self.parse_parts(node, path, names)
        if len(self._nodes.faults) > faults:
            return parts
        for part in parts:
            self._warn_of_joined_values(part)
        used = frozenset[str]().union(*(part.syntax.names for part in parts))
        if shared:
            return parts
        if not used & {"row", "new", "old", "item", "event"}:
            share = (
                "" if shared is None else f", or say `shared: true` if all share one {self._kind}"
            )
            self._nodes.fault(node, path, f"is the same for every row; name a column{share}")
        elif "item" in names and "item" not in used:
            share = "" if shared is None else ", or say `shared: true`"
            what = f"is the same for every element; name a part of `item`{share}"
            self._nodes.fault(node, path, what)
        return parts

    def parse_parts(
        self, node: yaml.Node, path: str, names: tuple[str, ...]
    ) -> tuple[RuleTemplate, ...]:
        """The parts of a key that is a template or a list of them; one at least, also after a
        fault."""
        if not isinstance(node, yaml.SequenceNode):
            return (self._templates.template(node, path, names),)
        elements = self._nodes.elements(node, path, empty="is empty; write what identifies the row")
        if len(elements) > KEY_PARTS_MAX:
            self._nodes.fault(node, path, f"has more than {KEY_PARTS_MAX} parts")
        parts = tuple(self._templates.template(*element, names) for element in elements)
        return parts or (RuleTemplate(NO_TEMPLATE, self._nodes.locate(node, path)),)

    def _warn_of_joined_values(self, part: RuleTemplate) -> None:
        """Warn of a text that joins several values: what stands between them may stand in one of
        them too."""
        joined = part.syntax.find_joined_values()
        if joined is None:
            return
        instead = ", ".join(f'"{{{{ {value} }}}}"' for value in joined)
        instead = (
            f"key: [{instead}]"
            if joined
            else 'a list, such as key: ["{{ row.id }}", "{{ item.id }}"]'
        )
        self._nodes.warn(
            part.where,
            f"joins several values in one text, and two rows share a {self._kind} where what "
            f"stands between them stands in one of them too; write {instead}",
        )
