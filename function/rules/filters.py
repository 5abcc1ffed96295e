"""The filters, tests and methods that templates have, each with a bound on what it is given and on
what it makes.

Those of Jinja2's that are not here are random, make HTML, or can be had with less.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial, wraps
from itertools import islice
from typing import Any, Final

from jinja2.filters import FILTERS, make_attrgetter
from jinja2.sandbox import SandboxedFormatter
from jinja2.tests import TESTS

from function.core.outcome import Reason
from function.core.values import instant
from function.rules.arithmetic import calculate, round_number, to_float, to_int, to_number
from function.rules.budget import (
    LIST_ELEMENTS_MAX,
    PADDING_CHARACTERS_MAX,
    SLOW_CHARACTERS_MAX,
    STEPS_MAX,
    TEXT_CHARACTERS_MAX,
    RenderError,
    current_budget,
    require_at_most,
)
from function.rules.sandbox import ENVIRONMENT
from function.rules.template_values import (
    RowImage,
    check_size,
    concatenate,
    format_percent,
    format_value,
    iterate_values,
    require_defined,
    to_json,
    to_text,
)

_ABSENT: Final = object()
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _bound(act: Callable[..., Any], *, of_list: bool = False) -> Callable[..., Any]:
    """A filter, a test or a method, with a bound on what it is given and on what it makes.

    *of_list*: it would go through each character of a text.
    """
    passed = int(hasattr(act, "jinja_pass_arg"))

    @wraps(act)  # so that Jinja2 passes what it asks for
    def acting(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        lazy = (Iterator, range, list) if budget.in_key else (Iterator, range)
        given = [
            list(iterate_values(value)) if isinstance(value, lazy) else value
            for value in args[passed:]
        ]
        if of_list and isinstance(given[0], str):
            given[0] = list(iterate_values(given[0]))
        budget.measure_input([*given, *kwargs.values()])
        made = act(*args[:passed], *given, **kwargs)
        return made if any(made is value for value in given) else budget.charge(made)

    return acting


def _text_filter(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, given a text as a ticket would show it (null is empty, not "None")."""
    return lambda value, *args, **kwargs: act(to_text(value), *args, **kwargs)


