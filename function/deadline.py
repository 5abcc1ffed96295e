"""By when an answer has to be given: whatever waits for another system asks how long it may."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Within, whatever waits for a database or for a secret stops in time for an answer after *seconds*."""
    token = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(token)


def seconds_left() -> float:
    """Of what answer_within allows; infinite without."""
    return _until.get() - time.monotonic()
