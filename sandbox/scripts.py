"""The ``javascript:`` values of encoded queries: what ServiceNow documents of dates and of the user
who asks.

https://www.servicenow.com/docs/r/api-reference/server-api-reference/c_GlideSystemAPI.html (what
each function gives),
https://www.servicenow.com/docs/r/platform-user-interface/c_ValuesForDateTimeFields.html (what "last
3 months" and the like mean), and the list of functions that a query may call
(guarded-script-allowed-apis). Days, weeks, months, quarters and years are those of the user's time
zone, and come out in UTC. Where the pages contradict each other:

- A week begins on Sunday, as the examples of filters and of "trend" have it; isFirstDayOfWeek says
  Monday.
- "Last n" of minutes, hours, days, months and quarters ends now; of years, with the last year
  ("January to January").
- monthsAgoEnd(n) is the end of the month that monthsAgoStart(n) begins; its example is a month
  earlier.
- yearsAgo(n) is the beginning of that year, unlike monthsAgo(n) and quartersAgo(n), which keep day
  and time.
"""

import calendar
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sandbox.schema import Refused

Value: TypeAlias = str | list[str]
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
# From the first unit to the last one, counted from the present one.
_SPANS: Final[Mapping[str, tuple[str, int, int]]] = {
    "Today": ("day", 0, 0),
    "Yesterday": ("day", -1, -1),
    "Tomorrow": ("day", 1, 1),
    "CurrentMinute": ("minute", 0, 0),
    "CurrentHour": ("hour", 0, 0),
    "LastMinute": ("minute", -1, -1),
    "LastHour": ("hour", -1, -1),
    **{
        f"{which}{unit.capitalize()}": (unit, at, at)
        for which, at in (("Last", -1), ("This", 0), ("Next", 1))
        for unit in ("week", "month", "quarter", "year")
    },
    "Next2Quarters": ("quarter", 1, 2),
    "Last2Years": ("year", -2, -1),
}
# From so many units ago until now.
_UNTIL_NOW: Final[Mapping[str, tuple[str, int]]] = {
    f"Last{count}{unit.capitalize()}s": (unit, count)
    for unit, counts in {
        "minute": (15, 30, 45),
        "hour": (2,),
        "day": (7, 30, 60, 90, 120),
        "month": (3, 6, 9, 12),
        "quarter": (2,),
    }.items()
    for count in counts
}
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTH_NAMES: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_SCRIPT: Final = "javascript:"
_CALL = re.compile(r"(gs(?:\.getUser\(\))?\.)?(\w+)\((.*)\)", re.ASCII | re.DOTALL)
_ARGUMENT = re.compile(r"""\s*(?:(-?[0-9]{1,6})|'([^']*)'|"([^"]*)")\s*(?:,|$)""")
_SPAN_NAME = re.compile(r"(beginning|end)Of(\w+)")
_AGO_NAME = re.compile(r"(minute|hour|day|month|quarter)sAgo(Start|End)?")
_YEAR_MIN, _YEAR_MAX = 2, 9998
_FIRST_TIME, _LAST_TIME = "0001-01-01 00:00:00", "9999-12-31 23:59:59"


