"""ServiceNow's encoded queries as SQL.

https://servicenow.github.io/sdk/guides/encoded-query-guide, KB0551763, and the query builder of ServiceNow's own Python
client. A term that names an unknown column or operator is dropped, as the platform does: a typo returns everything.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from sandbox.schema import EXTENDS, SCHEMA, Column, Kind, quoted, shown_as

Value: TypeAlias = str | int
# SQL with its marks, and what goes where the marks are.
Fragment: TypeAlias = tuple[str, list[Value]]

# How often a dot may be walked.
_DOTS_MAX: Final = 6
_FIELD = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*", re.ASCII)
# Longer words first: NOT IN is no NOT, INSTANCEOF no IN.
_OPERATORS: Final = (
    "DOES NOT CONTAIN",
    "GT_OR_EQUALS_FIELD",
    "LT_OR_EQUALS_FIELD",
    "GT_FIELD",
    "LT_FIELD",
    "NSAMEAS",
    "SAMEAS",
    "INSTANCEOF",
    "ISNOTEMPTY",
    "EMPTYSTRING",
    "ISEMPTY",
    "ANYTHING",
    "STARTSWITH",
    "ENDSWITH",
    "CONTAINS",
    "NOT LIKE",
    "LIKE",
    "RELATIVEGT",
    "RELATIVELT",
    "RELATIVEGE",
    "RELATIVELE",
    "VALCHANGES",
    "CHANGESFROM",
    "CHANGESTO",
    "DYNAMIC",
    "BETWEEN",
    "NOT IN",
    "NOTON",
    "IN",
    "ON",
    "!=",
    ">=",
    "<=",
    "=",
    ">",
    "<",
)
_TERM = re.compile(f"({_FIELD.pattern})({'|'.join(_OPERATORS)})(.*)", re.ASCII | re.DOTALL)
_TEXT_QUERY: Final = "123TEXTQUERY321="
# The types of columns that hold what people wrote.
_WORDY: Final = frozenset({"string", "html", "email"})
_JOIN = re.compile(r"JOIN([a-z0-9_]+)\.([a-z0-9_]+)=([a-z0-9_]+)\.([a-z0-9_]+)!(.*)", re.ASCII | re.DOTALL)
_RELATED = re.compile(r"RLQUERY([a-z0-9_]+)\.([a-z0-9_]+),(>=|<=|!=|=|>|<)([0-9]{1,9})(?:,m2m)?", re.ASCII)
_FIELD_COMPARISONS: Final = {
    "GT_FIELD": ">",
    "GT_OR_EQUALS_FIELD": ">=",
    "LT_FIELD": "<",
    "LT_OR_EQUALS_FIELD": "<=",
    "SAMEAS": "=",
    "NSAMEAS": "!=",
}
_ME: Final = "90d1921e5f510100a9ad2572f2b477fe"  # the dynamic filter option "Me"
_RELATIVE = re.compile(r"@(minute|hour|dayofweek|month|quarter|year)@(ago|ahead)@([0-9]{1,6})")
_UNIT_HOURS: Final = {
    "minute": 1 / 60,
    "hour": 1,
    "dayofweek": 24,
    "month": 24 * 30,
    "quarter": 24 * 91,
    "year": 24 * 365,
}
_SCRIPT = re.compile(r"(?:javascript:)?gs\.([A-Za-z]+)\(([0-9]{0,6})\)")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and when, in UNIX seconds: what a script in a query speaks of."""

    user_id: str = ""
    user_name: str = ""
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Query:
    """The conditions on one table. *values* belong to *where*; *order_values* are none, a column takes no marks."""

    where: str
    order: str
    values: list[Value]


