"""What the functions in a query give: dates in the time zone of the user who asks,
written in UTC."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from sandbox.schema import Refused
from sandbox.scripts import Asker, part_of, run_value, shifted

# A Wednesday in spring: 9 a.m. in Los Angeles, where summer time began on March 14; 4 p.m. in UTC.
NOW = datetime(2021, 3, 17, 16, 20, 35, tzinfo=UTC).timestamp()
PACIFIC = Asker("4711", "admin", NOW, ZoneInfo("America/Los_Angeles"))
GREENWICH = Asker("4711", "admin", NOW, UTC, {"name": "System Administrator"}, lambda: ["a", "b"])


def there(script: str, asker: Asker = GREENWICH) -> object:
    return run_value(f"javascript:{script}", asker)


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("Today", "2021-03-17 00:00:00", "2021-03-17 23:59:59"),
        ("Yesterday", "2021-03-16 00:00:00", "2021-03-16 23:59:59"),
        ("Tomorrow", "2021-03-18 00:00:00", "2021-03-18 23:59:59"),
        ("CurrentMinute", "2021-03-17 16:20:00", "2021-03-17 16:20:59"),
        ("LastMinute", "2021-03-17 16:19:00", "2021-03-17 16:19:59"),
        ("CurrentHour", "2021-03-17 16:00:00", "2021-03-17 16:59:59"),
        ("LastHour", "2021-03-17 15:00:00", "2021-03-17 15:59:59"),
        ("ThisWeek", "2021-03-14 00:00:00", "2021-03-20 23:59:59"),
        ("LastWeek", "2021-03-07 00:00:00", "2021-03-13 23:59:59"),
        ("NextWeek", "2021-03-21 00:00:00", "2021-03-27 23:59:59"),
        ("ThisMonth", "2021-03-01 00:00:00", "2021-03-31 23:59:59"),
        ("LastMonth", "2021-02-01 00:00:00", "2021-02-28 23:59:59"),
        ("NextMonth", "2021-04-01 00:00:00", "2021-04-30 23:59:59"),
        ("ThisQuarter", "2021-01-01 00:00:00", "2021-03-31 23:59:59"),
        ("LastQuarter", "2020-10-01 00:00:00", "2020-12-31 23:59:59"),
        ("NextQuarter", "2021-04-01 00:00:00", "2021-06-30 23:59:59"),
        ("Next2Quarters", "2021-04-01 00:00:00", "2021-09-30 23:59:59"),
        ("ThisYear", "2021-01-01 00:00:00", "2021-12-31 23:59:59"),
        ("LastYear", "2020-01-01 00:00:00", "2020-12-31 23:59:59"),
        ("NextYear", "2022-01-01 00:00:00", "2022-12-31 23:59:59"),
        ("Last2Years", "2019-01-01 00:00:00", "2020-12-31 23:59:59"),
        ("OneYearAgo", "2020-03-17 16:20:35", "2020-03-31 23:59:59"),
        ("Last15Minutes", "2021-03-17 16:05:00", "2021-03-17 16:20:35"),
        ("Last30Minutes", "2021-03-17 15:50:00", "2021-03-17 16:20:35"),
        ("Last45Minutes", "2021-03-17 15:35:00", "2021-03-17 16:20:35"),
        ("Last2Hours", "2021-03-17 14:00:00", "2021-03-17 16:20:35"),
        ("Last7Days", "2021-03-10 00:00:00", "2021-03-17 16:20:35"),
        ("Last30Days", "2021-02-15 00:00:00", "2021-03-17 16:20:35"),
        ("Last60Days", "2021-01-16 00:00:00", "2021-03-17 16:20:35"),
        ("Last90Days", "2020-12-17 00:00:00", "2021-03-17 16:20:35"),
        ("Last120Days", "2020-11-17 00:00:00", "2021-03-17 16:20:35"),
        ("Last3Months", "2020-12-01 00:00:00", "2021-03-17 16:20:35"),
        ("Last6Months", "2020-09-01 00:00:00", "2021-03-17 16:20:35"),
        ("Last9Months", "2020-06-01 00:00:00", "2021-03-17 16:20:35"),
        ("Last12Months", "2020-03-01 00:00:00", "2021-03-17 16:20:35"),
        ("Last2Quarters", "2020-07-01 00:00:00", "2021-03-17 16:20:35"),
    ],
)
def test_a_span_begins_and_ends(name: str, begin: str, end: str) -> None:
    assert (there(f"gs.beginningOf{name}()"), there(f"gs.endOf{name}()")) == (begin, end)


@pytest.mark.parametrize(
    ("script", "time"),
    [
        ("gs.minutesAgo(30)", "2021-03-17 15:50:35"),
        ("gs.minutesAgoStart(30)", "2021-03-17 15:50:00"),
        ("gs.minutesAgoEnd(30)", "2021-03-17 15:50:59"),
        ("gs.hoursAgo(1)", "2021-03-17 15:20:35"),
        ("gs.hoursAgoStart(1)", "2021-03-17 15:00:00"),
        ("gs.hoursAgoEnd(0)", "2021-03-17 16:59:59"),
        ("gs.daysAgo(1)", "2021-03-16 16:20:35"),
        ("gs.daysAgo(-90)", "2021-06-15 16:20:35"),
        ("gs.daysAgoStart(0)", "2021-03-17 00:00:00"),
        ("gs.daysAgoEnd(1)", "2021-03-16 23:59:59"),
        ("gs.monthsAgo(1)", "2021-02-17 16:20:35"),
        ("gs.monthsAgoStart(3)", "2020-12-01 00:00:00"),
        ("gs.monthsAgoEnd(1)", "2021-02-28 23:59:59"),
        ("gs.quartersAgo(4)", "2020-03-17 16:20:35"),
        ("gs.quartersAgoStart(1)", "2020-10-01 00:00:00"),
        ("gs.quartersAgoEnd(1)", "2020-12-31 23:59:59"),
        ("gs.yearsAgo(2)", "2019-01-01 00:00:00"),
        ("gs.lastWeek()", "2021-03-10 16:20:35"),
        ("gs.yesterday()", "2021-03-16 16:20:35"),
        ("gs.now()", "2021-03-17"),
        ("gs.nowDateTime()", "2021-03-17 16:20:35"),
        ("gs.nowNoTZ()", "2021-03-17 16:20:35"),
        ("gs.nowGlideDateTime()", "2021-03-17 16:20:35"),
        ("gs.dateGenerate('2015-10-07','00:00:00')", "2015-10-07 00:00:00"),
        ("gs.dateGenerate('2015-10-07', 'start')", "2015-10-07 00:00:00"),
        ('gs.dateGenerate("2015-10-07", "end");', "2015-10-07 23:59:59"),
    ],
)
def test_a_moment_is(script: str, time: str) -> None:
    assert there(script) == time


@pytest.mark.parametrize(
    ("script", "time"),
    [
        ("gs.beginningOfToday()", "2021-03-17 07:00:00"),
        # A week ago the clocks there were an hour further from UTC.
        ("gs.daysAgoStart(7)", "2021-03-10 08:00:00"),
        ("gs.daysAgo(7)", "2021-03-10 17:20:35"),
        ("gs.monthsAgoStart(3)", "2020-12-01 08:00:00"),
        ("gs.endOfLastMonth()", "2021-03-01 07:59:59"),
        ("gs.endOfThisMonth()", "2021-04-01 06:59:59"),
        ("gs.beginningOfThisWeek()", "2021-03-14 08:00:00"),
        ("gs.dateGenerate('2021-07-01','12:00:00')", "2021-07-01 19:00:00"),
        ("gs.yesterday()", "2021-03-16 16:20:35"),
        # These two say what the clocks there do.
        ("gs.nowDateTime()", "2021-03-17 09:20:35"),
        ("gs.daysAgoLocal(1)", "2021-03-16 00:00:00"),
    ],
)
def test_days_and_months_are_those_of_the_user_s_time_zone(script: str, time: str) -> None:
    assert there(script, PACIFIC) == time


def test_a_month_without_such_a_day_gives_its_last_one() -> None:
    may = Asker(now=datetime(2021, 5, 31, 12, tzinfo=UTC).timestamp())

    assert there("gs.monthsAgo(3)", may) == "2021-02-28 12:00:00"


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("gs.getUserID()", "4711"),
        ("gs.userID()", "4711"),
        ("gs.user_id()", "4711"),
        ("gs.getUser().getID()", "4711"),
        ("gs.getUserName()", "admin"),
        ("gs.getUser().getName()", "admin"),
        ("gs.getUserDisplayName()", "System Administrator"),
        ("gs.getUser().getDisplayName()", "System Administrator"),
        ("gs.getUser().getMyGroups()", ["a", "b"]),
        ("getMyGroups()", ["a", "b"]),
        (" gs.getUserID() ;", "4711"),
    ],
)
def test_a_script_knows_who_asks(script: str, value: object) -> None:
    assert there(script) == value


@pytest.mark.parametrize(
    "value", ["", "x", "gs.now()", "a javascript:gs.now()", "JAVASCRIPT:gs.now()"]
)
def test_what_does_not_begin_as_a_script_is_a_text(value: str) -> None:
    assert run_value(value, GREENWICH) == value


@pytest.mark.parametrize(
    "script",
    [
        "",
        "gs",
        "gs.now",
        "now()",
        "gs.daysAgo('1')",
        "gs.daysAgo(1, 2)",
        "gs.daysAgo(1+1)",
        "gs.beginningOfToday(1)",
        "gs.beginningOfDay()",
        "gs.beginningOfLast8Days()",
        "gs.yearsAgoStart(1)",
        "gs.yearsAgo(9000)",
        "gs.daysAgo(999999)",
        "gs.dateGenerate('2021-02-30','start')",
        "gs.dateGenerate('2021-02-01')",
        "gs.datePart('month','jan','EE')",
        "gs.getUser()",
        "gs.getUser().hasRole('itil')",
        "gs.getUserID('x')",
        "(function(){return 1})()",
    ],
)
def test_another_script_is_501_by_its_text(script: str) -> None:
    with pytest.raises(Refused) as refused:
        there(script)

    assert refused.value.status == 501
    assert repr(f"javascript:{script}") in str(refused.value.detail)


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("dayofweek", 3),
        ("day", 17),
        ("month", 3),
        ("quarter", 1),
        ("year", 2021),
        ("week", 11),
        ("hour", 16),
    ],
)
def test_a_time_has_parts(part: str, number: int) -> None:
    assert part_of("2021-03-17 16:20:35", part, "UTC") == number


def test_parts_are_those_of_the_clocks_there() -> None:
    time = "2021-01-01 03:00:00"

    assert [part_of(time, part, "America/Los_Angeles") for part in ("year", "day", "hour")] == [
        2020,
        31,
        19,
    ]


def test_what_is_no_time_has_no_part_and_no_later() -> None:
    assert part_of("", "year", "UTC") is None
    assert shifted("", "day", 1, "UTC") == ""
    assert shifted("9998-01-01 00:00:00", "year", 100, "UTC") == "9999-12-31 23:59:59"
    assert shifted("0001-01-01 00:00:00", "day", -1, "UTC") == "0001-01-01 00:00:00"
    assert part_of("0001-01-01 00:00:00", "year", "America/Los_Angeles") is None
