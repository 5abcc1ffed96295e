"""How long to wait. Pure: who calls draws the random number."""

import math
from typing import Final

# Hasura's own interval is constant; ours doubles, so that an outage costs few calls, and stays
# under an hour, so that its end is noticed within one.
BASE_SECONDS: Final = 5.0
CAP_SECONDS: Final = 3600.0
# Who was asked to wait longer than this is not kept longer still.
SPREAD_SECONDS_MAX: Final = 300.0


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Full-jitter exponential back-off: anything up to the doubled base.

    *attempt* counts from 1 and includes this one. *jitter* is a number in [0, 1) that the caller
    draws.
    """
    doublings = min(attempt - 1, 20)  # 2.0 ** 1024 overflows
    return min(CAP_SECONDS, BASE_SECONDS * 2.0**doublings) * jitter


def wait_seconds(attempt: int, jitter: float, *, at_least: float = 0.0) -> float:
    """The wait before the next attempt: the back-off, but never less than what was asked for
    (*at_least*), and jitter on top of that.

    All that wait for one moment, the end of a hold say, would come back together: they come within
    as long again as they waited.
    """
    spread_seconds = min(at_least, SPREAD_SECONDS_MAX) * jitter
    return max(at_least + spread_seconds, backoff_seconds(attempt, jitter))


def retry_after(seconds: float) -> int:
    """*seconds* as Hasura reads a Retry-After: whole and above 0, rounded up (ET.hs ignores 0,
    fractions and dates)."""
    return max(1, math.ceil(seconds))
