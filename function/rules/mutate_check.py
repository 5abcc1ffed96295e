"""Whether a mutation fits its variables, and whether it can be made again. Pure.

A mutation whose answer was lost is made again. So it must be repeatable, which is checked here as
far as its text says it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

import yaml

from function.rules.operation import MutationOperation, QueryValue, RootField, VariableName
from function.rules.structure import StructuredValue, ValueList, ValueObject, ValueTemplate
from function.rules.variable_check import VariableCheck
from function.rules.yaml_nodes import NodeReader, line_within

# Done twice, they do another thing than done once.
NOT_REPEATABLE: Final = frozenset(
    {"_inc", "_append", "_prepend", "_delete_key", "_delete_elem", "_delete_at_path"}
)
# As Hasura names the fields of a table, and as it does under `naming_convention: graphql-default`.
_INSERT: Final = re.compile(r"insert(_.+|[A-Z].*)")
_REPEATABLE: Final = re.compile(r"(update|delete)(_.+|[A-Z].*)|__typename")
_ON_CONFLICT: Final = ("on_conflict", "onConflict")
_UPDATE_COLUMNS: Final = ("update_columns", "updateColumns")
_RELATIONSHIP: Final = frozenset({"data", *_ON_CONFLICT})
# What stands in such a value is the app's, and means nothing to Hasura.
_JSON: Final = frozenset({"json", "jsonb"})

_EXAMPLE: Final = "on_conflict: {constraint: CONSTRAINT, update_columns: [COLUMN]}"
_NO_CONFLICT: Final = (
    "has no `on_conflict`: after a lost answer the mutation is made again, and would make a second "
    f"row; write {_EXAMPLE}, of the unique column that holds the ticket's sys_id"
)
_NESTED: Final = (
    "inserts other rows through a relationship, which a repeated mutation would do twice: write "
    f"{_EXAMPLE} beside its `data` (what is the app's own JSON is given as a variable of type "
    "jsonb)"
)
_NO_COLUMN: Final = (
    "has no `update_columns`: Hasura would answer null where the row is there already, as if it "
    "were gone; name the one column of the constraint, which is then set to what it is"
)
_MORE_COLUMNS: Final = (
    "has more than one of `update_columns`: a repeated insert would undo what the app has changed "
    "since; name the one column of the constraint, which is then set to what it is"
)
_CONDITION: Final = (
    "has a `where`: Hasura would answer null where it does not hold, as if the row were gone; "
    "take it out"
)
_UNKNOWN_CONFLICT: Final = (
    "is worked out: write it in the mutation, or give constants, so that it can be checked"
)


# A value as far as it is constant: that of a template is not.
_Constant: TypeAlias = "dict[str, _Constant] | list[_Constant] | str | None"


class _NotConstant(Exception):  # noqa: N818  # what is the case
    """A value that a template gives."""


class MutationCheck:
    """Whether a mutation and its variables fit, and whether it can be repeated."""

    def __init__(
        self,
        nodes: NodeReader,
        query: yaml.Node,
        path: str,
        operation: MutationOperation,
        variables: Mapping[str, StructuredValue],
    ) -> None:
        self._nodes = nodes
        self._query = query
        self._path = path
        self._operation = operation
        self._variables = variables

    def check_variables(self, node: yaml.Node, path: str, given: Mapping[str, yaml.Node]) -> None:
        """*given* is what stands at *node*."""
        check = VariableCheck(self._nodes, self._query, self._path, called="the mutation")
        check.check(self._operation, node, path, given)

    def check_repeatable(self) -> None:
        for root in self._operation.roots:
            for name, line in _find_names(root):
                if name in NOT_REPEATABLE:
                    self._fault(line, explain_repeated(name))
            if _INSERT.fullmatch(root.name):
                self._check_insert(root)
            elif not _REPEATABLE.fullmatch(root.name):
                where = self._nodes.locate(self._line(root.line), self._path)
                what = (
                    f"makes `{root.name}`, of which it cannot be told whether it can be repeated: "
                    "after a lost answer it is made again"
                )
                self._nodes.warn(where, what)

    def _check_insert(self, root: RootField) -> None:
        conflicts = [root.arguments[name] for name in _ON_CONFLICT if name in root.arguments]
        if not conflicts:
            self._fault(root.line, f"`{root.name}` {_NO_CONFLICT}")
        for conflict in conflicts:
            self._check_conflict(conflict)
        for name in ("object", "objects"):
            if name in root.arguments:
                self._check_nested(root.arguments[name])

    def _check_conflict(self, conflict: QueryValue) -> None:
        try:
            what = _find_conflict_fault(self._read_constant(conflict))
        except _NotConstant:
            what = _UNKNOWN_CONFLICT
        if what:
            self._fault(conflict.line, f"its `on_conflict` {what}")

    def _check_nested(self, value: QueryValue) -> None:
        """Refuse rows that are inserted through a relationship, unless they can be repeated too."""
        match value.content:
            case VariableName(name=name):
                if name in self._variables and not is_json(self._operation, name):
                    self._check_nested_variable(self._variables[name])
            case list(elements):
                for element in elements:
                    self._check_nested(element)
            case dict(entries):
                if _is_relationship(entries):
                    conflicts = [entries[name] for name in _ON_CONFLICT if name in entries]
                    if not conflicts:
                        self._fault(value.line, _NESTED)
                    for conflict in conflicts:
                        self._check_conflict(conflict)
                for inner in entries.values():
                    self._check_nested(inner)

    def _check_nested_variable(self, value: StructuredValue) -> None:
        match value:
            case ValueList(elements=elements):
                for element in elements:
                    self._check_nested_variable(element)
            case ValueObject(entries=entries, where=where):
                if _is_relationship(entries):
                    conflicts = [entries[name] for name in _ON_CONFLICT if name in entries]
                    what = "" if conflicts else _NESTED
                    for conflict in conflicts:
                        try:
                            what = _find_conflict_fault(_read_given(conflict))
                        except _NotConstant:
                            what = _UNKNOWN_CONFLICT
                        what = what and f"its `on_conflict` {what}"
                    if what:
                        self._nodes.fault(where.line, where.path, what)
                for inner in entries.values():
                    self._check_nested_variable(inner)

    def _read_constant(self, value: QueryValue) -> _Constant:
        """Raises _NotConstant."""
        match value.content:
            case VariableName(name=name):
                if name in self._variables:
                    return _read_given(self._variables[name])
                declared = self._operation.variables.get(name)
                if declared is None or declared.default is None:
                    raise _NotConstant
                return self._read_constant(declared.default)
            case list(elements):
                return [self._read_constant(element) for element in elements]
            case dict(entries):
                return {name: self._read_constant(entry) for name, entry in entries.items()}
            case scalar:
                return scalar

    def _fault(self, line: int, what: str) -> None:
        self._nodes.fault(self._line(line), self._path, what)

    def _line(self, line: int) -> int:
        return line_within(self._query, line)


def explain_repeated(name: str) -> str:
    return (
        f"`{name}` would be done twice where an answer is lost and the mutation is made again; "
        "give the whole value to `_set`"
    )


def is_json(operation: MutationOperation, variable: str) -> bool:
    declared = operation.variables.get(variable)
    return declared is not None and declared.type_name in _JSON


def _find_conflict_fault(conflict: _Constant) -> str:
    """What is wrong with an `on_conflict`, so that the insert could not be repeated; "" for
    nothing."""
    if not isinstance(conflict, dict):
        return _NO_COLUMN
    columns = next((conflict[name] for name in _UPDATE_COLUMNS if name in conflict), None)
    many = len(columns) if isinstance(columns, list) else columns is not None
    if many != 1:
        return _MORE_COLUMNS if many else _NO_COLUMN
    return _CONDITION if conflict.get("where") is not None else ""


def _read_given(value: StructuredValue) -> _Constant:
    """Raises _NotConstant."""
    match value:
        case ValueList(elements=elements):
            return [_read_given(element) for element in elements]
        case ValueObject(entries=entries):
            return {name: _read_given(entry) for name, entry in entries.items()}
        case ValueTemplate(rule_template=rule_template):
            literals = rule_template.syntax.find_literals()
            if rule_template.syntax.names or len(literals) != 1:
                raise _NotConstant
            (literal,) = literals
            return literal or None


def _is_relationship(entries: Mapping[str, object]) -> bool:
    """Whether an object has the form of rows that are inserted through a relationship."""
    return "data" in entries and entries.keys() <= _RELATIONSHIP


def _find_names(root: RootField) -> Iterator[tuple[str, int]]:
    """The names of a field's arguments, and of all that stand in them."""
    for name, value in root.arguments.items():
        yield name, value.line
        yield from _find_inner_names(value)


def _find_inner_names(value: QueryValue) -> Iterator[tuple[str, int]]:
    match value.content:
        case list(elements):
            for element in elements:
                yield from _find_inner_names(element)
        case dict(entries):
            for name, inner in entries.items():
                yield name, inner.line
                yield from _find_inner_names(inner)
