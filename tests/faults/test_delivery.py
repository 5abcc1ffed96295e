"""What Hasura itself does wrong, or may do: duplicates, one after the other and at once;
reordering; crashes; an operator at its console."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.site import Site
from tests.faults.soak import without_order_by
from tests.processes import HERE, serve_one_who_left


def titles(site: Site, row: int) -> list[tuple[str, str]]:
    return [(ticket["short_description"], ticket["state"]) for ticket in site.tickets(row)]


def test_an_engine_that_crashes_sends_its_events_again_after_half_an_hour(calm: Site) -> None:
    calm.servicenow.arm("slow", method="POST", seconds=1.0)
    row = calm.outage()
    calm.until(lambda: calm.servicenow.in_flight)
    for number in (0, 1):
        calm.engines[number].kill()
        calm.start_engine(number)
    [locked] = calm.undelivered()
    calm.settle()
    [again] = [event for event in calm.events() if event["id"] == locked["id"]]

    assert locked["locked"] is not None
    assert (again["delivered"], again["tries"]) == (True, 1)
    assert len(calm.tickets(row)) == 1


def test_what_a_crashed_engine_has_asked_for_is_under_way_until_it_is_done(calm: Site) -> None:
    calm.servicenow.arm("slow", method="POST", seconds=1.0)
    calm.outage()
    calm.until(lambda: calm.servicenow.in_flight)
    for number in (0, 1):
        calm.engines[number].kill()
        calm.start_engine(number)
    calm.until(lambda: serve_one_who_left(calm.functions), 0.5)

    calm.until(lambda: not serve_one_who_left(calm.functions), 5.0)
    assert calm.servicenow.in_flight == 0
    calm.settle()


def test_an_engine_that_shuts_down_lets_another_send_the_same_event_at_the_same_time(
    calm: Site,
) -> None:
    calm.servicenow.arm("slow", method="POST", seconds=1.5)
    row = calm.outage()
    calm.until(lambda: calm.servicenow.in_flight)
    for number in (0, 1):
        calm.engines[number].stop()
        calm.start_engine(number)
    calm.settle()

    assert titles(calm, row) == [("Checkout is down", "1")]
    assert calm.undelivered() == []


def test_concurrent_duplicates_of_a_crowd_of_events_are_one_ticket_each(calm: Site) -> None:
    before = len(calm.deliveries())
    calm.servicenow.arm("slow", method="POST", times=10, seconds=0.3)
    rows = [calm.outage(f"Outage {number}") for number in range(10)]
    calm.until(lambda: calm.servicenow.in_flight)
    # Every event is unlocked while it is being delivered, over and over.
    for _ in range(10):
        calm.sql("UPDATE hdb_catalog.event_log SET locked = NULL WHERE NOT delivered AND NOT error")
        time.sleep(0.1)
    calm.settle()

    assert len(calm.deliveries()) - before > 15
    assert [titles(calm, row) for row in rows] == [
        [(f"Outage {number}", "1")] for number in range(10)
    ]
    assert calm.undelivered() == []


@pytest.mark.parametrize("seed", range(2))
def test_events_of_rows_in_any_order_without_a_column_that_tells_it(
    postgresql: str, tmp_path: Path, seed: int
) -> None:
    """All changes of a row are one transaction: no clock tells them apart. Each event is held back
    at random."""
    draw = random.Random(seed)
    rules = without_order_by((HERE / "rules.yaml").read_text())
    ends = {}
    with Site(postgresql, tmp_path, rules=rules) as site:
        for engine in site.engines:
            engine.kill()
        for row in range(1, 9):
            steps = [
                "INSERT INTO outages (id, title, severity) "  # noqa: S608
                f"VALUES ({row}, 'Outage {row}.0', 'major')"
            ]
            status = "open"
            for step in range(1, 6):
                status = draw.choice(["open", "fixed"])
                steps.append(
                    f"UPDATE outages SET title = 'Outage {row}.{step}', "  # noqa: S608
                    f"status = '{status}' WHERE id = {row}"
                )
            site.sql("; ".join(steps))
            ends[row] = (f"Outage {row}.5", status == "fixed")
        for event in site.events():
            later = site.in_seconds(draw.randrange(3600))
            site.sql(
                "UPDATE hdb_catalog.event_log SET next_retry_at = %s WHERE id = %s",
                later,
                event["id"],
            )
        for number in range(len(site.engines)):
            site.start_engine(number)
        site.settle()

        assert {
            row: [(title, state == "6") for title, state in titles(site, row)] for row in ends
        } == {row: [end] for row, end in ends.items()}
        assert site.undelivered() == []


def test_rows_replaced_in_one_transaction_keep_their_tickets_open_in_any_order(
    postgresql: str, tmp_path: Path
) -> None:
    """Twenty rows deleted and inserted again at one time, and each event held back at random."""
    draw = random.Random(1)
    rules = without_order_by((HERE / "rules.yaml").read_text())
    with Site(postgresql, tmp_path, rules=rules) as site:
        site.sql(
            "INSERT INTO outages (id, title, severity) SELECT n, 'Before', 'major' FROM "
            "generate_series(1, 20) AS n"
        )
        site.settle()
        for engine in site.engines:
            engine.kill()
        for row in range(1, 21):
            site.sql(
                f"DELETE FROM outages WHERE id = {row}; "  # noqa: S608
                f"INSERT INTO outages (id, title, severity) VALUES ({row}, 'After', 'major')"
            )
        for event in site.undelivered():
            later = site.in_seconds(draw.randrange(3600))
            site.sql(
                "UPDATE hdb_catalog.event_log SET next_retry_at = %s WHERE id = %s",
                later,
                event["id"],
            )
        for number in range(len(site.engines)):
            site.start_engine(number)
        site.settle()

        # Heard as it was, the ticket was resolved and reopened (2); heard the other way round,
        # never (1).
        assert {titles(site, row)[0] for row in range(1, 21)} == {("After", "1"), ("After", "2")}
        assert [len(site.tickets(row)) for row in range(1, 21)] == [1] * 20
        assert site.undelivered() == []


def test_redeliver_from_the_console_of_what_is_done_changes_nothing(calm: Site) -> None:
    row = calm.outage()
    calm.settle()
    calm.calls()
    calm.engines[0].redeliver(calm.events()[-1]["id"])
    calm.settle()

    assert titles(calm, row) == [("Checkout is down", "1")]
    assert calm.calls() == []
    assert calm.events()[-1]["delivered"]


def test_invoke_from_the_console_opens_the_ticket_of_the_row_it_carries(calm: Site) -> None:
    row = {
        "id": 900_001,
        "title": "By hand",
        "details": "",
        "severity": "major",
        "status": "open",
        "resolution": None,
    }
    calm.engines[0].invoke(
        "outages_to_servicenow", row | {"updated_at": "2026-11-21T08:00:00+00:00"}
    )
    calm.settle()

    assert titles(calm, 900_001) == [("By hand", "1")]
