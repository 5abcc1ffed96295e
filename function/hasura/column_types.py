"""The types of columns, as far as the migrations of a Hasura project show them, and the keys that
do not suit them.

A migration is SQL of any kind: what is read of it is what declares, changes and drops tables,
columns and domains in plain statements. Whatever else stands there is passed over, so that a type
is known or unknown, and seldom wrong.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from function.core.finding import Finding, Level
from function.rules.model import Rule, RuleTemplate

# A dump of a whole database may be a migration; what comes after that much of it are rows.
FILE_CHARACTERS_MAX: Final = 4 * 1024 * 1024
# A domain over a domain.
DOMAINS_DEEP_MAX: Final = 10
# A table that is named without its schema, by the backend's default.
_DEFAULT_SCHEMAS: Final = ("public", "dbo")


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """A column's type as it was declared, in lower case, and the place (file and line) of the
    declaration."""

    name: str
    place: str


@dataclass(slots=True)
class DeclaredTables:
    """What the migrations of one database have declared so far. Names are as PostgreSQL
    folds them."""

    tables: dict[tuple[str, str], dict[str, DeclaredType]] = field(default_factory=dict)
    domains: dict[str, DeclaredType] = field(default_factory=dict)

    def find(self, schema: str, table: str, column: str) -> DeclaredType | None:
        """The type of a column, of a domain what it is over; None where it is not known."""
        columns = self.tables.get((schema, table), {})
        if not columns and schema in _DEFAULT_SCHEMAS:
            columns = self.tables.get(("", table), {})
        found = columns.get(column)
        for _ in range(DOMAINS_DEEP_MAX):
            if found is None or found.name not in self.domains:
                break
            found = DeclaredType(self.domains[found.name].name, found.place)
        return found


def read_migrations(project: Path) -> list[DeclaredTables]:
    """What the migrations of the Hasura project in *project* declare, for each of its databases.

    What cannot be read is passed over: types are for warnings only.
    """
    folder = project / "migrations"
    databases: dict[str, DeclaredTables] = {}
    # By version, which the name of each begins with: of one database in its own folder, or (config
    # v2) in this one.
    files = [
        *folder.glob("*/*/up.sql"),
        *folder.glob("*/up.sql"),
        *folder.glob("*.up.sql"),
        *folder.glob("*/*.up.sql"),
    ]
    for file in sorted(files, key=lambda file: _version(file, folder)):
        parts = file.relative_to(folder).parts
        database = parts[0] if not parts[0][:1].isdigit() else ""
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                sql = stream.read(FILE_CHARACTERS_MAX)
        except OSError:
            continue
        read_statements(sql, str(file), databases.setdefault(database, DeclaredTables()))
    return list(databases.values())


def _version(file: Path, folder: Path) -> tuple[int, str]:
    name = file.relative_to(folder).parts[-2] if file.name == "up.sql" else file.name
    return int(re.match(r"\d*", name)[0] or 0), str(file)  # type: ignore[index]  # it matches an empty text too


def read_statements(sql: str, name: str, declared: DeclaredTables) -> None:
    """Bring *declared* up to what the statements of *sql*, a file called *name*, make of it."""
    for statement in _statements(sql):
        _read_statement(_Statement(statement, name), declared)


# Tokens


@dataclass(frozen=True, slots=True)
class _SqlToken:
    """*word*: lower case where it was not quoted; of punctuation the character, of a literal
    nothing."""

    word: str
    line: int
    is_quoted: bool = False


_TOKEN: Final = re.compile(
    r"""
      (?P<skip>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<dollar>\$(?:[A-Za-z_]\w*)?\$)
    | (?P<literal>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>"(?:[^"]|"")*(?:"|\Z))
    | (?P<bracketed>\[[A-Za-z_][^\]]*\])
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\d.]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT: Final = re.compile(r"/\*|\*/")


def _tokens(sql: str) -> Iterator[_SqlToken]:
    at, line = 0, 1
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        if found is None:  # one of the alternatives takes any character
            return
        text, end = found[0], found.end()
        match found.lastgroup:
            case "comment":
                end = _comment_end(sql, end)
            case "dollar":
                closing = sql.find(text, end)
                end = len(sql) if closing < 0 else closing + len(text)
                yield _SqlToken("", line)
            case "literal":
                yield _SqlToken("", line)
            case "quoted":
                yield _SqlToken(text.strip('"').replace('""', '"'), line, is_quoted=True)
            case "bracketed":
                yield _SqlToken(text[1:-1], line, is_quoted=True)
            case "word":
                yield _SqlToken(text.lower(), line)
            case "number" | "other":
                yield _SqlToken(text, line)
        line += sql.count("\n", at, end)
        at = end


