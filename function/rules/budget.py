"""What a template may take, and the error where it takes more.

Rules are written by the operator, rows by anybody: the bounds are for what a row can hold.

    RenderError   a template that gave nothing for this row; its sentence holds nothing of the row
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from sys import getsizeof
from time import thread_time
from typing import Any, Final

from function.core.finding import FileLocation
from function.core.outcome import Failure, Reason, Retryability

# The processor time, not the clock's: a throttled instance is slow without a template being at
# fault.
SECONDS_MAX: Final = 1.0
# An event is 8 MiB at most, so any column fits twice into one text; a template may make a few of
# that size.
TEXT_CHARACTERS_MAX: Final = 16 * 1024 * 1024
MADE_BYTES_MAX: Final = 64 * 1024 * 1024
# What one filter, test, method or operator is given: characters, and so many for each element.
# Nothing looks at the time while half a million elements are sorted, which takes half a second.
INPUT_SIZE_MAX: Final = 2 * TEXT_CHARACTERS_MAX
ELEMENT_SIZE: Final = 64
# For filters that take long over long texts. No field of a ticket holds a tenth of it: they read
# this much and no more.
SLOW_CHARACTERS_MAX: Final = 64 * 1024
LIST_ELEMENTS_MAX: Final = 500_000
# Searching can take a step for each pair of characters.
STEPS_MAX: Final = 128 * 1024 * 1024
PADDING_CHARACTERS_MAX: Final = 1000
# Python spells no whole number of more than 4300 digits (14284 bits), and nobody reads a shorter
# one either.
NUMBER_BITS_MAX: Final = 14_000
NUMBER_DIGITS_MAX: Final = 4300

_TOO_LONG: Final = "makes too long a text; cut its parts with `truncate`"


class RenderError(Exception):
    """A part of a rule gave nothing for this row. *sentence* says what to do and holds nothing of
    the row.

    *where* is that part in the rules file, None where only the template is known.
    """

    def __init__(
        self,
        sentence: str,
        reason: Reason = Reason.BAD_MAPPING,
        *,
        where: FileLocation | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.reason = reason
        self.where = where

    @property
    def failure(self) -> Failure:
        return Failure(Retryability.PERMANENT, self.reason, f"{self.where or ''}: {self.sentence}")


class MissingKeyError(RenderError):
    """A key, or a part of one, is null or empty."""

    def __init__(
        self,
        sentence: str,
        reason: Reason = Reason.BAD_KEY,
        *,
        where: FileLocation | None = None,
    ) -> None:
        super().__init__(sentence, reason, where=where)


class RenderBudget:
    """What one event may take from one rule: processor time for all templates together, memory for
    each of them."""

    def __init__(self) -> None:
        self.seconds_left = SECONDS_MAX
        self.in_key = False
        self._bytes_left = MADE_BYTES_MAX
        self._ends_at = 0.0

    @contextmanager
    def measured(self, *, in_key: bool) -> Iterator[None]:
        """What is done herein is charged to this budget; *in_key*: it makes a key."""
        token = current_budget.set(self)
        self.in_key = in_key
        self._bytes_left = MADE_BYTES_MAX
        self._ends_at = thread_time() + self.seconds_left
        try:
            yield
        finally:
            current_budget.reset(token)
            self.seconds_left = self._ends_at - thread_time()

    def check_time(self) -> None:
        if thread_time() > self._ends_at:
            raise RenderError("takes too long")

    def check_length(self, characters: int) -> None:
        """For a text before it is made."""
        if characters > TEXT_CHARACTERS_MAX:
            raise RenderError(_TOO_LONG)

    def charge(self, made: Any) -> Any:
        """Give back *made*, a new value, after paying for its memory."""
        self.check_length(len(made) if isinstance(made, str) else 0)
        self._bytes_left -= getsizeof(made)
        if self._bytes_left < 0:
            raise RenderError(_TOO_LONG)
        self.check_time()
        return made

    def measure_input(self, values: Iterable[Any]) -> int:
        """The size of *values*, which may be few and yet wide: a list of two lists of two lists.
        Bounded."""
        self.check_time()
        size = 0
        for value in values:
            if isinstance(value, str):
                size += len(value)
            elif isinstance(value, dict | list | tuple):
                inner = [*value, *value.values()] if isinstance(value, dict) else value
                size += ELEMENT_SIZE * len(inner) + self.measure_input(inner)
            elif isinstance(value, Decimal):
                size += abs(value.adjusted())  # 1e4000 has few characters, until it is written
        return require_at_most(size, INPUT_SIZE_MAX)


# Of the template that is being rendered.
current_budget: ContextVar[RenderBudget] = ContextVar("budget")


def require_at_most(number: int, most: int) -> int:
    """*number*, unless it is over *most*: then an OverflowError."""
    if number > most:
        raise OverflowError
    return number
