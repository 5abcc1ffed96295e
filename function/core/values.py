"""Values of rows: how they are spelled in tickets, in keys and in digests. Pure."""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from json.encoder import encode_basestring_ascii
from typing import Final, TypeAlias

Json: TypeAlias = "bool | int | float | Decimal | str | list[Json] | dict[str, Json] | None"
Row: TypeAlias = "dict[str, Json]"


def text(value: Json) -> str:
    """Spell *value* as a ticket shows it.

    Nothing is ``""``, truth is ``true`` or ``false`` (as the Table API has it), a number is exact
    and without an exponent, a list or an object is JSON.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case int() | float():
            return str(value)
        case _:
            return _json_text(value)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The words "; did you mean …?" where one of *known* is like *word*."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


# What ServiceNow cuts silently is cut visibly.
FIELD_CHARACTERS_MAX: Final = {"short_description": 160}
OTHER_FIELD_CHARACTERS_MAX: Final = 4000


def truncate_field(field: str, text: str) -> str:
    """*text*, cut with an ellipsis where a ticket's *field* is too short for it."""
    characters_max = FIELD_CHARACTERS_MAX.get(field, OTHER_FIELD_CHARACTERS_MAX)
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def canonical(value: Json) -> str:
    """Spell *value* so that two spellings of the same data are one: for digests, not for people.

    A column that is null is the same as one that is absent (MSSQL leaves NULL columns out); a time
    with an offset is its instant (a session's time zone changes the offset, not the time); 1.50 is
    1.5; keys are sorted.
    """
    pieces: list[str] = []
    _spell_row(value, _Writer(pieces.append))
    return "".join(pieces)


def settle_value(value: Json) -> Json:
    """*value* as it stands in a key, where values of one meaning have one spelling.

    An instant (a text with date, time and offset) is in UTC, a number without trailing zeros and
    without a minus before nothing, a text that is a UUID in lower case. Every other value is as it
    is, a list and an object too.
    """
    match value:
        case float() | Decimal():
            return _settled_number(value)
        case str():
            return _utc(value) or (value.lower() if _UUID.fullmatch(value) else value)
        case _:
            return value


def holds_null(value: Json) -> bool:
    """Whether *value* is null, or a null stands in it at any depth."""
    left = [value]
    while left:
        match left.pop():
            case None:
                return True
            case dict() as entries:
                left.extend(entries.values())
            case list() as elements:
                left.extend(elements)
    return False


