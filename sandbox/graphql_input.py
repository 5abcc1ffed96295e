"""What a GraphQL request gives as values: literals and variables, checked as Hasura checks them.

Written from Hasura's source: lib/schema-parsers (TypeChecking.hs, Input.hs, Scalars.hs),
GraphQL/Execute/Resolve.hs and Backends/Postgres/SQL/Value.hs.

GraphQLError   the request is answered with an error; its code and message are Hasura's
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sandbox.graphql_document import (
    EnumValue,
    InputType,
    ListType,
    NamedType,
    Operation,
    Selection,
    Value,
    VariableDefinition,
    VariableName,
    parse_type,
)
from sandbox.graphql_schema import TableColumn
from sandbox.webhook import encode

INTEGER_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}


class GraphQLError(Exception):
    """*path* is where in the request; *internal* is for the admin's eyes."""

    def __init__(
        self,
        code: str,
        message: str,
        path: str = "$",
        *,
        internal: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path
        self.internal = internal

    def shown(self) -> dict[str, Any]:
        extensions: dict[str, Any] = {"path": self.path, "code": self.code}
        if self.internal is not None:
            extensions["internal"] = dict(self.internal)
        return {"extensions": extensions, "message": self.message}


def invalid(message: str, path: str = "$") -> GraphQLError:
    return GraphQLError("validation-failed", message, path)


def unsupported(what: str, path: str = "$") -> GraphQLError:
    """Hasura does this, and the sandbox does not."""
    return GraphQLError("not-supported", f"{what} is nothing this sandbox does", path)


@dataclass(frozen=True, slots=True)
class GivenValue:
    """A value of the request: a literal of its document, or JSON of its variables."""

    value: Any
    is_json: bool = False

    def inner(self, value: Any) -> "GivenValue":
        return GivenValue(value, self.is_json)


@dataclass(frozen=True, slots=True)
class RequestVariable:
    """*given* None: there is no value, and no default."""

    definition: VariableDefinition
    given: GivenValue | None


def resolve_variables(
    operation: Operation, used: frozenset[str], given: Mapping[str, Any]
) -> dict[str, RequestVariable]:
    """The operation's variables, with what the request gives for them. *used* are those that the
    document names. Raises GraphQLError."""
    variables: dict[str, RequestVariable] = {}
    for one in operation.variables:
        if one.name in variables:
            raise GraphQLError("parse-failed", f'multiple definitions for variable "{one.name}"')
        variables[one.name] = RequestVariable(one, _given_for(one, given))
    for name in sorted(used):
        if name not in variables:
            raise invalid(f'unbound variable "{name}"')
    if unexpected := sorted(given.keys() - used):
        raise invalid(f"unexpected variables in variableValues: {', '.join(unexpected)}")
    return variables


def _given_for(definition: VariableDefinition, given: Mapping[str, Any]) -> GivenValue | None:
    if definition.name in given:
        value = given[definition.name]
        if value is None and definition.type.non_null:
            # Since v2.36: HASURA_GRAPHQL_BACKWARDS_COMPAT_NULL_IN_NONNULLABLE_VARIABLES is off.
            raise invalid(f'null value found for non-nullable type: "{definition.type}"')
        return GivenValue(value, is_json=True)
    if definition.has_default:
        return GivenValue(definition.default)
    if definition.type.non_null:
        raise invalid(f'expecting a value for non-nullable variable: "{definition.name}"')
    return None


def names_in(selections: tuple[Selection, ...]) -> Iterator[str]:
    """The variables that *selections* name, fragments that are only named left out."""
    for one in selections:
        for directive in one.directives:
            for value in directive.arguments.values():
                yield from _names_in_value(value)
        for value in getattr(one, "arguments", {}).values():
            yield from _names_in_value(value)
        yield from names_in(getattr(one, "selections", ()))


def _names_in_value(value: Value) -> Iterator[str]:
    match value:
        case VariableName(name):
            yield name
        case list():
            for item in value:
                yield from _names_in_value(item)
        case dict():
            for item in value.values():
                yield from _names_in_value(item)


class InputReader:
    """Reads values where the schema expects them. Every method raises GraphQLError."""

    def __init__(self, variables: Mapping[str, RequestVariable]) -> None:
        self._variables = variables

    def peel(self, given: GivenValue, expected: str, path: str) -> GivenValue:
        """*given*, or the value of the variable that it is, whose type must be *expected*.

        A variable without a value is null, as Hasura has it unless the experimental feature
        no_null_unbound_variable_default is on (its page "Mutations: Overview" says so).
        """
        if given.is_json or not isinstance(given.value, VariableName):
            return given
        variable = self._variables[given.value.name]
        definition = variable.definition
        location = parse_type(expected)
        if not _is_usable(location, definition):
            raise invalid(
                f"variable '{definition.name}' is declared as '{definition.type}', but used where "
                f"'{expected}' is expected",
                path,
            )
        return variable.given or GivenValue(None)

    def fields(
        self, given: GivenValue, type_name: str, path: str, *, required: bool = False
    ) -> dict[str, GivenValue]:
        """What an object of *type_name* has."""
        given = self.peel(given, type_name + "!" * required, path)
        if not isinstance(given.value, dict):
            raise mismatch(given, type_name, "an object", path)
        return {name: given.inner(value) for name, value in given.value.items()}

    def items(self, given: GivenValue, element: str, path: str) -> list[tuple[str, GivenValue]]:
        """The elements of a list with their paths; anything else is a list of itself."""
        given = self.peel(given, f"[{element}]", path)
        if given.value is None:
            raise invalid("expected a list, but found null", path)
        values = given.value if isinstance(given.value, list) else [given.value]
        return [
            (f"{path}[{place}]", self.peel(given.inner(value), element, f"{path}[{place}]"))
            for place, value in enumerate(values)
        ]

    def choice(self, given: GivenValue, type_name: str, choices: tuple[str, ...], path: str) -> str:
        """One value of an enum."""
        given = self.peel(given, type_name, path)
        value = given.value.name if isinstance(given.value, EnumValue) else given.value
        if not isinstance(value, str) or (not given.is_json and value is given.value):
            raise mismatch(given, type_name, "an enum value", path)
        if value not in choices:
            shown = "[" + ", ".join(f"'{one}'" for one in choices) + "]"
            raise invalid(
                f"expected one of the values {shown} for type '{type_name}', but found '{value}'",
                path,
            )
        return value

    def boolean(self, given: GivenValue, path: str, *, required: bool = False) -> bool:
        given = self.peel(given, "Boolean" + "!" * required, path)
        if not isinstance(given.value, bool):
            raise mismatch(given, "Boolean", "a boolean", path)
        return given.value

    def count(self, given: GivenValue, path: str, *, bits: int = 32) -> int | None:
        """A number of rows."""
        given = self.peel(given, "Int", path)
        value = given.value
        if value is None:
            return None
        if bits == 64 and isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:30])
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
            expected = {
                32: "a non-negative 32-bit integer",
                64: "a 32-bit integer, or a 64-bit integer represented as a string",
            }
            raise mismatch(given, "Int", expected[bits], path)
        return _integer(value, bits, path)

    def column_text(
        self, column: TableColumn, given: GivenValue, path: str, *, nullable: bool
    ) -> str | None:
        """A column's value as PostgreSQL reads it; None is null. *given* is peeled."""
        value = self._plain(given)
        if value is None:
            if nullable:
                return None
            raise invalid(f"unexpected null value for type '{column.scalar}'", path)
        if column.is_array and isinstance(value, list):
            return _array_text(column.type_name, value, path)
        return _scalar_text("array" if column.is_array else column.type_name, value, path)

    def _plain(self, given: GivenValue) -> Any:
        """As JSON: what `valueToJSON` of Hasura's makes of it, for types with no checks within."""
        match given.value:
            case VariableName(name) if not given.is_json:
                variable = self._variables[name]
                return None if variable.given is None else self._plain(variable.given)
            case EnumValue(name):
                return name
            case list():
                return [self._plain(given.inner(item)) for item in given.value]
            case dict():
                return {key: self._plain(given.inner(item)) for key, item in given.value.items()}
        return given.value


