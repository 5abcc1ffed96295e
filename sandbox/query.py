"""ServiceNow's encoded queries as SQL.

https://www.servicenow.com/docs/r/platform-user-interface/r_OpAvailableFiltersQueries.html (the
operators), https://www.servicenow.com/docs/r/platform-user-interface/c_EncodedQueryStrings.html
(lists, roles, words), https://servicenow.github.io/sdk/guides/encoded-query-guide, KB0551763, and
the query builder of ServiceNow's own Python client. A term that names an unknown column is dropped,
as the platform does: a typo returns everything. What the platform knows and this does not, an
operator, a script or a table, is refused with 501 and its name: dropped, it would return everything
too, and nobody would be told.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

from sandbox import scripts
from sandbox.schema import EXTENDS, SCHEMA, Column, Kind, Refused, quoted, shown_as
from sandbox.scripts import Asker, run_value, stamp, unimplemented

__all__ = [
    "Asker",
    "Fragment",
    "Query",
    "Value",
    "add_functions",
    "condition",
    "find_column",
    "named_columns",
    "read",
    "stamp",
    "unimplemented",
]

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
    "IN_HIERARCHY_DYNAMIC",
    "IN_HIERARCHY",
    "ISNOTEMPTY",
    "NOTEMPTY",
    "EMPTYSTRING",
    "ISEMPTY",
    "EMPTY",
    "ANYTHING",
    "STARTSWITH",
    "ENDSWITH",
    "CONTAINS",
    "NOT LIKE",
    "NOTLIKE",
    "LIKE",
    "RELATIVEGT",
    "RELATIVELT",
    "RELATIVEGE",
    "RELATIVELE",
    "RELATIVEEE",
    "VALCHANGES",
    "CHANGESFROM",
    "CHANGESTO",
    "DATEPART",
    "MORETHAN",
    "LESSTHAN",
    "DYNAMIC",
    "BETWEEN",
    "NOT IN",
    "NOTON",
    "IN",
    "ON",
    "!*",
    "!=",
    "<>",
    ">=",
    "<=",
    "=",
    ">",
    "<",
    "*",
    "%",
)
# Other ways to write an operator.
_SAME_AS: Final = {
    "*": "LIKE",
    "CONTAINS": "LIKE",
    "!*": "NOT LIKE",
    "NOTLIKE": "NOT LIKE",
    "DOES NOT CONTAIN": "NOT LIKE",
    "%": "ENDSWITH",
    "EMPTY": "ISEMPTY",
    "EMPTYSTRING": "ISEMPTY",
    "NOTEMPTY": "ISNOTEMPTY",
}
_TERM = re.compile(
    f"({_FIELD.pattern})({'|'.join(re.escape(operator) for operator in _OPERATORS)})(.*)",
    re.ASCII | re.DOTALL,
)
# What begins a term that is about no column, and is not done here.
_KEYWORDS: Final = (
    "GROUPBY",
    "TRENDBY",
    "GOTO",
    "123TEXTINDEXGROUP321",
    "javascript:",
    "sys_tags.",
)
_TEXT_QUERY: Final = "123TEXTQUERY321="
# The types of columns that hold what people wrote.
_WORDY: Final = frozenset({"string", "html", "email"})
_JOIN = re.compile(
    r"JOIN([a-z0-9_]+)\.([a-z0-9_]+)=([a-z0-9_]+)\.([a-z0-9_]+)!(.*)", re.ASCII | re.DOTALL
)
_RELATED = re.compile(
    r"RLQUERY([a-z0-9_]+)\.([a-z0-9_]+),(>=|<=|!=|=|>|<)([0-9]{1,9})(?:,m2m)?(?:,(.*))?",
    re.ASCII | re.DOTALL,
)
_FIELD_COMPARISONS: Final = {
    "GT_FIELD": ">",
    "GT_OR_EQUALS_FIELD": ">=",
    "LT_FIELD": "<",
    "LT_OR_EQUALS_FIELD": "<=",
    "SAMEAS": "=",
    "NSAMEAS": "!=",
}
# The dynamic filter options that are shipped, by their ids on ServiceNow's pages: Me (and, as the
# sandbox has no delegates, One of My Assignments), One of My Groups.
_ME: Final = frozenset({"90d1921e5f510100a9ad2572f2b477fe", "54635e965f510100a9ad2572f2b4774c"})
_MY_GROUPS: Final = "d6435e965f510100a9ad2572f2b47744"
_RELATIVE = re.compile(
    r"@(minute|hour|dayofweek|day|week|month|quarter|year)@(ago|ahead)@([0-9]{1,6})"
)
_APART = re.compile(r"(.*)@(minute|hour|day|week|month|quarter|year)@(before|after)@([0-9]{1,6})")
_COMPARISONS: Final = {"EE": "=", "GT": ">", "GE": ">=", "LT": "<", "LE": "<="}
# As ``is same`` names them, and as they are called here: a day is one of the month.
_INCREMENTS: Final = {name: name for name in ("hour", "day", "week", "month", "quarter", "year")}
# The operators whose values are several, with an @ between them.
_SEVERAL: Final = frozenset({"BETWEEN", "ON", "NOTON"})
_TIME: Final = "%Y-%m-%d %H:%M:%S"
_DAY = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Query:
    """The conditions on one table. *values* belong to *where*; *order_values* are none, a column
    takes no marks."""

    where: str
    order: str
    values: list[Value]


@dataclass(slots=True)
class _Reader:
    """Reads the terms about *table*, which SQL knows as *alias*; *before*: what a record was, for
    CHANGES."""

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
            if token in {"", "EQ"}:
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
            chosen = (
                f"SELECT {there}.{quoted(name)} "  # noqa: S608  # names from SCHEMA
                f"FROM {column.refers_to} {there} WHERE {there}.sys_id = {sql}"
            )
            sql, column = f"coalesce(({chosen}), '')", beyond
        return sql, column

    def _shown(self, sql: str, column: Column) -> str:
        """References are searched and sorted by the name that people see."""
        if column.kind is not Kind.REFERENCE:
            return sql
        name = quoted(shown_as(column.refers_to))
        return f"coalesce((SELECT s.{name} FROM {column.refers_to} s WHERE s.sys_id = {sql}), '')"  # noqa: S608  # names from SCHEMA

    def _term(self, token: str) -> Fragment | None:
        """A term as SQL; None for one about a column that there is not. Raises Refused (501)."""
        words = token.removeprefix("GOTO")
        if words.startswith(_TEXT_QUERY):
            return self._words(words.removeprefix(_TEXT_QUERY))
        if token.startswith("JOIN"):
            return self._join(token)
        if token.startswith("RLQUERY"):
            return self._related(token)
        for keyword in _KEYWORDS:
            if token.startswith(keyword):
                raise unimplemented(f"{keyword} in the query term {token!r}")
        found = _TERM.fullmatch(token)
        if (
            found
            and found[1].rpartition(".")[2] == "roles"
            and (user := self._user(found[1].rpartition(".")[0]))
        ):
            return self._holds(user, found[2], found[3])
        walked = self.walk(found[1]) if found else None
        if found is None or walked is None:
            named = _FIELD.match(token)
            if found is None and named and self.walk(named[0]):
                raise unimplemented(f"the operator of the query term {token!r}")
            return None
        operator = _SAME_AS.get(found[2], found[2])
        try:
            return self._compared(found[1], *walked, operator, found[3])
        except Refused as refused:
            detail = str(refused.detail).removesuffix(".")
            raise Refused(
                refused.status, refused.message, f"{detail}, in the query term {token!r}."
            ) from refused

    def pair(self, name: str, value: str) -> Fragment | None:
        """A parameter that is a column's name and its value, or what people see of that:
        ``?state=New``.

        "You can also use the display value when the field is a choice or reference type field, such
        as &state=closed instead of &state=7 … &assigned_to=john.smith" (c_TableAPI.html): a
        person's name to sign in with counts too.
        """
        walked = self.walk(name)
        if walked is None:
            return None
        sql, column = walked
        told = run_value(value, self.asker)
        if isinstance(told, list):
            return _among(sql, "IN", told)
        value = told
        terms: list[Fragment] = [(f"{sql} = ? COLLATE NOCASE", [value])]
        if column.kind is Kind.REFERENCE and value:
            names = {
                shown_as(column.refers_to),
                *(["user_name"] if column.refers_to == "sys_user" else []),
            }
            named = " OR ".join(f"r.{quoted(one)} = ? COLLATE NOCASE" for one in sorted(names))
            chosen = f"SELECT r.sys_id FROM {column.refers_to} r WHERE {named}"  # noqa: S608  # names from SCHEMA
            terms.append((f"{sql} IN ({chosen})", [value] * len(names)))
        elif value:
            prefix, _, last = name.rpartition(".")
            table = (self.walk(prefix) or ("", Column()))[1].refers_to if prefix else self.table
            # What a state of a task is called, its own table knows.
            owner, owners = (
                (f"{self.alias}.sys_class_name", [])
                if table == "task" and not prefix
                else ("?", [table])
            )
            labels = (
                "SELECT c.value FROM sys_choice c "
                "WHERE c.element = ? AND c.label = ? COLLATE NOCASE AND c.name ="
            )
            terms.append((f"{sql} IN ({labels} {owner})", [last, value, *owners]))
        return _joined(terms, "OR")

    def _words(self, words: str) -> Fragment:
        columns = [
            f"{self.alias}.{quoted(name)}"
            for name, column in SCHEMA[self.table].items()
            if column.kind is Kind.STRING and column.internal_type in _WORDY and not column.default
        ]
        everything = " || ' ' || ".join(columns)
        return _joined(
            [(f"instr(lower({everything}), lower(?)) > 0", [word]) for word in words.split()], "AND"
        )

    def _join(self, token: str) -> Fragment | None:
        found = _JOIN.fullmatch(token)
        if found is None or found[3] not in SCHEMA:
            raise unimplemented(f"the query term {token!r}")
        mine = self.walk(found[2])
        if mine is None or found[4] not in SCHEMA[found[3]]:
            return None
        where, values = self._elsewhere(found[3]).read(found[5])
        there = f"j{self.depth}"
        joined = f"SELECT {there}.{quoted(found[4])} FROM {found[3]} {there} WHERE {where}"  # noqa: S608  # names from SCHEMA
        return f"({mine[0]} != '' AND {mine[0]} IN ({joined}))", values

    def _related(self, token: str) -> Fragment | None:
        """Conditions stand after a caret, as the client writes them, or after a comma, as the page
        does."""
        head, _, rest = token.partition("^")
        found = _RELATED.fullmatch(head)
        if found is None or found[1] not in SCHEMA:
            raise unimplemented(f"the query term {token!r}")
        if found[2] not in SCHEMA[found[1]]:
            return None
        where, values = self._elsewhere(found[1]).read("^".join(filter(None, [found[5], rest])))
        there = f"j{self.depth}"
        related = f"{there}.{quoted(found[2])} = {self.alias}.sys_id AND ({where})"
        counted = f"(SELECT count(*) FROM {found[1]} {there} WHERE {related})"  # noqa: S608  # names from SCHEMA
        return f"{counted} {found[3]} {int(found[4])}", values

    def _user(self, path: str) -> str:
        """The sys_id, as SQL, of the person that *path* leads to; empty where it leads to none."""
        if not path:
            return f"{self.alias}.sys_id" if self.table == "sys_user" else ""
        walked = self.walk(path)
        return walked[0] if walked and walked[1].refers_to == "sys_user" else ""

    def _holds(self, user: str, operator: str, value: str) -> Fragment:
        """``roles=itil``: roles are no column, but what sys_user_has_role says of a person."""
        operator = _SAME_AS.get(operator, operator)
        conditions = {
            "=": ("r.name = ? COLLATE NOCASE", [value]),
            "LIKE": ("instr(lower(r.name), lower(?)) > 0", [value]),
            "IN": (
                f"r.name COLLATE NOCASE IN ({', '.join('?' * len(value.split(',')))})",
                value.split(","),
            ),
        }
        if operator not in conditions:
            raise unimplemented(f"the operator {operator} for roles in a query")
        condition, values = conditions[operator]
        held = "SELECT h.user FROM sys_user_has_role h JOIN sys_user_role r ON r.sys_id = h.role"
        return f"{user} IN ({held} WHERE {condition})", list(values)

    def _elsewhere(self, table: str) -> "_Reader":
        return _Reader(table, self.asker, alias=f"j{self.depth}", depth=self.depth + 1)

    def _compared(
        self, path: str, sql: str, column: Column, operator: str, written: str
    ) -> Fragment | None:
        match operator:
            case "ISEMPTY":
                return f"{sql} = ''", []
            case "ISNOTEMPTY":
                return f"{sql} != ''", []
            case "ANYTHING":
                return "1", []
            case "VALCHANGES" | "CHANGESFROM" | "CHANGESTO":
                return self._changed(path, sql, operator, written)
            case "RELATIVEGT" | "RELATIVEGE" | "RELATIVELT" | "RELATIVELE" | "RELATIVEEE":
                return self._relative(sql, column, operator, written)
            case "DATEPART":
                part, number, comparison = scripts.read_part(written.partition("@")[2])
                zone = str(self.asker.zone)
                return f"sn_part({sql}, ?, ?) {_COMPARISONS[comparison]} ?", [part, zone, number]
            case "MORETHAN" | "LESSTHAN":
                return self._apart(sql, operator, written)
            case "SAMEAS" | "NSAMEAS" if "@" in written:
                return self._same_part(sql, operator, written)
            case "DYNAMIC" if written in _ME:
                return f"{sql} = ?", [self.asker.user_id]
            case "DYNAMIC" if written == _MY_GROUPS:
                return _among(sql, "IN", self.asker.groups())
            case "IN_HIERARCHY_DYNAMIC" | "IN_HIERARCHY" | "<>":
                raise unimplemented(f"the operator {operator}")
            case "DYNAMIC":
                raise unimplemented(f"the dynamic filter option {written!r}")
            case "INSTANCEOF":
                classes = [written, *(name for name, above in EXTENDS.items() if above == written)]
                return _among(sql, "IN", classes)
            case _ if operator in _FIELD_COMPARISONS:
                other = self.walk(written)
                sign = _FIELD_COMPARISONS[operator]
                return (
                    None
                    if other is None
                    else (f"{_comparable(sql, column)} {sign} {_comparable(*other)}", [])
                )
        values = [
            self._in_utc(one, column) or run_value(one, self.asker)
            for one in (written.split("@") if operator in _SEVERAL else [written])
        ]
        if operator in _SEVERAL:
            return self._between(sql, column, operator, ["".join(value) for value in values])
        [value] = values
        if isinstance(value, list):
            # A function may give several: = takes them as IN does, other operators as one text.
            several = {"=": "IN", "!=": "NOT IN", "IN": "IN", "NOT IN": "NOT IN"}.get(operator)
            if several:
                return _among(sql, several, value)
            value = ",".join(value)
        match operator:
            case "=" | "!=":
                return f"{sql} {operator} ? COLLATE NOCASE", [value]
            case "IN" | "NOT IN":
                return _among(sql, operator, value.split(","))
            case "STARTSWITH" | "ENDSWITH" | "LIKE" | "NOT LIKE":
                return _searched(self._shown(sql, column), operator, value)
            case _:
                return _ordered(sql, column, operator, value)

    def _in_utc(self, written: str, column: Column) -> str:
        """A time that is *written* in the zone of who asks; empty for what is none, or is in
        UTC."""
        if not self.asker.local_times or column.kind is not Kind.DATETIME:
            return ""
        with suppress(ValueError):
            there = datetime.strptime(written, _TIME).replace(tzinfo=self.asker.zone)
            return there.astimezone(UTC).strftime(_TIME)
        return ""

    def _between(self, sql: str, column: Column, operator: str, values: list[str]) -> Fragment:
        """``BETWEENa@b``, ``ONToday@start@end``, or ``ON`` and a bare day."""
        match operator, values:
            case "BETWEEN", [low, high]:
                return _joined(
                    [_ordered(sql, column, ">=", low), _ordered(sql, column, "<=", high)], "AND"
                )
            case (("ON" | "NOTON"), [_, start, end]):
                pass
            case (("ON" | "NOTON"), [day]) if _DAY.fullmatch(day):
                start, end = f"{day[:10]} 00:00:00", f"{day[:10]} 23:59:59"
            case _:
                raise unimplemented(f"{operator} with {len(values)} values")
        inside, bounds = _joined(
            [_ordered(sql, column, ">=", start), _ordered(sql, column, "<=", end)], "AND"
        )
        return (inside if operator == "ON" else f"NOT {inside}"), bounds

    def _relative(self, sql: str, column: Column, operator: str, written: str) -> Fragment:
        """``RELATIVEGT@hour@ago@3``; a day is called dayofweek there."""
        found = _RELATIVE.fullmatch(written)
        if found is None:
            raise unimplemented(f"{operator} with {written!r}")
        unit = "day" if found[1] == "dayofweek" else found[1]
        moment, start, end = scripts.relative_span(
            unit, int(found[3]) * (-1 if found[2] == "ago" else 1), self.asker
        )
        if operator == "RELATIVEEE":
            return _joined(
                [_ordered(sql, column, ">=", start), _ordered(sql, column, "<=", end)], "AND"
            )
        return _ordered(sql, column, ">=" if operator.startswith("RELATIVEG") else "<=", moment)

    def _apart(self, sql: str, operator: str, written: str) -> Fragment | None:
        """``sla_dueMORETHANactivity_due@day@before@1``: by the clock, "more than 2 hours after" is
        so by a second."""
        found = _APART.fullmatch(written)
        other = self.walk(found[1]) if found else None
        if found is None:
            raise unimplemented(f"{operator} with {written!r}")
        if other is None:
            return None
        before = found[3] == "before"
        count = int(found[4]) * (-1 if before else 1)
        bound = f"sn_shift({other[0]}, ?, {count}, ?)"
        values: list[Value] = [found[2], str(self.asker.zone)]
        known = f"{sql} != '' AND {other[0]} != ''"
        if operator == "MORETHAN":
            return f"({known} AND {sql} {'<' if before else '>'} {bound})", values
        inside = (
            f"{sql} >= {bound} AND {sql} <= {other[0]}"
            if before
            else f"{sql} <= {bound} AND {sql} >= {other[0]}"
        )
        return f"({known} AND {inside})", values

    def _same_part(self, sql: str, operator: str, written: str) -> Fragment | None:
        """``openedSAMEASclosed@week``: the same week of a year, whichever year
        (https://www.servicenow.com/docs/r/platform-user-interface/t_EvaluatingEqualityBetweenDates.html).
        """
        path, _, unit = written.partition("@")
        other = self.walk(path)
        if unit not in _INCREMENTS:
            raise unimplemented(f"{operator} with {written!r}")
        if other is None:
            return None
        zone = str(self.asker.zone)
        sign = "IS" if operator == "SAMEAS" else "IS NOT"
        return f"sn_part({sql}, ?, ?) {sign} sn_part({other[0]}, ?, ?)", [unit, zone, unit, zone]

    def _changed(self, path: str, sql: str, operator: str, value: str) -> Fragment | None:
        """Only business rules know what was before; an inserted record changes from nothing."""
        if not self.before:
            raise unimplemented(f"{operator}, but in the condition of a business rule")
        if path not in SCHEMA[self.table]:
            return None
        was = f"{self.before}.{quoted(path)}"
        match operator:
            case "CHANGESFROM":
                return f"({sql} != {was} AND {was} = ?)", [value]
            case "CHANGESTO":
                return f"({sql} != {was} AND {sql} = ?)", [value]
            case _:
                return f"{sql} != {was}", []


def add_functions(db: sqlite3.Connection) -> None:
    """Give *db* what the SQL of queries calls."""
    db.create_function("sn_part", 3, scripts.part_of, deterministic=True)
    db.create_function("sn_shift", 4, scripts.shifted, deterministic=True)


def read(query: str, table: str, *, asker: Asker, pairs: Mapping[str, str] | None = None) -> Query:
    """An encoded query about *table*, which the SQL knows as ``t``; *pairs* of columns and values
    hold as well.

    ``^OR`` binds to the term before it, tighter than ``^``; ``^NQ`` separates whole groups. Raises
    Refused (501).
    """
    reader = _Reader(table, asker)
    terms = [reader.pair(name, value) for name, value in (pairs or {}).items()]
    where, values = _joined([reader.read(query), *(term for term in terms if term)], "AND")
    # The view has no rowid.
    last = "t.sys_created_on, t.number" if table == "task" else "t.rowid"
    return Query(where, ", ".join([*reader.orders, last]), values)


def find_column(table: str, path: str) -> tuple[str, Column] | None:
    """The column that a dotted *path* leads to, as SQL that knows *table* as ``t``; None where
    there is none."""
    return _Reader(table, Asker()).walk(path)


def named_columns(query: str, table: str) -> set[str]:
    """The columns of *table* that the terms of an encoded query are about, or begin with."""
    tokens = [token for group in query.split("^NQ") for token in _tokens(group)]
    found = (_TERM.fullmatch(token.removeprefix("OR")) for token in tokens)
    return {term[1].partition(".")[0] for term in found if term} & SCHEMA[table].keys()


def condition(
    query: str, table: str, after: Mapping[str, str], before: Mapping[str, str], *, asker: Asker
) -> Fragment:
    """A statement whose one row says if *after*, which was *before*, meets the condition of a
    business rule."""
    where, values = _Reader(table, asker, before="b").read(query)
    columns = list(SCHEMA[table])
    row = ", ".join(f"? AS {quoted(column)}" for column in columns)
    compared: list[Value] = [
        image.get(column, "") for image in (after, before) for column in columns
    ]
    statement = f"SELECT count(*) FROM (SELECT {row}) t, (SELECT {row}) b WHERE {where}"  # noqa: S608  # names from SCHEMA
    return statement, [*compared, *values]


def _tokens(group: str) -> Iterator[str]:
    """The terms between the carets. A related list, up to its end, is one term, and so is a join,
    to the end."""
    parts = group.split("^")
    while parts:
        token = parts.pop(0)
        if token.removeprefix("OR").startswith("RLQUERY"):
            end = parts.index("ENDRLQUERY") if "ENDRLQUERY" in parts else len(parts)
            token, parts = "^".join([token, *parts[:end]]), parts[end + 1 :]
        elif token.startswith("JOIN"):
            inner = [part for part in parts if not part.startswith("ORDERBY")]
            token, parts = (
                "^".join([token, *inner]),
                [part for part in parts if part.startswith("ORDERBY")],
            )
        yield token


def _joined(terms: list[Fragment], word: str) -> Fragment:
    """The *terms* with AND or OR between them, as a balanced tree: SQLite takes no expression over
    1000 deep."""
    if not terms:
        return "1", []
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    (left, left_values), (right, right_values) = (
        _joined(terms[:half], word),
        _joined(terms[half:], word),
    )
    return f"({left} {word} {right})", [*left_values, *right_values]


def _among(sql: str, operator: str, chosen: list[str]) -> Fragment:
    return f"{sql} COLLATE NOCASE {operator} ({', '.join('?' * len(chosen))})", list(chosen)


def _comparable(sql: str, column: Column) -> str:
    return f"CAST({sql} AS INTEGER)" if column.kind is Kind.INTEGER else sql


def _ordered(sql: str, column: Column, sign: str, value: str) -> Fragment:
    number = column.kind is Kind.INTEGER and re.fullmatch(r"-?[0-9]{1,18}", value)
    # Texts are compared without regard to case, as the platform's database does.
    collation = " COLLATE NOCASE" if column.kind is Kind.STRING else ""
    return f"({sql} != '' AND {_comparable(sql, column)} {sign} ?{collation})", [
        int(value) if number else value
    ]


def _searched(sql: str, operator: str, value: str) -> Fragment:
    match operator:
        case "STARTSWITH":
            return f"instr(lower({sql}), lower(?)) = 1", [value]
        case "ENDSWITH":
            return f"lower(substr({sql}, -length(?))) = lower(?)", [value, value]
        case "LIKE":
            return f"instr(lower({sql}), lower(?)) > 0", [value]
        case _:
            return f"instr(lower({sql}), lower(?)) = 0", [value]
