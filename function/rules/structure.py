"""A JSON value that a rule writes down, with templates for its values. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from function.core.values import Json, holds_null
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import RuleTemplate
from function.rules.template_nodes import TemplateReader
from function.rules.yaml_nodes import NodeReader

# Far more than people write, and less than Python's stack holds: an alias may even hold itself.
DEPTH_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class ValueObject:
    """An object; its names are constant."""

    entries: "Mapping[str, StructuredValue]"


@dataclass(frozen=True, slots=True)
class ValueList:
    elements: "tuple[StructuredValue, ...]"


StructuredValue: TypeAlias = RuleTemplate | ValueObject | ValueList


def list_templates(value: StructuredValue) -> Iterator[RuleTemplate]:
    """Those that *value* is made of."""
    match value:
        case RuleTemplate():
            yield value
        case ValueObject(entries=entries):
            for inner in entries.values():
                yield from list_templates(inner)
        case ValueList(elements=elements):
            for inner in elements:
                yield from list_templates(inner)


def render_structure(
    value: StructuredValue, names: Mapping[str, Any], budget: RenderBudget, *, null: str = ""
) -> Json:
    """The JSON value: a constant and one lone ``{{ … }}`` keep their type, all else is text.

    *null* is what is wrong with a null in it, "" where that is allowed. Raises RenderError.
    """
    match value:
        case ValueObject(entries=entries):
            return {
                name: render_structure(inner, names, budget, null=null)
                for name, inner in entries.items()
            }
        case ValueList(elements=elements):
            return [render_structure(inner, names, budget, null=null) for inner in elements]
        case RuleTemplate(where=where):
            rendered = value.plain_value(names, budget)
            if null and holds_null(rendered):
                raise RenderError(null, where=where)
            return rendered


class StructureReader:
    """Reads such values; their templates may use *names*."""

    def __init__(
        self, nodes: NodeReader, templates: TemplateReader, names: tuple[str, ...]
    ) -> None:
        self._nodes = nodes
        self._templates = templates
        self._names = names

    def read(self, node: yaml.Node, path: str, *, depth: int = 0) -> StructuredValue:
        if depth > DEPTH_MAX:
            self._nodes.fault(node, path, "is nested too deeply")
            return ValueList(())
        if isinstance(node, yaml.SequenceNode):
            return ValueList(
                tuple(
                    self.read(element, below, depth=depth + 1)
                    for element, below in self._nodes.elements(node, path)
                )
            )
        if isinstance(node, yaml.MappingNode):
            return ValueObject(
                {
                    name: self.read(inner, f"{path}.{name}", depth=depth + 1)
                    for name, inner in self._nodes.members(node, path).items()
                }
            )
        return self._templates.typed(node, path, self._names)
