"""Reference fields by name: looked up first, because ServiceNow stores a name it does not know as
nothing."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from function.core.lifecycle import COLUMN_REFERENCES
from function.core.outcome import Failure, Retryability
from function.servicenow.errors import ServiceNowError, UnknownReference
from function.servicenow.responses import Record, equals
from function.servicenow.single_flight import NotFetched, SingleFlight
from function.servicenow.values import SYS_ID

# A group that is renamed or deleted is noticed within ten minutes.
CACHE_SECONDS: Final = 600.0
CACHE_ENTRIES_MAX: Final = 10_000
# Enough to see that a name is not the only one of its kind.
_ROWS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Referred:
    """The table that a field refers to, and the columns its record may be named by, the surest
    first."""

    table: str
    names: tuple[str, ...]


REFERENCES: Final = {
    column: Referred(table, names) for column, (table, names) in COLUMN_REFERENCES.items()
}
# Their records are kept for what they did once, and are no longer to be referred to once they are
# inactive.
_WITH_ACTIVE: Final = frozenset({"sys_user", "sys_user_group", "std_change_producer_version"})

Find: TypeAlias = Callable[[str, str, Sequence[str], int], list[Record]]
"""Asks ServiceNow: table, query, fields, limit."""


class References:
    """Names to sys_ids, remembered for CACHE_SECONDS in this process. Threads may share it."""

    def __init__(self, columns: Mapping[str, Referred] = REFERENCES) -> None:
        """*columns*: what each refers to; others are sent as they are."""
        self._columns = columns
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._flights = SingleFlight[tuple[str, str], str]()
        self._lock = threading.Lock()

    def sys_id(
        self, field: str, name: str, *, find: Find, left_seconds: Callable[[], float]
    ) -> str:
        """What to send for *name* in *field*: itself where the field is no reference, nothing where
        it is blank.

        *left_seconds*: how long another thread that asks for the same name may be waited for.
        Raises UnknownReference where no record, or more than one, goes by that name, and what
        *find* raises.
        """
        referred = self._columns.get(field)
        if referred is None:
            return name
        name = name.strip()
        if not name:
            return ""
        key = (referred.table, name)
        known = self._remembered(key)
        if known:
            return known

        def look_up() -> str:
            known = self._remembered(key)  # by another thread, since
            if known:
                return known
            found = _look_up(referred, field, name, find)
            with self._lock:
                if len(self._known) >= CACHE_ENTRIES_MAX:
                    self._known.clear()
                self._known[key] = (found, time.monotonic() + CACHE_SECONDS)
            return found

        # Many tickets name one group: one asks, and the others take what it was told.
        try:
            return self._flights.run(key, look_up, wait_seconds=left_seconds())
        except NotFetched as other:
            match other.error:
                case UnknownReference() as error:
                    raise UnknownReference(
                        error.hint, problem=error.problem, is_ambiguous=error.is_ambiguous
                    ) from error
                case ServiceNowError(failure=Failure(retryability=Retryability.PERMANENT)) as error:
                    raise ServiceNowError(error.failure, call=error.call) from error
        return _look_up(referred, field, name, find)

    def _remembered(self, key: tuple[str, str]) -> str:
        known, until = self._known.get(key, ("", 0.0))
        return known if until > time.monotonic() else ""


def _look_up(referred: Referred, field: str, name: str, find: Find) -> str:
    by_id = SYS_ID.fullmatch(name)
    fields = ["sys_id", *referred.names]
    try:
        query = "^OR".join(
            equals(column, name) for column in (("sys_id",) if by_id else referred.names)
        )
    except ValueError as error:
        raise _unknown(field, referred, "holds a character that a query cannot carry") from error
    if referred.table in _WITH_ACTIVE:
        fields.append("active")
        # So that those who left do not crowd out the one who is there.
        query += "^ORDERBYDESCactive"
    rows = find(referred.table, query, fields, _ROWS_MAX)
    try:
        return chosen(referred, field, name, rows)
    except UnknownReference as error:
        if not rows or error.is_ambiguous:
            raise
    # Other records than those asked for: an answer to something else, perhaps. It is asked once
    # more.
    return chosen(referred, field, name, find(referred.table, query, fields, _ROWS_MAX))


def chosen(referred: Referred, field: str, name: str, rows: Sequence[Record]) -> str:
    """The sys_id of the one among *rows* that goes by *name*: an active one, where there is one.

    What matched is checked here: ServiceNow drops an invalid term and returns everything. A record
    that does not tell whether it is active counts as one that is. Raises UnknownReference.
    """
    columns = ("sys_id",) if SYS_ID.fullmatch(name) else referred.names
    named = name.strip().casefold()
    for active in (True, False):
        for column in columns:
            matching = {
                row["sys_id"]
                for row in rows
                if row.get("sys_id")  # an access control may hide it
                and row.get(column, "").strip().casefold() == named
                and (row.get("active") != "false") is active
            }
            if len(matching) == 1:
                return matching.pop()
            if matching:
                which = "active " if active and referred.table in _WITH_ACTIVE else ""
                raise _unknown(
                    field,
                    referred,
                    f"is the {column} of more than one {which}record",
                    is_ambiguous=True,
                )
    raise _unknown(field, referred, "is not there, or is hidden from the integration user")


def _unknown(
    field: str, referred: Referred, why: str, *, is_ambiguous: bool = False
) -> UnknownReference:
    problem = f"{why} in {referred.table} (by {' or '.join(referred.names)}, or sys_id)"
    hint = f"what is given for {field} {problem}"
    return UnknownReference(hint, problem=problem, is_ambiguous=is_ambiguous)
