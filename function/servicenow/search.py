"""Searching a table of any length: page by page, each page beginning behind the last record of the
one before.

By key, not by offset: rows that are inserted meanwhile move offsets, and a large offset costs as
much as all that it skips (KB0564204). ``sysparm_limit`` counts before access controls take records
away, so a short page, even an empty one, is not the last: the end is where nothing visible is
within LOOK_AHEAD_ROWS.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from function.core.outcome import Failure, Reason, Retryability
from function.servicenow.errors import InvalidArgument, Refused
from function.servicenow.fields import Condition
from function.servicenow.responses import Record, equals

# Half a megabyte of what a search tells unless asked for more; 16 MiB, the most that is read, is 32
# KiB a record.
PAGE_ROWS: Final = 500
# The platform's own bound on an answer.
LOOK_AHEAD_ROWS: Final = 10_000
ORDERS: Final = ("number", "sys_id", "opened_at", "sys_created_on", "sys_updated_on", "priority")

Find: TypeAlias = Callable[[str, Sequence[str], int], list[Record]]
"""Asks for records: query, fields, limit."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Behind the record with this *key* (in the column of the order) and this *sys_id*; *at* it, if
    so."""

    key: str
    sys_id: str
    at: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, and in which order. Raises InvalidArgument."""

    conditions: tuple[Condition, ...]
    column: str
    descending: bool

    @classmethod
    def by(cls, conditions: Sequence[Condition], order_by: str) -> "Search":
        """*order_by* is a column, with a ``-`` in front for the last first."""
        column = order_by.removeprefix("-")
        if column not in ORDERS:
            raise InvalidArgument(
                f"order_by must be one of {', '.join(ORDERS)}, with - in front for the last first"
            )
        search = cls(tuple(conditions), column, order_by.startswith("-"))
        search.query(None)
        return search

    def query(self, place: Cursor | None) -> str:
        """The encoded query for what comes behind *place*."""
        order = "ORDERBYDESC" if self.descending else "ORDERBY"
        behind = [] if place is None else self._behind(place)
        orders = [f"{order}{column}" for column in dict.fromkeys([self.column, "sys_id"])]
        return "^".join([*(condition.query() for condition in self.conditions), *behind, *orders])

    def _behind(self, place: Cursor) -> list[str]:
        """``key > K or (key = K and sys_id > S)``, as the terms of a query, where ^OR binds tighter
        than ^.

        Records with an empty key come first, or last where the order descends.
        """
        column, beyond = self.column, "<" if self.descending else ">"
        same = f"sys_id{beyond}{'=' if place.at else ''}{place.sys_id}"
        empty = f"{column}ISEMPTY"
        if column == "sys_id":
            return [same]
        if not place.key:
            return [empty, same] if self.descending else [f"{same}^OR{column}ISNOTEMPTY"]
        also = f"^OR{empty}" if self.descending else ""
        return [
            f"{column}{beyond}={place.key}{also}",
            f"{column}{beyond}{place.key}{also}^OR{same}",
        ]

    def standing(self, row: Record) -> tuple[str, str]:
        """Where *row* stands; one that has moved in the order meanwhile stands elsewhere."""
        return row.get(self.column, ""), row["sys_id"]

    def place(self, row: Record, *, at: bool = False) -> Cursor:
        """Where *row* stands. Raises Refused where its key cannot stand in a query."""
        key = row.get(self.column, "")
        try:
            if key:
                equals(self.column, key)
            equals("sys_id", row["sys_id"])
        except ValueError:
            hint = (
                f"A record's {self.column} holds a character that a query cannot carry: order "
                "by another column."
            )
            raise Refused(Failure(Retryability.PERMANENT, Reason.BAD_ANSWER, hint)) from None
        return Cursor(key, row["sys_id"], at)


