"""The values that a template works with: what it reads of them, and what they become as JSON and as
text."""

import re
from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal
from io import StringIO
from typing import Any, Final, cast

from jinja2 import StrictUndefined, Undefined

from function.core.values import Json, Row, settle_value, text
from function.rules.arithmetic import to_decimal, to_number
from function.rules.budget import (
    LIST_ELEMENTS_MAX,
    PADDING_CHARACTERS_MAX,
    SLOW_CHARACTERS_MAX,
    current_budget,
    require_at_most,
)

_NOT_GIVEN: Final = object()
_PERCENT = re.compile(
    r"%(?:\((?P<name>\w+)\))?(?P<flags>[-+ #0]*)(?P<width>\d*)(?P<digits>(?:\.\d*)?)(?P<kind>.)"
)


class RowImage(dict[str, Json]):
    """A row as rules see it: a column known from the other image, or any where absent is null, is
    null when absent.

    *known* is None where absent is null. An image that is not there at all is empty, hence false,
    and ``is none``.
    """

    def __init__(self, row: "Row | None", known: Collection[str] | None) -> None:
        super().__init__(row or {})
        self.known = known
        self.missing = row is None

    def __missing__(self, column: str) -> Json:
        if self.known is None or column in self.known:
            return None
        raise KeyError(column)


def require_defined(value: Any) -> Any:
    if isinstance(value, Undefined):
        str(value)  # raises UndefinedError, which says what is not there
    return value


def settle_in_key(value: Any) -> Any:
    return settle_value(value) if current_budget.get().in_key else value


def check_size(value: Any) -> Any:
    current_budget.get().measure_input([value])
    return value


def read_part(value: Any, part: Any, shown: str = "a part") -> Any:
    """The *part* of *value*: a column, an element, a slice. It is undefined where there is none,
    and *shown* is what that is called: nothing of the row."""
    try:
        if isinstance(require_defined(value), dict | list | tuple | str):
            found = settle_in_key(value[part])
            return current_budget.get().charge(found) if isinstance(part, slice) else found
    except (TypeError, LookupError):
        pass
    whose = "the row" if isinstance(value, RowImage) and not value.missing else "the value"
    return StrictUndefined(f"names {shown} that {whose} does not have")


def iterate_values(values: Iterable[Any]) -> Iterator[Any]:
    """The elements of *values*, with a look at the time before each."""
    budget = current_budget.get()
    for count, value in enumerate(values):
        require_at_most(count, LIST_ELEMENTS_MAX)
        budget.check_time()
        yield settle_in_key(value)


def to_value(value: Any) -> Any:
    """*value* as a JSON value, whatever a filter made of it."""
    match require_defined(value):
        case Undefined():
            return None  # of `… if … ` without an else, which Jinja2 writes as nothing
        case RowImage() if value.missing:
            return None
        case str() | None | bool() | int() | float() | Decimal() | dict() | list():
            return value
        case tuple() | Iterator():
            return list(iterate_values(value))
        case _:
            raise TypeError


def to_text(value: Any) -> str:
    value = to_value(value)
    if isinstance(value, dict | list):
        return to_json(value)
    return text(to_decimal(value) if isinstance(value, Decimal) else value)


def to_json(value: Any) -> str:
    budget = current_budget.get()
    budget.check_length(budget.measure_input([value]))
    return cast(str, budget.charge(text([to_plain(value)])[1:-1]))


def to_plain(value: Any) -> Any:
    """*value* with nothing but JSON in it, settled in a key, where the order of an object's names
    is settled too."""
    value = to_value(value)
    match value:
        case dict():
            names = sorted(value, key=str) if current_budget.get().in_key else value
            return {text(to_plain(name)): to_plain(value[name]) for name in names}
        case list():
            return [to_plain(inner) for inner in value]
        case _:
            return settle_in_key(to_decimal(value) if isinstance(value, Decimal) else value)


def concatenate(pieces: Iterable[str]) -> str:
    budget = current_budget.get()
    written = StringIO(newline="")
    for piece in pieces:
        budget.check_length(written.tell() + len(piece))
        budget.check_time()
        written.write(piece)
    return cast(str, budget.charge(written.getvalue()))


def format_percent(form: str, given: Any) -> str:
    """``'%05.1f' % value``, with the same bounds and the same exact numbers as `format`."""
    require_at_most(len(form), SLOW_CHARACTERS_MAX)
    in_order = iter(given if isinstance(given, list | tuple) else [given])

    def written(found: re.Match[str]) -> str:
        flags, kind, digits = (
            found["flags"],
            found["kind"].replace("i", "d").replace("u", "d"),
            found["digits"],
        )
        if kind == "%":
            return "%"
        value = read_part(given, found["name"]) if found["name"] else next(in_order, _NOT_GIVEN)
        align, marks = "<" if "-" in flags else "", ""
        if kind == "s":
            value, align = to_text(value), align or ">"
        else:
            value = (
                int(to_number(require_defined(value)))
                if kind in "doxX"
                else Decimal(to_number(require_defined(value)))
            )
            sign = next((sign for sign in "+ " if sign in flags), "")
            marks = sign + "#" * ("#" in flags) + "0" * ("0" in flags and not align)
        return format_value(
            value, f"{align}{marks}{found['width']}{'.0' if digits == '.' else digits}{kind}"
        )

    return _PERCENT.sub(written, form)


def format_value(value: Any, spec: str) -> str:
    """*value* in Python's format *spec*: widths bounded, all but numbers as a ticket shows it."""
    for number in re.findall(r"\d+", spec):  # Python reads the digits of every script
        require_at_most(int(number), PADDING_CHARACTERS_MAX)
    if not spec or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        shown: Any = to_text(value)
    else:
        shown = to_number(value)
        if spec[-1] not in "bcdnoxX":
            shown = Decimal(shown)
    return cast(str, current_budget.get().charge(format(shown, spec)))