def digest(*parts: str) -> str:
    """128 bits that stand for *parts*, as 32 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def digest_secret(secret: str, *, salt: str) -> str:
    """What stands for *secret* in the ledger, as 32 hex digits.

    Slow on purpose (about 10 ms and 4 MiB): a ledger that leaks must not be a fast way to try
    passwords.
    """
    hashed = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**12, r=8, p=1, dklen=16)
    return hashed.hex()


def digest_values(parts: Sequence[str], values: Sequence[Json]) -> str:
    """What `digest` gives for *parts* and the canonical forms of *values*, which are never there as
    a whole.

    The canonical form of a list of small numbers is ten times as long as the list.
    """
    hashed = hashlib.sha256(b"[")
    hashed.update(", ".join(map(json.dumps, parts)).encode())
    for number, value in enumerate(values):
        hashed.update(b', "' if parts or number else b'"')
        _spell_row(
            value,
            _Writer(lambda piece: hashed.update(encode_basestring_ascii(piece)[1:-1].encode())),
        )
        hashed.update(b'"')
    hashed.update(b"]")
    return hashed.hexdigest()[:32]


_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::?\d\d){0,2})?",
    re.ASCII,
)


def instant(written: str) -> datetime | None:
    """Read an ISO time with 0-9 fractional digits and any offset, as UTC; without a zone it is
    taken for UTC.

    None when it is no such time. Digits beyond the microsecond are dropped.
    """
    found = _INSTANT.fullmatch(written.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, zone = found.groups()[6:]
    try:
        local = datetime(
            year,
            month,
            day,
            hour,
            minute,
            second,
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=UTC,
        )
        return local - _offset(zone)
    except (ValueError, OverflowError):
        return None


# PostgreSQL writes years beyond 9999 with more digits, and those before Christ with BC at the end;
# SQL Server writes seven digits of a second.
_ZONED = re.compile(
    r"(\d{4,6})-(\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::?\d\d){0,2})( BC)?",
    re.ASCII,
)
_OFFSET_MAX: Final = timedelta(hours=16)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
# Exact whatever the number of digits.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta()
    digits = zone[1:].replace(":", "").ljust(6, "0")
    span = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]), seconds=int(digits[4:6]))
    return -span if zone[0] == "-" else span


# Pieces that are kept together make a MiB at most.
_PIECES_MAX: Final = 4096
_PIECE_CHARACTERS: Final = 256
_CHUNK_CHARACTERS: Final = 64 * 1024
_CHUNK_ELEMENTS: Final = 1024


class _Writer:
    """Collects short pieces of a text, and gives them to *take* before they are many."""

    __slots__ = ("_pieces", "_take", "put")

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take = take
        self._pieces: list[str] = []
        self.put = self._pieces.append

    def put_any(self, piece: str) -> None:
        """The same for a piece that may be long."""
        self.put(piece)
        if len(piece) > _PIECE_CHARACTERS or len(self._pieces) > _PIECES_MAX:
            self.flush()

    def flush(self) -> None:
        self._take("".join(self._pieces))
        self._pieces.clear()


def _spell_row(value: Json, writer: _Writer) -> None:
    """The canonical form of a row, whose columns that are null are left out, or of any
    other value."""
    if isinstance(value, dict):
        _spell_object(value, writer, with_nulls=False)
    else:
        _spell_value(value, writer)
    writer.flush()


def _spell_value(value: Json, writer: _Writer) -> None:
    match value:
        case str():
            _spell_text(value, writer)
        case None:
            writer.put("null")
        case bool():
            writer.put("true" if value else "false")
        case int():
            writer.put_any(f'{{"#":"{value}"}}')
        case float() | Decimal():
            writer.put_any(f'{{"#":"{_plain_number(value)}"}}')
        case dict():
            _spell_object(value, writer)
        case _:
            _spell_list(value, writer)


def _spell_object(value: "Row", writer: _Writer, *, with_nulls: bool = True) -> None:
    put = writer.put
    between = "{"
    for name in sorted(value):
        inner = value[name]
        if inner is None and not with_nulls:
            continue
        writer.put_any(f"{between}{encode_basestring_ascii(text(name))}:")
        _spell_value(inner, writer)
        between = ","
    put("{}" if between == "{" else "}")


def _spell_list(value: "list[Json]", writer: _Writer) -> None:
    put = writer.put
    put("[")
    for start in range(0, len(value), _CHUNK_ELEMENTS):
        chunk = value[start : start + _CHUNK_ELEMENTS]
        if start:
            put(",")
        if set(map(type, chunk)) == {int}:
            writer.put_any('{"#":"' + '"},{"#":"'.join(map(str, chunk)) + '"}')
            continue
        for number, inner in enumerate(chunk):
            if number:
                writer.put_any(",")
            _spell_value(inner, writer)
    put("]")


def _spell_text(value: str, writer: _Writer) -> None:
    if "T" in value[10:13] and (moment := _utc(value)):
        writer.put(f'{{"@":"{moment}"}}')
    elif len(value) <= _CHUNK_CHARACTERS:
        writer.put_any(encode_basestring_ascii(value))
    else:
        writer.put('"')
        for start in range(0, len(value), _CHUNK_CHARACTERS):
            writer.put_any(encode_basestring_ascii(value[start : start + _CHUNK_CHARACTERS])[1:-1])
        writer.put('"')


def _plain_number(value: float | Decimal) -> str:
    """Without an exponent, without zeros at its end that mean nothing, and without a minus before
    nothing."""
    spelled = str(value)
    if spelled.lstrip("-").replace(".", "", 1).isdecimal():
        plain = spelled.rstrip("0").rstrip(".") if "." in spelled else spelled
        return "0" if plain == "-0" else plain
    return format(_settled_number(value), "f")


def _settled_number(value: float | Decimal) -> Decimal:
    number = Decimal(str(value)).normalize(_EXACT)
    return number or Decimal(0)  # not -0


def _utc(written: str) -> str | None:
    """A time with an offset, of any year and any precision, as ``2024-01-02T03:04:05.6+00:00``;
    None of all else."""
    found = _ZONED.fullmatch(written)
    if found is None:
        return None
    year, day, time, fraction, zone, before_christ = found.groups()
    astronomical = 1 - int(year) if before_christ else int(year)
    # The calendar repeats itself every 400 years, and Python's has only the years 1 to 9999.
    within = 2000 + astronomical % 400
    offset = _offset(zone)
    if abs(offset) >= _OFFSET_MAX:
        return None
    try:
        moment = datetime.fromisoformat(f"{within}-{day}T{time}") - offset
    except ValueError:
        return None
    counted = moment.year + astronomical - within
    fraction = f".{fraction}".rstrip("0").rstrip(".") if fraction else ""
    ending = "+00:00" if counted > 0 else "+00:00 BC"
    return f"{counted if counted > 0 else 1 - counted:04}-{moment:%m-%dT%H:%M:%S}{fraction}{ending}"


def _json_text(value: Json) -> str:
    # json.dumps has no exact numbers: a Decimal would have to become a float first.
    match value:
        case dict():
            return (
                "{"
                + ", ".join(f"{_json_text(name)}: {_json_text(v)}" for name, v in value.items())
                + "}"
            )
        case list():
            return "[" + ", ".join(map(_json_text, value)) + "]"
        case Decimal():
            return format(value, "f")
        case _:
            return json.dumps(value, ensure_ascii=False)