def _comment_end(sql: str, at: int) -> int:
    """Where a comment ends that may hold others."""
    depth = 1
    while depth:
        found = _COMMENT.search(sql, at)
        if found is None:
            return len(sql)
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return at


def _statements(sql: str) -> Iterator[list[_SqlToken]]:
    statement: list[_SqlToken] = []
    for token in _tokens(sql):
        if token.word == ";" and not token.is_quoted:
            yield statement
            statement = []
        else:
            statement.append(token)
    yield statement


# Statements

# What ends a type, in the declaration of a column.
_AFTER_TYPE: Final = frozenset(
    {
        *(
            "not",
            "null",
            "default",
            "primary",
            "unique",
            "references",
            "check",
            "constraint",
            "generated",
            "collate",
        ),
        *(
            "storage",
            "compression",
            "identity",
            "deferrable",
            "initially",
            "using",
            "as",
            "with",
            "without",
            "sparse",
        ),
        "rowguidcol",
    }
)
# What begins no column, in the list of a table's.
_NO_COLUMN: Final = frozenset(
    {"constraint", "primary", "unique", "check", "foreign", "exclude", "like", "index"}
)


class _Statement:
    """The tokens of one statement, read from the first on."""

    def __init__(self, tokens: Sequence[_SqlToken], file: str) -> None:
        self.tokens = tokens
        self.file = file
        self.at = 0

    def takes(self, *words: str) -> bool:
        """Whether these words come next; they are read then."""
        coming = self.tokens[self.at : self.at + len(words)]
        if [token.word for token in coming] != list(words) or any(
            token.is_quoted for token in coming
        ):
            return False
        self.at += len(words)
        return True

    def skip(self, *words: str) -> None:
        """Pass over any of these that come next."""
        while any(self.takes(word) for word in words):
            pass

    def name(self) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else _SqlToken("", 0)
        self.at += 1
        return token.word

    def qualified(self) -> tuple[str, str]:
        """Schema ("" where it is not named) and name."""
        names = [self.name()]
        while self.takes("."):
            names.append(self.name())
        return names[-2] if len(names) > 1 else "", names[-1]

    def elements(self) -> Iterator["_Statement"]:
        """What stands between commas from here on, outside of parentheses; to the end of those that
        it stands in."""
        depth, begin = 0, self.at
        for number in range(self.at, len(self.tokens)):
            match self.tokens[number].word:
                case "(":
                    depth += 1
                case ")" if not depth:
                    yield _Statement(self.tokens[begin:number], self.file)
                    return
                case ")":
                    depth -= 1
                case "," if not depth:
                    yield _Statement(self.tokens[begin:number], self.file)
                    begin = number + 1
        yield _Statement(self.tokens[begin:], self.file)

    def type(self) -> DeclaredType:
        """The type that comes next: `timestamp(3) with time zone`, `public.citext`,
        `interval[]`."""
        line = self.tokens[self.at].line if self.at < len(self.tokens) else 0
        words: list[str] = []
        depth = 0
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            zoned = self._comes("with", "time", "zone") or self._comes("without", "time", "zone")
            if zoned:
                words += [token.word, "time", "zone"]
                self.at += 3
                continue
            if not depth and token.word in _AFTER_TYPE and not token.is_quoted:
                break
            depth += (token.word == "(") - (token.word == ")")
            words.append(token.word)
            self.at += 1
        name = re.sub(r" ?([(),.\[\]]) ?", r"\1", " ".join(words)).replace(")with", ") with")
        return DeclaredType(re.sub(r"^[^(]*\.", "", name), f"{self.file}:{line}")

    def _comes(self, *words: str) -> bool:
        return [token.word for token in self.tokens[self.at : self.at + len(words)]] == list(words)


def _read_statement(statement: _Statement, declared: DeclaredTables) -> None:
    if statement.takes("create"):
        statement.skip("global", "local", "temp", "temporary", "unlogged", "foreign")
        if statement.takes("table"):
            _create_table(statement, declared)
        elif statement.takes("domain"):
            _, name = statement.qualified()
            statement.skip("as")
            declared.domains[name] = statement.type()
    elif statement.takes("alter", "table"):
        statement.takes("if", "exists")
        statement.skip("only")
        _alter_table(statement, statement.qualified(), declared)
    elif statement.takes("drop", "table"):
        statement.takes("if", "exists")
        for element in statement.elements():
            declared.tables.pop(element.qualified(), None)


def _create_table(statement: _Statement, declared: DeclaredTables) -> None:
    is_kept = statement.takes("if", "not", "exists")
    table = statement.qualified()
    if not statement.takes("(") or (is_kept and table in declared.tables):
        return
    columns: dict[str, DeclaredType] = {}
    for element in statement.elements():
        if element.tokens and (
            element.tokens[0].is_quoted or element.tokens[0].word not in _NO_COLUMN
        ):
            name = element.name()
            columns[name] = element.type()
    declared.tables[table] = columns