@dataclass(slots=True)
class _Reader:
    """Reads the terms about *table*, which SQL knows as *alias*; *before*: what a record was, for CHANGES."""

    table: str
    asker: Asker
    alias: str = "t"
    before: str = ""
    depth: int = 0
    orders: list[str] = field(default_factory=list)

    def read(self, query: str) -> Fragment:
        groups = [self._group(group) for group in query.split("^NQ")]
        return _joined(groups, "OR")

    def _group(self, group: str) -> Fragment:
        alternatives: list[list[Fragment]] = []  # joined by AND; each inner list by OR
        for token in _tokens(group):
            if token.startswith("ORDERBY"):
                self.orders += self._order(token.removeprefix("ORDERBY"))
                continue
            joins = token.startswith("OR")
            if not joins or not alternatives:
                alternatives.append([])
            term = self._term(token.removeprefix("OR"))
            if term is not None:
                alternatives[-1].append(term)
        return _joined([_joined(terms, "OR") for terms in alternatives if terms], "AND")

    def _order(self, asked: str) -> list[str]:
        walked = self.walk(asked.removeprefix("DESC"))
        if walked is None:
            return []
        sql, column = walked
        shown = self._shown(sql, column)
        return [f"{_comparable(shown, column)}{' DESC' if asked.startswith('DESC') else ''}"]

    def walk(self, path: str) -> tuple[str, Column] | None:
        """A column of this table, or of another one that references lead to, as SQL."""
        names = path.split(".")
        column = SCHEMA[self.table].get(names[0])
        if column is None or len(names) > _DOTS_MAX:
            return None
        sql = f"{self.alias}.{quoted(names[0])}"
        for step, name in enumerate(names[1:]):
            beyond = SCHEMA.get(column.refers_to, {}).get(name)
            if beyond is None:
                return None
            there = f"w{self.depth}_{step}"
            chosen = f"SELECT {there}.{quoted(name)} FROM {column.refers_to} {there} WHERE {there}.sys_id = {sql}"  # noqa: S608  # names from SCHEMA
            sql, column = f"coalesce(({chosen}), '')", beyond
        return sql, column

    def _shown(self, sql: str, column: Column) -> str:
        """References are searched and sorted by the name that people see."""
        if column.kind is not Kind.REFERENCE:
            return sql
        name = quoted(shown_as(column.refers_to))
        return f"coalesce((SELECT s.{name} FROM {column.refers_to} s WHERE s.sys_id = {sql}), '')"  # noqa: S608  # names from SCHEMA

    def _term(self, token: str) -> Fragment | None:
        if token.startswith(_TEXT_QUERY):
            return self._words(token.removeprefix(_TEXT_QUERY))
        if token.startswith("JOIN"):
            return self._join(token)
        if token.startswith("RLQUERY"):
            return self._related(token)
        found = _TERM.fullmatch(token)
        walked = self.walk(found[1]) if found else None
        if found is None or walked is None:
            return None
        value = _evaluated(found[3], self.asker)
        return None if value is None else self._compared(found[1], *walked, found[2], value)

    def _words(self, words: str) -> Fragment:
        columns = [
            f"{self.alias}.{quoted(name)}"
            for name, column in SCHEMA[self.table].items()
            if column.kind is Kind.STRING and column.internal_type in _WORDY and not column.default
        ]
        everything = " || ' ' || ".join(columns)
        return _joined([(f"instr(lower({everything}), lower(?)) > 0", [word]) for word in words.split()], "AND")

    def _join(self, token: str) -> Fragment | None:
        found = _JOIN.fullmatch(token)
        mine = self.walk(found[2]) if found else None
        if found is None or mine is None or found[4] not in SCHEMA.get(found[3], {}):
            return None
        where, values = self._elsewhere(found[3]).read(found[5])
        there = f"j{self.depth}"
        joined = f"SELECT {there}.{quoted(found[4])} FROM {found[3]} {there} WHERE {where}"  # noqa: S608  # names from SCHEMA
        return f"({mine[0]} != '' AND {mine[0]} IN ({joined}))", values

    def _related(self, token: str) -> Fragment | None:
        head, _, rest = token.partition("^")
        found = _RELATED.fullmatch(head)
        if found is None or found[2] not in SCHEMA.get(found[1], {}):
            return None
        where, values = self._elsewhere(found[1]).read(rest)
        there = f"j{self.depth}"
        related = f"{there}.{quoted(found[2])} = {self.alias}.sys_id AND ({where})"
        counted = f"(SELECT count(*) FROM {found[1]} {there} WHERE {related})"  # noqa: S608  # names from SCHEMA
        return f"{counted} {found[3]} {int(found[4])}", values

    def _elsewhere(self, table: str) -> "_Reader":
        return _Reader(table, self.asker, alias=f"j{self.depth}", depth=self.depth + 1)

    def _compared(self, path: str, sql: str, column: Column, operator: str, value: str) -> Fragment | None:
        match operator:
            case "=" | "!=":
                return f"{sql} {operator} ? COLLATE NOCASE", [value]
            case "IN" | "NOT IN":
                chosen = value.split(",")
                return f"{sql} COLLATE NOCASE {operator} ({', '.join('?' * len(chosen))})", list(chosen)
            case "ISEMPTY" | "EMPTYSTRING":
                return f"{sql} = ''", []
            case "ISNOTEMPTY":
                return f"{sql} != ''", []
            case "ANYTHING":
                return "1", []
            case "STARTSWITH" | "ENDSWITH" | "LIKE" | "CONTAINS" | "NOT LIKE" | "DOES NOT CONTAIN":
                return _searched(self._shown(sql, column), operator, value)
            case "BETWEEN":
                low, _, high = value.partition("@")
                return _joined([_ordered(sql, column, ">=", low), _ordered(sql, column, "<=", high)], "AND")
            case "ON" | "NOTON":
                return _on(sql, column, operator, value)
            case "RELATIVEGT" | "RELATIVEGE" | "RELATIVELT" | "RELATIVELE":
                moment = _moment(value, self.asker.now)
                sign = ">=" if operator.startswith("RELATIVEG") else "<="
                return None if moment is None else _ordered(sql, column, sign, moment)
            case "INSTANCEOF":
                classes = [value, *(name for name, above in EXTENDS.items() if above == value)]
                return f"{sql} IN ({', '.join('?' * len(classes))})", list(classes)
            case "DYNAMIC":
                return (f"{sql} = ?", [self.asker.user_id]) if value == _ME else None
            case "VALCHANGES" | "CHANGESFROM" | "CHANGESTO":
                return self._changed(path, sql, operator, value)
            case _ if operator in _FIELD_COMPARISONS:
                other = self.walk(value)
                sign = _FIELD_COMPARISONS[operator]
                return None if other is None else (f"{sql} {sign} {_comparable(*other)}", [])
            case _:
                return _ordered(sql, column, operator, value)

    def _changed(self, path: str, sql: str, operator: str, value: str) -> Fragment | None:
        """Only business rules know what was before; an inserted record changes from nothing."""
        if not self.before or path not in SCHEMA[self.table]:
            return None
        was = f"{self.before}.{quoted(path)}"
        match operator:
            case "CHANGESFROM":
                return f"({sql} != {was} AND {was} = ?)", [value]
            case "CHANGESTO":
                return f"({sql} != {was} AND {sql} = ?)", [value]
            case _:
                return f"{sql} != {was}", []


