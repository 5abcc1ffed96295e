"""What Hasura posts, turned into an Event: table events of v1.3 to v2.48, PostgreSQL and MSSQL,
cron and one-off ones.

Pure: the caller has the header and the body. Hasura signs nothing, so a shared secret in a header
is all there is.
"""

import hmac
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Final, NoReturn, TypeAlias, cast

from function.core.event import SCHEDULED, Event, Op
from function.core.trail import place
from function.core.values import Json, digest, instant, text

Fields: TypeAlias = "dict[str, Json]"

# An id of Hasura's is a UUID of 36 characters, a trigger's name has at most 42, a table's 63
# (PostgreSQL) or 128 (MSSQL).
NAME_MAX: Final = 200
# Deeper than any row is written, shallower than any recursion limit of what reads the images later.
DEPTH_MAX: Final = 200
# What PostgreSQL's numeric holds (its documentation, 8.1.2): digits before and after the decimal
# point.
DIGITS_BEFORE_MAX: Final = 131_072
DIGITS_AFTER_MAX: Final = 16_383
# Python's int() refuses more, because it takes a time that grows with their square.
INT_DIGITS_MAX: Final = 4300
# Nine bytes (`1e131071`) can ask for 131072 digits. Seven of the longest that PostgreSQL has fit; a
# hundred small bodies of more, which wait for nothing (see admission.py), would fill the memory.
GROWTH_MAX: Final = 1024 * 1024
# A Decimal takes 104 bytes, and `1.5,` four: those of so few characters (some 40,000) are one
# object wherever they are.
SHORT_CHARACTERS_MAX: Final = 5
# Hasura counts tries in a PostgreSQL integer and takes num_retries as a 64-bit one.
COUNT_MAX: Final = 2**63 - 1

_WHAT_TO_SEND: Final = (
    "Send the whole body as Hasura posts it, without a request transform: an "
    "object with id, table, trigger and event."
)


