"""The `mutate` of a rule: the mutation that tells the app of a ticket, and its variables. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.finding import FileLocation
from function.core.values import Json
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import RuleTemplate
from function.rules.structure import (
    StructuredValue,
    ValueTemplate,
    list_templates,
    render_structure,
)

# What of the names that templates see has the columns of a ticket.
IMAGES: Final = ("row", "new", "old", "shown")
LINK: Final = "link"


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
    variables: Mapping[str, StructuredValue] = field(repr=False)
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
        return any(LINK in one.rule_template.syntax.names for one in self._templates())

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
            name: render_structure(
                value,
                lambda template: _render_template(template, names, budget),
                is_set=lambda entry: changed is None or _concerns(entry, changed),
            )
            for name, value in self.variables.items()
        }

    def _templates(self) -> Iterator[ValueTemplate]:
        for value in self.variables.values():
            yield from list_templates(value)


def _concerns(entry: StructuredValue, changed: Collection[str]) -> bool:
    """Whether *entry* reads a column that is *changed*, or none at all."""
    columns = frozenset[str]().union(*(one.columns for one in list_templates(entry)))
    return not columns or not columns.isdisjoint(changed)


def _render_template(value: ValueTemplate, names: Mapping[str, Any], budget: RenderBudget) -> Json:
    """Raises RenderError, also for a null where the template names `link`."""
    names_link = LINK in value.rule_template.syntax.names
    try:
        rendered = value.render(names, budget)
    except RenderError:
        if not names_link or names.get(LINK) is not None:
            raise
        rendered = None
    if rendered is None and names_link:
        what = _NOT_LINKED if names.get(LINK) is None else _NULL_LINK
        raise RenderError(what, where=value.rule_template.where)
    return rendered


_NOT_LINKED: Final = (
    "names `link`, and the ticket is for no row of the app: a null in a `where` would match every "
    "row; say `when: link`"
)
_NULL_LINK: Final = "names `link` and gives null, which in a `where` would match every row"
