"""A small soak of each kind; the large ones are `make soak`."""

from tests.faults.site import Site
from tests.faults.soak import Plan, run


def test_nothing_is_lost_duplicated_or_stale_through_faults_at_every_step() -> None:
    plan = Plan(
        rows=100,
        events=300,
        seed=20261121,
        functions=2,
        faults=True,
        wipe=False,
        restarts=1,
        freezes=0,
        events_a_fault=4,
        due_max=10,  # faults have the time to come between events
    )
    soak, found, _ = run(plan)

    assert soak.faults.total() > 15
    assert soak.faults["a worker killed at a step"] > 0
    assert soak.faults["the database restarted"] == 1
    assert len(soak.rows) == 100
    assert found.events >= 290
    assert found.tickets > 80
    assert (found.lost, found.duplicated, found.stale) == ([], [], [])


def test_nothing_is_duplicated_when_the_ledger_is_lost_half_way() -> None:
    plan = Plan(
        rows=60, events=180, seed=7, functions=2, faults=True, wipe=True, restarts=0, freezes=0
    )
    soak, found, _ = run(plan)

    assert soak.wiped_at_event >= 85
    assert found.tickets > 45
    assert found.duplicated == []


def test_a_new_ticket_costs_one_call_and_an_event_that_changes_nothing_none(calm: Site) -> None:
    calm.calls()
    rows = [calm.outage(f"Outage {number}") for number in range(60)]
    calm.settle()
    opened = calm.calls()
    for row in rows:
        calm.sql("UPDATE outages SET resolution = 'to be said when it is fixed' WHERE id = %s", row)
    calm.settle()

    assert opened.count("POST incident") == 60
    assert len(opened) <= 60 * 1.05
    assert calm.calls() == []
    assert len(calm.events()) >= 120
