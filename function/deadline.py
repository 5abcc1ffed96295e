"""By when an answer has to be given: whatever waits for another system asks how long it may."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from function.core.permit import CallPermit

# A waiter polls a lease that long; then the work comes again, for threads and Hasura's pool are not
# for waiting.
LEASE_PATIENCE_SECONDS: Final = 2.0

_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Within, whatever waits for a database or for a secret stops in time for an answer after
    *seconds*."""
    token = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)


def seconds_left() -> float:
    """Of what answer_within allows; infinite without."""
    return _until.get() - time.monotonic()


@dataclass(slots=True)
class Deadline:
    """The moment, on the monotonic clock, by which a delivery must be answered.

    *proven*: a call of this delivery was let in by ServiceNow, so its next ones need no leave; it
    is the number of the failures by then, for after another one they do. *alone*: this row's call
    failed the last time, so what fails now says nothing about ServiceNow as a whole. *failed*: one
    of its calls has now (None without a call). *called*: a call was made. *permit*: leave to make
    the first call, until it is taken. *passed*: with that leave, a call was let in, which the
    ledger is told when the delivery is recorded.
    """

    at: float
    proven: int | None = None
    alone: bool = False
    failed: bool | None = None
    called: bool = False
    permit: CallPermit | None = None
    passed: bool = False

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        return self.at - time.monotonic()

    def begin_row(self, *, failed_before: bool, permit: CallPermit | None = None) -> None:
        """The calls that follow are for one row's ticket."""
        self.alone, self.failed, self.permit, self.passed = failed_before, None, permit, False

    def take_permit(self) -> CallPermit | None:
        """Leave to make the first call, once."""
        permit, self.permit = self.permit, None
        return permit

    def note_call(self, *, failed: bool = False) -> None:
        """One of the row's calls was made; *failed*: perhaps for the row's own sake."""
        self.failed = failed or bool(self.failed)

    def failed_now(self, *, done: bool) -> bool:
        """Whether the row's next failure says nothing about ServiceNow as a whole. *done*: nothing
        is left to do."""
        return self.alone if self.failed is None else self.failed and not done


def lease_tries(deadline: Deadline) -> Iterator[None]:
    """The moments to ask for a lease that others may have: now, and again and again as long as one
    waits for it."""
    patience = Deadline.after(min(LEASE_PATIENCE_SECONDS, max(0.0, deadline.left())))
    yield
    while patience.left() > 0:
        time.sleep(min(0.02 + 0.1 * random.random(), max(0.0, patience.left())))  # noqa: S311  # jitter
        yield