def _is_usable(location: InputType, definition: VariableDefinition) -> bool:
    """https://spec.graphql.org/October2021/#sec-All-Variable-Usages-are-Allowed"""
    has_value = definition.has_default and definition.default is not None
    if location.non_null and not definition.type.non_null and not has_value:
        return False
    return _is_compatible(location, definition.type, outermost=True)


def _is_compatible(location: InputType, given: InputType, *, outermost: bool = False) -> bool:
    if not outermost and location.non_null and not given.non_null:
        return False
    match location, given:
        case ListType(element=expected), ListType(element=found):
            return _is_compatible(expected, found)
        case NamedType(name=expected_name), NamedType(name=found_name):
            return expected_name == found_name
    return False


def mismatch(given: GivenValue, type_name: str, expected: str, path: str) -> GraphQLError:
    return invalid(
        f"expected {expected} for type '{type_name}', but found {_described(given)}", path
    )


def _described(given: GivenValue) -> str:
    match given.value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case EnumValue():
            return "an enum value"
        case int() if not given.is_json:
            return "an integer"
        case Decimal() if not given.is_json:
            return "a float"
    return "a number"


# --- values of columns
# --------------------------------------------------------------------------------------------------

# What aeson calls the types that it reads from a text alone.
_READ_AS: Final = {
    "bool": "Bool",
    "text": "Text",
    "varchar": "Text",
    "citext": "Text",
    "bpchar": "Char",
    "uuid": "UUID",
    "date": "Day",
    "timestamp": "LocalTime",
    "timestamptz": "UTCTime",
    "timetz": "TimeOfDay",
    "numeric": "Scientific",
    "money": "Scientific",
}


