"""A few round trips; the thousand are `make rounds`."""

from tests.faults.round_trips import Plan, run


def test_round_trips_end_equal_through_faults_at_every_step() -> None:
    trips, _ = run(Plan(trips=60, seed=20261128, functions=2, faults=True, trips_a_round=20))

    assert (trips.trips, trips.rounds) == (60, 3)
    assert trips.faults.total() > 12
    assert trips.faults["a worker killed at a step"] > 3
    assert (trips.found.lost, trips.found.duplicated, trips.found.unequal) == ([], [], [])
    assert trips.undelivered == 0
    assert trips.calls_at_rest == []
