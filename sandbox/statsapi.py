"""The Aggregate API: how many records a query finds, and the sums, averages and extremes of their
columns.

https://www.servicenow.com/docs/r/api-reference/rest-apis/c_AggregateAPI.html. Every figure is a
text; an average has four decimals, as in its example. Where groups are shown by display values,
clients read those beside the values. In what order groups come by themselves it does not say: here
in that of their values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sandbox import query
from sandbox.query import Value
from sandbox.rest import (
    Answer,
    Presenter,
    Request,
    Site,
    Target,
    answered,
    conditions,
    no_such_method,
)
from sandbox.schema import Column, Kind, Refused

_FUNCTIONS: Final = ("sum", "avg", "min", "max")
_NUMERIC: Final = frozenset({"sum", "avg"})
_SIGNS: Final = frozenset({"=", "!=", ">", ">=", "<", "<="})
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure to tell of each group: a *function* of the column that *path* leads to, as SQL."""

    function: str
    path: str
    sql: str
    column: Column


def answer(site: Site, request: Request, target: Target) -> Answer:
    """Do what *request* asks of *target*, or raise Refused."""
    if request.meant not in {"GET", "HEAD"}:
        raise no_such_method(request)
    table, asked = target.table, request.parameters
    # Who may not read every record of the table gets 403, as the page had it up to the Zurich
    # release.
    site.rights.check("GET", table, single=False, whole=True)
    figures = list(_figures(table, asked))
    groups = [
        (path, sql)
        for path in _listed(asked, "sysparm_group_by")
        if (sql := _column(table, path)[0])
    ]
    having, values = _having(table, asked.get("sysparm_having", ""))
    encoded, pairs = conditions(request)
    rows = site.tables.aggregate(
        table,
        encoded,
        pairs=pairs,
        columns=["count(*)", *(figure.sql for figure in figures), *(sql for _, sql in groups)],
        groups=[sql for _, sql in groups],
        having=having,
        having_values=values,
        orders=list(_orders(table, asked, [path for path, _ in groups])),
        by=site.user,
    )
    counted = asked.get("sysparm_count") == "true"
    present = Presenter(site, asked)
    results = []
    for count, *told in rows:
        stats = ({"count": str(count)} if counted else {}) | _stats(figures, told[: len(figures)])
        if not groups:
            return answered(200, {"result": {"stats": stats}})
        shown = [
            _group(present, table, path, str(value), asked)
            for (path, _), value in zip(groups, told[len(figures) :], strict=True)
        ]
        results.append({"stats": stats, "groupby_fields": shown})
    return answered(200, {"result": results if groups else {"stats": {}}})


def _figures(table: str, asked: Mapping[str, str]) -> Iterator[_Figure]:
    for function in _FUNCTIONS:
        for path in _listed(asked, f"sysparm_{function}_fields"):
            sql, column = _column(table, path)
            if sql and column:
                yield _Figure(function, path, _function(function, path, sql, column), column)


def _function(function: str, path: str, sql: str, column: Column) -> str:
    """A function of the values that are there; what is empty is none. Raises Refused (501)."""
    if column.kind is Kind.INTEGER:
        return f"{function}(CASE WHEN {sql} != '' THEN CAST({sql} AS INTEGER) END)"
    if function in _NUMERIC:
        raise query.unimplemented(f"{function} of {path}, which is no number")
    return f"{function}(nullif({sql}, ''))"


def _stats(figures: Sequence[_Figure], told: Sequence[object]) -> dict[str, Any]:
    stats: dict[str, dict[str, str]] = {}
    for figure, value in zip(figures, told, strict=True):
        written = (
            f"{value:.4f}"
            if figure.function == "avg" and value is not None
            else str("" if value is None else value)
        )
        stats.setdefault(figure.function, {})[figure.path] = written
    return stats


def _group(
    present: Presenter, table: str, path: str, value: str, asked: Mapping[str, str]
) -> dict[str, str]:
    told = {"value": value, "field": path}
    if asked.get("sysparm_display_value") in {"true", "all"}:
        told = {"display_value": present.shown_value(table, path, value)} | told
    return told


def _having(table: str, written: str) -> tuple[str, list[Value]]:
    """``count^state^>^1,avg^priority^<^3``: the groups of which all that is so. Raises Refused
    (400)."""
    terms, values = ["1"], list[Value]()
    for one in filter(None, written.split(",")):
        parts = one.split("^")
        if (
            len(parts) != 4
            or parts[0].lower() not in {"count", *_FUNCTIONS}
            or parts[2] not in _SIGNS
        ):
            words = "sysparm_having must be aggregate^field^operator^value"
            raise Refused(400, "Invalid having clause", f"{words}, not {one}")
        function, path, sign, value = parts[0].lower(), parts[1], parts[2], parts[3]
        sql, column = _column(table, path)
        if not sql or column is None:
            continue
        told = (
            f"count(nullif({sql}, ''))"
            if function == "count"
            else _function(function, path, sql, column)
        )
        number = _NUMBER.fullmatch(value) and (function == "count" or column.kind is Kind.INTEGER)
        terms.append(f"{told} {sign} {'CAST(? AS REAL)' if number else '?'}")
        values.append(value)
    return " AND ".join(terms), values


def _orders(table: str, asked: Mapping[str, str], grouped: Sequence[str]) -> Iterator[str]:
    """``AVG^state``, ``COUNT``, ``state^DESC``, with commas between them."""
    for one in _listed(asked, "sysparm_order_by"):
        named, _, rest = one.removesuffix("^DESC").partition("^")
        down = " DESC" if one.endswith("^DESC") else ""
        function = named.lower()
        if function == "count":
            yield f"count(*){down}"
        elif function in _FUNCTIONS and rest:
            sql, column = _column(table, rest)
            if sql and column:
                yield f"{_function(function, rest, sql, column)}{down}"
        elif named in grouped:
            yield f"{_comparable(table, named)}{down}"
    yield from (_comparable(table, path) for path in grouped)


def _comparable(table: str, path: str) -> str:
    sql, column = _column(table, path)
    return f"CAST({sql} AS INTEGER)" if column and column.kind is Kind.INTEGER else sql


def _column(table: str, path: str) -> tuple[str, Column | None]:
    """A column as SQL; empty for one that there is not, which is ignored."""
    return query.find_column(table, path) or ("", None)


def _listed(asked: Mapping[str, str], name: str) -> list[str]:
    return [one.strip() for one in asked.get(name, "").split(",") if one.strip()]
