"""Whether ServiceNow kept a value, though it spells it in its own way. Pure.

A column's type is not asked for: that would be a call. What comes back tells it, because each type
has one spelling there (c_TableAPI, sysparm_display_value=false): a decimal never comes back as
`true`, a date never with a time. So what came back counts as what was sent where both are spellings
of one value of a type that is spelled as what came back, and nothing was lost but fractions of a
second, which no column of ServiceNow's holds.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from function.core.values import instant


def is_same_text(one: str, other: str) -> bool:
    """Whether a text column holds *one* and *other* alike: ServiceNow trims, and has its own idea
    of a line's end."""
    return one == other or _plain(one) == _plain(other)


def is_kept(returned: str, sent: str) -> bool:
    """Whether *returned* is *sent*, by the type of column that *returned* is spelled like. Not the
    other way round."""
    if is_same_text(returned, sent):
        return True
    returned, sent = _plain(returned), _plain(sent)
    if len(returned) > _CHARACTERS_MAX or len(sent) > _CHARACTERS_MAX:
        return False
    return any(compare(returned, sent) for compare in _TYPES)


def _plain(value: str) -> str:
    return value.replace("\r\n", "\n").replace("\r", "\n").strip()


# Longer than any spelling of a number or a time; a list of 100 sys_ids.
_CHARACTERS_MAX: Final = 4000
# A boolean column that is emptied is false.
_TRUTH: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off", ""), False
)


def _same_truth(returned: str, sent: str) -> bool:
    if returned not in {"true", "false", "1", "0"}:
        return False
    if returned in {"1", "0"} and sent.lower() not in {"true", "false"}:
        return False
    return _TRUTH[returned] is _TRUTH.get(sent.lower())


_NUMBER: Final = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
# As a column gives it back: no needless zero in front, no exponent.
_COLUMN_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)?(?:\.\d+)?", re.ASCII)
_GROUPED: Final = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)


def _same_number(returned: str, sent: str) -> bool:
    if (
        not returned
        or not _COLUMN_NUMBER.fullmatch(returned)
        or not _NUMBER.fullmatch(sent)
        or returned == "-"
    ):
        return False
    return Decimal(returned) == Decimal(sent)


# A currency is kept as its code and an amount ("USD;12.50"), and given back so, as the amount, or
# as people read it.
_SYMBOLS: Final = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
_AMOUNT: Final = re.compile(
    r"(?P<minus>-?)(?:(?P<code>[A-Z]{3})[; ]|(?P<symbol>[$€£¥])\s?)?"
    r"(?P<number>-?[\d.,]+)(?:\s?(?P<code_after>[A-Z]{3})|\s?(?P<symbol_after>[$€£¥]))?",
    re.ASCII,
)


def _same_amount(returned: str, sent: str) -> bool:
    ours, theirs = _amount(sent), _amount(returned)
    if ours is None or theirs is None:
        return False
    # Of two plain numbers it is known already that they differ.
    of_currency = bool(ours[0] or theirs[0] or "," in sent)
    return (
        of_currency
        and ours[1] == theirs[1]
        and (ours[0] == theirs[0] or "" in {ours[0], theirs[0]})
    )


def _amount(written: str) -> tuple[str, Decimal] | None:
    """Currency ("" where none is named) and number."""
    found = _AMOUNT.fullmatch(written)
    if found is None:
        return None
    number = found["number"]
    if _GROUPED.fullmatch(number):
        number = number.replace(",", "")
    if not _NUMBER.fullmatch(number):
        return None
    named = [found["code"] or "", found["code_after"] or ""]
    named += [_SYMBOLS.get(found[symbol] or "", "") for symbol in ("symbol", "symbol_after")]
    codes = [code for code in named if code]
    if len(codes) > 1:
        return None
    return (codes[0] if codes else ""), Decimal(number) * (-1 if found["minus"] else 1)


_COLUMN_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_COLUMN_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MINUTES: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)
_MIDNIGHT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ]00:00(?::00(?:\.0+)?)?(?:\s?(?:Z|[+-]\d\d(?::?\d\d){0,2}))?", re.ASCII
)


def _same_moment(returned: str, sent: str) -> bool:
    """Of a date-time column: UTC, to the second."""
    if not _COLUMN_TIME.fullmatch(returned):
        return False
    theirs, ours = instant(returned), _moment(sent)
    if theirs is None or ours is None:
        return False
    return theirs == ours or (ours.microsecond > 0 and abs(theirs - ours) < timedelta(seconds=1))


def _moment(written: str) -> datetime | None:
    if _COLUMN_DATE.fullmatch(written):
        written += " 00:00:00"
    elif found := _MINUTES.fullmatch(written):
        written = f"{found[1]} {found[2]}:00{found[3] or ''}"
    return instant(written)


def _same_date(returned: str, sent: str) -> bool:
    """Of a date column, which has no time: nothing is lost of a midnight, be it UTC's or of the
    text's own offset."""
    if not _COLUMN_DATE.fullmatch(returned):
        return False
    ours = _moment(sent)
    found = _MIDNIGHT.fullmatch(sent)
    return (found is not None and found[1] == returned) or (
        ours is not None and ours.isoformat(" ") == f"{returned} 00:00:00+00:00"
    )


_TIME: Final = re.compile(r"(?:(\d{1,5}) )?(\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _same_duration(returned: str, sent: str) -> bool:
    """Of a time or a duration, which comes back as a moment that long after 1970 began, or as it
    was sent."""
    ours = _duration(sent)
    if ours is None:
        return False
    theirs = instant(returned) if _COLUMN_TIME.fullmatch(returned) else None
    return (theirs - _EPOCH if theirs is not None else _duration(returned)) == ours


def _duration(written: str) -> timedelta | None:
    found = _TIME.fullmatch(written)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


SYS_ID: Final = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_SYS_IDS: Final = re.compile(rf"{SYS_ID.pattern}(?:\s*,\s*{SYS_ID.pattern})*,?", re.ASCII)


def _same_sys_ids(returned: str, sent: str) -> bool:
    """Of a reference or a list of them."""
    if not _SYS_IDS.fullmatch(returned) or not _SYS_IDS.fullmatch(sent):
        return False
    ours, theirs = (SYS_ID.findall(value.lower()) for value in (sent, returned))
    return ours == theirs


_TYPES: Final[tuple[Callable[[str, str], bool], ...]] = (
    _same_truth,
    _same_number,
    _same_amount,
    _same_moment,
    _same_date,
    _same_duration,
    _same_sys_ids,
)
