"""A JSON value that a rule writes down, with templates for its values. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from function.core.finding import FileLocation
from function.core.values import Json, holds_null
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import RuleTemplate
from function.rules.template_nodes import TemplateReader
from function.rules.yaml_nodes import NodeReader

# Far more than people write, and less than Python's stack holds: an alias may even hold itself.
DEPTH_MAX: Final = 60

_NULL_SELECTS: Final = "gives null, which in a `where` would match every row"


@dataclass(frozen=True, slots=True)
class ValueTemplate:
    """One value. *columns* are those of a ticket that it reads, *shown_columns* those of them whose
    display values it reads.

    *selects*: it says which rows of the app are meant. *updates*: it gives updates, each with a
    `where` and a `_set`.
    """

    rule_template: RuleTemplate
    columns: frozenset[str] = frozenset()
    shown_columns: frozenset[str] = frozenset()
    selects: bool = False
    updates: bool = False

    def render(self, names: Mapping[str, Any], budget: RenderBudget) -> Json:
        """A constant and one lone ``{{ … }}`` keep their type, all else is text.

        Raises RenderError, also for a null that could stand in a condition: Hasura takes that for
        every row, if it is told to (HASURA_GRAPHQL_V1_BOOLEAN_NULL_COLLAPSE).
        """
        rendered = self.rule_template.plain_value(names, budget)
        if any(map(holds_null, self._conditions(rendered))):
            raise RenderError(_NULL_SELECTS, where=self.rule_template.where)
        return rendered

    def _conditions(self, rendered: Json) -> list[Json]:
        """What of the *rendered* value says which rows are meant."""
        if self.selects:
            return [rendered]
        if not self.updates:
            return []
        updates = rendered if isinstance(rendered, list) else [rendered]
        return [each["where"] for each in updates if isinstance(each, dict) and "where" in each]


@dataclass(frozen=True, slots=True)
class ValueObject:
    """An object; its names are constant. *sets*: it is what `_set` is given, so that an entry which
    is left out leaves the app's column alone."""

    entries: "Mapping[str, StructuredValue]"
    where: FileLocation
    sets: bool = False


@dataclass(frozen=True, slots=True)
class ValueList:
    elements: "tuple[StructuredValue, ...]"


StructuredValue: TypeAlias = ValueTemplate | ValueObject | ValueList


def list_templates(value: StructuredValue) -> Iterator[ValueTemplate]:
    """Those that *value* is made of."""
    match value:
        case ValueTemplate():
            yield value
        case ValueObject(entries=entries):
            for inner in entries.values():
                yield from list_templates(inner)
        case ValueList(elements=elements):
            for inner in elements:
                yield from list_templates(inner)


def render_structure(
    value: StructuredValue,
    render: Callable[[ValueTemplate], Json],
    *,
    is_set: Callable[[StructuredValue], bool] = lambda _: True,
) -> Json:
    """The JSON value, of whose templates *render* gives the values; of what `_set` is given, the
    entries for which *is_set*."""
    match value:
        case ValueTemplate():
            return render(value)
        case ValueList(elements=elements):
            return [render_structure(inner, render, is_set=is_set) for inner in elements]
        case ValueObject(entries=entries, sets=sets):
            return {
                name: render_structure(inner, render, is_set=is_set)
                for name, inner in entries.items()
                if not sets or is_set(inner)
            }


class StructureReader:
    """Reads such values; their templates may use *names*. *selects*: they say which rows are
    meant."""

    def __init__(
        self,
        nodes: NodeReader,
        templates: TemplateReader,
        names: tuple[str, ...],
        *,
        selects: bool = False,
    ) -> None:
        self._nodes = nodes
        self._templates = templates
        self._names = names
        self._selects = selects

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
                },
                self._nodes.locate(node, path),
            )
        template = self._templates.typed(node, path, self._names)
        return ValueTemplate(template, selects=self._selects)