def _shorten(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, kept from a text on which it would take long, and from putting too much between its
    characters."""

    def acting(value: str, *args: Any, **kwargs: Any) -> Any:
        value = value[:SLOW_CHARACTERS_MAX]
        for argument in (*args, *kwargs.values()):
            size = len(argument) if isinstance(argument, str) else argument or 0
            require_at_most((len(value) + 1) * size, TEXT_CHARACTERS_MAX)
        return act(value, *args, **kwargs)

    return acting


def _apply_in_pieces(act: Callable[[str], str]) -> Callable[[str], str]:
    """*act*, which takes twelve bytes for each character that is not of ASCII."""
    size = SLOW_CHARACTERS_MAX
    return lambda value: concatenate(
        act(value[start : start + size]) for start in range(0, len(value), size)
    )


def _check_first(act: Callable[..., Any], check: Callable[..., object]) -> Callable[..., Any]:
    def acting(*args: Any, **kwargs: Any) -> Any:
        check(*args, *kwargs.values())
        return act(*args, **kwargs)

    return acting


def _check_search(value: str, *args: Any) -> None:
    for argument in args:
        require_at_most(len(value) * len(argument) if isinstance(argument, str) else 0, STEPS_MAX)


def _check_split(value: str, *args: Any) -> None:
    _check_search(value, *args)
    require_at_most(
        value.count(args[0]) if args and isinstance(args[0], str) else len(value) // 2,
        LIST_ELEMENTS_MAX,
    )


def _check_width(_: str, width: int = 0, *_others: Any) -> None:
    require_at_most(width, PADDING_CHARACTERS_MAX)


def _replace_text(value: str, old: Any, new: Any, count: int = -1) -> str:
    old, new = to_text(old), to_text(new)
    times = value.count(old) if count is None or count < 0 else min(count, value.count(old))
    current_budget.get().check_length(len(value) + times * (len(new) - len(old)))
    return value.replace(old, new, times)


def _sum_values(value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    total = start
    for inner in _read_parts(value, attribute):
        total = calculate("+", total, inner)
    return total


def _read_parts(values: Iterable[Any], attribute: str | int | None) -> Iterator[Any]:
    """The elements of *values*, or what stands in them under *attribute*."""
    if attribute is not None:
        values = map(make_attrgetter(ENVIRONMENT, attribute), values)
    return iterate_values(values)


def _quote_url(value: Any) -> str:
    quote = FILTERS["urlencode"]
    if isinstance(value, dict):
        return _join_texts(
            (quote({name: to_text(inner)[:SLOW_CHARACTERS_MAX]}) for name, inner in value.items()),
            "&",
        )
    return str(quote(to_text(value)[:SLOW_CHARACTERS_MAX]))


def _join_texts(value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    between = to_text(d)
    pieces = (
        piece for inner in _read_parts(value, attribute) for piece in (between, to_text(inner))
    )
    return concatenate(islice(pieces, 1, None))


def _look_up(value: Any, mapping: Any, default: Any = _ABSENT) -> Any:
    """The value that *mapping* has for *value*; 1 and '1' are one. Without one, *default*, else a
    failure."""
    if not isinstance(mapping, dict):
        raise TypeError
    sought = to_text(value)
    for name, found in mapping.items():
        if to_text(name) == sought:
            return found
    if default is _ABSENT:
        raise RenderError(
            "lookup does not know this value; add it or give a default", Reason.UNKNOWN_VALUE
        )
    return default


def _to_sn_datetime(value: Any) -> str:
    """An ISO time as ServiceNow takes it: UTC, to the second. A date is its midnight; null is
    empty."""
    written = to_text(value).strip()
    if not written:
        return ""
    moment = instant(f"{written} 00:00:00" if _DATE.fullmatch(written) else written)
    if moment is None:
        raise RenderError("sn_datetime cannot read this value as a time; give it an ISO 8601 time")
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")


class ValueFormatter(SandboxedFormatter):
    """``'{:,.2f}'.format(row.amount)``"""

    def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:
        require_at_most(len(format_string), SLOW_CHARACTERS_MAX)
        return super().vformat(format_string, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        return format_value(value, format_spec)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is not None:
            raise ValueError
        return value


# Those that look for another text in a text, or ask what it is made of.
_SEARCHING_METHODS = (
    "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric", "isspace", "istitle", "isupper", "lstrip", "partition", "removeprefix",
    "removesuffix", "rfind", "rindex", "rpartition", "rstrip", "startswith", "strip",
)  # fmt: skip
_METHODS_OF_TEXTS: dict[str, Callable[..., Any]] = {
    **{name: _check_first(getattr(str, name), _check_search) for name in _SEARCHING_METHODS},
    **{
        name: _check_first(getattr(str, name), _check_split)
        for name in ("rsplit", "split", "splitlines")
    },
    **{
        name: _check_first(getattr(str, name), _check_width)
        for name in ("center", "ljust", "rjust", "zfill")
    },
    **{
        name: _apply_in_pieces(getattr(str, name))
        for name in ("casefold", "lower", "swapcase", "upper")
    },
    **{name: _shorten(getattr(str, name)) for name in ("capitalize", "title")},
    "format": lambda value, *args, **kwargs: ValueFormatter(ENVIRONMENT).vformat(
        value, args, kwargs
    ),
    "join": lambda value, values: _join_texts(values, value),
    "replace": _replace_text,
}
_METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: _METHODS_OF_TEXTS,
    # Views of an object are no JSON.
    dict: {
        "get": dict.get,
        "items": lambda value: list(value.items()),
        "keys": list,
        "values": lambda value: list(value.values()),
    },
    list: {"count": list.count, "index": list.index},
}
METHODS_OFFERED: Final = frozenset(name for methods in _METHODS.values() for name in methods)


def _call_method(value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    for kind, methods in _METHODS.items():
        if isinstance(require_defined(value), kind) and name in methods:
            return methods[name](value, *args, **kwargs)
    raise TypeError


# Jinja2's own: those of lists, and those of anything.
_LIST_FILTERS = (
    "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique",
)  # fmt: skip
_OTHER_FILTERS = (
    "count", "d", "default", "dictsort", "first", "items", "last", "length", "reverse",
)  # fmt: skip
FILTERS_OFFERED: Final[dict[str, Callable[..., Any]]] = {
    **{name: FILTERS[name] for name in (*_LIST_FILTERS, *_OTHER_FILTERS)},
    **{
        name: _text_filter(_METHODS_OF_TEXTS[name])
        for name in ("capitalize", "lower", "replace", "upper")
    },
    "abs": lambda value: abs(to_number(value)),
    "center": _text_filter(_check_first(FILTERS["center"], _check_width)),
    "float": to_float,
    "format": lambda form, *args, **kwargs: format_percent(to_text(form), kwargs or list(args)),
    "indent": _text_filter(_shorten(FILTERS["indent"])),
    "int": to_int,
    "join": _join_texts,
    "list": lambda value: list(iterate_values(value)),
    "lookup": _look_up,
    "round": round_number,
    "sn_datetime": _to_sn_datetime,
    "string": to_text,
    "striptags": _text_filter(_shorten(FILTERS["striptags"])),
    "sum": _sum_values,
    "title": _text_filter(_shorten(FILTERS["title"])),
    "tojson": to_json,
    "trim": _text_filter(_METHODS_OF_TEXTS["strip"]),
    "truncate": _text_filter(partial(FILTERS["truncate"], ENVIRONMENT)),
    "urlencode": _quote_url,
    "wordcount": lambda value: sum(1 for _ in re.finditer(r"\S+", to_text(value))),
    "wordwrap": _text_filter(_shorten(partial(FILTERS["wordwrap"], ENVIRONMENT))),
}
TESTS_OFFERED: Final[dict[str, Any]] = {
    **{
        name: test
        for name, test in TESTS.items()
        if name not in ("callable", "escaped", "filter", "test")
    },
    "float": lambda value: isinstance(value, float | Decimal),
    "none": lambda value: value is None or (isinstance(value, RowImage) and value.missing),
}

ENVIRONMENT.filters = {
    **{name: _bound(act, of_list=name in _LIST_FILTERS) for name, act in FILTERS_OFFERED.items()},
    # For SandboxTransformer.
    "internal: check size": check_size,
    "internal: decimal": Decimal,
    "internal: loop": iterate_values,
    "internal: method": _bound(_call_method),
}
ENVIRONMENT.tests = {name: _bound(test) for name, test in TESTS_OFFERED.items()}