class InvalidRequest(Exception):  # noqa: N818  # the request's fault, not an error of ours
    """The body is nothing that its source sends. *message* says what is wrong and what to send
    instead, and quotes nothing of a row."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def verify_secret(given: str | None, secrets: Sequence[str]) -> bool:
    """Say whether *given* is one of *secrets*, in a time that does not tell how nearly. Without
    secrets nobody is."""
    if not given:
        return False
    spellings = [given.encode("utf-8", "surrogatepass")]
    with suppress(UnicodeEncodeError):
        # WSGI hands a header's bytes over as Latin-1, so that a secret with an umlaut arrives
        # misspelled.
        spellings.append(given.encode("latin-1"))
    # A list, so that all are compared.
    matches = [
        hmac.compare_digest(spelling, secret.encode("utf-8", "surrogatepass"))
        for spelling in spellings
        for secret in secrets
    ]
    return any(matches)


def parse_event(body: bytes | bytearray) -> Event:
    """Turn *body* into an Event, or raise InvalidRequest, whatever the bytes are."""
    try:
        written = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest(f"The body is not UTF-8 text. {_WHAT_TO_SEND}") from None
    value = _read(written)
    if written.count("[") + written.count("{") > DEPTH_MAX:
        _check_depth(value)
    if _UNWRITABLE_ESCAPED.search(written):
        _check_texts(value)
    fields = _whole(value)
    if "event" not in fields and "scheduled_time" in fields:
        return _scheduled(fields, written)
    return _table_event(fields, written)


def _whole(value: Json) -> Fields:
    """The outermost object, unless it is one of the forms that people take for what
    Hasura posts."""
    match value:
        case dict() if "event" in value or "scheduled_time" in value:
            if isinstance(value.get("event"), dict) and not value.keys() & {
                "id",
                "table",
                "trigger",
            }:
                raise _refused("The body holds the event alone, without id, table and trigger.")
        case dict() if "payload" in value:
            raise InvalidRequest(
                "The body has the event under `payload`: so Hasura's console and documentation "
                "show a request, but it is not what Hasura posts. Send the value "
                "of `payload` alone."
            )
        case dict() if value.keys() & {"op", "data"}:
            raise _refused(
                "The body is the inner event alone (the payload column of Hasura's event_log)."
            )
        case dict():
            raise _refused("`event` is missing.")
        case list():
            raise InvalidRequest(
                "The body is a list. Hasura posts one event at a time: send each event as a "
                "request of its own."
            )
        case str():
            raise _refused("The body is a JSON string: it was encoded twice, or is no event.")
        case _:
            raise _refused("The body is JSON, but not an object.")
    return value


def _table_event(fields: Fields, written: str) -> Event:
    event_id = _name(fields, "id")
    table = _object(fields, "table")
    trigger = _name(_object(fields, "trigger"), "name", "trigger.")
    schema = "public" if table.get("schema") is None else _name(table, "schema", "table.")
    source = f"hasura/{schema}.{_name(table, 'name', 'table.')}"
    event = _object(fields, "event")
    op, old, new = _images(event)
    old_place, new_place = place(old), place(new)
    current_retry = _current_retry(fields)
    return Event(
        id=event_id,
        source=source,
        op=op,
        old=old,
        new=new,
        content=digest(source, op, old_place, new_place),
        body=written,
        old_place=old_place,
        new_place=new_place,
        trigger=trigger,
        created_at=_created_at(fields.get("created_at")),
        current_retry=current_retry,
        session_variables=_session_variables(event),
        trace_id=_trace_id(event),
        # MSSQL's events have neither (github.com/hasura/graphql-engine/issues/9128), and lack
        # columns that are NULL.
        absent_is_null=not event.keys() & {"session_variables", "trace_context"},
    )


def _scheduled(fields: Fields, written: str) -> Event:
    """A cron trigger's event has a name. A one-off one has none: rules tell them apart by their
    payload (`when`)."""
    trigger = "" if fields.get("name") is None else _name(fields, "name")
    source = f"cron/{trigger}" if trigger else SCHEDULED
    new = fields.get("payload")
    old_place, new_place = place(None), place(new)
    return Event(
        id=_name(fields, "id"),
        source=source,
        op=Op.MANUAL,
        old=None,
        new=new,
        content=digest(source, Op.MANUAL, old_place, new_place),
        body=written,
        old_place=old_place,
        new_place=new_place,
        trigger=trigger,
        created_at=_created_at(fields.get("scheduled_time")),
    )


def _images(event: Fields) -> tuple[Op, Json, Json]:
    if not event.keys() & {"op", "data"} and "new" in event:
        return Op.MANUAL, None, event["new"]  # MSSQL's form of a manual invocation
    op = next((known for known in Op if known == event.get("op")), None)
    if op is None:
        raise _refused(
            "`event.op` must be INSERT, UPDATE, DELETE or MANUAL."
        )  # user SQL can log an event with any text
    data = _object(event, "data", "event.")
    old, new = data.get("old"), data.get("new")
    match op:
        case Op.INSERT | Op.UPDATE if new is None:
            raise _refused(f"`event.data.new` is missing or null, and an {op} needs the row there.")
        case Op.DELETE if old is None:
            raise _refused("`event.data.old` is missing or null, and a DELETE needs the row there.")
        case Op.MANUAL if "new" not in data:
            new = data.get("row")  # v2.0.1 to v2.0.6, github.com/hasura/graphql-engine/issues/7165
    return op, old, new


def _current_retry(fields: Fields) -> int:
    if fields.get("delivery_info") is None:
        return 0
    delivery = _object(fields, "delivery_info")
    _count(delivery, "max_retries")  # it is checked, for what is no number is not Hasura's
    return _count(delivery, "current_retry")


def _count(delivery: Fields, name: str) -> int:
    match delivery.get(name, 0):
        case bool():
            pass
        case int(count) if 0 <= count <= COUNT_MAX:
            return count
    raise _refused(f"`delivery_info.{name}` must be a whole number, 0 or more.")


def _session_variables(event: Fields) -> dict[str, str]:
    if event.get("session_variables") is None:
        return {}
    variables = _object(event, "session_variables", "event.")
    return {name: value for name, value in variables.items() if isinstance(value, str)}


def _trace_id(event: Fields) -> str:
    if event.get("trace_context") is None:
        return ""
    match _object(event, "trace_context", "event.").get("trace_id"):
        case bool():
            return ""
        case str() | int() | Decimal() as trace_id:  # numbers until April 2021
            return text(trace_id)
        case _:
            return ""


def _created_at(written: Json) -> datetime | None:
    return instant(written) if isinstance(written, str) else None


def _object(fields: Fields, name: str, place: str = "") -> Fields:
    match fields.get(name):
        case dict() as inner:
            return inner
        case None:
            raise _refused(f"`{place}{name}` is missing or null.")
        case _:
            raise _refused(f"`{place}{name}` must be an object.")


# A name goes into logs, subjects of mails and headers.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _name(fields: Fields, name: str, place: str = "") -> str:
    match fields.get(name):
        case str(value) if 0 < len(value) <= NAME_MAX and not _CONTROL.search(value):
            return value
        case None:
            raise _refused(f"`{place}{name}` is missing or null.")
        case _:
            raise _refused(
                f"`{place}{name}` must be a text of 1 to {NAME_MAX} characters, without "
                "control characters."
            )


def _refused(fault: str) -> InvalidRequest:
    return InvalidRequest(f"{fault} {_WHAT_TO_SEND}")


_FORM: Final = re.compile(r"[\w.%+\-\[\]]+=")


def _read(written: str) -> Json:
    if not written.strip():
        raise _refused("The body is empty.")
    try:
        try:
            return _loaded(written, int)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # int() refuses a number; asking before each one would take longer than all the rest.
            return _loaded(written, _whole_number)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        fault = f"The body is not JSON (line {error.lineno}, column {error.colno})."
    # Raised out here, because JSONDecodeError holds the whole body.
    if _FORM.match(written):
        raise InvalidRequest(
            "The body is form-encoded. Send it as JSON: leave the trigger's request transform "
            "out, or let it send application/json."
        )
    raise _refused(fault)


def _loaded(written: str, parse_int: Callable[[str], int | Decimal]) -> Json:
    value: Json = json.loads(
        written, parse_float=_Numbers().exact, parse_int=parse_int, parse_constant=_no_number
    )
    return value


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The body is nested deeper than {DEPTH_MAX} levels. Leave that column out of the "
        "trigger's payload."
    )


@dataclass(slots=True)
class _Numbers:
    """Reads the numbers of one body, and keeps count of how much longer they have become."""

    growth: int = 0
    short: dict[str, Decimal] = field(default_factory=dict)

    def exact(self, token: str) -> Decimal:
        """The exact value in ordinary spelling: Hasura's `5.0e-2` is 0.05, and `1500.0` stays as it
        is."""
        if (known := self.short.get(token)) is not None:
            return known
        mantissa, exponential, exponent = token.lower().partition("e")
        value = Decimal(mantissa)
        if not exponential:
            if len(token) <= SHORT_CHARACTERS_MAX:
                self.short[token] = value
            return value
        value = value.normalize(_EXACT)  # the zero of `5.0e-2` is the form's, not the number's
        if not value:
            return Decimal(0)
        # Nine digits are out of bounds already; int() is not asked to read a million.
        shift = int(exponent) if len(exponent.lstrip("+-0")) < 9 else 10**9
        digits_after = -shift - cast("int", value.as_tuple().exponent)
        if value.adjusted() + shift >= DIGITS_BEFORE_MAX or digits_after > DIGITS_AFTER_MAX:
            raise InvalidRequest(
                "The body holds a number with more digits than PostgreSQL's numeric has. Send it "
                "as text, or leave its column out of the trigger's payload."
            )
        plain = format(value.scaleb(shift, _EXACT), "f")
        self.growth += max(0, len(plain) - len(token))
        if self.growth > GROWTH_MAX:
            raise InvalidRequest(
                "The body holds too many numbers with large exponents. Leave their column out of "
                "the trigger's payload."
            )
        return Decimal(plain)


_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def _whole_number(token: str) -> int | Decimal:
    return int(token) if len(token.lstrip("-")) <= INT_DIGITS_MAX else Decimal(token)


def _no_number(token: str) -> NoReturn:
    raise _refused(f"The body is not JSON: it has the number {token}, which JSON has not.")


# NUL and halves of surrogate pairs: JSON can escape them, but neither PostgreSQL nor UTF-8 has
# them.
_UNWRITABLE: Final = re.compile("[\x00\ud800-\udfff]")
_UNWRITABLE_ESCAPED: Final = re.compile(r"\\u(0000|[dD][89a-fA-F])")


def _check_depth(value: Json, depth: int = 0) -> None:
    """Refuse what is nested too deep. Keeps no list of what it has seen, for the body may be one
    list of millions."""
    if not isinstance(value, dict | list) or not value:
        return
    if depth == DEPTH_MAX:
        raise _too_deep()
    for inner in value.values() if isinstance(value, dict) else value:
        # Asked here too, because a call takes longer than the question.
        if inner and isinstance(inner, dict | list):
            _check_depth(inner, depth + 1)


def _check_texts(value: Json) -> None:
    """Refuse texts that could not be written down."""
    match value:
        case dict():
            for name, inner in value.items():
                _check_texts(name)
                _check_texts(inner)
        case list():
            for inner in value:
                _check_texts(inner)
        case str() if _UNWRITABLE.search(value):
            raise InvalidRequest(
                "The body has a text with \\u0000 or half of a surrogate pair (\\ud800 to "
                "\\udfff), which PostgreSQL cannot hold. Send whole characters."
            )
