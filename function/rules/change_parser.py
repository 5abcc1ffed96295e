"""Rules from servicenow/TABLE: what of a ticket's change they hear, read and checked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import yaml

from function.core.event import Op
from function.rules.model import RuleTemplate, RuleTemplates, TicketSource
from function.rules.mutate import IMAGES, MutateRule
from function.rules.mutate_parser import MutateRuleParser
from function.rules.schema import ENCODED_QUERY
from function.rules.template_nodes import TemplateReader
from function.rules.yaml_nodes import NodeReader

# What templates of such rules may name: of a ticket's change, and of a journal's entry.
CHANGE_NAMES: Final = (
    *("row", "old", "new", "shown", "link", "changed", "op", "event", "ticket", "env"),
)
ENTRY_NAMES: Final = ("row", "new", "link", "op", "event", "ticket", "env")
CHANGE_OPS: Final = (Op.INSERT, Op.UPDATE, Op.DELETE)
_ROWS_ONLY: Final[Mapping[str, str]] = {
    "each": "is for rules from hasura/…: a ticket is no list; leave it out",
    "trigger": "is for rules from hasura/…, and ServiceNow has no triggers; leave it out",
    "data": "is for rules from hasura/… with a `post`; leave it out",
}


def split_source(source: str) -> tuple[str, str]:
    """The table of ``servicenow/TABLE`` or ``servicenow/TABLE.comments``, and the journal field,
    "" for none."""
    table, _, journal = source.removeprefix("servicenow/").partition(".")
    return table, journal


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """What is read of a rule from servicenow/TABLE."""

    target: MutateRule
    templates: RuleTemplates
    ops: frozenset[Op]
    source: TicketSource


class ChangeRuleParser:
    """Parses rules from servicenow/TABLE, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self._nodes = nodes
        self._templates = templates

    def parse(self, entries: Mapping[str, yaml.Node], path: str, source: str) -> ChangeRule | None:
        """A rule whose `from` is *source*, and which has a `mutate`."""
        table, journal = split_source(source)
        names = ENTRY_NAMES if journal else CHANGE_NAMES
        when = self._templates.expression(entries, "when", path, names)
        ops = self._parse_ops(entries, path, journal)
        mutations = MutateRuleParser(self._nodes, self._templates)
        parsed = mutations.parse(
            entries["mutate"], f"{path}.mutate", names, when=when, each=None, table=table
        )
        if parsed is None:
            return None
        target, templates = parsed
        heard = self._parse_source(entries, path, source, names, when=when, target=target)
        return ChangeRule(target, templates, ops, heard)

    def _parse_ops(
        self, entries: Mapping[str, yaml.Node], path: str, journal: str
    ) -> frozenset[Op]:
        for key in _ROWS_ONLY.keys() & entries.keys():
            self._nodes.fault(entries[key], f"{path}.{key}", _ROWS_ONLY[key])
        if not journal:
            return self._nodes.ops(entries, "ops", path, CHANGE_OPS) or frozenset({Op.UPDATE})
        if "ops" in entries:
            what = "is not for a journal, whose entries are only ever added; leave it out"
            self._nodes.fault(entries["ops"], f"{path}.ops", what)
        return frozenset({Op.INSERT})

    def _parse_source(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        source: str,
        names: tuple[str, ...],
        *,
        when: RuleTemplate | None,
        target: MutateRule,
    ) -> TicketSource:
        table, journal = split_source(source)
        answer = None
        if "answer" in entries:
            names = (*names, "data")
            answer = self._templates.template(entries["answer"], f"{path}.answer", names)
        heard = self._columns(entries, "when", path, when)
        answered = self._columns(entries, "answer", path, answer)
        return TicketSource(
            table=table,
            journal=journal,
            query=self._parse_filter(entries, path),
            columns=target.columns.union(*heard.values()),
            answered_columns=frozenset().union(*answered.values()),
            has_shown=bool(target.shown_columns | heard["shown"] | answered["shown"]),
            answer=answer,
        )

    def _columns(
        self,
        entries: Mapping[str, yaml.Node],
        key: str,
        path: str,
        rule_template: RuleTemplate | None,
    ) -> dict[str, frozenset[str]]:
        """By image, the columns that the template under *key* names."""
        columns = dict.fromkeys(IMAGES, frozenset[str]())
        if rule_template is not None:
            for image in columns.keys() & rule_template.syntax.names:
                columns[image] = self._templates.columns(
                    entries[key], f"{path}.{key}", rule_template, image
                )
        return columns

    def _parse_filter(self, entries: Mapping[str, yaml.Node], path: str) -> str:
        if "filter" not in entries:
            return ""
        query = self._nodes.text(entries["filter"], f"{path}.filter")
        if query is not None and not ENCODED_QUERY.fullmatch(query):
            what = (
                "is not an encoded query: copy it from a list in ServiceNow (Copy query), "
                "without ORDERBY and line breaks"
            )
            self._nodes.fault(entries["filter"], f"{path}.filter", what)
        return query or ""
