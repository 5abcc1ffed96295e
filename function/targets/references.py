"""Reference fields by name: looked up first, because ServiceNow stores a name it does not know as nothing."""

import re
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from function.event import Failure, Kind, Reason
from function.line import Deadline, Line
from function.servicenow import ServiceNowError, term

# A group that is renamed or deleted is noticed within ten minutes.
CACHE_SECONDS: Final = 600.0
CACHE_ENTRIES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Referred:
    """The table that a field refers to, and the columns a rule may name its record by, the surest first."""

    table: str
    names: tuple[str, ...]


_GROUP: Final = _Referred("sys_user_group", ("name",))
_USER: Final = _Referred("sys_user", ("user_name", "email", "name"))
_CI: Final = _Referred("cmdb_ci", ("name",))
_STANDARD_CHANGE: Final = _Referred("std_change_producer_version", ("name",))

REFERENCES: Final = {
    "assignment_group": _GROUP,
    "assigned_to": _USER,
    "caller_id": _USER,
    "opened_by": _USER,
    "requested_by": _USER,
    "cmdb_ci": _CI,
    "business_service": _CI,
    "std_change_producer_version": _STANDARD_CHANGE,
}

_SYS_ID = re.compile(r"[0-9a-f]{32}")


class References:
    """Names to sys_ids, remembered for CACHE_SECONDS in this process."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._asked: dict[tuple[str, str], Future[str]] = {}
        self._lock = threading.Lock()

    def sys_id(self, table: str, field: str, name: str, *, deadline: Deadline) -> str:  # noqa: ARG002  # by table later
        """What to send for *name* in *field*: itself where the field is no reference, or is emptied.

        Raises ServiceNowError: permanent UNKNOWN_REFERENCE where no record, or more than one, goes by that name.
        """
        referred = REFERENCES.get(field)
        if referred is None or not name:
            return name
        key = (referred.table, name)
        known, until = self._known.get(key, ("", 0.0))
        if until > time.monotonic():
            return known
        # Many rows name one group: one asks, and the others take what it was told.
        with self._lock:
            asked = self._asked.get(key)
            mine = asked is None
            asked = asked or self._asked.setdefault(key, Future())
        if not mine:
            with suppress(FutureTimeout):
                failure = asked.exception(timeout=max(0.0, deadline.left()))
                if failure is None:
                    return asked.result()
                if isinstance(failure, ServiceNowError) and failure.failure.kind is Kind.PERMANENT:
                    raise ServiceNowError(failure.failure) from failure
            return self._look_up(referred, field, name, deadline)
        try:
            found = self._look_up(referred, field, name, deadline)
        except BaseException as error:
            asked.set_exception(error)
            raise
        else:
            asked.set_result(found)
            with self._lock:
                if len(self._known) >= CACHE_ENTRIES_MAX:
                    self._known.clear()
                self._known[key] = (found, time.monotonic() + CACHE_SECONDS)
            return found
        finally:
            with self._lock:
                del self._asked[key]

    def _look_up(self, referred: _Referred, field: str, name: str, deadline: Deadline) -> str:
        columns = ("sys_id",) if _SYS_ID.fullmatch(name) else referred.names
        try:
            query = "^OR".join(term(column, name) for column in columns)
        except ValueError as error:
            raise _unknown(field, referred, "holds a character that a query cannot carry") from error
        rows = self._line.find(referred.table, query, fields=["sys_id", *referred.names], limit=10, deadline=deadline)
        for column in columns:
            # An invalid term is dropped and everything returned: what matched is checked here.
            matching = [row["sys_id"] for row in rows if row.get(column, "").casefold() == name.casefold()]
            if len(set(matching)) == 1:
                return matching[0]
            if matching:
                raise _unknown(field, referred, f"is the {column} of more than one record")
        raise _unknown(field, referred, "is not there, or is hidden from the integration user")


def _unknown(field: str, referred: _Referred, why: str) -> ServiceNowError:
    return ServiceNowError(
        Failure(
            Kind.PERMANENT,
            Reason.UNKNOWN_REFERENCE,
            f"what the rule gives for {field} {why} in {referred.table} (by {' or '.join(referred.names)}, or sys_id)",
        )
    )