def _alter_table(statement: _Statement, table: tuple[str, str], declared: DeclaredTables) -> None:
    columns = declared.tables.setdefault(table, {})
    if statement.takes("rename", "to"):
        del declared.tables[table]
        declared.tables[table[0], statement.name()] = columns
        return
    if statement.takes("set", "schema"):
        del declared.tables[table]
        declared.tables[statement.name(), table[1]] = columns
        return
    for action in statement.elements():
        if action.takes("add"):
            action.skip("column")
            action.takes("if", "not", "exists")
            if action.at < len(action.tokens) and action.tokens[action.at].word not in _NO_COLUMN:
                name = action.name()
                columns[name] = action.type()
        elif action.takes("alter"):
            action.skip("column")
            name = action.name()
            action.takes("set", "data")
            if action.takes("type"):
                columns[name] = action.type()
        elif action.takes("drop"):
            action.skip("column")
            action.takes("if", "exists")
            columns.pop(action.name(), None)
        elif action.takes("rename"):
            action.skip("column")
            before = action.name()
            if action.takes("to") and before in columns:
                type_ = columns.pop(before)
                columns[action.name()] = type_


# Keys

_LOWER: Final = "write {{ … | lower }}"
_ANOTHER: Final = "identify the row by another column"
_RANGE: Final = ("is written as the session's DateStyle and time zone say", _ANOTHER, ())
_FLOAT: Final = (
    "is written as the session's extra_float_digits says where that is below 1",
    "use a numeric",
    (),
)
_OBJECT: Final = ("is spelled as it was stored", "name the part of it that identifies the row", ())
_PADDED: Final = ("is padded with blanks, which a key keeps", "write {{ … | trim }}", ("trim",))
# Of types whose values have several spellings: why, what to do, and filters that do it.
UNSETTLED: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "interval": ("is written as the session's IntervalStyle says", _ANOTHER, ()),
    "bytea": ("is written as the session's bytea_output says", _ANOTHER, ()),
    "money": ("is written as the session's lc_monetary says", "use a numeric", ()),
    **dict.fromkeys(("tstzrange", "tsrange", "daterange"), _RANGE),
    **dict.fromkeys(("tstzmultirange", "tsmultirange", "datemultirange"), _RANGE),
    **dict.fromkeys(
        ("numrange", "nummultirange"),
        ("keeps the zeros that its bounds were written with", _ANOTHER, ()),
    ),
    **dict.fromkeys(("real", "float4", "double precision", "float8", "float"), _FLOAT),
    "citext": ("tells no case apart, and a key does", _LOWER, ("lower", "upper")),
    **dict.fromkeys(("char", "character", "bpchar", "nchar"), _PADDED),
    **dict.fromkeys(("json", "jsonb", "hstore", "xml"), _OBJECT),
}
# These types have another meaning in SQL Server, or are read by no trigger there.
_OF_POSTGRESQL: Final = frozenset({"money", "interval", "bytea"})
_MODIFIERS: Final = re.compile(r"\(([^)]*)\)")


def key_warnings(rules: Iterable[Rule], databases: Sequence[DeclaredTables]) -> list[Finding]:
    """What is seldom meant in the keys of *rules*: columns whose values have more than one
    spelling."""
    warnings: list[Finding] = []
    for rule in rules:
        kind, _, source = rule.source.partition("/")
        schema, _, table = source.partition(".")
        for part in rule.templates.key if kind == "hasura" else ():
            for column in sorted(
                set().union(
                    *(part.syntax.find_whole_parts(image) for image in ("row", "old", "new"))
                )
            ):
                found = (declared.find(schema, table, column) for declared in databases)
                warnings += dict.fromkeys(
                    warning
                    for type_ in found
                    if type_ and (warning := _warning(part, schema, column, type_))
                )
    return warnings


def _warning(
    part: RuleTemplate, schema: str, column: str, declared: DeclaredType
) -> Finding | None:
    name = _MODIFIERS.sub("", declared.name).replace("[]", "").strip()
    # `interval day to second`
    name = "interval" if name.startswith("interval ") else name
    if name not in UNSETTLED or (schema == "dbo" and name in _OF_POSTGRESQL):
        return None
    length = _MODIFIERS.search(declared.name)
    if UNSETTLED[name] is _PADDED and (length[1] if length else "1") == "1" and name != "bpchar":
        return None  # no room for a blank
    why, remedy, filters = UNSETTLED[name]
    if any(part.syntax.uses_filter(filter_name) for filter_name in filters):
        return None
    what = f"reads {column}, of type {declared.name} ({declared.place}), which {why}: {remedy}"
    return Finding(Level.WARNING, part.where, what, end="")