def unimplemented(what: str) -> Refused:
    """ServiceNow knows *what*, or may know it, and the sandbox does not do it: silence would find
    every record."""
    return Refused(
        501, "Not implemented by the sandbox", f"The sandbox's ServiceNow does not know {what}."
    )


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and when, in UNIX seconds: what a script in a query speaks of. *local_times*: a
    time that stands in a query is one of *zone*."""

    user_id: str = ""
    user_name: str = ""
    now: float = 0.0
    zone: tzinfo = UTC
    user: Mapping[str, str] = field(default_factory=dict)
    groups: Callable[[], list[str]] = list
    local_times: bool = False


def stamp(now: float) -> str:
    """UNIX seconds as the platform writes a time: UTC, to the second."""
    return _written(datetime.fromtimestamp(now, UTC))


def run_value(value: str, asker: Asker) -> Value:
    """*value*, or what it gives if it is a script. Raises Refused (501) for a script that is not
    known here."""
    if not value.startswith(_SCRIPT):
        return value
    script = value.removeprefix(_SCRIPT).strip().removesuffix(";").rstrip()
    found = _CALL.fullmatch(script)
    arguments = _arguments(found[3]) if found else None
    if found is None or arguments is None:
        raise unimplemented(f"the script {value!r} in a query")
    prefix, name = found[1] or "", found[2]
    try:
        told = _about_user(prefix, name, arguments, asker)
        if told is None and prefix == "gs.":
            told = _date(name, arguments, asker)
    except (OverflowError, ValueError):
        told = None
    if told is None:
        raise unimplemented(f"the script {value!r} in a query")
    return told


def read_part(script: str) -> tuple[str, int, str]:
    """The part of a date, its number and the comparison that
    ``gs.datePart('dayofweek','monday','GE')`` is about."""
    found = _CALL.fullmatch(script.removeprefix(_SCRIPT).strip().removesuffix(";"))
    arguments = _arguments(found[3]) if found and found[2] == "datePart" else None
    match arguments:
        case [str(part), value, str(comparison)]:
            number = _part_number(part, str(value).lower())
            if number is not None and comparison in {"EE", "GT", "GE", "LT", "LE"}:
                return part, number, comparison
    raise unimplemented(f"the script {script!r} in a query")


def relative_span(unit: str, count: int, asker: Asker) -> tuple[str, str, str]:
    """The moment *count* units from now, and the beginning and end of the unit that it is in.
    Raises Refused (501)."""
    try:
        moment = shift(_here(asker), unit, count)
        return _utc(moment), _utc(_floor(moment, unit)), _utc(_ceiling(moment, unit))
    except (OverflowError, ValueError):
        raise unimplemented(f"a time {count} {unit}s from now") from None


def shift(moment: datetime, unit: str, count: int) -> datetime:
    """*count* units later on the clocks there; the day is the month's last one where it has no such
    day."""
    if unit in _SECONDS:
        later = moment.astimezone(UTC) + timedelta(seconds=_SECONDS[unit] * count)
        return later.astimezone(moment.tzinfo)
    if unit in _MONTHS:
        months = moment.year * 12 + moment.month - 1 + _MONTHS[unit] * count
        year, month = months // 12, months % 12 + 1
        if not _YEAR_MIN <= year <= _YEAR_MAX:
            raise OverflowError
        return moment.replace(
            year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1])
        )
    return moment + timedelta(days=count * (7 if unit == "week" else 1))


def shifted(time: str, unit: str, count: int, zone_name: str) -> str:
    """A time of the database *count* units later, by the clocks of that zone; empty for what is
    none. For SQL.

    What is before or after all that a clock shows is the first or the last of it.
    """
    moment = _read(time, zone_name)
    try:
        return "" if moment is None else _utc(shift(moment, unit, count))
    except (OverflowError, ValueError):
        return _FIRST_TIME if count < 0 else _LAST_TIME


def part_of(time: str, part: str, zone_name: str) -> int | None:
    """The number of a *part* of a time of the database, by the clocks of that zone. For SQL."""
    moment = _read(time, zone_name)
    if moment is None:
        return None
    match part:
        case "dayofweek":
            return moment.isoweekday() % 7
        case "week":
            # Weeks begin on Sunday; week 0, which filters offer, is what is before the first one.
            return int(moment.strftime("%U"))
        case "quarter":
            return (moment.month + 2) // 3
        case _:
            return int(getattr(moment, part))


def _about_user(
    prefix: str, name: str, arguments: Sequence[str | int], asker: Asker
) -> Value | None:
    """What a script says of the user who asks; getMyGroups without a prefix is in the filters that
    are shipped."""
    if arguments:
        return None
    match prefix, name:
        case ("gs.", "getUserID" | "userID" | "user_id") | ("gs.getUser().", "getID"):
            return asker.user_id
        case ("gs.", "getUserName") | ("gs.getUser().", "getName"):
            return asker.user_name
        case ("gs.", "getUserDisplayName") | ("gs.getUser().", "getDisplayName"):
            return asker.user.get("name", "")
        case "gs.getUser().", "getEmail" | "getFirstName" | "getLastName":
            column = {
                "getEmail": "email",
                "getFirstName": "first_name",
                "getLastName": "last_name",
            }[name]
            return asker.user.get(column, "")
        case ("gs.getUser()." | "", "getMyGroups"):
            return asker.groups()
        case _:
            return None


def _date(name: str, arguments: Sequence[str | int], asker: Asker) -> str | None:
    here = _here(asker)
    match name, arguments:
        case "nowDateTime", []:
            return _written(here)  # as the user's clocks have it
        case "nowNoTZ" | "nowGlideDateTime", []:
            return _utc(here)
        case "now", []:
            return _utc(here)[:10]
        case "yesterday", []:
            return _utc(shift(here, "hour", -24))
        case "lastWeek", []:
            return _utc(shift(here, "day", -7))
        case "dateGenerate", [str(day), str(time)]:
            return _generated(day, time, asker.zone)
        case "daysAgoLocal", [int(count)]:
            return _written(_floor(shift(here, "day", -count), "day"))
        case "yearsAgo", [int(count)]:
            return _utc(_floor(shift(here, "year", -count), "year"))
        case _, [int(count)] if found := _AGO_NAME.fullmatch(name):
            # Hours are the instance's, whose time zone is UTC.
            there = shift(here.astimezone(UTC) if found[1] in _SECONDS else here, found[1], -count)
            return _utc(
                {"Start": _floor, "End": _ceiling}.get(found[2] or "", _same)(there, found[1])
            )
        case _, [] if found := _SPAN_NAME.fullmatch(name):
            first, last = _span(found[2], here) or (None, None)
            bound = first if found[1] == "beginning" else last
            return _utc(bound) if bound else None
        case _:
            return None


def _span(name: str, here: datetime) -> tuple[datetime, datetime] | None:
    if name == "OneYearAgo":  # from this time until the end of that month
        there = shift(here, "year", -1)
        return there, _ceiling(there, "month")
    if name in _UNTIL_NOW:
        unit, count = _UNTIL_NOW[name]
        return shift(_floor(here, unit), unit, -count), here
    if name in _SPANS:
        unit, first, last = _SPANS[name]
        begun = _floor(here, unit)
        return shift(begun, unit, first), _ceiling(shift(begun, unit, last), unit)
    return None


def _generated(day: str, time: str, zone: tzinfo) -> str:
    clock = {"start": "00:00:00", "end": "23:59:59"}.get(time, time)
    return _utc(datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone))


def _same(moment: datetime, _: str) -> datetime:
    return moment


def _floor(moment: datetime, unit: str) -> datetime:
    """The beginning of the unit that *moment* is in."""
    if unit in _SECONDS:
        return moment.replace(second=0, minute=moment.minute if unit == "minute" else 0)
    day = moment.replace(hour=0, minute=0, second=0)
    match unit:
        case "week":
            return day - timedelta(days=day.isoweekday() % 7)
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(day=1, month=(day.month - 1) // 3 * 3 + 1)
        case "year":
            return day.replace(day=1, month=1)
        case _:
            return day


def _ceiling(moment: datetime, unit: str) -> datetime:
    """The last second of the unit that *moment* is in."""
    return shift(shift(_floor(moment, unit), unit, 1), "second", -1)


def _part_number(part: str, value: str) -> int | None:
    names = {"dayofweek": _WEEKDAYS, "month": _MONTH_NAMES}.get(part, ())
    if value[:3] in names:
        return names.index(value[:3]) + (part == "month")
    if part in {"hour", "week", "month", "quarter", "year"} and re.fullmatch(r"[0-9]{1,4}", value):
        return int(value)
    return None


def _arguments(written: str) -> list[str | int] | None:
    """The literals between the parentheses of a call; None where there is anything else."""
    arguments: list[str | int] = []
    written = written.strip()
    while written:
        found = _ARGUMENT.match(written)
        if found is None:
            return None
        arguments.append(int(found[1]) if found[1] else found[2] or found[3] or "")
        written = written[found.end() :]
    return arguments


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _read(time: str, zone_name: str) -> datetime | None:
    try:
        moment = datetime.strptime(time, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        return moment.astimezone(_zone(zone_name))
    except (TypeError, ValueError, OverflowError):
        return None


def _here(asker: Asker) -> datetime:
    return datetime.fromtimestamp(int(asker.now), asker.zone)


def _utc(moment: datetime) -> str:
    return _written(moment.astimezone(UTC))


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