def narrow_query(query: str, encoded: str) -> str:
    """*query*, which a Search made, for those alone that are found by *encoded* too, which is
    somebody's encoded query.

    ^NQ is OR between whole groups of terms, so each group gets those of *query*.
    """
    terms, _, orders = query.partition("ORDERBY")
    groups = (group.removesuffix("^EQ") for group in encoded.split("^NQ"))
    narrowed = "^NQ".join("^".join(filter(None, [terms.strip("^"), group])) for group in groups)
    return f"{narrowed}^ORDERBY{orders}"


def records(
    search: Search,
    find: Find,
    *,
    fields: Sequence[str],
    limit: int | None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[Record]:
    """What *search* finds: each record that was there all the time once, whatever is inserted
    meanwhile.

    One that moves in the order (``sys_updated_on``, ``priority``) while it is read may come again,
    or not at all. Holds one page at a time. Raises what *find* raises, and Refused or
    InvalidArgument where a term was left out.
    """
    asked = list(
        dict.fromkeys(
            [*fields, search.column, *(condition.column for condition in search.conditions)]
        )
    )
    place: Cursor | None = None
    page: set[tuple[str, str]] = set()
    left = limit
    while left is None or left > 0:
        size = page_rows if left is None else min(page_rows, left)
        rows = find(search.query(place), asked, size)
        _check(search, rows, page)
        new = [row for row in rows if search.standing(row) not in page]
        yield from new[:left]
        left = None if left is None else left - len(new)
        if rows:
            place = search.place(rows[-1])
            page = {search.standing(row) for row in rows}
        if len(rows) < size and left != 0:
            ahead = find(search.query(place), [search.column], LOOK_AHEAD_ROWS)
            if not ahead:
                return
            found = search.place(ahead[0], at=True)
            if found == place:  # it is there, and it is not: no step further would be one
                raise Refused(_LEFT_OUT)
            place = found


class FoundRecords(Iterator[Record]):
    """What a search finds, read as it is asked for: an iterator, a page in memory at a time.

    ``len`` is how many were found in all, and reads to the end, keeping what was not taken yet. It
    is false where nothing was found. ``found[0]`` is the first, as long as none was taken.
    """

    def __init__(self, found: Iterator[Record]) -> None:
        self._found = found
        self._kept: deque[Record] = deque()
        self._taken = 0

    def __next__(self) -> Record:
        record = self._kept.popleft() if self._kept else next(self._found)
        self._taken += 1
        return record

    def __bool__(self) -> bool:
        return self._taken > 0 or self._keep(1)

    def __len__(self) -> int:
        self._keep(None)
        return self._taken + len(self._kept)

    def __getitem__(self, index: int) -> Record:
        if self._taken:
            raise TypeError(
                "records were taken from it already: make a list of what a search finds"
            )
        self._keep(index + 1 if index >= 0 else None)
        return self._kept[index]

    def _keep(self, count: int | None) -> bool:
        """Read until *count* are kept, or to the end; whether there are any."""
        self._kept.extend(
            islice(self._found, None if count is None else max(0, count - len(self._kept)))
        )
        return bool(self._kept)


def _check(search: Search, rows: Sequence[Record], page: set[tuple[str, str]]) -> None:
    """Raise unless *rows* are what was asked for, and not the *page* before once more."""
    for condition in search.conditions:
        if any(condition.column not in row for row in rows):
            raise InvalidArgument(
                f"the instance has no field {condition.column}, or hides it from the integration "
                "user: without it every record would be found"
            )
        if not all(condition.holds(row) for row in rows):
            raise Refused(_LEFT_OUT)
    if rows and all(search.standing(row) in page for row in rows):
        raise Refused(_LEFT_OUT)


_LEFT_OUT: Final = Failure(
    Retryability.PERMANENT,
    Reason.BAD_ANSWER,
    "ServiceNow returned records that were not asked for: it leaves out a term of a query that "
    "it does not understand. Check that the fields that are searched exist, and that the "
    "integration user may read them.",
)
