"""Which tickets of one correlation_id are one too many."""

import pytest

from function.inbound.links import name_twins
from function.servicenow import Record
from function.targets.ticket.address import address

CORRELATION = "shop:outage:1"
FIRST, SECOND = (address("incident", CORRELATION, number) for number in (0, 1))
COPY, ADOPTED = "c" * 32, "a" * 32


def ticket(sys_id: str, active: str = "true", correlation: str = CORRELATION) -> Record:
    return {
        "sys_id": sys_id,
        "number": f"INC{sys_id[:4]}",
        "active": active,
        "correlation_id": correlation,
    }


@pytest.mark.parametrize(
    "rows",
    [
        [ticket(FIRST)],
        [ticket(FIRST), ticket(SECOND)],
        [ticket(ADOPTED), ticket(SECOND)],
        [ticket(FIRST), ticket(COPY, active="false")],
        [ticket(FIRST), ticket(COPY, correlation="SHOP:outage:1")],
        [ticket(FIRST), ticket(COPY, correlation="other:outage:1")],
    ],
    ids=["one", "the next", "adopted", "closed", "of another case", "of another app"],
)
def test_they_are_a_row_s_own(rows: list[Record]) -> None:
    assert name_twins("incident", rows, [CORRELATION]) == []


@pytest.mark.parametrize(
    "rows",
    [
        [ticket(FIRST), ticket(COPY)],
        [ticket(FIRST), ticket(SECOND), ticket(COPY)],
        [ticket(ADOPTED), ticket(COPY)],
    ],
    ids=["a copy", "a copy of the first", "a copy of one that was adopted"],
)
def test_one_is_a_copy(rows: list[Record]) -> None:
    [twins] = name_twins("incident", rows, [CORRELATION])

    assert all(row["number"] in twins for row in rows)
    assert CORRELATION in twins
