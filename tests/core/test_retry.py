"""How long an event waits before it is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from function.core.retry import CAP_SECONDS, SPREAD_SECONDS_MAX, wait_seconds

attempts = st.integers(1, 2000)
jitters = st.floats(0, 1, exclude_max=True)
asked = st.floats(0, CAP_SECONDS)


@given(attempt=attempts, jitter=jitters, at_least=asked)
def test_nobody_waits_for_less_than_was_asked_for_nor_for_much_more(
    attempt: int, jitter: float, at_least: float
) -> None:
    seconds = wait_seconds(attempt, jitter, at_least=at_least)

    assert at_least <= seconds
    assert seconds <= max(CAP_SECONDS, at_least + SPREAD_SECONDS_MAX)


@given(attempt=attempts, at_least=st.floats(1, CAP_SECONDS))
def test_those_that_wait_for_one_moment_do_not_come_back_together(
    attempt: int, at_least: float
) -> None:
    first = wait_seconds(attempt, 0.1, at_least=at_least)
    last = wait_seconds(attempt, 0.9, at_least=at_least)

    assert last - first >= 0.79 * min(at_least, SPREAD_SECONDS_MAX)


def test_a_hold_of_minutes_does_not_keep_what_has_waited_for_an_hour_for_longer() -> None:
    assert wait_seconds(20, 0.99, at_least=300) < CAP_SECONDS
