"""The `mutate` of a rule, read and checked. Pure."""

import re
from enum import Enum
from typing import Final

import yaml

from function.rules.model import RuleTemplate, RuleTemplates
from function.rules.mutate import (
    IMAGES,
    MutateRule,
)
from function.rules.mutate_check import NOT_REPEATABLE, MutationCheck, explain_repeated, is_json
from function.rules.operation import (
    DEPTH_MAX,
    ArgumentPath,
    MutationOperation,
    RootField,
    parse_operation,
)
from function.rules.schema import MUTATE_KEYS
from function.rules.structure import StructuredValue, ValueList, ValueObject, ValueTemplate
from function.rules.template_nodes import TemplateReader
from function.rules.variable_check import read_operation, read_variables
from function.rules.yaml_nodes import NodeReader

_DELETE_BY_KEY: Final = re.compile(r"delete(_.+_by_pk|[A-Z].*ByPk)")
_SELECTING: Final = frozenset({"where", "pk_columns", "pkColumns"})


class VariableUse(Enum):
    """What a variable's entries are in the mutation."""

    VALUES = "no more than values"
    SETS = "columns that are set: those that did not change are left out"
    UPDATES = "updates, each with its `where` and its `_set`"
    SELECTS = "which rows are meant"


class MutateRuleParser:
    """Parses mutations of rules, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self._nodes = nodes
        self._templates = templates

    def parse(
        self,
        node: yaml.Node,
        path: str,
        names: tuple[str, ...],
        *,
        when: RuleTemplate | None,
        each: RuleTemplate | None,
        table: str = "",
    ) -> tuple[MutateRule, RuleTemplates] | None:
        """*table* is that of the tickets which the rule hears of."""
        entries = self._nodes.mapping(node, path, MUTATE_KEYS)
        if entries is None:
            return None
        if "query" not in entries:
            self._nodes.fault(node, f"{path}.query", "is missing; it is the GraphQL mutation")
            return None
        operation = read_operation(
            self._nodes, entries["query"], f"{path}.query", parse_operation, who="the ticket"
        )
        given = read_variables(self._nodes, entries, path)
        reader = _VariableReader(self._nodes, self._templates, names)
        variables = {
            name: reader.read(
                value,
                f"{path}.variables.{name}",
                _find_use(operation, name) if operation else VariableUse.VALUES,
                is_json=operation is not None and is_json(operation, name),
            )
            for name, value in given.items()
        }
        if operation is None:
            return None
        query = entries["query"]
        check = MutationCheck(self._nodes, query, f"{path}.query", operation, variables)
        check.check_variables(entries.get("variables", node), f"{path}.variables", given)
        check.check_repeatable()
        mutate = MutateRule(
            table=table,
            query=query.value,
            operation_name=operation.name,
            response_keys=tuple(root.key for root in operation.roots),
            variables=variables,
            locations=dict.fromkeys(("", *MUTATE_KEYS), self._nodes.locate(node, path))
            | {key: self._nodes.locate(value, f"{path}.{key}") for key, value in entries.items()},
        )
        return mutate, RuleTemplates(key=(), when=when, each=each, order_by=None)


class _VariableReader:
    """Reads the values of variables: templates, which *names* may stand in, and objects and lists
    of them."""

    def __init__(
        self, nodes: NodeReader, templates: TemplateReader, names: tuple[str, ...]
    ) -> None:
        self._nodes = nodes
        self._templates = templates
        self._names = names

    def read(
        self, node: yaml.Node, path: str, use: VariableUse, *, is_json: bool, depth: int = 0
    ) -> StructuredValue:
        """*is_json*: its entries are the app's own."""
        if depth > DEPTH_MAX:  # an alias may even hold itself
            self._nodes.fault(node, path, "is nested too deeply")
            return ValueList(())
        if isinstance(node, yaml.SequenceNode):
            inner = use if use is not VariableUse.SETS else VariableUse.VALUES
            elements = tuple(
                self.read(*element, inner, is_json=is_json, depth=depth + 1)
                for element in self._nodes.elements(node, path)
            )
            return ValueList(elements)
        if isinstance(node, yaml.MappingNode):
            members = self._nodes.members(node, path)
            for name in () if is_json else sorted(members.keys() & NOT_REPEATABLE):
                self._nodes.fault(members[name], f"{path}.{name}", explain_repeated(name))
            entries = {
                name: self.read(
                    value,
                    f"{path}.{name}",
                    _find_inner_use(use, name),
                    is_json=is_json,
                    depth=depth + 1,
                )
                for name, value in members.items()
            }
            return ValueObject(entries, self._nodes.locate(node, path), use is VariableUse.SETS)
        return self._read_template(node, path, use, is_json=is_json)

    def _read_template(
        self, node: yaml.Node, path: str, use: VariableUse, *, is_json: bool
    ) -> ValueTemplate:
        rule_template = self._templates.typed(node, path, self._names)
        texts = frozenset() if is_json else rule_template.syntax.find_texts()
        for text in sorted(texts & NOT_REPEATABLE):
            self._nodes.fault(node, path, explain_repeated(text))
        columns = {
            image: self._templates.columns(node, path, rule_template, image)
            for image in IMAGES
            if image in rule_template.syntax.names
        }
        return ValueTemplate(
            rule_template,
            columns=frozenset().union(*columns.values()),
            shown_columns=columns.get("shown", frozenset()),
            selects=use is VariableUse.SELECTS,
            updates=use is VariableUse.UPDATES,
        )


def _find_use(operation: MutationOperation, variable: str) -> VariableUse:
    uses = {_classify_path(root, path) for root, path in operation.find_paths(variable)}
    if VariableUse.SELECTS in uses:
        return VariableUse.SELECTS
    return uses.pop() if len(uses) == 1 else VariableUse.VALUES


def _classify_path(root: RootField, path: ArgumentPath) -> VariableUse:
    if not _SELECTING.isdisjoint(path) or _DELETE_BY_KEY.fullmatch(root.name):
        return VariableUse.SELECTS
    match path:
        case ("_set",) | ("updates", "_set"):
            return VariableUse.SETS
        case ("updates",):
            return VariableUse.UPDATES
    return VariableUse.VALUES


def _find_inner_use(use: VariableUse, name: str) -> VariableUse:
    """The use of what stands under *name* in an object that has *use*."""
    if use is VariableUse.SELECTS or (use is VariableUse.UPDATES and name == "where"):
        return VariableUse.SELECTS
    if use is VariableUse.UPDATES and name == "_set":
        return VariableUse.SETS
    return VariableUse.VALUES