def _scalar_text(type_name: str, value: Any, path: str) -> str:
    """A text goes to PostgreSQL as it is, whatever the type; a number is looked at before."""
    if type_name in {"json", "jsonb"}:
        return encode(value)
    if isinstance(value, str):
        return value
    if type_name == "bool" and isinstance(value, bool):
        return "true" if value else "false"
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if type_name in INTEGER_BITS:
        if is_number:
            return str(_integer(value, INTEGER_BITS[type_name], path))
        shown = {"int2": "smallint", "int4": "integer", "int8": "bigint"}[type_name]
        raise _unread(f"Integer expected for input type: {shown}", "Number", value, path)
    if type_name in {"float4", "float8"}:
        if is_number:
            return str(value)
        shown = {"float4": "real", "float8": "float8"}[type_name]
        raise _unread(f"Float expected for input type: {shown}", "Number", value, path)
    if type_name in {"numeric", "money"} and is_number:
        return str(value)
    if type_name in _READ_AS:
        expected = {"bool": "Bool", "numeric": "Number", "money": "Number"}.get(type_name, "String")
        raise _unread(_READ_AS[type_name], expected, value, path)
    raise GraphQLError("parse-failed", f"A string is expected for type: {type_name}", path)


def _array_text(type_name: str, values: list[Any], path: str) -> str:
    """An array as PostgreSQL writes it."""

    def written(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return _array_text(type_name, value, path)
        text = _scalar_text(type_name, value, path)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(written, values)) + "}"


def _integer(value: int | Decimal, bits: int, path: str) -> int:
    # Compared before it is made one: 1e999999999 has more digits than there is memory.
    half = 2 ** (bits - 1)
    if -half <= value < half and value == int(value):
        return int(value)
    shown = encode(Decimal(f"{value}.0") if isinstance(value, int) else value)
    raise GraphQLError(
        "parse-failed",
        f"The value {shown} lies outside the bounds or is not an integer. Maybe it is a float, or "
        "is there integer overflow?",
        path,
    )


_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "Boolean"),
    ((int, Decimal), "Number"),
    (str, "String"),
    (list, "Array"),
    (dict, "Object"),
)


def kind_of(value: Any) -> str:
    """What aeson calls a value's kind."""
    return next((name for types, name in _KINDS if isinstance(value, types)), "Null")


def _unread(what: str, expected: str, value: Any, path: str) -> GraphQLError:
    return GraphQLError(
        "parse-failed",
        f"parsing {what} failed, expected {expected}, but encountered {kind_of(value)}",
        path,
    )
