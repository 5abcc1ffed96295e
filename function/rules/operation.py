"""A GraphQL operation, as far as a rule has to know it: a mutation, or a query. Pure.

graphql-core reads it; it is loaded (80 ms, 6 MB) when the first one is met.

    InvalidOperation   a text that is not the one GraphQL operation that it should be
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from graphql.language import ast

T = TypeVar("T")

# As Hasura names the fields that find a row by its key, also under `naming_convention:
# graphql-default`.
_BY_KEY: Final = re.compile(r".+(_by_pk|ByPk)")
# Far more than people write, and less than Python's stack holds.
DEPTH_MAX: Final = 60
ROOTS_MAX: Final = 100


class InvalidOperation(Exception):  # noqa: N818  # what is wrong, not whose error it is
    """A text that is not one GraphQL operation of the kind that is asked for. *line* counts from 1
    within it."""

    def __init__(self, what: str, line: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


@dataclass(frozen=True, slots=True)
class VariableName:
    """``$name`` where a value stands."""

    name: str


@dataclass(frozen=True, slots=True)
class QueryValue:
    """A value in the text of an operation, and its line; a scalar as it was written, None for
    null."""

    content: "dict[str, QueryValue] | list[QueryValue] | VariableName | str | None"
    line: int


@dataclass(frozen=True, slots=True)
class VariableDeclaration:
    """*type_name* is without brackets and marks; *default* is None where there is none."""

    name: str
    type_name: str
    default: QueryValue | None
    line: int


@dataclass(frozen=True, slots=True)
class RootField:
    """A field of the mutation itself. *key* is its alias, or its name: what the answer calls it."""

    name: str
    key: str
    arguments: Mapping[str, QueryValue]
    line: int


@dataclass(frozen=True, slots=True)
class QueryOperation:
    """One query. *uses* has the line of each variable's first use. *selecting* are the variables
    that say which rows are meant, at whatever depth."""

    name: str
    variables: Mapping[str, VariableDeclaration]
    uses: Mapping[str, int] = field(repr=False)
    selecting: frozenset[str] = frozenset()


# Through which names a value is given: ("updates", "where", "id", "_eq").
ArgumentPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MutationOperation:
    """One mutation. *uses* has the line of each variable's first use."""

    name: str
    variables: Mapping[str, VariableDeclaration]
    roots: tuple[RootField, ...]
    uses: Mapping[str, int] = field(repr=False)

    def find_paths(self, variable: str) -> Iterator[tuple[RootField, ArgumentPath]]:
        """Where the root fields are given *variable*."""
        for root in self.roots:
            for name, value in root.arguments.items():
                for path in _find_paths(value, variable):
                    yield root, (name, *path)


def parse_operation(text: str) -> MutationOperation:
    """Read *text*, a mutation. Raises InvalidOperation."""
    return _read(text, "mutation", lambda reader, node: reader.mutation(node))


def parse_query(text: str) -> QueryOperation:
    """Read *text*, a query. Raises InvalidOperation."""
    return _read(text, "query", lambda reader, node: reader.query(node))


def _read(text: str, kind: str, read: "Callable[[_Reader, ast.OperationDefinitionNode], T]") -> T:
    from graphql.error import GraphQLSyntaxError  # noqa: PLC0415  # see above
    from graphql.language import ast, parse  # noqa: PLC0415

    try:
        document = parse(text)
        operations = [
            one for one in document.definitions if isinstance(one, ast.OperationDefinitionNode)
        ]
        fragments = {
            one.name.value: one
            for one in document.definitions
            if isinstance(one, ast.FragmentDefinitionNode)
        }
        known = len(operations) + len(fragments)
        _check_definitions(document, len(operations), known, kind=kind)
        return read(_Reader(fragments), operations[0])
    except GraphQLSyntaxError as error:
        what = f"is not GraphQL: {error.message.removeprefix('Syntax Error: ')}"
        line = error.locations[0].line if error.locations else 1
        raise InvalidOperation(what, line) from None
    except RecursionError:
        raise InvalidOperation("is nested too deeply") from None


def _check_definitions(
    document: "ast.DocumentNode", operations: int, known: int, *, kind: str
) -> None:
    if operations != 1:
        what = "has more than one operation" if operations else "has no operation in it"
        line = _line(document.definitions[min(1, len(document.definitions) - 1)])
        raise InvalidOperation(f"{what}; write one {kind}", line)
    if len(document.definitions) != known:
        raise InvalidOperation(f"defines more than a {kind} and its fragments, each once")


