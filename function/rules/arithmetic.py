"""Numbers in templates: exact, and of no more digits than can be worked with.

0.1 is what somebody wrote, not the binary fraction next to it. What is not a number raises a
TypeError, what would grow too large an OverflowError.
"""

import decimal
import re
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final

from jinja2.sandbox import SandboxedEnvironment

from function.rules.budget import (
    NUMBER_BITS_MAX,
    NUMBER_DIGITS_MAX,
    PADDING_CHARACTERS_MAX,
    require_at_most,
)

# In force while a template is rendered.
EXACT: Final = Context(
    prec=NUMBER_DIGITS_MAX,
    Emax=9999,
    Emin=-9999,
    traps=[InvalidOperation, decimal.DivisionByZero, decimal.Overflow, decimal.Inexact],
)
_ROUNDED = Context(prec=28, Emax=9999, Emin=-9999)
# A power takes as many digits as its operands have, and the cube of their number in time: seconds
# for 4000, minutes for the 16,383 that PostgreSQL's numeric has, all of it under the interpreter's
# lock. 28 of its digits are kept.
_POWER = Context(prec=100, Emax=9999, Emin=-9999)
# Rounding is inexact on purpose.
_ROUNDING = Context(prec=2 * NUMBER_DIGITS_MAX, Emax=9999, Emin=-9999)
_ROUNDINGS = {
    "common": decimal.ROUND_HALF_UP,
    "ceil": decimal.ROUND_CEILING,
    "floor": decimal.ROUND_FLOOR,
}
_DIGITS = re.compile(r"[+-]?\w+")  # of any base


def to_number(value: Any) -> Any:
    """A whole number or an exact Decimal."""
    if isinstance(value, int):
        return value
    if not isinstance(value, float | Decimal):
        raise TypeError
    return to_decimal(repr(value) if isinstance(value, float) else value)


def to_decimal(value: Any) -> Decimal:
    number = Decimal(value)
    # 1e999999999 is ten characters that become a gigabyte.
    require_at_most(abs(number.adjusted()), NUMBER_DIGITS_MAX)
    return number


def calculate(operator: str, left: Any, right: Any) -> Any:
    left, right = to_number(left), to_number(right)
    whole = isinstance(left, int) and isinstance(right, int)
    match operator:
        case "/":
            return _ROUNDED.divide(left, right)
        case "**" if not whole or right < 0:
            return _ROUNDED.power(_POWER.plus(left), _POWER.plus(right))
        case "//" | "%" if not whole:
            # Rounded down, as Python does it with whole numbers; a Decimal's is rounded towards
            # zero.
            quotient, rest = divmod(left, right)
            quotient -= bool(rest and (rest < 0) != (right < 0))
            return quotient if operator == "//" else left - right * quotient
    if whole:
        bits = (
            left.bit_length() * right
            if operator == "**"
            else left.bit_length() + right.bit_length()
        )
        require_at_most(bits, NUMBER_BITS_MAX)
    return SandboxedEnvironment.default_binop_table[operator](left, right)


def to_float(value: Any, default: Any = Decimal("0.0")) -> Any:
    """The filter `float`: an exact number, for all that."""
    try:
        number = to_decimal(value.strip()) if isinstance(value, str) else Decimal(to_number(value))
    except (InvalidOperation, TypeError, ValueError):
        return default
    return number if number.is_finite() else default


def to_int(value: Any, default: Any = 0, base: int = 10) -> Any:
    """The filter `int`."""
    if isinstance(value, str) and base != 10:
        value = value.strip()
        if len(value) > NUMBER_DIGITS_MAX:
            if _DIGITS.fullmatch(value):
                raise OverflowError
            return default
        try:
            return int(value, base)
        except ValueError:
            return default
    number = to_float(value, None)
    return default if number is None else int(number)


def round_number(value: Any, precision: int = 0, method: str = "common") -> Decimal:
    """The filter `round`."""
    unit = Decimal(1).scaleb(-require_at_most(precision, PADDING_CHARACTERS_MAX))
    return Decimal(to_number(value)).quantize(unit, _ROUNDINGS[method], _ROUNDING)