def read(query: str, table: str, *, asker: Asker) -> Query:
    """An encoded query about *table*, which the SQL knows as ``t``.

    ``^OR`` binds to the term before it, tighter than ``^``; ``^NQ`` separates whole groups.
    """
    reader = _Reader(table, asker)
    where, values = reader.read(query)
    # The view has no rowid.
    last = "t.sys_created_on, t.number" if table == "task" else "t.rowid"
    return Query(where, ", ".join([*reader.orders, last]), values)


def condition(query: str, table: str, after: Mapping[str, str], before: Mapping[str, str], *, asker: Asker) -> Fragment:
    """A statement whose one row says if *after*, which was *before*, meets the condition of a business rule."""
    where, values = _Reader(table, asker, before="b").read(query)
    columns = list(SCHEMA[table])
    row = ", ".join(f"? AS {quoted(column)}" for column in columns)
    compared: list[Value] = [image.get(column, "") for image in (after, before) for column in columns]
    statement = f"SELECT count(*) FROM (SELECT {row}) t, (SELECT {row}) b WHERE {where}"  # noqa: S608  # names from SCHEMA
    return statement, [*compared, *values]


def _tokens(group: str) -> Iterator[str]:
    """The terms between the carets. A related list, up to its end, is one term, and so is a join, to the end."""
    parts = group.split("^")
    while parts:
        token = parts.pop(0)
        if token.removeprefix("OR").startswith("RLQUERY"):
            end = parts.index("ENDRLQUERY") if "ENDRLQUERY" in parts else len(parts)
            token, parts = "^".join([token, *parts[:end]]), parts[end + 1 :]
        elif token.startswith("JOIN"):
            inner = [part for part in parts if not part.startswith("ORDERBY")]
            token, parts = "^".join([token, *inner]), [part for part in parts if part.startswith("ORDERBY")]
        yield token


