"""A GraphQL operation of a rule and its variables: read, and whether they fit. Pure."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import yaml

from function.core.values import did_you_mean
from function.rules.operation import InvalidOperation, MutationOperation, QueryOperation
from function.rules.yaml_nodes import NodeReader, line_within

Operation = TypeVar("Operation")


def read_operation(
    nodes: NodeReader, node: yaml.Node, path: str, parse: Callable[[str], Operation], *, who: str
) -> Operation | None:
    """What *parse* makes of the text at *node*; None where that is a fault. *who* says what its
    variables are about."""
    text = nodes.text(node, path)
    if text is None:
        return None
    try:
        return parse(text)
    except InvalidOperation as bad:
        what = bad.what
        if "{{" in text or "{%" in text:
            what += f"; it is no template: what {who} says is given as `variables`"
        nodes.fault(line_within(node, bad.line), path, what)
    return None


def read_variables(
    nodes: NodeReader, entries: Mapping[str, yaml.Node], path: str
) -> dict[str, yaml.Node]:
    """What a rule gives the variables of its operation, by their names."""
    if "variables" not in entries:
        return {}
    node, path = entries["variables"], f"{path}.variables"
    if not isinstance(node, yaml.MappingNode):
        nodes.fault(node, path, "must be a mapping of names to values")
        return {}
    return nodes.members(node, path)


class VariableCheck:
    """Reports what does not fit of an operation, whose text stands at *query*; faults call it
    *called*."""

    def __init__(self, nodes: NodeReader, query: yaml.Node, path: str, *, called: str) -> None:
        self._nodes = nodes
        self._query = query
        self._path = path
        self._called = called

    def check(
        self,
        operation: MutationOperation | QueryOperation,
        node: yaml.Node,
        path: str,
        given: Mapping[str, yaml.Node],
    ) -> None:
        """*given* is what stands at *node*."""
        declared, used = operation.variables, operation.uses
        for name, value in given.items():
            if name not in declared:
                what = f"{self._called} declares no `${name}`{did_you_mean(name, declared)}"
                self._nodes.fault(value, f"{path}.{name}", what)
        for name, declaration in declared.items():
            if name not in given and declaration.default is None:
                what = f"is missing: {self._called} declares `${name}`, and gives it no default"
                self._nodes.fault(node, f"{path}.{name}", what)
            if name not in used:
                what = f"declares `${name}` and does not use it, which Hasura refuses; take it out"
                self._fault(declaration.line, what)
        for name, line in used.items():
            if name not in declared:
                what = f"uses `${name}` and does not declare it{did_you_mean(name, declared)}"
                self._fault(line, what)

    def _fault(self, line: int, what: str) -> None:
        self._nodes.fault(line_within(self._query, line), self._path, what)
