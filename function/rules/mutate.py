"""The `mutate` of a rule: the mutation that tells the app of a ticket, and its variables. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from function.core.finding import FileLocation
from function.core.values import Json, holds_null
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import RuleTemplate

# What of the names that templates see has the columns of a ticket.
IMAGES: Final = ("row", "new", "old", "shown")
LINK: Final = "link"


@dataclass(frozen=True, slots=True)
class VariableTemplate:
    """One value of a variable. *columns* are those of the ticket that it reads, *shown_columns*
    those of them whose display values it reads.

    *selects*: it says which rows of the app the mutation is for. *updates*: it gives updates, each
    with a `where` and a `_set`.
    """

    rule_template: RuleTemplate
    columns: frozenset[str]
    shown_columns: frozenset[str]
    selects: bool
    updates: bool

    @property
    def names_link(self) -> bool:
        return LINK in self.rule_template.syntax.names


@dataclass(frozen=True, slots=True)
class VariableMapping:
    """An object. *sets*: it is what `_set` is given, so that an entry which is left out leaves the
    app's column alone."""

    entries: "Mapping[str, VariableValue]"
    sets: bool
    where: FileLocation


@dataclass(frozen=True, slots=True)
class VariableList:
    elements: "tuple[VariableValue, ...]"
    where: FileLocation


VariableValue: TypeAlias = VariableTemplate | VariableMapping | VariableList


@dataclass(frozen=True, slots=True)
class MutateRule:
    """A GraphQL mutation that can be repeated, and what its variables are given.

    *table* is that of the tickets which it tells of. *operation_name* is empty where it has none;
    *response_keys* are what the answer calls its root fields. *locations* is the place of each of
    its keys in the rules file; of one that is left out, and of "", its own.
    """

    table: str
    query: str
    operation_name: str
    response_keys: tuple[str, ...]
    variables: Mapping[str, VariableValue] = field(repr=False)
    locations: Mapping[str, FileLocation] = field(repr=False)

    @property
    def kind(self) -> str:
        return "mutate"

    @property
    def follows(self) -> bool:
        """No trail: what a ticket says is looked at when it is told."""
        return False

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the ticket that the variables read."""
        return frozenset().union(*(one.columns for one in self._templates()))

    @property
    def shown_columns(self) -> frozenset[str]:
        """Those of them whose display values they read."""
        return frozenset().union(*(one.shown_columns for one in self._templates()))

    @property
    def needs_link(self) -> bool:
        """Whether the mutation is for a row that the ticket is linked to."""
        return any(one.names_link for one in self._templates())

    def all_templates(self) -> Iterator[RuleTemplate]:
        return (one.rule_template for one in self._templates())

    def render(
        self, names: Mapping[str, Any], budget: RenderBudget, *, changed: Collection[str] | None
    ) -> dict[str, Json] | None:
        """The values of the variables, where the columns *changed* did (None: all are new); None
        where no variable reads one of them, so that there is nothing to tell. Raises RenderError.

        What `_set` is given is left out where none of the columns that it reads has changed. Where
        the mutation is for other rows than before, they are told all.
        """
        if changed is not None:
            if self.columns and self.columns.isdisjoint(changed):
                return None
            selecting = (one.columns for one in self._templates() if one.selects)
            if not frozenset().union(*selecting).isdisjoint(changed):
                changed = None
        return {
            name: _render(value, names, budget, changed) for name, value in self.variables.items()
        }

    def _templates(self) -> Iterator[VariableTemplate]:
        for value in self.variables.values():
            yield from find_templates(value)


def find_templates(value: VariableValue) -> Iterator[VariableTemplate]:
    """Those that *value* is made of."""
    match value:
        case VariableTemplate():
            yield value
        case VariableMapping(entries=entries):
            for inner in entries.values():
                yield from find_templates(inner)
        case VariableList(elements=elements):
            for inner in elements:
                yield from find_templates(inner)


def _render(
    value: VariableValue,
    names: Mapping[str, Any],
    budget: RenderBudget,
    changed: Collection[str] | None,
) -> Json:
    match value:
        case VariableTemplate():
            return _render_template(value, names, budget)
        case VariableList(elements=elements):
            return [_render(element, names, budget, changed) for element in elements]
        case VariableMapping(entries=entries, sets=sets):
            return {
                name: _render(entry, names, budget, changed)
                for name, entry in entries.items()
                if changed is None or not sets or _concerns(entry, changed)
            }


def _concerns(entry: VariableValue, changed: Collection[str]) -> bool:
    """Whether *entry* reads a column that is *changed*, or none at all."""
    columns = frozenset[str]().union(*(one.columns for one in find_templates(entry)))
    return not columns or not columns.isdisjoint(changed)


def _render_template(
    value: VariableTemplate, names: Mapping[str, Any], budget: RenderBudget
) -> Json:
    """Raises RenderError, also for a null that could stand in a condition: Hasura takes that for
    every row, if it is told to (HASURA_GRAPHQL_V1_BOOLEAN_NULL_COLLAPSE)."""
    where = value.rule_template.where
    try:
        rendered = value.rule_template.plain_value(names, budget)
    except RenderError:
        if value.names_link and names.get(LINK) is None:
            raise RenderError(_NOT_LINKED, where=where) from None
        raise
    if rendered is None and value.names_link:
        raise RenderError(_NOT_LINKED if names.get(LINK) is None else _NULL_LINK, where=where)
    if any(map(holds_null, _conditions(value, rendered))):
        raise RenderError(_NULL_SELECTS, where=where)
    return rendered


def _conditions(value: VariableTemplate, rendered: Json) -> list[Json]:
    """What of the *rendered* value says which rows are meant."""
    if value.selects:
        return [rendered]
    if not value.updates:
        return []
    updates = rendered if isinstance(rendered, list) else [rendered]
    return [each["where"] for each in updates if isinstance(each, dict) and "where" in each]


_NOT_LINKED: Final = (
    "names `link`, and the ticket is for no row of the app: a null in a `where` would match every "
    "row; say `when: link`"
)
_NULL_LINK: Final = "names `link` and gives null, which in a `where` would match every row"
_NULL_SELECTS: Final = "gives null, which in a `where` would match every row"
