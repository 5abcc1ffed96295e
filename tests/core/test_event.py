"""What an event says of itself."""

from typing import Any

import pytest

from function.core.event import Event, Op


def event(**more: Any) -> Event:
    return Event("e-1", "hasura/public.outages", Op.INSERT, None, {"id": 1}, "c", "{}", **more)


@pytest.mark.parametrize(
    ("more", "correlation_id"),
    [
        ({}, "e-1"),
        ({"trace_id": "00ff"}, "00ff"),
        ({"trace_id": "00ff", "session_variables": {"x-correlation-id": "c-1"}}, "c-1"),
        ({"trace_id": "00ff", "session_variables": {"X-Correlation-Id": " c-1 "}}, "c-1"),
        ({"session_variables": {"x-hasura-correlation-id": "c-2"}}, "c-2"),
        (
            {"session_variables": {"x-hasura-correlation-id": "c-2", "x-correlation-id": "c-1"}},
            "c-1",
        ),
        ({"session_variables": {"x-hasura-role": "admin"}}, "e-1"),
    ],
)
def test_the_correlation_id_is_the_session_s_else_the_trace_s_else_the_event_s(
    more: dict[str, Any], correlation_id: str
) -> None:
    assert event(**more).correlation_id == correlation_id


@pytest.mark.parametrize("odd", ["", "  ", "a\r\nX-Evil: 1", "ä", "a\x00b", "x" * 201])
def test_a_correlation_id_that_no_header_can_carry_is_passed_over(odd: str) -> None:
    named = event(session_variables={"x-correlation-id": odd}, trace_id="00ff")

    assert named.correlation_id == "00ff"
    assert event(trace_id=odd).correlation_id == "e-1"