def _joined(terms: list[Fragment], word: str) -> Fragment:
    """The *terms* with AND or OR between them, as a balanced tree: SQLite takes no expression over 1000 deep."""
    if not terms:
        return "1", []
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    (left, left_values), (right, right_values) = _joined(terms[:half], word), _joined(terms[half:], word)
    return f"({left} {word} {right})", [*left_values, *right_values]


def _comparable(sql: str, column: Column) -> str:
    return f"CAST({sql} AS INTEGER)" if column.kind is Kind.INTEGER else sql


def _ordered(sql: str, column: Column, sign: str, value: str) -> Fragment:
    number = column.kind is Kind.INTEGER and re.fullmatch(r"-?[0-9]{1,18}", value)
    return f"({sql} != '' AND {_comparable(sql, column)} {sign} ?)", [int(value) if number else value]


def _searched(sql: str, operator: str, value: str) -> Fragment:
    match operator:
        case "STARTSWITH":
            return f"instr(lower({sql}), lower(?)) = 1", [value]
        case "ENDSWITH":
            return f"lower(substr({sql}, -length(?))) = lower(?)", [value, value]
        case "LIKE" | "CONTAINS":
            return f"instr(lower({sql}), lower(?)) > 0", [value]
        case _:
            return f"instr(lower({sql}), lower(?)) = 0", [value]


def _on(sql: str, column: Column, operator: str, value: str) -> Fragment:
    """``ONToday@start@end``, or a bare day."""
    _, _, span = value.partition("@")
    start, _, end = span.partition("@")
    if not end:
        start, end = f"{value[:10]} 00:00:00", f"{value[:10]} 23:59:59"
    inside, values = _joined([_ordered(sql, column, ">=", start), _ordered(sql, column, "<=", end)], "AND")
    return (inside if operator == "ON" else f"NOT {inside}"), values


def _moment(value: str, now: float) -> str | None:
    """``@hour@ago@3`` as the platform's time."""
    found = _RELATIVE.fullmatch(value)
    if found is None:
        return None
    seconds = _UNIT_HOURS[found[1]] * int(found[3]) * 3600
    return stamp(now - seconds if found[2] == "ago" else now + seconds)


def _evaluated(value: str, asker: Asker) -> str | None:
    """*value* with its scripts run, None where one says something that is not known here."""
    if "javascript:" not in value:
        return value
    parts = [_run(part, asker) if "gs." in part else part for part in value.split("@")]
    if any(part is None or "javascript:" in part for part in parts):
        return None
    return "@".join(part for part in parts if part is not None)


def _run(script: str, asker: Asker) -> str | None:
    found = _SCRIPT.fullmatch(script.strip())
    if found is None:
        return None
    now = datetime.fromtimestamp(asker.now, UTC)
    today = now.replace(hour=0, minute=0, second=0)
    ago = int(found[2] or 0)
    day = timedelta(days=1) - timedelta(seconds=1)
    moments = {
        "nowDateTime": now,
        "now": now,
        "beginningOfToday": today,
        "endOfToday": today + day,
        "beginningOfYesterday": today - timedelta(days=1),
        "endOfYesterday": today - timedelta(seconds=1),
        "minutesAgo": now - timedelta(minutes=ago),
        "minutesAgoStart": now - timedelta(minutes=ago),
        "hoursAgo": now - timedelta(hours=ago),
        "hoursAgoStart": now - timedelta(hours=ago),
        "daysAgo": now - timedelta(days=ago),
        "daysAgoStart": today - timedelta(days=ago),
        "daysAgoEnd": today - timedelta(days=ago) + day,
    }
    match found[1]:
        case "getUserID":
            return asker.user_id
        case "getUserName":
            return asker.user_name
        case name if name in moments:
            return stamp(moments[name].timestamp())
        case _:
            return None


def stamp(now: float) -> str:
    """UNIX seconds as the platform writes a time: UTC, to the second."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S")
