"""The language of a GraphQL request: a document's text, as operations, fragments and values.

Written from the specification of October 2021 (https://spec.graphql.org/October2021/), its
executable part; definitions of types are not read.

InvalidDocument   the text is none
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, NoReturn, TypeAlias

# Far more than people write, and less than what Python's stack holds.
_DEPTH_MAX: Final = 60
# Beyond PostgreSQL's double precision, and what a program can write out.
_EXPONENT_MAX: Final = 1000


class InvalidDocument(Exception):  # noqa: N818  # the specification's word
    """The text is no GraphQL document; where it ends to be one."""


@dataclass(frozen=True, slots=True)
class VariableName:
    """``$name`` where a value stands."""

    name: str


@dataclass(frozen=True, slots=True)
class EnumValue:
    """A bare name where a value stands."""

    name: str


# An integer is an int, a float a Decimal.
Value: TypeAlias = (
    "bool | int | Decimal | str | VariableName | EnumValue | list[Value] | dict[str, Value] | None"
)


@dataclass(frozen=True, slots=True)
class NamedType:
    name: str
    non_null: bool = False

    def __str__(self) -> str:
        return self.name + "!" * self.non_null


@dataclass(frozen=True, slots=True)
class ListType:
    element: "InputType"
    non_null: bool = False

    def __str__(self) -> str:
        return f"[{self.element}]" + "!" * self.non_null


InputType: TypeAlias = NamedType | ListType


@dataclass(frozen=True, slots=True)
class VariableDefinition:
    """*default* counts where *has_default*: null is one too."""

    name: str
    type: InputType
    has_default: bool
    default: Value


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    arguments: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Field:
    """*key* is its alias, or its name: what the answer calls it."""

    name: str
    key: str
    arguments: Mapping[str, Value]
    directives: tuple[Directive, ...]
    selections: "tuple[Selection, ...]"


@dataclass(frozen=True, slots=True)
class FragmentSpread:
    name: str
    directives: tuple[Directive, ...]


@dataclass(frozen=True, slots=True)
class InlineFragment:
    """*type_name* None: of whatever type it stands in."""

    type_name: str | None
    directives: tuple[Directive, ...]
    selections: "tuple[Selection, ...]"


Selection: TypeAlias = Field | FragmentSpread | InlineFragment


@dataclass(frozen=True, slots=True)
class Operation:
    """*kind* is query, mutation or subscription."""

    kind: str
    name: str | None
    variables: tuple[VariableDefinition, ...]
    selections: tuple[Selection, ...]


@dataclass(frozen=True, slots=True)
class Document:
    operations: tuple[Operation, ...]
    fragments: Mapping[str, InlineFragment]


def parse_document(text: str) -> Document:
    """Read a document. Raises InvalidDocument."""
    return _Parser(text).document()


@lru_cache(maxsize=1024)
def parse_type(text: str) -> InputType:
    """Read a type, as ``[bigint!]!``. Raises InvalidDocument."""
    return _Parser(text).type()


_TOKEN: Final = re.compile(
    r"""
    (?P<ignored>[\s,\ufeff]+|\#[^\n\r]*)
    |(?P<name>[_A-Za-z][_0-9A-Za-z]*)
    |(?P<float>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)(?![.\w]))
    |(?P<int>-?(?:0|[1-9][0-9]*)(?![.\w]))
    |(?P<block>\"{3}(?:\\\"{3}|[^"]|\"(?!\"\"))*\"{3})
    |(?P<string>"(?:[^"\\\n\r]|\\.)*")
    |(?P<punctuator>\.\.\.|[!$&():=@\[\]{|}])
    """,
    re.VERBOSE | re.ASCII,
)
# What ends the text; no token is empty.
_END: Final = ("end", "")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise InvalidDocument(f"at character {place}")
        place = found.end()
        if found.lastgroup and found.lastgroup != "ignored":
            yield found.lastgroup, found[0]
    yield _END


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._place = 0
        self._depth = 0

    def document(self) -> Document:
        operations = []
        fragments: dict[str, InlineFragment] = {}
        while self._tokens[self._place] != _END:
            if self._takes("fragment"):
                name = self._name()
                if name == "on" or name in fragments:
                    self._refuse()
                self._expect("on")
                type_name = self._name()
                fragments[name] = InlineFragment(type_name, self._directives(), self._selections())
            else:
                operations.append(self._operation())
        if not operations:
            self._refuse()
        return Document(tuple(operations), fragments)

    def _operation(self) -> Operation:
        if self._next() == "{":
            return Operation("query", None, (), self._selections())
        kind = self._name()
        if kind not in {"query", "mutation", "subscription"}:
            self._refuse()
        name = self._name() if self._is_name() else None
        variables = []
        if self._takes("("):
            while not self._takes(")"):
                variables.append(self._variable_definition())
        self._directives()
        return Operation(kind, name, tuple(variables), self._selections())

    def _variable_definition(self) -> VariableDefinition:
        self._expect("$")
        name = self._name()
        self._expect(":")
        type_ = self.type()
        has_default = self._takes("=")
        default = self._value(constant=True) if has_default else None
        self._directives()
        return VariableDefinition(name, type_, has_default, default)

    def type(self) -> InputType:
        if self._takes("["):
            self._deeper()
            element = self.type()
            self._depth -= 1
            self._expect("]")
            return ListType(element, self._takes("!"))
        return NamedType(self._name(), self._takes("!"))

    def _selections(self) -> tuple[Selection, ...]:
        self._expect("{")
        self._deeper()
        selections = []
        while not self._takes("}"):
            selections.append(self._selection())
        self._depth -= 1
        if not selections:
            self._refuse()
        return tuple(selections)

    def _selection(self) -> Selection:
        if self._takes("..."):
            if self._takes("on"):
                return InlineFragment(self._name(), self._directives(), self._selections())
            if self._is_name():
                return FragmentSpread(self._name(), self._directives())
            return InlineFragment(None, self._directives(), self._selections())
        key = name = self._name()
        if self._takes(":"):
            name = self._name()
        arguments = self._arguments()
        directives = self._directives()
        selections = self._selections() if self._next() == "{" else ()
        return Field(name, key, arguments, directives, selections)

    def _arguments(self) -> dict[str, Value]:
        arguments: dict[str, Value] = {}
        if self._takes("("):
            while not self._takes(")"):
                name = self._name()
                self._expect(":")
                if name in arguments:
                    self._refuse()
                arguments[name] = self._value()
            if not arguments:
                self._refuse()
        return arguments

    def _directives(self) -> tuple[Directive, ...]:
        directives = []
        while self._takes("@"):
            directives.append(Directive(self._name(), self._arguments()))
        return tuple(directives)

    def _value(self, *, constant: bool = False) -> Value:
        kind, text = self._tokens[self._place]
        self._place += 1
        match kind, text:
            case "int", _:
                return _number(text)
            case "float", _:
                return exact_number(text)
            case "string", _:
                return self._string(text)
            case "block", _:
                return _block_string(text[3:-3].replace('\\"""', '"""'))
            case "name", "true" | "false":
                return text == "true"
            case "name", "null":
                return None
            case "name", _:
                return EnumValue(text)
            case "punctuator", "$" if not constant:
                return VariableName(self._name())
            case "punctuator", "[":
                self._deeper()
                items: list[Value] = []
                while not self._takes("]"):
                    items.append(self._value(constant=constant))
                self._depth -= 1
                return items
            case "punctuator", "{":
                return self._object(constant=constant)
        return self._refuse()

    def _object(self, *, constant: bool) -> dict[str, Value]:
        self._deeper()
        fields: dict[str, Value] = {}
        while not self._takes("}"):
            name = self._name()
            self._expect(":")
            if name in fields:
                self._refuse()
            fields[name] = self._value(constant=constant)
        self._depth -= 1
        return fields

    def _string(self, text: str) -> str:
        try:
            return str(json.loads(text, strict=False))  # the same escapes as in JSON
        except ValueError:
            return self._refuse()

    def _next(self) -> str:
        kind, text = self._tokens[self._place]
        return text if kind in {"punctuator", "name"} else ""

    def _is_name(self) -> bool:
        return self._tokens[self._place][0] == "name"

    def _name(self) -> str:
        if not self._is_name():
            self._refuse()
        self._place += 1
        return self._tokens[self._place - 1][1]

    def _takes(self, text: str) -> bool:
        taken = self._next() == text
        self._place += taken
        return taken

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            self._refuse()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidDocument(f"at token {self._place}")


def exact_number(text: str) -> Decimal:
    """A number with decimals or an exponent. Raises InvalidDocument where it is longer than any
    column's, so that nobody writes out 1e999999999."""
    number = Decimal(text)
    if not number.is_finite() or abs(number.adjusted()) > _EXPONENT_MAX:
        raise InvalidDocument("a number is too large or too small")
    return number


def _number(text: str) -> int:
    # More digits than Python reads belong to no column's integer.
    try:
        return int(text)
    except ValueError:
        raise InvalidDocument("a number has too many digits") from None


def _block_string(raw: str) -> str:
    """Without the indentation that all lines but the first share, and the blank lines around it
    (https://spec.graphql.org/October2021/#BlockStringValue())."""
    first, *others = re.split(r"\r\n|\n|\r", raw)
    indents = [len(line) - len(line.lstrip(" \t")) for line in others if line.strip(" \t")]
    lines = [first, *(line[min(indents, default=0) :] for line in others)]
    while lines and not lines[0].strip(" \t"):
        lines.pop(0)
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    return "\n".join(lines)
