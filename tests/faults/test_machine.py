"""Rows that live at random end as the promises say; how to run it long stands in machine.py."""

import pytest

from tests.faults.machine import a_world, run


@pytest.mark.parametrize("counted", [False, True], ids=["clocks", "order_by"])
def test_whatever_happens_every_row_ends_with_its_one_ticket_and_no_event_is_lost(
    *, counted: bool
) -> None:
    with a_world(counted=counted) as world:
        run(world, counted=counted, examples=50, seed_number=3)


def test_it_does_on_postgresql_too(postgresql: str) -> None:
    with a_world(counted=False, database_url=postgresql) as world:
        run(world, counted=False, examples=20, seed_number=3)


def test_it_does_where_servicenow_chooses_the_sys_id() -> None:
    with a_world(counted=False, honours_sys_id=False) as world:
        run(world, counted=False, examples=40, seed_number=3)