class _Reader:
    """Reads one operation and the *fragments* that it spreads."""

    def __init__(self, fragments: Mapping[str, "ast.FragmentDefinitionNode"]) -> None:
        self._fragments = fragments
        self._uses: dict[str, int] = {}
        self._looked_through: set[str] = set()
        self._selecting: set[str] = set()

    def mutation(self, node: "ast.OperationDefinitionNode") -> MutationOperation:
        kind = node.operation.value
        if kind != "mutation":
            what = f"is a {kind}; write a mutation, for a rule gives the app what changed"
            raise InvalidOperation(what, _line(node))
        variables = self._declarations(node)
        roots = tuple(islice(self._roots(node.selection_set, ()), ROOTS_MAX + 1))
        if len(roots) > ROOTS_MAX:
            raise InvalidOperation(f"has more than {ROOTS_MAX} fields", _line(node))
        self._find_uses(node.selection_set, ())
        self._find_uses(node.directives, ())
        return MutationOperation(
            name=node.name.value if node.name else "",
            variables=variables,
            roots=roots,
            uses=self._uses,
        )

    def query(self, node: "ast.OperationDefinitionNode") -> QueryOperation:
        kind = node.operation.value
        if kind != "query":
            raise InvalidOperation(f"is a {kind}; write a query, which only reads", _line(node))
        variables = self._declarations(node)
        self._find_uses(node.selection_set, ())
        self._find_uses(node.directives, ())
        return QueryOperation(
            name=node.name.value if node.name else "",
            variables=variables,
            uses=self._uses,
            selecting=frozenset(self._selecting),
        )

    def _declarations(self, node: "ast.OperationDefinitionNode") -> dict[str, VariableDeclaration]:
        declared = [self._declaration(one) for one in node.variable_definitions or ()]
        variables = {one.name: one for one in declared}
        if len(variables) < len(declared):
            raise InvalidOperation("declares a variable twice", _line(node))
        return variables

    @staticmethod
    def _declaration(node: "ast.VariableDefinitionNode") -> VariableDeclaration:
        type_: Any = node.type
        while not hasattr(type_, "name"):  # a list, or what is not null
            type_ = type_.type
        default = None if node.default_value is None else _value(node.default_value)
        return VariableDeclaration(node.variable.name.value, type_.name.value, default, _line(node))

    def _roots(self, selections: Any, within: Collection[str]) -> Iterator[RootField]:
        """The root fields, those of the fragments that are spread there too."""
        for node in selections.selections:
            match node.kind:
                case "field":
                    yield RootField(
                        name=node.name.value,
                        key=node.alias.value if node.alias else node.name.value,
                        arguments=_entries(node.arguments),
                        line=_line(node),
                    )
                case "fragment_spread":
                    inner = self._fragment(node, within)
                    yield from self._roots(inner.selection_set, (*within, node.name.value))
                case _:
                    yield from self._roots(node.selection_set, within)

    def _fragment(self, node: Any, within: Collection[str]) -> "ast.FragmentDefinitionNode":
        name = node.name.value
        if name not in self._fragments:
            raise InvalidOperation(f"there is no fragment `{name}`", _line(node))
        if name in within:
            raise InvalidOperation(f"the fragment `{name}` spreads itself", _line(node))
        return self._fragments[name]

    def _find_uses(self, node: Any, within: Collection[str]) -> None:
        """Remember what variables stand in *node*, and in the fragments that it spreads."""
        if isinstance(node, list | tuple):
            for one in node:
                self._find_uses(one, within)
        elif hasattr(node, "keys"):
            if node.kind == "variable":
                self._uses.setdefault(node.name.value, _line(node))
            if node.kind == "field":
                self._find_selecting(node)
            for key in node.keys:
                self._find_uses(getattr(node, key), within)
            if node.kind == "fragment_spread":
                fragment, name = self._fragment(node, within), node.name.value
                if name not in self._looked_through:
                    self._find_uses(fragment, (*within, name))
                    self._looked_through.add(name)

    def _find_selecting(self, node: Any) -> None:
        """Remember the variables that say which rows a field is for."""
        by_key = _BY_KEY.fullmatch(node.name.value) is not None
        for argument in node.arguments or ():
            if by_key or argument.name.value == "where":
                self._selecting.update(_find_variables(_value(argument.value)))


def _find_variables(value: QueryValue) -> Iterator[str]:
    match value.content:
        case VariableName(name=name):
            yield name
        case list(elements):
            for element in elements:
                yield from _find_variables(element)
        case dict(entries):
            for inner in entries.values():
                yield from _find_variables(inner)


def _value(node: Any, depth: int = 0) -> QueryValue:
    if depth > DEPTH_MAX:
        raise InvalidOperation("is nested too deeply", _line(node))
    content: Any
    match node.kind:
        case "variable":
            content = VariableName(node.name.value)
        case "null_value":
            content = None
        case "list_value":
            content = [_value(one, depth + 1) for one in node.values or ()]
        case "object_value":
            content = _entries(node.fields, depth + 1)
        case "boolean_value":
            content = "true" if node.value else "false"
        case _:
            content = str(node.value)
    return QueryValue(content, _line(node))


def _entries(nodes: Any, depth: int = 0) -> dict[str, QueryValue]:
    entries: dict[str, QueryValue] = {}
    for node in nodes or ():
        name = node.name.value
        if name in entries:
            raise InvalidOperation(f"gives `{name}` twice", _line(node))
        entries[name] = _value(node.value, depth)
    return entries


def _line(node: Any) -> int:
    return int(node.loc.start_token.line)


def _find_paths(value: QueryValue, variable: str) -> Iterator[ArgumentPath]:
    match value.content:
        case VariableName(name=name) if name == variable:
            yield ()
        case list(elements):
            for element in elements:
                yield from _find_paths(element, variable)
        case dict(entries):
            for name, inner in entries.items():
                yield from ((name, *path) for path in _find_paths(inner, variable))
